//! The one task that writes `log.db`: takes all that waits, commits it in one transaction, then delivers and answers.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::GENERATION;
use super::store::{self, RoomKey};
use crate::adapters::embedded::sqlite::{Sqlite, port_error};
use crate::adapters::fanout::Fanout;
use crate::domain::entry::{Entry, Record};
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::signal::Signal;
use crate::ports::{Appended, Delivery, Fate, LogHead, PortError, Refusal, Result};

/// Writes of one transaction.
const GROUP_MAX: usize = 256;
/// How long refs are remembered.
const REF_MEMORY_MS: i64 = 24 * 60 * 60 * 1_000;
/// How often expired refs are forgotten, and how many by one transaction.
const SWEEP_EVERY_MS: i64 = 60 * 1_000;
const SWEEP_MAX: u32 = 1_000;

pub struct Write {
    pub room: RoomId,
    pub command: Command,
}

type Answer<T> = oneshot::Sender<T>;
type AppendAnswer = Result<(Vec<Appended>, bool), Refusal>;

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
        /// With their JSON.
        records: Vec<(Record, String)>,
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
type Reply = Box<dyn FnOnce(Option<PortError>) + Send>;

pub async fn run(
    file: Sqlite,
    fanout: Arc<Fanout>,
    room_tail_max: u64,
    mut waiting: mpsc::Receiver<Write>,
) {
    let mut clock = SweepClock::default();
    let mut writes = Vec::with_capacity(GROUP_MAX);
    while waiting.recv_many(&mut writes, GROUP_MAX).await > 0 {
        let mut group = Group {
            room_tail_max,
            heads: HashMap::new(),
            replies: Vec::with_capacity(writes.len()),
            deliveries: Vec::new(),
            now_ms: 0,
        };
        let failure = commit(&file, &mut group, &mut writes, &mut clock)
            .await
            .err();
        if let Some(error) = &failure {
            tracing::error!(%error, "a group of room log writes failed");
        } else {
            for (room, delivery) in group.deliveries {
                fanout.deliver(&room, GENERATION, delivery);
            }
        }
        for reply in group.replies {
            reply(failure.as_ref().map(copy));
        }
        // What a failed group had not come to is dropped, and its callers hear that the log gave no answer.
        writes.clear();
    }
    fanout.close();
}

/// One failure, told to everyone whose write it took along.
fn copy(error: &PortError) -> PortError {
    let text = error.source.to_string();
    match error.fate {
        Fate::Retry => PortError::retry(error.operation, text),
        Fate::Final => PortError::fatal(error.operation, text),
    }
}

async fn commit(
    file: &Sqlite,
    group: &mut Group,
    writes: &mut Vec<Write>,
    clock: &mut SweepClock,
) -> Result<()> {
    let failed = |e| port_error("commit to log.db", e);
    let mut transaction = file.write.begin().await.map_err(failed)?;
    for write in writes.drain(..) {
        group.apply(&mut transaction, write).await?;
    }
    group.put_heads(&mut transaction).await?;
    clock.sweep(&mut transaction, group.now_ms).await?;
    transaction.commit().await.map_err(failed)
}

/// When expired refs were last looked for, on the writers' clock.
#[derive(Default)]
struct SweepClock {
    due_ms: i64,
}

impl SweepClock {
    async fn sweep(&mut self, connection: &mut SqliteConnection, now_ms: i64) -> Result<()> {
        if now_ms < self.due_ms {
            return Ok(());
        }
        let swept = store::sweep_refs(connection, now_ms, SWEEP_MAX).await?;
        if swept < u64::from(SWEEP_MAX) {
            self.due_ms = now_ms + SWEEP_EVERY_MS;
        }
        Ok(())
    }
}

/// A transaction under way. The file is the truth: heads are read from it anew for each group, and what a group made of
/// them is gone if it is not committed.
struct Group {
    room_tail_max: u64,
    heads: HashMap<RoomId, Loaded>,
    replies: Vec<Reply>,
    deliveries: Vec<(RoomId, Delivery)>,
    /// The latest time that a writer told.
    now_ms: i64,
}

struct Loaded {
    /// `None`: no log.
    head: Option<(RoomKey, LogHead)>,
    changed: bool,
}

