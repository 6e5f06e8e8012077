//! The room log of a single process: `log.db`, written in groups by one task, and fan-out in memory.

mod group;
mod store;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::store::RoomKey;
use self::writer::{Command, Write, Writing};
use super::sqlite::{Commits, Sqlite, port_error};
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
    pub async fn open(folder: &Path, commits: Commits, room_tail_max: u64) -> Result<Self> {
        let file = Sqlite::open(folder, "log.db", commits).await?;
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

    /// Entries are acknowledged when they are committed.
    async fn is_unbroken(&self, _: &RoomId) -> Result<bool> {
        Ok(true)
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
        let (mut writings, mut bytes) = (Vec::with_capacity(records.len()), 0);
        for record in records {
            let json = serde_json::to_string(record).map_err(|e| too_large(e.to_string()))?;
            bytes += json.len();
            writings.push(Writing {
                record: record.clone(),
                json,
                reference: record.ref_key().map(|key| store::ref_name(&key)),
            });
        }
        if bytes > APPEND_MAX_BYTES {
            return Err(
                too_large(format!("{bytes} bytes at once, at most {APPEND_MAX_BYTES}")).into(),
            );
        }
        self.write(DOING, room, |answer| Command::Append {
            epoch: append.epoch,
            seen: append.seen,
            role_version: append.role_version,
            now_ms: append.now_ms,
            records: writings,
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
        let mut connection = self.connection("read a room log").await?;
        store::entries(&mut connection, room, epoch, after, limit).await
    }

    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>> {
        let mut connection = self.connection("look refs up in a room log").await?;
        let Some((key, _)) = store::head(&mut connection, room).await? else {
            return Ok(vec![None; refs.len()]);
        };
        let names: Vec<String> = refs.iter().map(store::ref_name).collect();
        let asked: Vec<(RoomKey, &str)> = names.iter().map(|name| (key, name.as_str())).collect();
        let now_ms = chrono::Utc::now().timestamp_millis();
        let known = store::known_refs(&mut connection, &asked).await?;
        let seq_of = |name: String| {
            let (seq, until_ms) = known.get(&(key, name))?;
            (*until_ms > now_ms).then_some(*seq)
        };
        Ok(names.into_iter().map(seq_of).collect())
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

    /// All together: what they come to in the archive is one transaction, and one sync of the disk.
    fn archive_groups(&self) -> u16 {
        1
    }

    async fn dirty_rooms(&self, _group: Option<u16>, limit: usize) -> Result<Vec<RoomId>> {
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
