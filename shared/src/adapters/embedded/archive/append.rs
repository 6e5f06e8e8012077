//! Entries into `archive.db`: appends that wait together share one transaction, and so one sync of the disk; rows of all of
//! them go in by many to a statement, as each statement goes to SQLite's thread and back.

use std::collections::{HashMap, HashSet};

use sqlx::{QueryBuilder, Row as _, Sqlite as Db, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use super::{activity, archive_head, messages, port_error};
use crate::adapters::archive::{Folded, encode, holds_words_of, to_db, unwritten};
use crate::domain::entry::Entry;
use crate::domain::ids::{Epoch, Ref, RoomId, Seq};
use crate::ports::{ArchiveHead, PortError, Result, StaleEpoch};

/// Appends taken at a time, and entries of one transaction (one append may have more).
const GROUP_MAX: usize = 64;
const GROUP_ENTRIES: usize = 1_000;
/// Appends that wait for the writer; beyond it callers wait for a place.
const WAITING: usize = 256;
/// Rows of one statement; a power of two.
pub const ROWS_MAX: usize = 64;

const DOING: &str = "append to archive";

type Answer = Result<ArchiveHead, StaleEpoch>;

struct Append {
    room: RoomId,
    epoch: Epoch,
    entries: Vec<Entry>,
    /// As what people did.
    counts: bool,
    answer: oneshot::Sender<Answer>,
}

/// The way to the one task that appends; it ends with the last of these.
pub struct Appends(mpsc::Sender<Append>);

impl Appends {
    pub fn start(pool: SqlitePool) -> Self {
        let (appends, waiting) = mpsc::channel(WAITING);
        tokio::spawn(run(pool, waiting));
        Self(appends)
    }

    /// Returns when the transaction is synced. A caller that gives up waiting leaves the append undecided. `counts`: the
    /// entries are counted as what people did.
    pub async fn append(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
        counts: bool,
    ) -> Answer {
        let stopped = || PortError::retry(DOING, "the archive is shut down");
        let (answer, answered) = oneshot::channel();
        let append = Append {
            room: room.clone(),
            epoch,
            entries: entries.to_vec(),
            counts,
            answer,
        };
        self.0.send(append).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

async fn run(pool: SqlitePool, mut waiting: mpsc::Receiver<Append>) {
    let mut appends = Vec::with_capacity(GROUP_MAX);
    while waiting.recv_many(&mut appends, GROUP_MAX).await > 0 {
        while !appends.is_empty() {
            let group = appends.drain(..together(&appends)).collect();
            settle(&pool, group).await;
        }
    }
}

/// How many of the first make one transaction: others write to the file too, and must not wait for long. A room's second
/// append builds on its first.
fn together(appends: &[Append]) -> usize {
    let mut entries = 0;
    let mut rooms = HashSet::new();
    for (count, append) in appends.iter().enumerate() {
        entries += append.entries.len();
        let fits = rooms.insert(&append.room) && entries <= GROUP_ENTRIES;
        if !fits && count > 0 {
            return count;
        }
    }
    appends.len()
}

/// Rows in pieces of so many that statements of each size are worth to be kept prepared: the largest power of two that is
/// left, `most` at most. (Parsing a statement of a dozen rows costs more than running it.)
pub fn pieces<T>(mut rows: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = rows.len().min(most).checked_ilog2()?;
        let (piece, rest) = rows.split_at(1 << size);
        rows = rest;
        Some(piece)
    })
}

async fn settle(pool: &SqlitePool, mut group: Vec<Append>) {
    match write(pool, &group).await {
        Ok(answers) => {
            for (append, answer) in group.into_iter().zip(answers) {
                // The caller may have given up.
                let _gone = append.answer.send(answer);
            }
        }
        // What one of them can't do must not take the others along.
        Err(_) if group.len() > 1 => {
            for append in group {
                let answer = write(pool, std::slice::from_ref(&append)).await;
                let answer = answer.map_err(StaleEpoch::from);
                let _gone = append.answer.send(answer.and_then(first));
            }
        }
        Err(error) => {
            if let Some(append) = group.pop() {
                let _gone = append.answer.send(Err(error.into()));
            }
        }
    }
}

fn first(answers: Vec<Answer>) -> Answer {
    let mut answers = answers.into_iter();
    answers
        .next()
        .unwrap_or_else(|| Err(PortError::fatal(DOING, "an append was not answered").into()))
}

/// What one append comes to.
pub struct Write<'a> {
    pub room: &'a RoomId,
    pub entries: &'a [Entry],
    pub folded: Folded,
    /// As what people did.
    pub counts: bool,
    last: Seq,
}

