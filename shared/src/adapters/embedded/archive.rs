//! The archive in `archive.db`: one SQLite file, every change one synced transaction.

mod activity;
mod append;
mod backups;
mod messages;

use std::collections::HashMap;
use std::path::Path;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite as Db, SqliteConnection};

use self::append::Appends;
use super::sqlite::{Commits, Sqlite, port_error};
use crate::adapters::archive::{Answer, REFS_PER_QUERY, decode_state, from_db, to_db};
use crate::domain::entry::{Entry, RefKey};
use crate::domain::ids::{Epoch, JobId, MessageId, RoomId, Seq, UserId};
use crate::domain::job::JobResult;
use crate::domain::message::{Message, MessageCounts};
use crate::domain::state::Checkpoint;
use crate::ports::{
    Archive, ArchiveHead, HistoryPage, HistoryQuery, MessagePage, MessageQuery, PortError, Result,
    StaleEpoch,
};

const MIGRATIONS: &[(&str, &str)] = &[
    (
        "archive",
        include_str!("../../../../migrations/sqlite/archive/0001_archive.sql"),
    ),
    (
        "document bytes",
        include_str!("../../../../migrations/sqlite/archive/0002_document_bytes.sql"),
    ),
    (
        "messages",
        include_str!("../../../../migrations/sqlite/archive/0002_messages.sql"),
    ),
    (
        "activity",
        include_str!("../../../../migrations/sqlite/archive/0003_activity.sql"),
    ),
    (
        "backups",
        include_str!("../../../../migrations/sqlite/archive/0003_backups.sql"),
    ),
];

pub struct SqliteArchive {
    file: Sqlite,
    appends: Appends,
}

impl SqliteArchive {
    /// Opens or makes `folder/archive.db` and brings its tables up to date.
    pub async fn open(folder: &Path) -> Result<Self> {
        let file = Sqlite::open(folder, "archive.db", Commits::Synced).await?;
        file.migrate(MIGRATIONS).await?;
        let appends = Appends::start(file.write.clone());
        Ok(Self { file, appends })
    }

    async fn reader(&self, operation: &'static str) -> Result<PoolConnection<Db>> {
        let connection = self.file.read.acquire().await;
        connection.map_err(|e| port_error(operation, e))
    }
}

async fn head(connection: &mut SqliteConnection, room: &RoomId) -> Result<ArchiveHead> {
    let row = sqlx::query("SELECT epoch, seq, opened FROM room_heads WHERE room = $1")
        .bind(room.as_str())
        .fetch_optional(connection)
        .await
        .map_err(|e| port_error("read archive head", e))?;
    row.map_or_else(|| Ok(ArchiveHead::default()), |row| archive_head(&row, 0))
}

/// Epoch, seq and whether it was opened, from column `at` on.
fn archive_head(row: &SqliteRow, at: usize) -> Result<ArchiveHead> {
    Ok(ArchiveHead {
        epoch: Epoch(from_db(row.get(at))?),
        seq: Seq(from_db(row.get(at + 1))?),
        opened: row.get(at + 2),
    })
}

