//! Entries into `archive.db`: appends that wait together share one transaction, and so one sync of the disk; rows go in by
//! many to a statement.

use sqlx::{QueryBuilder, Sqlite as Db, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use super::{activity, head, messages, port_error};
use crate::adapters::archive::{Folded, encode, holds_words_of, to_db, unwritten};
use crate::domain::entry::Entry;
use crate::domain::ids::{Epoch, Ref, RoomId};
use crate::ports::{ArchiveHead, PortError, Result, StaleEpoch};

/// Appends taken at a time, and entries of one transaction (one append may have more).
const GROUP_MAX: usize = 64;
const GROUP_ENTRIES: usize = 1_000;
/// Appends that wait for the writer; beyond it callers wait for a place.
const WAITING: usize = 256;
/// Entries of one statement; SQLite takes 32,766 variables.
const ROWS_PER_STATEMENT: usize = 1_000;
/// Statements of so few rows are kept prepared; of more there would be too many different ones.
pub const ROWS_REMEMBERED: usize = 4;

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

/// How many of the first make one transaction: others write to the file too, and must not wait for long.
fn together(appends: &[Append]) -> usize {
    let mut entries = 0;
    let fits = |append: &&Append| {
        entries += append.entries.len();
        entries <= GROUP_ENTRIES
    };
    appends.iter().take_while(fits).count().max(1)
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

/// All in one transaction; an answer for each, unless the transaction failed.
async fn write(pool: &SqlitePool, appends: &[Append]) -> Result<Vec<Answer>> {
    let failed = |e| port_error(DOING, e);
    let begun = pool.begin_with("BEGIN IMMEDIATE").await;
    let mut transaction = begun.map_err(failed)?;
    let mut answers = Vec::with_capacity(appends.len());
    for append in appends {
        let answer = match write_one(&mut transaction, append).await {
            Ok(head) => Ok(head),
            // Found before anything was written.
            Err(StaleEpoch::Stale(head)) => Err(StaleEpoch::Stale(head)),
            Err(StaleEpoch::Port(error)) => return Err(error),
        };
        answers.push(answer);
    }
    transaction.commit().await.map_err(failed)?;
    Ok(answers)
}

async fn write_one(connection: &mut SqliteConnection, append: &Append) -> Answer {
    let Append {
        room,
        epoch,
        entries,
        ..
    } = append;
    let before = head(connection, room).await?;
    let unwritten = unwritten(before, *epoch, entries)?;
    let Some(last) = unwritten.last() else {
        return Ok(before);
    };
    let folded = messages::fold(connection, room, unwritten).await?;
    for entries in unwritten.chunks(ROWS_PER_STATEMENT) {
        insert(connection, room, &folded, entries).await?;
    }
    messages::write(connection, room, &folded).await?;
    if append.counts {
        activity::count(connection, room, unwritten).await?;
    }
    sqlx::query("UPDATE room_heads SET seq = $2, unbacked = 1 WHERE room = $1")
        .bind(room.as_str())
        .bind(to_db(last.seq.0)?)
        .execute(connection)
        .await
        .map_err(|e| port_error(DOING, e))?;
    Ok(ArchiveHead {
        seq: last.seq,
        ..before
    })
}

/// An entry as its row is.
struct Row {
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
    fn of(entry: &Entry) -> Result<Self> {
        let record = &entry.record;
        let audience = record.audience.as_ref().map(serde_json::to_string);
        Ok(Self {
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
async fn insert(
    connection: &mut SqliteConnection,
    room: &RoomId,
    folded: &Folded,
    entries: &[Entry],
) -> Result<()> {
    let rows = |entries: &[Entry]| -> Result<Vec<Row>> {
        let kept = entries.iter().map(|entry| folded.kept(entry));
        kept.map(|entry| Row::of(&entry)).collect()
    };
    let written = insert_rows(connection, room, rows(entries)?).await?;
    if written.len() == entries.len() {
        return Ok(());
    }
    for entry in entries {
        if written.contains(&to_db(entry.seq.0)?) {
            continue;
        }
        tracing::warn!(%room, seq = %entry.seq, "a ref was archived before under another seq; this entry loses it");
        let mut without = folded.kept(entry).into_owned();
        without.record.reference = None;
        let written = insert_rows(connection, room, vec![Row::of(&without)?]).await?;
        if written.is_empty() {
            return Err(PortError::fatal(DOING, "an entry was not inserted"));
        }
    }
    Ok(())
}

/// The seqs of those that were inserted: all but such as bring a ref that is there.
async fn insert_rows(
    connection: &mut SqliteConnection,
    room: &RoomId,
    rows: Vec<Row>,
) -> Result<Vec<i64>> {
    let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
    let few = rows.len() <= ROWS_REMEMBERED;
    let mut sql = QueryBuilder::<Db>::new(
        "INSERT INTO entries (room, seq, kind, ts_ms, user_id, client_id, ref, audience, record, message) ",
    );
    sql.push_values(rows, |mut place, row| {
        place
            .push_bind(room.to_string())
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
    let failed = |e| port_error(DOING, e);
    let done = sql.build().persistent(few).execute(&mut *connection).await;
    if done.map_err(failed)?.rows_affected() == seqs.len() as u64 {
        return Ok(seqs);
    }
    let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else {
        return Ok(seqs);
    };
    sqlx::query_scalar("SELECT seq FROM entries WHERE room = $1 AND seq BETWEEN $2 AND $3")
        .bind(room.as_str())
        .bind(first)
        .bind(last)
        .fetch_all(connection)
        .await
        .map_err(failed)
}