/// All in one transaction, no two of one room; an answer for each, unless the transaction failed.
async fn write(pool: &SqlitePool, appends: &[Append]) -> Result<Vec<Answer>> {
    let failed = |e| port_error(DOING, e);
    let begun = pool.begin_with("BEGIN IMMEDIATE").await;
    let mut transaction = begun.map_err(failed)?;
    let heads = heads(&mut transaction, appends).await?;
    let mut answers = Vec::with_capacity(appends.len());
    let mut writes = Vec::with_capacity(appends.len());
    for append in appends {
        let before = heads.get(append.room.as_str()).copied().unwrap_or_default();
        let entries = match unwritten(before, append.epoch, &append.entries) {
            Ok(entries) => entries,
            // Found before anything was written.
            Err(StaleEpoch::Stale(head)) => {
                answers.push(Err(StaleEpoch::Stale(head)));
                continue;
            }
            Err(StaleEpoch::Port(error)) => return Err(error),
        };
        let Some(Entry { seq: last, .. }) = entries.last() else {
            answers.push(Ok(before));
            continue;
        };
        let room = &append.room;
        writes.push(Write {
            room,
            entries,
            folded: messages::fold(&mut transaction, room, entries).await?,
            counts: append.counts,
            last: *last,
        });
        answers.push(Ok(ArchiveHead {
            seq: *last,
            ..before
        }));
    }
    insert(&mut transaction, &writes).await?;
    messages::write(&mut transaction, &writes).await?;
    activity::count(&mut transaction, &writes).await?;
    move_heads(&mut transaction, &writes).await?;
    transaction.commit().await.map_err(failed)?;
    Ok(answers)
}

/// Where the archive is in each of the rooms that it knows.
async fn heads(
    connection: &mut SqliteConnection,
    appends: &[Append],
) -> Result<HashMap<String, ArchiveHead>> {
    let rooms: Vec<&RoomId> = appends.iter().map(|append| &append.room).collect();
    let rows = sqlx::query(
        "SELECT room, epoch, seq, opened FROM room_heads WHERE room IN (SELECT value FROM json_each($1))",
    )
    .bind(json(&rooms)?)
    .fetch_all(connection)
    .await
    .map_err(|e| port_error("read archive head", e))?;
    rows.iter()
        .map(|row| Ok((row.get(0), archive_head(row, 1)?)))
        .collect()
}

async fn move_heads(connection: &mut SqliteConnection, writes: &[Write<'_>]) -> Result<()> {
    if writes.is_empty() {
        return Ok(());
    }
    let places = writes
        .iter()
        .map(|write| Ok((write.room, to_db(write.last.0)?)))
        .collect::<Result<Vec<_>>>()?;
    sqlx::query(
        "UPDATE room_heads SET seq = value ->> 1, unbacked = 1 FROM json_each($1) WHERE room = value ->> 0",
    )
    .bind(json(&places)?)
    .execute(connection)
    .await
    .map_err(|e| port_error(DOING, e))?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| PortError::fatal(DOING, e))
}

/// An entry as its row is.
struct Row {
    room: String,
    seq: i64,
    kind: &'static str,
    ts_ms: i64,
    user: uuid::Uuid,
    client: String,
    reference: Option<String>,
    audience: Option<String>,
    json: String,
    message: Option<uuid::Uuid>,
}

