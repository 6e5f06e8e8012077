//! The tables of `log.db`, over one connection.

use std::collections::HashMap;

use futures::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::adapters::embedded::sqlite::port_error;
use crate::domain::entry::{Entry, Record, RefKey};
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::{LogHead, PortError, READ_MAX_BYTES, Result};

/// Rows of one statement; SQLite takes 32,766 variables.
const ROWS_PER_STATEMENT: usize = 1_000;

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

/// Writes the head; makes the room's row where there is none.
pub async fn put_head(
    connection: &mut SqliteConnection,
    room: &RoomId,
    head: &LogHead,
) -> Result<RoomKey> {
    sqlx::query(
        "INSERT INTO rooms (room, epoch, seq, archived, trimmed, role_version, seeded_at_ms, seeded_seq)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (room) DO UPDATE SET
             epoch = excluded.epoch, seq = excluded.seq, archived = excluded.archived, trimmed = excluded.trimmed,
             role_version = excluded.role_version, seeded_at_ms = excluded.seeded_at_ms, seeded_seq = excluded.seeded_seq
         RETURNING key",
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

/// Forgets the room, its tail and its refs.
pub async fn remove(connection: &mut SqliteConnection, key: RoomKey) -> Result<()> {
    sqlx::query("DELETE FROM rooms WHERE key = $1")
        .bind(key)
        .execute(connection)
        .await
        .map_err(|e| port_error("remove a room log", e))?;
    Ok(())
}

/// Up to `limit` entries after `after`; fewer where they are large, but at least one.
pub async fn entries(
    connection: &mut SqliteConnection,
    room: &RoomId,
    key: RoomKey,
    after: Seq,
    limit: usize,
) -> Result<Vec<Entry>> {
    const DOING: &str = "read a room log";
    let mut rows = sqlx::query(
        "SELECT seq, record FROM entries WHERE room_key = $1 AND seq > $2 ORDER BY seq LIMIT $3",
    )
    .bind(key)
    // A place beyond all that can be stored has nothing after it.
    .bind(i64::try_from(after.0).unwrap_or(i64::MAX))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch(connection);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await.map_err(|e| port_error(DOING, e))? {
        let (seq, json): (i64, &str) = (row.get(0), row.get(1));
        bytes += json.len();
        if bytes > READ_MAX_BYTES && !entries.is_empty() {
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

/// Stores the JSON of records, the first at `first`.
pub async fn insert_entries(
    connection: &mut SqliteConnection,
    key: RoomKey,
    first: Seq,
    records: &[String],
) -> Result<()> {
    let numbered: Vec<(i64, &String)> = (to_db(first.0)?..).zip(records).collect();
    for rows in numbered.chunks(ROWS_PER_STATEMENT) {
        QueryBuilder::<Sqlite>::new("INSERT INTO entries (room_key, seq, record) ")
            .push_values(rows, |mut row, (seq, json)| {
                row.push_bind(key).push_bind(*seq).push_bind(json.as_str());
            })
            .build()
            .execute(&mut *connection)
            .await
            .map_err(|e| port_error("append to a room log", e))?;
    }
    Ok(())
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

/// Seqs of those of the refs that are remembered at `now_ms`.
pub async fn known_refs(
    connection: &mut SqliteConnection,
    key: RoomKey,
    names: &[String],
    now_ms: i64,
) -> Result<HashMap<String, Seq>> {
    let mut known = HashMap::new();
    for names in names.chunks(ROWS_PER_STATEMENT) {
        let mut query =
            QueryBuilder::<Sqlite>::new("SELECT reference, seq FROM refs WHERE room_key = ");
        query
            .push_bind(key)
            .push(" AND expires_at_ms > ")
            .push_bind(now_ms);
        query.push(" AND reference IN (");
        let mut list = query.separated(", ");
        for name in names {
            list.push_bind(name.as_str());
        }
        query.push(")");
        let mut rows = query.build().fetch(&mut *connection);
        while let Some(row) = rows
            .try_next()
            .await
            .map_err(|e| port_error("look refs up in a room log", e))?
        {
            let seq: i64 = row.get(1);
            known.insert(row.get(0), Seq(seq.unsigned_abs()));
        }
    }
    Ok(known)
}

/// Remembers refs. One that is there already has expired.
pub async fn insert_refs(
    connection: &mut SqliteConnection,
    key: RoomKey,
    refs: &[(String, Seq)],
    expires_at_ms: i64,
) -> Result<()> {
    for rows in refs.chunks(ROWS_PER_STATEMENT) {
        QueryBuilder::<Sqlite>::new(
            "INSERT OR REPLACE INTO refs (room_key, reference, seq, expires_at_ms) ",
        )
        .push_values(rows, |mut row, (name, seq)| {
            row.push_bind(key)
                .push_bind(name.as_str())
                // A seq that was stored as an entry's fits.
                .push_bind(seq.0.cast_signed())
                .push_bind(expires_at_ms);
        })
        .build()
        .execute(&mut *connection)
        .await
        .map_err(|e| port_error("append to a room log", e))?;
    }
    Ok(())
}

/// Forgets expired refs, at most `limit`; returns how many.
pub async fn sweep_refs(connection: &mut SqliteConnection, now_ms: i64, limit: u32) -> Result<u64> {
    sqlx::query(
        "DELETE FROM refs WHERE (room_key, reference) IN
             (SELECT room_key, reference FROM refs WHERE expires_at_ms <= $1 LIMIT $2)",
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
        sqlx::query("SELECT room FROM rooms WHERE seq > archived ORDER BY random() LIMIT $1")
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
