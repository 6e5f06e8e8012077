//! The room log of a single process: `log.db`, written in groups by one task, and fan-out in memory.

mod store;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::writer::{Command, Write};
use super::sqlite::{Sqlite, port_error};
use crate::adapters::fanout::{Fanout, Place};
use crate::adapters::migrations::migrator;
use crate::domain::entry::{Entry, RefKey};
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::signal::Signal;
use crate::ports::{
    APPEND_MAX, APPEND_MAX_BYTES, Append, Appended, Delivery, LogHead, PortError, Refusal, Result,
    RoomLog, Subscription,
};

/// Writes that wait for the writer; beyond it callers wait for a place.
const WRITE_QUEUE: usize = 1024;

const MIGRATIONS: [(&str, &str); 1] = [(
    "log",
    include_str!("../../../../migrations/sqlite/log/0001_log.sql"),
)];

/// A single process has no second connection life.
const GENERATION: u64 = 0;

/// See [`RoomLog`].
pub struct SqliteRoomLog {
    file: Sqlite,
    fanout: Arc<Fanout>,
    writes: mpsc::Sender<Write>,
}

/// Unsubscribes when dropped.
struct Guard {
    fanout: Arc<Fanout>,
    place: Place,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.fanout.remove(&self.place);
    }
}

impl SqliteRoomLog {
    /// Opens or makes `folder/log.db`. `room_tail_max`: entries a room may hold unarchived.
    pub async fn open(folder: &Path, room_tail_max: u64) -> Result<Self> {
        let file = Sqlite::open(folder, "log.db").await?;
        migrator(&MIGRATIONS)
            .run(&file.write)
            .await
            .map_err(|e| PortError::fatal("migrate log.db", e))?;
        let fanout = Arc::new(Fanout::default());
        let (writes, waiting) = mpsc::channel(WRITE_QUEUE);
        // Ends when `writes` is dropped with this log, after what was accepted is written.
        tokio::spawn(writer::run(
            file.clone(),
            fanout.clone(),
            room_tail_max,
            waiting,
        ));
        Ok(Self {
            file,
            fanout,
            writes,
        })
    }

    /// Hands a write to the writer and waits for its commit. A caller that gives up waiting leaves the write undecided,
    /// as a lost answer from Redis does.
    async fn write<T>(
        &self,
        operation: &'static str,
        room: &RoomId,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T> {
        let stopped = || {
            PortError::retry(
                operation,
                "the log is shut down, or a write before this one failed",
            )
        };
        let (answer, answered) = oneshot::channel();
        let write = Write {
            room: room.clone(),
            command: command(answer),
        };
        self.writes.send(write).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())
    }
}

#[async_trait]
impl RoomLog for SqliteRoomLog {
    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.file.read)
            .await
            .map_err(|e| port_error("ping log.db", e))?;
        Ok(())
    }

    async fn head(&self, room: &RoomId) -> Result<Option<LogHead>> {
        let mut connection = self.connection("read the head of a room log").await?;
        Ok(store::head(&mut connection, room)
            .await?
            .map(|(_, head)| head))
    }

    async fn seed(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
    ) -> Result<LogHead> {
        self.write("seed a room log", room, |answer| Command::Seed {
            epoch,
            seq,
            role_version,
            now_ms,
            answer,
        })
        .await?
    }

    async fn append(&self, append: Append<'_>) -> Result<(Vec<Appended>, bool), Refusal> {
        const DOING: &str = "append to a room log";
        let Append { room, records, .. } = append;
        let too_large = |what: String| PortError::fatal(DOING, format!("room {room}: {what}"));
        if records.len() > APPEND_MAX {
            let count = records.len();
            return Err(too_large(format!("{count} records at once, at most {APPEND_MAX}")).into());
        }
        // Encoded here and not by the writer, which has every room's work to do.
        let texts = records
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| too_large(e.to_string()))?;
        let bytes: usize = texts.iter().map(String::len).sum();
        if bytes > APPEND_MAX_BYTES {
            return Err(
                too_large(format!("{bytes} bytes at once, at most {APPEND_MAX_BYTES}")).into(),
            );
        }
        let records = records.iter().cloned().zip(texts).collect();
        self.write(DOING, room, |answer| Command::Append {
            epoch: append.epoch,
            seen: append.seen,
            role_version: append.role_version,
            now_ms: append.now_ms,
            records,
            answer,
        })
        .await?
    }

    async fn read(
        &self,
        room: &RoomId,
        epoch: Epoch,
        after: Seq,
        limit: usize,
    ) -> Result<Option<Vec<Entry>>> {
        const DOING: &str = "read a room log";
        // One transaction: head and entries are of one moment, and so of one epoch.
        let mut snapshot = self
            .file
            .read
            .begin()
            .await
            .map_err(|e| port_error(DOING, e))?;
        let Some((key, head)) = store::head(&mut snapshot, room).await? else {
            return Ok(None);
        };
        if head.epoch != epoch {
            return Ok(None);
        }
        store::entries(&mut snapshot, room, key, after, limit)
            .await
            .map(Some)
    }

    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>> {
        let mut connection = self.connection("look refs up in a room log").await?;
        let Some((key, _)) = store::head(&mut connection, room).await? else {
            return Ok(vec![None; refs.len()]);
        };
        let names: Vec<String> = refs.iter().map(store::ref_name).collect();
        let now_ms = chrono::Utc::now().timestamp_millis();
        let known = store::known_refs(&mut connection, key, &names, now_ms).await?;
        Ok(names.iter().map(|name| known.get(name).copied()).collect())
    }

    async fn subscribe(&self, room: &RoomId) -> Result<Subscription> {
        let (place, receiver) = self.fanout.add(room, GENERATION);
        let guard = Guard {
            fanout: self.fanout.clone(),
            place,
        };
        Ok(Subscription {
            receiver,
            guard: Some(Box::new(guard)),
        })
    }

    async fn publish(&self, room: &RoomId, signal: &Signal) -> Result<()> {
        self.fanout
            .deliver(room, GENERATION, Delivery::Signal(signal.clone()));
        Ok(())
    }

    async fn set_role_version(&self, room: &RoomId, role_version: u64) -> Result<()> {
        self.write("set the role version of a room log", room, |answer| {
            Command::SetRoleVersion {
                role_version,
                answer,
            }
        })
        .await?
    }

    async fn dirty_rooms(&self, limit: usize) -> Result<Vec<RoomId>> {
        let mut connection = self.connection("list rooms to archive").await?;
        store::dirty_rooms(&mut connection, limit).await
    }

    async fn confirm_archived(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
    ) -> Result<bool> {
        self.write("confirm what is archived of a room log", room, |answer| {
            Command::Confirm {
                epoch,
                seq,
                trim_to,
                answer,
            }
        })
        .await?
    }

    async fn unload(&self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<bool> {
        self.write("unload a room log", room, |answer| Command::Unload {
            epoch,
            seq,
            answer,
        })
        .await?
    }
}

impl SqliteRoomLog {
    async fn connection(
        &self,
        operation: &'static str,
    ) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>> {
        self.file
            .read
            .acquire()
            .await
            .map_err(|e| port_error(operation, e))
    }
}