impl Group {
    async fn apply(&mut self, connection: &mut SqliteConnection, write: Write) -> Result<()> {
        let Write { room, command } = write;
        if !self.heads.contains_key(&room) {
            let head = store::head(connection, &room).await;
            // A room whose head can't be read must not take the others' writes along.
            let head = match head {
                Ok(head) => head,
                Err(error) if error.fate == Fate::Final => {
                    self.replies.push(command.refuse(error));
                    return Ok(());
                }
                Err(error) => {
                    self.replies.push(command.refuse(copy(&error)));
                    return Err(error);
                }
            };
            let loaded = Loaded {
                head,
                changed: false,
            };
            self.heads.insert(room.clone(), loaded);
        }
        match command {
            Command::Seed {
                epoch,
                seq,
                role_version,
                now_ms,
                answer,
            } => {
                let head = self
                    .seed(connection, &room, epoch, seq, role_version, now_ms)
                    .await;
                self.reply(answer, head)
            }
            Command::Append {
                epoch,
                seen,
                role_version,
                now_ms,
                records,
                answer,
            } => {
                let check = self.check(&room, epoch, seen, role_version);
                let appended = match check {
                    Ok((key, head)) => {
                        self.append(connection, &room, key, head, role_version, now_ms, records)
                            .await
                    }
                    Err(refusal) => Ok(Err(refusal)),
                };
                let (result, failure) = match appended {
                    Ok(result) => (result, None),
                    Err(error) => (Err(Refusal::Port(copy(&error))), Some(error)),
                };
                self.replies.push(Box::new(move |failure| {
                    // The caller may have given up.
                    let _gone = answer.send(failure.map_or(result, |error| Err(error.into())));
                }));
                failure.map_or(Ok(()), Err)
            }
            Command::SetRoleVersion {
                role_version,
                answer,
            } => {
                if let Some(loaded) = self.heads.get_mut(&room)
                    && let Some((_, head)) = &mut loaded.head
                    && head.role_version < role_version
                {
                    head.role_version = role_version;
                    loaded.changed = true;
                }
                self.reply(answer, Ok(()))
            }
            Command::Confirm {
                epoch,
                seq,
                trim_to,
                answer,
            } => {
                let clean = self.confirm(connection, &room, epoch, seq, trim_to).await;
                self.reply(answer, clean)
            }
            Command::Unload { epoch, seq, answer } => {
                let unloaded = self.unload(connection, &room, epoch, seq).await;
                self.reply(answer, unloaded)
            }
        }
    }

