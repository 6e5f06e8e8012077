//! The one task that writes `log.db`: takes all that waits, commits it in one transaction, then delivers and answers.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{Sqlite as Db, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::GENERATION;
use super::group::{Group, Heads};
use super::store;
use crate::adapters::embedded::sqlite::{Sqlite, port_error};
use crate::adapters::fanout::Fanout;
use crate::domain::entry::Record;
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::{Appended, Fate, LogHead, PortError, Refusal, Result};

/// Writes of one transaction.
const GROUP_MAX: usize = 256;
/// Rooms whose heads are remembered; beyond it all are forgotten, which costs a read each.
const HEADS_MAX: usize = 20_000;
/// How often expired refs are forgotten, and how many by one transaction.
const SWEEP_EVERY_MS: i64 = 60 * 1_000;
const SWEEP_MAX: u32 = 1_000;

pub struct Write {
    pub room: RoomId,
    pub command: Command,
}

pub type Answer<T> = oneshot::Sender<T>;
pub type AppendAnswer = Result<(Vec<Appended>, bool), Refusal>;

/// A record, its JSON, and what its ref is called in the table.
pub struct Writing {
    pub record: Record,
    pub json: String,
    pub reference: Option<String>,
}

pub enum Command {
    Seed {
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
        answer: Answer<Result<LogHead>>,
    },
    Append {
        epoch: Epoch,
        seen: Seq,
        role_version: u64,
        now_ms: i64,
        records: Vec<Writing>,
        answer: Answer<AppendAnswer>,
    },
    SetRoleVersion {
        role_version: u64,
        answer: Answer<Result<()>>,
    },
    Confirm {
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
        answer: Answer<Result<bool>>,
    },
    Unload {
        epoch: Epoch,
        seq: Seq,
        answer: Answer<Result<bool>>,
    },
}

/// What is said once the transaction's fate is known: `None`, it is committed.
pub type Reply = Box<dyn FnOnce(Option<PortError>) + Send>;

pub async fn run(
    file: Sqlite,
    fanout: Arc<Fanout>,
    room_tail_max: u64,
    mut waiting: mpsc::Receiver<Write>,
) {
    let mut door = Door {
        file,
        connection: None,
    };
    let mut heads = Heads::new();
    let mut clock = SweepClock::default();
    let mut writes = Vec::with_capacity(GROUP_MAX);
    while waiting.recv_many(&mut writes, GROUP_MAX).await > 0 {
        if heads.len() > HEADS_MAX {
            heads.clear();
        }
        let mut group = Group::new(room_tail_max, &mut heads, writes.len());
        let committed = commit(&mut door, &mut group, &mut writes, &mut clock).await;
        let (replies, deliveries) = (group.replies, group.deliveries);
        let failure = committed.err();
        if let Some(error) = &failure {
            tracing::error!(%error, "a group of room log writes failed");
            // What the group made of them is not in the file.
            heads.clear();
            door.roll_back().await;
        } else {
            for (room, delivery) in deliveries {
                fanout.deliver(&room, GENERATION, delivery);
            }
        }
        for reply in replies {
            reply(failure.as_ref().map(copy));
        }
        // What a failed group had not come to is dropped, and its callers hear that the log gave no answer.
        writes.clear();
    }
    fanout.close();
}

/// One failure, told to everyone whose write it took along.
pub fn copy(error: &PortError) -> PortError {
    let text = error.source.to_string();
    match error.fate {
        Fate::Retry => PortError::retry(error.operation, text),
        Fate::Final => PortError::fatal(error.operation, text),
    }
}

/// The writing connection, kept: the pool would ask it how it is each time it is given back.
struct Door {
    file: Sqlite,
    connection: Option<PoolConnection<Db>>,
}

impl Door {
    async fn open(&mut self) -> Result<&mut SqliteConnection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let acquired = self.file.write.acquire().await;
                acquired.map_err(|e| port_error("write log.db", e))?
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Ends a transaction that may be open. A connection that can't even do that is not used again.
    async fn roll_back(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        match sqlx::query("ROLLBACK").execute(&mut *connection).await {
            Ok(_) => self.connection = Some(connection),
            // No transaction was open.
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("1") => {
                self.connection = Some(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "log.db is opened anew");
                connection.close().await.ok();
            }
        }
    }
}

async fn commit(
    door: &mut Door,
    group: &mut Group<'_>,
    writes: &mut Vec<Write>,
    clock: &mut SweepClock,
) -> Result<()> {
    let connection = door.open().await?;
    group.prepare(connection, writes).await?;
    for write in writes.drain(..) {
        group.apply(connection, write).await?;
    }
    if clock.is_due(group.now_ms) {
        group.begin(connection).await?;
        clock.sweep(connection, group.now_ms).await?;
    }
    group.commit(connection).await
}

/// When expired refs were last looked for, on the writers' clock.
#[derive(Default)]
struct SweepClock {
    due_ms: i64,
}

impl SweepClock {
    fn is_due(&self, now_ms: i64) -> bool {
        now_ms >= self.due_ms && now_ms > 0
    }

    async fn sweep(&mut self, connection: &mut SqliteConnection, now_ms: i64) -> Result<()> {
        let swept = store::sweep_refs(connection, now_ms, SWEEP_MAX).await?;
        if swept < u64::from(SWEEP_MAX) {
            self.due_ms = now_ms + SWEEP_EVERY_MS;
        }
        Ok(())
    }
}

impl Command {
    pub fn refuse(self, error: PortError) -> Reply {
        Box::new(move |_| {
            // The caller may have given up.
            match self {
                Self::Seed { answer, .. } => drop(answer.send(Err(error))),
                Self::Append { answer, .. } => drop(answer.send(Err(error.into()))),
                Self::SetRoleVersion { answer, .. } => drop(answer.send(Err(error))),
                Self::Confirm { answer, .. } | Self::Unload { answer, .. } => {
                    drop(answer.send(Err(error)));
                }
            }
        })
    }
}

/// Refs that stand in the file: seq, and until when they count.
pub type KnownRefs = HashMap<(store::RoomKey, String), (Seq, i64)>;