impl Row {
    fn of(room: &RoomId, entry: &Entry) -> Result<Self> {
        let record = &entry.record;
        let audience = record.audience.as_ref().map(serde_json::to_string);
        Ok(Self {
            room: room.to_string(),
            seq: to_db(entry.seq.0)?,
            kind: record.body.kind(),
            ts_ms: record.ts_ms,
            user: record.author.user_id.0,
            client: record.author.client_id.to_string(),
            reference: record.reference.as_ref().map(|r| Ref::as_str(r).to_owned()),
            audience: audience
                .transpose()
                .map_err(|e| PortError::fatal("encode audience", e))?,
            json: encode(record)?,
            message: holds_words_of(record).map(|id| id.0),
        })
    }
}

/// Inserts entries. One whose ref is stored already, under another seq, is kept without it, so that the log stays gapless
/// and the ref unique.
async fn insert(connection: &mut SqliteConnection, writes: &[Write<'_>]) -> Result<()> {
    let of = |write| {
        let Write { entries, .. }: &Write<'_> = write;
        entries.iter().map(move |entry| (write, entry))
    };
    let entries: Vec<(&Write<'_>, &Entry)> = writes.iter().flat_map(of).collect();
    for piece in pieces(&entries, ROWS_MAX) {
        let rows = piece
            .iter()
            .map(|(write, entry)| Row::of(write.room, &write.folded.kept(entry)))
            .collect::<Result<Vec<_>>>()?;
        if insert_rows(connection, rows).await? == piece.len() as u64 {
            continue;
        }
        for (Write { room, folded, .. }, entry) in piece {
            if is_there(connection, room, entry.seq).await? {
                continue;
            }
            tracing::warn!(%room, seq = %entry.seq, "a ref was archived before under another seq; this entry loses it");
            let mut without = folded.kept(entry).into_owned();
            without.record.reference = None;
            if insert_rows(connection, vec![Row::of(room, &without)?]).await? == 0 {
                return Err(PortError::fatal(DOING, "an entry was not inserted"));
            }
        }
    }
    Ok(())
}

async fn is_there(connection: &mut SqliteConnection, room: &RoomId, seq: Seq) -> Result<bool> {
    let found = sqlx::query("SELECT 1 FROM entries WHERE room = $1 AND seq = $2")
        .bind(room.as_str())
        .bind(to_db(seq.0)?)
        .fetch_optional(connection)
        .await;
    found
        .map(|row| row.is_some())
        .map_err(|e| port_error(DOING, e))
}

/// How many were inserted: all but such as bring a ref that is there.
async fn insert_rows(connection: &mut SqliteConnection, rows: Vec<Row>) -> Result<u64> {
    let mut sql = QueryBuilder::<Db>::new(
        "INSERT INTO entries (room, seq, kind, ts_ms, user_id, client_id, ref, audience, record, message) ",
    );
    sql.push_values(rows, |mut place, row| {
        place
            .push_bind(row.room)
            .push_bind(row.seq)
            .push_bind(row.kind)
            .push_bind(row.ts_ms)
            .push_bind(row.user)
            .push_bind(row.client)
            .push_bind(row.reference)
            .push_bind(row.audience)
            .push_bind(row.json)
            .push_bind(row.message);
    });
    sql.push(" ON CONFLICT (room, user_id, client_id, ref) WHERE ref IS NOT NULL DO NOTHING");
    let done = sql.build().execute(connection).await;
    done.map(|done| done.rows_affected())
        .map_err(|e| port_error(DOING, e))
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn pieces_are_powers_of_two_and_all_of_it() {
        let rows: Vec<u32> = (0..203).collect();
        let sizes: Vec<usize> = pieces(&rows, 64).map(<[u32]>::len).collect();
        assert_eq!(sizes, [64, 64, 64, 8, 2, 1]);
        assert_eq!(pieces(&rows, 64).collect::<Vec<_>>().concat(), rows);
        assert_eq!(pieces::<u32>(&[], 64).count(), 0);
    }
}
