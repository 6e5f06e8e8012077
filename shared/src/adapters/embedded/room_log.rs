//! The room log of a single process: what it holds stands in a journal that is written at its end, and in memory where it
//! stands there; fan-out in memory. It is to embedded mode what Redis with its append-only file is to distributed mode.

mod frame;
mod journal;
mod life;
mod refs;
mod rooms;
mod run;
mod state;
mod sync;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::coop::consume_budget;

use self::life::Life;
use self::rooms::Slot;
use self::state::{State, Writing};
use self::sync::{Sync, Told};
use super::sqlite::Commits;
use crate::adapters::fanout::{Fanout, Place};
use crate::domain::entry::{Entry, Record, RefKey};
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::signal::Signal;
use crate::ports::{
    APPEND_MAX, APPEND_MAX_BYTES, Append, Appended, Bar, Delivery, LogHead, PortError,
    READ_MAX_BYTES, Refusal, Result, RoomLog, Subscription,
};

/// A single process has no second connection life.
const GENERATION: u64 = 0;
/// So many bytes are read where they are asked for: they nearly always lie in the system's memory. More are read on a thread
/// that may wait.
const READ_HERE_BYTES: usize = 256 * 1024;

/// See [`RoomLog`].
pub struct JournalRoomLog {
    inner: Arc<Inner>,
}

/// What the log shares with the task that syncs it.
struct Inner {
    state: Mutex<State>,
    fanout: Arc<Fanout>,
    /// `None`: what is written counts at once.
    sync: Option<Sync>,
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

impl Drop for JournalRoomLog {
    fn drop(&mut self) {
        self.inner.fanout.close();
        if let Err(error) = self.inner.state.lock().close() {
            // As if the process had been killed: at worst rooms are loaded anew.
            tracing::warn!(%error, "the room log's journal could not be closed");
        }
        if let Some(sync) = &self.inner.sync {
            sync.end();
        }
    }
}

impl JournalRoomLog {
    /// Opens or makes the journal in `folder`. `room_tail_max`: entries a room may hold unarchived.
    pub async fn open(folder: &Path, commits: Commits, room_tail_max: u64) -> Result<Self> {
        let life = Life::now(commits == Commits::Synced);
        Self::open_in(life, folder, commits, room_tail_max).await
    }

    async fn open_in(
        life: Life,
        folder: &Path,
        commits: Commits,
        room_tail_max: u64,
    ) -> Result<Self> {
        const DOING: &str = "open the room log";
        let (folder, now_ms) = (folder.to_owned(), chrono::Utc::now().timestamp_millis());
        let open = move || State::open(&folder, life, room_tail_max, now_ms);
        let opened = tokio::task::spawn_blocking(open).await;
        let state = opened
            .map_err(|e| PortError::fatal(DOING, e))?
            .map_err(|e| PortError::fatal(DOING, e))?;
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            fanout: Arc::new(Fanout::default()),
            sync: (commits == Commits::Synced).then(Sync::new),
        });
        if inner.sync.is_some() {
            tokio::spawn(sync::run(Arc::downgrade(&inner)));
        }
        Ok(Self { inner })
    }

    /// Changes the log, and returns when that outlives what it is to outlive. What `change` has to tell goes out in the order
    /// of the changes.
    async fn change<T, E: From<PortError>>(
        &self,
        change: impl FnOnce(&mut State, &mut Told<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        consume_budget().await;
        let (result, ticket) = {
            let mut state = self.inner.state.lock();
            let mut told = Told::new(&self.inner);
            let result = change(&mut state, &mut told)?;
            let ticket = told.ticket();
            if let Some(sealing) = state.seal() {
                let inner = self.inner.clone();
                tokio::task::spawn_blocking(move || {
                    let run = sealing.write();
                    inner.state.lock().refs.sealed(run);
                });
            }
            (result, ticket)
        };
        if let Some(sync) = &self.inner.sync {
            sync.wait(ticket).await?;
        }
        Ok(result)
    }

    /// To look at. Nothing here ever waits, so whoever asks again and again gives others a turn here.
    async fn state(&self) -> MutexGuard<'_, State> {
        consume_budget().await;
        self.inner.state.lock()
    }
}

impl Inner {
    fn deliver(&self, room: &RoomId, delivery: Delivery) {
        self.fanout.deliver(room, GENERATION, delivery);
    }
}

/// The records as they are written. More than one append may have is a final error.
fn encode(room: &RoomId, records: &[Record], doing: &'static str) -> Result<Vec<Writing>> {
    let too_large = |what: String| PortError::fatal(doing, format!("room {room}: {what}"));
    if records.len() > APPEND_MAX {
        let count = records.len();
        return Err(too_large(format!(
            "{count} records at once, at most {APPEND_MAX}"
        )));
    }
    let (mut writings, mut bytes) = (Vec::with_capacity(records.len()), 0);
    for record in records {
        let json = serde_json::to_vec(record).map_err(|e| too_large(e.to_string()))?;
        bytes += json.len();
        writings.push(Writing {
            json,
            reference: record.ref_key(),
            connection: record.author.connection,
        });
    }
    if bytes > APPEND_MAX_BYTES {
        return Err(too_large(format!(
            "{bytes} bytes at once, at most {APPEND_MAX_BYTES}"
        )));
    }
    Ok(writings)
}

