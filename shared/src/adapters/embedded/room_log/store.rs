//! The tables of `log.db`, over one connection.

use futures::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::writer::KnownRefs;
use crate::adapters::embedded::sqlite::port_error;
use crate::domain::entry::{Entry, Record, RefKey};
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::{LogHead, PortError, READ_MAX_BYTES, Result};

/// Rows of one statement; SQLite takes 32,766 variables.
const ROWS_PER_STATEMENT: usize = 1_000;
/// Statements of so few rows are kept prepared; of more there would be too many different ones.
const ROWS_REMEMBERED: usize = 8;

/// Which row of `rows` a room is.
pub type RoomKey = i64;

/// How refs are called in the table: neither a user id nor a client id has a space in it.
pub fn ref_name(key: &RefKey) -> String {
    let RefKey {
        user_id,
        client_id,
        reference,
    } = key;
    format!("{} {client_id} {}", user_id.0.simple(), reference.as_str())
}

fn to_db(n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|e| PortError::fatal("write log.db", format!("{n}: {e}")))
}

fn from_db(room: &RoomId, n: i64) -> Result<u64> {
    u64::try_from(n)
        .map_err(|_| PortError::fatal("read log.db", format!("room {room}: negative number {n}")))
}

pub async fn head(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Option<(RoomKey, LogHead)>> {
    let row = sqlx::query(
        "SELECT key, epoch, seq, archived, trimmed, role_version, seeded_at_ms, seeded_seq
         FROM rooms WHERE room = $1",
    )
    .bind(room.as_str())
    .fetch_optional(connection)
    .await
    .map_err(|e| port_error("read the head of a room log", e))?;
    row.map(|row| Ok((row.get(0), head_of(room, &row)?)))
        .transpose()
}

fn head_of(room: &RoomId, row: &SqliteRow) -> Result<LogHead> {
    let number = |at: usize| from_db(room, row.get(at));
    Ok(LogHead {
        epoch: Epoch(number(1)?),
        seq: Seq(number(2)?),
        archived: Seq(number(3)?),
        trimmed: Seq(number(4)?),
        role_version: number(5)?,
        seeded_at_ms: row.get(6),
        seeded_seq: Seq(number(7)?),
    })
}

/// Makes a room's row.
pub async fn insert_head(
    connection: &mut SqliteConnection,
    room: &RoomId,
    head: &LogHead,
) -> Result<RoomKey> {
    sqlx::query(
        "INSERT INTO rooms (room, epoch, seq, archived, trimmed, role_version, seeded_at_ms, seeded_seq)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING key",
    )
    .bind(room.as_str())
    .bind(to_db(head.epoch.0)?)
    .bind(to_db(head.seq.0)?)
    .bind(to_db(head.archived.0)?)
    .bind(to_db(head.trimmed.0)?)
    .bind(to_db(head.role_version)?)
    .bind(head.seeded_at_ms)
    .bind(to_db(head.seeded_seq.0)?)
    .fetch_one(connection)
    .await
    .map(|row| row.get(0))
    .map_err(|e| port_error("write the head of a room log", e))
}

/// Rows that wait to be written: to SQLite's thread and back is one trip for all of them, and costs more than the rows do.
#[derive(Debug, Default)]
pub struct Batch {
    /// Entries' JSON by place.
    pub entries: Vec<(RoomKey, Seq, String)>,
    /// Refs, where they stand, and until when they count. One that is there already has expired.
    pub refs: Vec<(RoomKey, String, Seq, i64)>,
    /// Heads as they are now.
    pub heads: Vec<(RoomKey, LogHead)>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.refs.is_empty() && self.heads.is_empty()
    }

    /// Writes all of it, opening the transaction before or closing it behind.
    pub async fn write(
        self,
        connection: &mut SqliteConnection,
        begin: bool,
        commit: bool,
    ) -> Result<()> {
        if self.is_empty() && !begin && !commit {
            return Ok(());
        }
        let rows = self.entries.len().max(self.refs.len()) + self.heads.len();
        let mut sql = QueryBuilder::<Sqlite>::new(if begin { "BEGIN IMMEDIATE; " } else { "" });
        let mut entries = self.entries.into_iter().peekable();
        while entries.peek().is_some() {
            sql.push("INSERT INTO entries (room_key, seq, record) ");
            let rows = entries.by_ref().take(ROWS_PER_STATEMENT);
            sql.push_values(rows, |mut row, (key, seq, json)| {
                // A seq comes one by one from what the table holds, and fits.
                row.push_bind(key)
                    .push_bind(seq.0.cast_signed())
                    .push_bind(json);
            });
            sql.push("; ");
        }
        let mut refs = self.refs.into_iter().peekable();
        while refs.peek().is_some() {
            sql.push("INSERT OR REPLACE INTO refs (room_key, reference, seq, expires_at_ms) ");
            let rows = refs.by_ref().take(ROWS_PER_STATEMENT);
            sql.push_values(rows, |mut row, (key, name, seq, until_ms)| {
                row.push_bind(key)
                    .push_bind(name)
                    .push_bind(seq.0.cast_signed())
                    .push_bind(until_ms);
            });
            sql.push("; ");
        }
        for (key, head) in self.heads {
            sql.push("UPDATE rooms SET seq = ")
                .push_bind(to_db(head.seq.0)?)
                .push(", archived = ")
                .push_bind(to_db(head.archived.0)?)
                .push(", trimmed = ")
                .push_bind(to_db(head.trimmed.0)?)
                .push(", role_version = ")
                .push_bind(to_db(head.role_version)?)
                .push(" WHERE key = ")
                .push_bind(key)
                .push("; ");
        }
        if commit {
            sql.push("COMMIT");
        }
        sql.build()
            .persistent(rows <= ROWS_REMEMBERED)
            .execute(connection)
            .await
            .map(drop)
            .map_err(|e| port_error("write a group to log.db", e))
    }
}