#[async_trait]
impl Archive for SqliteArchive {
    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.file.read)
            .await
            .map_err(|e| port_error("ping archive.db", e))?;
        Ok(())
    }

    async fn head(&self, room: &RoomId) -> Result<ArchiveHead> {
        let mut connection = self
            .file
            .read
            .acquire()
            .await
            .map_err(|e| port_error("read archive head", e))?;
        head(&mut connection, room).await
    }

    async fn raise_epoch(&self, room: &RoomId, from: Epoch) -> Result<ArchiveHead> {
        let failed = |e| port_error("raise epoch", e);
        let mut transaction = self
            .file
            .write
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failed)?;
        if from == Epoch(0) {
            sqlx::query(
                "INSERT INTO room_heads (room, epoch, seq) VALUES ($1, 1, 0) ON CONFLICT DO NOTHING",
            )
            .bind(room.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        } else {
            sqlx::query("UPDATE room_heads SET epoch = epoch + 1, opened = 0 WHERE room = $1 AND epoch = $2")
                .bind(room.as_str())
                .bind(to_db(from.0)?)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        let head = head(&mut transaction, room).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(head)
    }

    async fn open_epoch(&self, room: &RoomId, epoch: Epoch) -> Result<ArchiveHead> {
        sqlx::query("UPDATE room_heads SET opened = 1 WHERE room = $1 AND epoch = $2")
            .bind(room.as_str())
            .bind(to_db(epoch.0)?)
            .execute(&self.file.write)
            .await
            .map_err(|e| port_error("open epoch", e))?;
        self.head(room).await
    }

    async fn append(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<ArchiveHead, StaleEpoch> {
        self.appends.append(room, epoch, entries, true).await
    }

    async fn append_again(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<ArchiveHead, StaleEpoch> {
        self.appends.append(room, epoch, entries, false).await
    }

    async fn archived_rooms(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        const OPERATION: &str = "list archived rooms";
        let rooms: Vec<String> = sqlx::query_scalar(
            "SELECT room FROM room_heads WHERE room > $1 AND seq > 0 ORDER BY room LIMIT +$2",
        )
        .bind(after.map_or("", RoomId::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.file.read)
        .await
        .map_err(|e| port_error(OPERATION, e))?;
        let parsed = rooms.iter().map(|room| room.parse());
        parsed
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| PortError::fatal(OPERATION, e))
    }

    async fn read(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Vec<Entry>> {
        let failed = |e| port_error("read archive", e);
        let mut rows = sqlx::query(
            "SELECT seq, record FROM entries WHERE room = $1 AND seq > $2 ORDER BY seq LIMIT +$3",
        )
        .bind(room.as_str())
        .bind(to_db(after.0)?)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch(&self.file.read);
        let mut answer = Answer::new(limit);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            if !answer.push(row.get(0), row.get(1))? {
                break;
            }
        }
        Ok(answer.entries)
    }

    async fn history(&self, room: &RoomId, query: &HistoryQuery) -> Result<HistoryPage> {
        let failed = |e| port_error("read history", e);
        let mut sql = QueryBuilder::<Db>::new("SELECT seq, record FROM entries WHERE room = ");
        sql.push_bind(room.as_str());
        if let Some(before) = query.before {
            sql.push(" AND seq < ").push_bind(to_db(before.0)?);
        }
        if !query.kinds.is_empty() {
            sql.push(" AND kind IN (");
            let mut kinds = sql.separated(", ");
            for kind in &query.kinds {
                kinds.push_bind(*kind);
            }
            sql.push(")");
        }
        sql.push(" AND (audience IS NULL");
        if let Some(UserId(reader)) = query.reader {
            sql.push(" OR EXISTS (SELECT 1 FROM json_each(audience) WHERE value = ")
                .push_bind(reader.to_string())
                .push(")");
        }
        // One more than asked for tells whether there are older ones.
        sql.push(") ORDER BY seq DESC LIMIT +")
            .push_bind(i64::try_from(query.limit.saturating_add(1)).unwrap_or(i64::MAX));
        let mut rows = sql.build().fetch(&self.file.read);
        let mut answer = Answer::new(query.limit);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            if !answer.push(row.get(0), row.get(1))? {
                break;
            }
        }
        Ok(HistoryPage {
            entries: answer.entries,
            more: answer.more,
        })
    }

    async fn messages(&self, room: &RoomId, query: &MessageQuery) -> Result<MessagePage> {
        messages::page(&mut *self.reader("list messages").await?, room, query).await
    }

    async fn messages_by_id(&self, room: &RoomId, ids: &[MessageId]) -> Result<Vec<Message>> {
        messages::by_id(&mut *self.reader("find messages").await?, room, ids).await
    }

    async fn message_counts(&self, room: &RoomId, reader: UserId) -> Result<Vec<MessageCounts>> {
        messages::counts(&mut *self.reader("count messages").await?, room, reader).await
    }

    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>> {
        let mut found = HashMap::new();
        for refs in refs.chunks(REFS_PER_QUERY) {
            let mut sql = QueryBuilder::<Db>::new(
                "SELECT user_id, client_id, ref, seq FROM entries WHERE room = ",
            );
            sql.push_bind(room.as_str())
                .push(" AND (user_id, client_id, ref) IN (VALUES ");
            let mut keys = sql.separated(", ");
            for key in refs {
                keys.push("(")
                    .push_bind_unseparated(key.user_id.0)
                    .push_unseparated(", ")
                    .push_bind_unseparated(key.client_id.as_str())
                    .push_unseparated(", ")
                    .push_bind_unseparated(key.reference.as_str())
                    .push_unseparated(")");
            }
            sql.push(")");
            let rows = sql
                .build_query_as::<(uuid::Uuid, String, String, i64)>()
                .fetch_all(&self.file.read)
                .await
                .map_err(|e| port_error("look up refs", e))?;
            for (user_id, client_id, reference, seq) in rows {
                found.insert((user_id, client_id, reference), Seq(from_db(seq)?));
            }
        }
        let seq_of = |key: &RefKey| {
            let key = (
                key.user_id.0,
                key.client_id.to_string(),
                key.reference.as_str().to_owned(),
            );
            found.get(&key).copied()
        };
        Ok(refs.iter().map(seq_of).collect())
    }

    async fn checkpoint(&self, room: &RoomId) -> Result<Option<Checkpoint>> {
        let row = sqlx::query("SELECT epoch, seq, state FROM checkpoints WHERE room = $1")
            .bind(room.as_str())
            .fetch_optional(&self.file.read)
            .await
            .map_err(|e| port_error("read checkpoint", e))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Checkpoint {
            epoch: Epoch(from_db(row.get(0))?),
            seq: Seq(from_db(row.get(1))?),
            state: decode_state(row.get::<String, _>(2).into_bytes()).await?,
        }))
    }

    async fn save_checkpoint(&self, room: &RoomId, checkpoint: &Checkpoint) -> Result<bool> {
        let state = serde_json::to_string(&checkpoint.state)
            .map_err(|e| PortError::fatal("encode checkpoint", e))?;
        // Newer than the one kept, not beyond the head and of its epoch: all asked in the writing statement.
        let done = sqlx::query(
            "INSERT INTO checkpoints (room, epoch, seq, state, document_bytes)
             SELECT $1, $2, $3, $4, $5 FROM room_heads WHERE room = $1 AND epoch = $2 AND seq >= $3
             ON CONFLICT (room) DO UPDATE
             SET epoch = excluded.epoch, seq = excluded.seq, state = excluded.state,
                 document_bytes = excluded.document_bytes
             WHERE excluded.seq > checkpoints.seq",
        )
        .bind(room.as_str())
        .bind(to_db(checkpoint.epoch.0)?)
        .bind(to_db(checkpoint.seq.0)?)
        .bind(state)
        .bind(to_db(checkpoint.state.document.bytes() as u64)?)
        .execute(&self.file.write)
        .await
        .map_err(|e| port_error("save checkpoint", e))?;
        Ok(done.rows_affected() == 1)
    }

    async fn document_bytes(&self, rooms: &[RoomId]) -> Result<HashMap<RoomId, u64>> {
        let failed = |e| port_error("read sizes of documents", e);
        let mut found = HashMap::new();
        for rooms in rooms.chunks(REFS_PER_QUERY) {
            let mut sql = QueryBuilder::<Db>::new(
                "SELECT room, document_bytes FROM checkpoints WHERE document_bytes > 0 AND room IN (",
            );
            let mut ids = sql.separated(", ");
            for room in rooms {
                ids.push_bind(room.as_str());
            }
            sql.push(")");
            let rows = sql.build_query_as::<(String, i64)>();
            for (room, bytes) in rows.fetch_all(&self.file.read).await.map_err(failed)? {
                if let Some(room) = rooms.iter().find(|known| known.as_str() == room) {
                    found.insert(room.clone(), from_db(bytes)?);
                }
            }
        }
        Ok(found)
    }

    async fn forget_room(&self, room: &RoomId, epoch: Epoch) -> Result<bool> {
        let failed = |e| port_error("forget a room", e);
        let mut transaction = self
            .file
            .write
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failed)?;
        if head(&mut transaction, room).await?.epoch != epoch {
            return Ok(false);
        }
        for sql in [
            "DELETE FROM message_words WHERE room = $1",
            "DELETE FROM messages WHERE room = $1",
            "DELETE FROM entries WHERE room = $1",
            "DELETE FROM checkpoints WHERE room = $1",
            "DELETE FROM backups WHERE room = $1",
            "UPDATE room_heads SET epoch = epoch + 1, seq = 0, opened = 0, unbacked = 0 WHERE room = $1",
        ] {
            sqlx::query(sql)
                .bind(room.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(true)
    }

    async fn put_result(
        &self,
        job: JobId,
        result: &JobResult,
        expires_at: DateTime<Utc>,
    ) -> Result<bool> {
        let result =
            serde_json::to_string(result).map_err(|e| PortError::fatal("encode job result", e))?;
        let done = sqlx::query(
            "INSERT INTO job_results (job, result, expires_at_ms) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
        )
        .bind(job.0)
        .bind(result)
        .bind(expires_at.timestamp_millis())
        .execute(&self.file.write)
        .await
        .map_err(|e| port_error("store job result", e))?;
        Ok(done.rows_affected() == 1)
    }

    async fn result(&self, job: JobId, now: DateTime<Utc>) -> Result<Option<JobResult>> {
        let row =
            sqlx::query("SELECT result FROM job_results WHERE job = $1 AND expires_at_ms > $2")
                .bind(job.0)
                .bind(now.timestamp_millis())
                .fetch_optional(&self.file.read)
                .await
                .map_err(|e| port_error("read job result", e))?;
        row.map(|row| {
            serde_json::from_str(row.get(0)).map_err(|e| PortError::fatal("decode job result", e))
        })
        .transpose()
    }

    async fn expired_results(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<JobId>> {
        let jobs: Vec<uuid::Uuid> = sqlx::query_scalar(
            "SELECT job FROM job_results WHERE expires_at_ms <= $1 ORDER BY expires_at_ms LIMIT +$2",
        )
        .bind(now.timestamp_millis())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.file.read)
        .await
        .map_err(|e| port_error("list expired results", e))?;
        Ok(jobs.into_iter().map(JobId).collect())
    }

    async fn delete_results(&self, jobs: &[JobId]) -> Result<()> {
        let failed = |e| port_error("remove job results", e);
        let mut tx = self
            .file
            .write
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(failed)?;
        for job in jobs {
            sqlx::query("DELETE FROM job_results WHERE job = $1")
                .bind(job.0)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }
}