/// Entries as they lie in the file, one after the other in seq.
fn read_entries(room: &RoomId, file: &File, first: Seq, slots: &[Slot]) -> Result<Vec<Entry>> {
    const DOING: &str = "read a room log";
    let mut entries = Vec::with_capacity(slots.len());
    let mut json = Vec::new();
    for (seq, slot) in (first.0..).zip(slots) {
        json.resize(slot.len as usize, 0);
        file.read_exact_at(&mut json, slot.at)
            .map_err(|e| PortError::retry(DOING, e))?;
        let record = serde_json::from_slice(&json).map_err(|e| {
            PortError::fatal(DOING, format!("room {room}: malformed entry {seq}: {e}"))
        })?;
        entries.push(Entry {
            seq: Seq(seq),
            record,
        });
    }
    Ok(entries)
}

/// Leaves as many of the first as one read may have; their bytes.
fn bound(slots: &mut Vec<Slot>) -> usize {
    let mut bytes = 0;
    let over = slots.iter().position(|slot| {
        bytes += slot.len as usize;
        bytes > READ_MAX_BYTES
    });
    // At least one, however large.
    slots.truncate(over.unwrap_or(slots.len()).max(1));
    bytes
}

#[async_trait]
impl RoomLog for JournalRoomLog {
    async fn ping(&self) -> Result<()> {
        if self.state().await.journal.is_broken() {
            let text = "a write failed, and what is on the disk is not known";
            return Err(PortError::retry("ping the room log", text));
        }
        Ok(())
    }

    async fn head(&self, room: &RoomId) -> Result<Option<LogHead>> {
        Ok(self.state().await.rooms.get(room).map(|log| log.head))
    }

    /// Entries are acknowledged when they are in the journal, which outlives the process and, without a sync, not always the
    /// machine.
    async fn is_unbroken(&self, room: &RoomId) -> Result<bool> {
        let state = self.state().await;
        Ok(state.rooms.get(room).is_none_or(|log| !log.is_broken))
    }

    async fn seed(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
    ) -> Result<LogHead> {
        self.change(|state, told| {
            let (head, raised) = state.seed(room, epoch, seq, role_version, now_ms)?;
            if raised {
                told.tell(room, Signal::EpochRaised { epoch }.into());
            }
            Ok(head)
        })
        .await
    }

    async fn append(&self, append: Append<'_>) -> Result<(Vec<Appended>, bool), Refusal> {
        let Append { room, records, .. } = append;
        // Before the lock is taken.
        let writings = encode(room, records, "append to a room log")?;
        let fences = (append.epoch, append.seen, append.role_version);
        self.change(|state, told| {
            let taken = state.append(room, fences, append.now_ms, &writings)?;
            if !taken.new.is_empty() {
                let entries = taken.new.into_iter().map(|(at, seq)| Entry {
                    seq,
                    record: records[at].clone(),
                });
                let entries = entries.collect();
                let epoch = append.epoch;
                told.tell(room, Delivery::Entries { epoch, entries });
            }
            Ok((taken.answers, taken.newly_dirty))
        })
        .await
    }

    async fn read(
        &self,
        room: &RoomId,
        epoch: Epoch,
        after: Seq,
        limit: usize,
    ) -> Result<Option<Vec<Entry>>> {
        let (file, first, mut slots) = {
            let state = self.state().await;
            let log = state.rooms.get(room).filter(|log| log.head.epoch == epoch);
            let Some(log) = log else {
                return Ok(None);
            };
            let (first, slots) = log.after(after, limit.max(1));
            // A journal that is written anew meanwhile leaves this file readable.
            (state.journal.file().clone(), first, slots)
        };
        let bytes = bound(&mut slots);
        if bytes <= READ_HERE_BYTES {
            return read_entries(room, &file, first, &slots).map(Some);
        }
        let room = room.clone();
        let read = move || read_entries(&room, &file, first, &slots);
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|e| PortError::retry("read a room log", e))?
            .map(Some)
    }

    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>> {
        let now_ms = chrono::Utc::now().timestamp_millis();
        self.state().await.seqs_of_refs(room, refs, now_ms)
    }

    async fn bar(&self, bar: Bar<'_>) -> Result<Vec<Option<Seq>>, Refusal> {
        self.change(|state, _| state.bar(&bar)).await
    }

    async fn subscribe(&self, room: &RoomId) -> Result<Subscription> {
        let fanout = self.inner.fanout.clone();
        let (place, receiver) = fanout.add(room, GENERATION);
        let guard = Guard { fanout, place };
        Ok(Subscription {
            receiver,
            guard: Some(Box::new(guard)),
        })
    }

    async fn publish(&self, room: &RoomId, signal: &Signal) -> Result<()> {
        self.inner.deliver(room, signal.clone().into());
        Ok(())
    }

    async fn set_role_version(&self, room: &RoomId, role_version: u64) -> Result<()> {
        self.change(|state, _| state.set_role_version(room, role_version))
            .await
    }

    /// All together: what they come to in the archive is one transaction, and one sync of the disk.
    fn archive_groups(&self) -> u16 {
        1
    }

    async fn dirty_rooms(&self, _group: Option<u16>, limit: usize) -> Result<Vec<RoomId>> {
        Ok(self.state().await.rooms.dirty(limit))
    }

    async fn confirm_archived(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
    ) -> Result<bool> {
        self.change(|state, told| {
            let confirmed = state.confirm(room, epoch, seq, trim_to)?;
            if confirmed.moved {
                told.tell(room, Signal::Archived { epoch, seq }.into());
            }
            Ok(confirmed.clean)
        })
        .await
    }

    async fn unload(&self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<bool> {
        self.change(|state, _| state.unload(room, epoch, seq)).await
    }
}
