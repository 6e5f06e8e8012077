//! Activity in `archive.db`: rows by person, minute and room, written in the transaction of the entries.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Row, Sqlite as Db, SqliteConnection};

use super::SqliteArchive;
use super::append::{ROWS_MAX, Write, pieces};
use crate::adapters::archive::{from_db, newest_minutes, slots_in_bounds, to_db};
use crate::adapters::embedded::sqlite::port_error;
use crate::domain::activity::{ActivityCounts, by_minute};
use crate::domain::ids::{RoomId, UserId};
use crate::ports::{
    ACTIVITY_SLOTS_MAX, ACTIVITY_SUBJECTS_MAX, ActivityArchive, ActivityQuery, ActivitySlot,
    Result, RoomMinute,
};

/// Adds what people did in these, where it counts.
pub async fn count(connection: &mut SqliteConnection, writes: &[Write<'_>]) -> Result<()> {
    let mut rows = Vec::new();
    for write in writes.iter().filter(|write| write.counts) {
        for ((user, minute), counts) in by_minute(write.entries) {
            let counts = [
                to_db(counts.messages)?,
                to_db(counts.comments)?,
                to_db(counts.strokes)?,
                to_db(counts.edits)?,
                to_db(counts.runs)?,
            ];
            rows.push((user, minute, write.room, counts));
        }
    }
    for rows in pieces(&rows, ROWS_MAX) {
        let mut sql = QueryBuilder::<Db>::new(
            "INSERT INTO activity (user_id, minute, room, messages, comments, strokes, edits, runs) ",
        );
        sql.push_values(rows, |mut row, (user, minute, room, counts)| {
            row.push_bind(user.0)
                .push_bind(*minute)
                .push_bind(room.to_string());
            for count in counts {
                row.push_bind(*count);
            }
        });
        sql.push(
            " ON CONFLICT (user_id, minute, room) DO UPDATE SET
                 messages = messages + excluded.messages, comments = comments + excluded.comments,
                 strokes = strokes + excluded.strokes, edits = edits + excluded.edits,
                 runs = runs + excluded.runs",
        );
        sql.build()
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

/// Slots of people, by the primary key.
fn slots_query(query: &ActivityQuery) -> Result<QueryBuilder<Db>> {
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
        .push(" GROUP BY user_id, slot ORDER BY user_id, slot LIMIT +")
        .push_bind(to_db(ACTIVITY_SLOTS_MAX as u64 + 1)?);
    Ok(sql)
}

#[async_trait]
impl ActivityArchive for SqliteArchive {
    async fn activity_of(&self, query: &ActivityQuery) -> Result<Vec<ActivitySlot>> {
        if query.users.is_empty() {
            return Ok(Vec::new());
        }
        let rows = slots_query(query)?
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
        before: Option<(i64, UserId, RoomId)>,
        limit: usize,
    ) -> Result<Vec<RoomMinute>> {
        let rooms = &rooms[..rooms.len().min(ACTIVITY_SUBJECTS_MAX)];
        // A few of each room first; then more of those rooms whose last is still in the page.
        let mut share = (2 * limit / rooms.len().max(1)).max(SHARE_MIN);
        let mut open: Vec<(&RoomId, Option<Key>)> =
            rooms.iter().map(|room| (room, before.clone())).collect();
        let mut found = Vec::new();
        while !open.is_empty() {
            let mut cut = Vec::new();
            for (room, before) in open {
                let rows = self.minutes_of(room, before.as_ref(), share).await?;
                if rows.len() == share {
                    cut.extend(rows.last().map(|last| (room, key(last))));
                }
                found.extend(rows);
            }
            found = newest_minutes(found, limit);
            let least = found.last().filter(|_| found.len() == limit).map(key);
            cut.retain(|(_, last)| least.as_ref().is_none_or(|least| last > least));
            open = cut
                .into_iter()
                .map(|(room, last)| (room, Some(last)))
                .collect();
            share *= 4;
        }
        Ok(found)
    }
}

/// The place of a minute among those of several rooms.
type Key = (i64, UserId, RoomId);

fn key(minute: &RoomMinute) -> Key {
    (minute.minute, minute.user_id, minute.room.clone())
}

/// Minutes that are asked of each room at first, at least.
const SHARE_MIN: usize = 4;

impl SqliteArchive {
    /// One room's, by its index, which has them in order.
    async fn minutes_of(
        &self,
        room: &RoomId,
        before: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<RoomMinute>> {
        let (minute, user, at) = before
            .map_or((i64::MAX, UserId(uuid::Uuid::nil()), ""), |before| {
                (before.0, before.1, before.2.as_str())
            });
        let rows = sqlx::query(MINUTES_OF_ROOM)
            .bind(room.as_str())
            .bind(minute)
            .bind(user.0)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(at)
            .fetch_all(&self.file.read)
            .await
            .map_err(|e| port_error("read activity", e))?;
        rows.iter()
            .map(|row| {
                Ok(RoomMinute {
                    minute: row.get(0),
                    room: room.clone(),
                    user_id: UserId(row.get(1)),
                    counts: counts(row, 2)?,
                })
            })
            .collect()
    }
}

const MINUTES_OF_ROOM: &str =
    "SELECT minute, user_id, messages, comments, strokes, edits, runs FROM activity
     WHERE room = $1 AND (minute, user_id, room) < ($2, $3, $5) ORDER BY minute DESC, user_id DESC LIMIT +$4";

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::domain::ids::Epoch;
    use crate::ports::Archive;

    async fn plan(archive: &SqliteArchive, sql: &str) -> String {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
            .fetch_all(&archive.file.read)
            .await
            .unwrap();
        let details = rows.iter().map(|row| row.get::<String, _>("detail"));
        details.collect::<Vec<_>>().join("; ")
    }

    #[tokio::test]
    async fn every_query_searches_an_index_and_pages_need_no_sorting() {
        let folder = tempfile::tempdir().unwrap();
        let archive = SqliteArchive::open(folder.path()).await.unwrap();
        let page = plan(&archive, MINUTES_OF_ROOM).await;
        assert!(
            page.contains("SEARCH activity USING INDEX activity_by_room"),
            "{page}"
        );
        assert!(!page.contains("TEMP B-TREE"), "{page}");
        let query = ActivityQuery {
            users: vec![UserId::generate(), UserId::generate()],
            from_minute: 0,
            to_minute: 10,
            slot_minutes: 5,
        };
        let slots = plan(&archive, slots_query(&query).unwrap().sql().as_str()).await;
        assert!(
            slots.contains(
                "SEARCH activity USING PRIMARY KEY (user_id=? AND minute>? AND minute<?)"
            ),
            "{slots}"
        );
    }

    /// A million counted minutes: two hundred people in a hundred rooms, half a year. `cargo test … -- --ignored` tells the
    /// times; how long is too long depends on the machine, so only the answers are judged.
    #[tokio::test]
    #[ignore = "takes a minute"]
    #[expect(clippy::print_stdout, reason = "it tells the times")]
    async fn a_million_minutes_are_summed_by_index() {
        const PEOPLE: i64 = 200;
        const EACH: i64 = 5_000;
        let folder = tempfile::tempdir().unwrap();
        let archive = SqliteArchive::open(folder.path()).await.unwrap();
        let people: Vec<UserId> = (0..PEOPLE).map(|_| UserId::generate()).collect();
        let rooms: Vec<RoomId> = (0..100).map(|_| RoomId::generate()).collect();
        let mut tx = archive.file.write.begin().await.unwrap();
        for (n, person) in people.iter().enumerate() {
            sqlx::query(
                "WITH RECURSIVE minutes(m) AS (SELECT 0 UNION ALL SELECT m + 1 FROM minutes WHERE m < $2 - 1)
                 INSERT INTO activity SELECT $1, m * 51, $3, 1, 0, 2, 0, 0 FROM minutes",
            )
            .bind(person.0)
            .bind(EACH)
            .bind(rooms[n % rooms.len()].as_str())
            .execute(&mut *tx)
            .await
            .unwrap();
        }
        tx.commit().await.unwrap();
        assert_eq!(archive.head(&rooms[0]).await.unwrap().epoch, Epoch(0));
        let timed = async |name: &str, users: &[UserId], days: i64| {
            let query = ActivityQuery {
                users: users.to_vec(),
                from_minute: 0,
                to_minute: days * 1_440,
                slot_minutes: 1_440,
            };
            let began = Instant::now();
            let slots = archive.activity_of(&query).await.unwrap();
            let took: Duration = began.elapsed();
            let messages: u64 = slots.iter().map(|slot| slot.counts.messages).sum();
            println!(
                "{name}: {messages} minutes in {} slots, {took:?}",
                slots.len()
            );
            messages
        };
        let week = 7 * 1_440 / 51 + 1;
        let ten = timed("ten people, a week", &people[..10], 7).await;
        assert_eq!(ten, u64::try_from(10 * week).unwrap());
        let all = timed("all, for ever", &people, 1_000).await;
        assert_eq!(all, u64::try_from(PEOPLE * EACH).unwrap());
        let (mut seen, mut before) = (0, None);
        let began = Instant::now();
        for _ in 0..20 {
            let page = archive.activity_in(&rooms, before, 50).await.unwrap();
            seen += page.len();
            before = page
                .last()
                .map(|row| (row.minute, row.user_id, row.room.clone()));
        }
        println!("twenty pages of a hundred rooms: {:?}", began.elapsed());
        assert_eq!(seen, 1_000);
    }
}