    /// Keeps the answer until the commit. An error ends the group.
    fn reply<T: Send + 'static>(
        &mut self,
        answer: Answer<Result<T>>,
        result: Result<T>,
    ) -> Result<()> {
        let failure = result.as_ref().err().map(copy);
        self.replies.push(Box::new(move |failure| {
            // The caller may have given up.
            let _gone = answer.send(failure.map_or(result, Err));
        }));
        failure.map_or(Ok(()), Err)
    }

    fn head_mut(&mut self, room: &RoomId) -> Option<&mut (RoomKey, LogHead)> {
        self.heads.get_mut(room)?.head.as_mut()
    }

    fn change(&mut self, room: &RoomId, key: RoomKey, head: LogHead) {
        let loaded = Loaded {
            head: Some((key, head)),
            changed: true,
        };
        self.heads.insert(room.clone(), loaded);
    }

    async fn seed(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
    ) -> Result<LogHead> {
        let present = self.head_mut(room).map(|present| *present);
        let role_version = present
            .map_or(0, |(_, head)| head.role_version)
            .max(role_version);
        if let Some((key, mut head)) = present.filter(|(_, head)| head.epoch >= epoch) {
            head.role_version = role_version;
            self.change(room, key, head);
            return Ok(head);
        }
        if let Some((key, _)) = present {
            store::remove(connection, key).await?;
            let raised = Delivery::Signal(Signal::EpochRaised { epoch });
            self.deliveries.push((room.clone(), raised));
        }
        let head = LogHead {
            epoch,
            seq,
            archived: seq,
            trimmed: seq,
            role_version,
            seeded_at_ms: now_ms,
            seeded_seq: seq,
        };
        // At once, because entries need the row's key.
        let key = store::put_head(connection, room, &head).await?;
        self.change(room, key, head);
        Ok(head)
    }

    fn check(
        &mut self,
        room: &RoomId,
        epoch: Epoch,
        seen: Seq,
        role_version: u64,
    ) -> Result<(RoomKey, LogHead), Refusal> {
        let Some((key, head)) = self.head_mut(room).map(|present| *present) else {
            return Err(Refusal::NotSeeded);
        };
        if head.epoch != epoch {
            return Err(Refusal::Epoch(head));
        }
        if head.seq < seen {
            return Err(Refusal::Behind(head));
        }
        if role_version < head.role_version {
            return Err(Refusal::RoleVersion(head.role_version));
        }
        Ok((key, head))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one append, checked"
    )]
    async fn append(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        key: RoomKey,
        mut head: LogHead,
        role_version: u64,
        now_ms: i64,
        records: Vec<(Record, String)>,
    ) -> Result<AppendAnswer> {
        self.now_ms = self.now_ms.max(now_ms);
        let names: Vec<Option<String>> = records
            .iter()
            .map(|(record, _)| record.ref_key().map(|key| store::ref_name(&key)))
            .collect();
        let asked: Vec<String> = names.iter().flatten().cloned().collect();
        let mut known = store::known_refs(connection, key, &asked, now_ms).await?;
        let first = head.seq.next();
        let (mut answers, mut entries) = (Vec::with_capacity(records.len()), Vec::new());
        let (mut texts, mut refs) = (Vec::new(), Vec::new());
        let mut last = head.seq;
        for ((record, text), name) in records.into_iter().zip(names) {
            if let Some(seq) = name.as_ref().and_then(|name| known.get(name)) {
                answers.push(Appended::Duplicate(*seq));
                continue;
            }
            last = last.next();
            answers.push(Appended::New(last));
            if let Some(name) = name {
                known.insert(name.clone(), last);
                refs.push((name, last));
            }
            entries.push(Entry { seq: last, record });
            texts.push(text);
        }
        if entries.is_empty() {
            return Ok(Ok((answers, false)));
        }
        if last.0 - head.archived.0 > self.room_tail_max {
            return Ok(Err(Refusal::ArchiveBehind));
        }
        store::insert_entries(connection, key, first, &texts).await?;
        store::insert_refs(connection, key, &refs, now_ms + REF_MEMORY_MS).await?;
        let newly_dirty = head.seq == head.archived;
        head.seq = last;
        // A writer that knows a newer role version than the log proves that there is one.
        head.role_version = role_version;
        self.change(room, key, head);
        let epoch = head.epoch;
        self.deliveries
            .push((room.clone(), Delivery::Entries { epoch, entries }));
        Ok(Ok((answers, newly_dirty)))
    }

    async fn confirm(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
    ) -> Result<bool> {
        let present = self.head_mut(room).map(|present| *present);
        let Some((key, mut head)) = present.filter(|(_, head)| head.epoch == epoch) else {
            return Ok(true);
        };
        // An archive that is ahead of this log means that the log was rolled back; its reader finds out.
        let confirmed = seq.min(head.seq);
        if confirmed > head.archived {
            head.archived = confirmed;
            let archived = Delivery::Signal(Signal::Archived { epoch, seq });
            self.deliveries.push((room.clone(), archived));
        }
        let trim_to = trim_to.min(head.archived);
        if trim_to > head.trimmed {
            store::trim(connection, key, trim_to).await?;
            head.trimmed = trim_to;
        }
        self.change(room, key, head);
        Ok(head.archived == head.seq)
    }

    async fn unload(
        &mut self,
        connection: &mut SqliteConnection,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
    ) -> Result<bool> {
        let present = self.head_mut(room).map(|present| *present);
        let Some((key, _)) = present
            .filter(|(_, head)| head.epoch == epoch && head.seq == seq && head.archived == seq)
        else {
            return Ok(false);
        };
        store::remove(connection, key).await?;
        self.heads.insert(
            room.clone(),
            Loaded {
                head: None,
                changed: false,
            },
        );
        Ok(true)
    }

    async fn put_heads(&mut self, connection: &mut SqliteConnection) -> Result<()> {
        for (room, loaded) in &self.heads {
            if let Loaded {
                head: Some((_, head)),
                changed: true,
            } = loaded
            {
                store::put_head(connection, room, head).await?;
            }
        }
        Ok(())
    }
}

impl Command {
    fn refuse(self, error: PortError) -> Reply {
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