/// Forgets the room, its tail and its refs.
pub async fn remove(connection: &mut SqliteConnection, key: RoomKey) -> Result<()> {
    sqlx::query("DELETE FROM rooms WHERE key = $1")
        .bind(key)
        .execute(connection)
        .await
        .map_err(|e| port_error("remove a room log", e))?;
    Ok(())
}

/// Up to `limit` entries after `after`; fewer where they are large, but at least one. `None`: no log of this epoch.
pub async fn entries(
    connection: &mut SqliteConnection,
    room: &RoomId,
    epoch: Epoch,
    after: Seq,
    limit: usize,
) -> Result<Option<Vec<Entry>>> {
    const DOING: &str = "read a room log";
    // One statement: head and entries are of one moment, and so of one epoch. A log without entries is one row of none.
    let mut rows = sqlx::query(
        "SELECT e.seq, e.record FROM rooms r LEFT JOIN entries e ON e.room_key = r.key AND e.seq > $3
         WHERE r.room = $1 AND r.epoch = $2 ORDER BY e.seq LIMIT +$4",
    )
    .bind(room.as_str())
    .bind(i64::try_from(epoch.0).unwrap_or(-1))
    // A place beyond all that can be stored has nothing after it.
    .bind(i64::try_from(after.0).unwrap_or(i64::MAX))
    .bind(i64::try_from(limit.max(1)).unwrap_or(i64::MAX))
    .fetch(connection);
    let (mut entries, mut bytes) = (None, 0);
    while let Some(row) = rows.try_next().await.map_err(|e| port_error(DOING, e))? {
        let entries = entries.get_or_insert_with(Vec::new);
        let (Some(seq), Some(json)) = (row.get::<Option<i64>, _>(0), row.get::<Option<&str>, _>(1))
        else {
            break;
        };
        bytes += json.len();
        if entries.len() >= limit || (bytes > READ_MAX_BYTES && !entries.is_empty()) {
            break;
        }
        let record: Record = serde_json::from_str(json).map_err(|e| {
            PortError::fatal(DOING, format!("room {room}: malformed entry {seq}: {e}"))
        })?;
        let seq = Seq(from_db(room, seq)?);
        entries.push(Entry { seq, record });
    }
    Ok(entries)
}

/// Removes entries up to and with `last`.
pub async fn trim(connection: &mut SqliteConnection, key: RoomKey, last: Seq) -> Result<()> {
    sqlx::query("DELETE FROM entries WHERE room_key = $1 AND seq <= $2")
        .bind(key)
        .bind(to_db(last.0)?)
        .execute(connection)
        .await
        .map_err(|e| port_error("trim a room log", e))?;
    Ok(())
}

/// Those of the refs that stand in the table, with their seqs and until when they count.
pub async fn known_refs(
    connection: &mut SqliteConnection,
    asked: &[(RoomKey, &str)],
) -> Result<KnownRefs> {
    let mut known = KnownRefs::new();
    for asked in asked.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT room_key, reference, seq, expires_at_ms FROM refs WHERE (room_key, reference) IN (",
        );
        query.push_values(asked, |mut row, (key, name)| {
            row.push_bind(*key).push_bind((*name).to_owned());
        });
        query.push(")");
        let query = query.build().persistent(asked.len() <= ROWS_REMEMBERED);
        let mut rows = query.fetch(&mut *connection);
        while let Some(row) = rows
            .try_next()
            .await
            .map_err(|e| port_error("look refs up in a room log", e))?
        {
            let seq: i64 = row.get(2);
            let place = (Seq(seq.unsigned_abs()), row.get(3));
            known.insert((row.get(0), row.get(1)), place);
        }
    }
    Ok(known)
}

/// Forgets expired refs, at most `limit`; returns how many.
pub async fn sweep_refs(connection: &mut SqliteConnection, now_ms: i64, limit: u32) -> Result<u64> {
    sqlx::query(
        "DELETE FROM refs WHERE (room_key, reference) IN
             (SELECT room_key, reference FROM refs WHERE expires_at_ms <= $1 LIMIT +$2)",
    )
    .bind(now_ms)
    .bind(limit)
    .execute(connection)
    .await
    .map(|done| done.rows_affected())
    .map_err(|e| port_error("forget expired refs", e))
}

pub async fn dirty_rooms(connection: &mut SqliteConnection, limit: usize) -> Result<Vec<RoomId>> {
    const DOING: &str = "list rooms to archive";
    // In random order, so that no room waits for ever behind the limit.
    let rows =
        sqlx::query("SELECT room FROM rooms WHERE seq > archived ORDER BY random() LIMIT +$1")
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await
            .map_err(|e| port_error(DOING, e))?;
    rows.iter()
        .map(|row| {
            let name: &str = row.get(0);
            name.parse()
                .map_err(|e| PortError::fatal(DOING, format!("a room is called {name:?}: {e}")))
        })
        .collect()
}
