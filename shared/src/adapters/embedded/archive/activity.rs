//! Activity in `archive.db`: rows by person, minute and room, written in the transaction of the entries.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Row, Sqlite as Db, SqliteConnection};

use super::SqliteArchive;
use crate::adapters::archive::{from_db, slots_in_bounds, to_db};
use crate::adapters::embedded::sqlite::port_error;
use crate::domain::activity::{ActivityCounts, by_minute};
use crate::domain::entry::Entry;
use crate::domain::ids::{RoomId, UserId};
use crate::ports::{
    ACTIVITY_SLOTS_MAX, ACTIVITY_SUBJECTS_MAX, ActivityArchive, ActivityQuery, ActivitySlot,
    PortError, Result, RoomMinute,
};

pub async fn count(
    connection: &mut SqliteConnection,
    room: &RoomId,
    entries: &[Entry],
) -> Result<()> {
    for ((user, minute), counts) in by_minute(entries) {
        sqlx::query(
            "INSERT INTO activity (user_id, minute, room, messages, comments, strokes, edits, runs)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (user_id, minute, room) DO UPDATE SET
                 messages = messages + excluded.messages, comments = comments + excluded.comments,
                 strokes = strokes + excluded.strokes, edits = edits + excluded.edits,
                 runs = runs + excluded.runs",
        )
        .bind(user.0)
        .bind(minute)
        .bind(room.as_str())
        .bind(to_db(counts.messages)?)
        .bind(to_db(counts.comments)?)
        .bind(to_db(counts.strokes)?)
        .bind(to_db(counts.edits)?)
        .bind(to_db(counts.runs)?)
        .execute(&mut *connection)
        .await
        .map_err(|e| port_error("count activity", e))?;
    }
    Ok(())
}

/// Five counts from column `at` on.
fn counts(row: &sqlx::sqlite::SqliteRow, at: usize) -> Result<ActivityCounts> {
    Ok(ActivityCounts {
        messages: from_db(row.get(at))?,
        comments: from_db(row.get(at + 1))?,
        strokes: from_db(row.get(at + 2))?,
        edits: from_db(row.get(at + 3))?,
        runs: from_db(row.get(at + 4))?,
    })
}

#[async_trait]
impl ActivityArchive for SqliteArchive {
    async fn activity_of(&self, query: &ActivityQuery) -> Result<Vec<ActivitySlot>> {
        if query.users.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = QueryBuilder::<Db>::new("SELECT user_id, minute - minute % ");
        sql.push_bind(query.slot_minutes);
        sql.push(
            " AS slot, SUM(messages), SUM(comments), SUM(strokes), SUM(edits), SUM(runs), COUNT(DISTINCT minute)
             FROM activity WHERE user_id IN (",
        );
        let mut users = sql.separated(", ");
        for user in query.users.iter().take(ACTIVITY_SUBJECTS_MAX) {
            users.push_bind(user.0);
        }
        sql.push(") AND minute >= ")
            .push_bind(query.from_minute)
            .push(" AND minute < ")
            .push_bind(query.to_minute)
            .push(" GROUP BY user_id, slot ORDER BY user_id, slot LIMIT ")
            .push_bind(to_db(ACTIVITY_SLOTS_MAX as u64 + 1)?);
        let rows = sql
            .build()
            .fetch_all(&self.file.read)
            .await
            .map_err(|e| port_error("read activity", e))?;
        slots_in_bounds(rows.len())?;
        rows.iter()
            .map(|row| {
                Ok(ActivitySlot {
                    user_id: UserId(row.get(0)),
                    start_minute: row.get(1),
                    counts: counts(row, 2)?,
                    active_minutes: from_db(row.get(7))?,
                })
            })
            .collect()
    }

    async fn activity_in(
        &self,
        rooms: &[RoomId],
        before: Option<(i64, RoomId, UserId)>,
        limit: usize,
    ) -> Result<Vec<RoomMinute>> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = QueryBuilder::<Db>::new(
            "SELECT minute, room, user_id, messages, comments, strokes, edits, runs FROM activity WHERE room IN (",
        );
        let mut list = sql.separated(", ");
        for room in rooms.iter().take(ACTIVITY_SUBJECTS_MAX) {
            list.push_bind(room.as_str());
        }
        sql.push(")");
        if let Some((minute, room, user)) = &before {
            sql.push(" AND (minute, room, user_id) < (")
                .push_bind(*minute)
                .push(", ")
                .push_bind(room.as_str())
                .push(", ")
                .push_bind(user.0)
                .push(")");
        }
        sql.push(" ORDER BY minute DESC, room DESC, user_id DESC LIMIT ")
            .push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = sql
            .build()
            .fetch_all(&self.file.read)
            .await
            .map_err(|e| port_error("read activity", e))?;
        rows.iter()
            .map(|row| {
                let room: &str = row.get(1);
                Ok(RoomMinute {
                    minute: row.get(0),
                    room: room
                        .parse()
                        .map_err(|e| PortError::fatal("read activity", e))?,
                    user_id: UserId(row.get(2)),
                    counts: counts(row, 3)?,
                })
            })
            .collect()
    }
}
