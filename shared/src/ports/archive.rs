//! The archive: every entry for ever, checkpoints, job results; and the owner of the epoch.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use thiserror::Error;

use super::{Backups, PortError, Result};
use crate::domain::entry::{Entry, RefKey};
use crate::domain::ids::{Epoch, JobId, MessageId, RoomId, Seq, UserId};
use crate::domain::job::JobResult;
use crate::domain::message::{Message, MessageCounts};
use crate::domain::state::Checkpoint;

/// How far a room is archived. A room never opened is `epoch 0, seq 0`: opening it raises the epoch to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveHead {
    pub epoch: Epoch,
    pub seq: Seq,
    /// The epoch's log stood once, and people may have seen entries of it: where it is missing, it was lost. Before
    /// that it was only never made, by somebody who raised the epoch and is on the way, or died.
    pub opened: bool,
}

/// The writer's epoch or place is not the archive's; nothing was written.
#[derive(Debug, Error)]
pub enum StaleEpoch {
    #[error("the archive is at epoch {}, seq {}", .0.epoch, .0.seq)]
    Stale(ArchiveHead),
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Which entries of a room's history, newest first.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    /// Kinds as [`crate::domain::entry::Body::kind`] names them; empty = all.
    pub kinds: Vec<&'static str>,
    /// Only before this seq.
    pub before: Option<Seq>,
    /// Whose eyes: entries for others are left out. `None`: nobody's, so only what is for everybody.
    pub reader: Option<UserId>,
    pub limit: usize,
}

#[derive(Debug, Clone, Default)]
pub struct HistoryPage {
    /// Newest first.
    pub entries: Vec<Entry>,
    /// There are older ones. A page may hold fewer than asked (it is bounded in bytes) and still have this.
    pub more: bool,
}

/// Pairs of author and kind whose messages are counted; the rest are left out.
pub const MESSAGE_AUTHORS_MAX: usize = 10_000;

/// Which messages of a room, newest first.
#[derive(Debug, Clone)]
pub struct MessageQuery {
    /// Only before this seq.
    pub before: Option<Seq>,
    /// Whose eyes: messages for others are left out.
    pub reader: UserId,
    /// Only those in which each of these begins a word ([`crate::domain::search::words`]); empty = all.
    pub words: BTreeSet<String>,
    /// Only this message and the answers in its thread.
    pub thread: Option<MessageId>,
    pub limit: usize,
}

#[derive(Debug, Clone, Default)]
pub struct MessagePage {
    /// Newest first.
    pub messages: Vec<Message>,
    /// There are older ones.
    pub more: bool,
}

/// Promises: `append` writes all or none, gapless after the head, and survives the loss of any minority of the store
/// (`w:majority, j:true`; embedded: a synced commit) before it returns; of two writers in different epochs, or at
/// different places, one is refused. A ref is stored once per room, user and client. What was appended is final: no
/// epoch changes it, and it is read back as it was written; but of a message whose deletion is appended, and of its edits,
/// no words are kept anywhere. Messages are folded in the same step as their entries. Checkpoints are switched whole. Of a
/// room that was forgotten nothing that is late (an append, a checkpoint, a backup, another forgetting) shows in, or takes
/// from, the next one of that name.
#[async_trait]
pub trait Archive: Backups + super::ActivityArchive + Send + Sync {
    async fn ping(&self) -> Result<()>;

    async fn head(&self, room: &RoomId) -> Result<ArchiveHead>;

    /// Compare-and-set: raises the epoch by one, not opened, if it is still `from`. Returns the head as it is afterwards,
    /// whoever raised it.
    async fn raise_epoch(&self, room: &RoomId, from: Epoch) -> Result<ArchiveHead>;

    /// Compare-and-set: marks the epoch as opened if it is still `epoch`. Called when its log stands and before anybody
    /// writes there. Returns the head as it is afterwards.
    async fn open_epoch(&self, room: &RoomId, epoch: Epoch) -> Result<ArchiveHead>;

    /// Appends consecutive entries whose first is `head.seq + 1`; entries at or before the head are skipped (they
    /// were written by a call whose answer was lost). An entry whose ref is stored already under another seq is kept
    /// without it. Nothing is ever of epoch 0.
    async fn append(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<ArchiveHead, StaleEpoch>;

    /// Entries after `after`, in order, at most `limit`. Fewer does not mean the end (an answer is bounded in bytes);
    /// none does.
    async fn read(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Vec<Entry>>;

    async fn history(&self, room: &RoomId, query: &HistoryQuery) -> Result<HistoryPage>;

    /// Messages as they are after all that is archived.
    async fn messages(&self, room: &RoomId, query: &MessageQuery) -> Result<MessagePage>;

    /// Those of `ids` that are messages of this room, in no particular order.
    async fn messages_by_id(&self, room: &RoomId, ids: &[MessageId]) -> Result<Vec<Message>>;

    /// Figures of the messages that `reader` may see, by author and kind, at most [`MESSAGE_AUTHORS_MAX`], those with most
    /// messages first.
    async fn message_counts(&self, room: &RoomId, reader: UserId) -> Result<Vec<MessageCounts>>;

    /// The seqs of refs that are archived, in the order asked.
    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>>;

    async fn checkpoint(&self, room: &RoomId) -> Result<Option<Checkpoint>>;

    /// Keeps it if it is newer (by seq) than the one kept, not beyond the head and of the head's epoch. False: it was not
    /// kept.
    async fn save_checkpoint(&self, room: &RoomId, checkpoint: &Checkpoint) -> Result<bool>;

    /// How many bytes the documents of these rooms have in their newest checkpoints; rooms without one are left out.
    async fn document_bytes(&self, rooms: &[RoomId]) -> Result<HashMap<RoomId, u64>>;

    /// [`Self::append`] for entries that were archived once under any room and are brought back: they are not counted
    /// again as what people did.
    async fn append_again(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<ArchiveHead, StaleEpoch>;

    /// Rooms of which anything is archived, by id after `after`, at most `limit`.
    async fn archived_rooms(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>>;

    /// Forgets all of a room whose row is gone and whose id is still reserved, its backups included: nobody writes there.
    /// Only if its epoch is still `epoch` (0: it was never opened, and has backups at most): it rises, so that whoever is
    /// late is refused, and its next life begins at seq 1. What people did stays counted. False: it is not, or another
    /// forgets it too; read the head again. Can be repeated, from the head as it is then.
    async fn forget_room(&self, room: &RoomId, epoch: Epoch) -> Result<bool>;

    /// Stores a job's result once; a later call for the same job changes nothing and returns false.
    async fn put_result(
        &self,
        job: JobId,
        result: &JobResult,
        expires_at: DateTime<Utc>,
    ) -> Result<bool>;

    /// `None`: none, or expired at `now`. Times have whole milliseconds.
    async fn result(&self, job: JobId, now: DateTime<Utc>) -> Result<Option<JobResult>>;

    /// Results that have expired at `now`, the longest expired first, at most `limit`. They stay until they are removed:
    /// what belongs to them elsewhere goes first.
    async fn expired_results(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<JobId>>;

    /// They are gone now, whether they were there or not.
    async fn delete_results(&self, jobs: &[JobId]) -> Result<()>;
}
