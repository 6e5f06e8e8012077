//! The hot tail of every room's log, and the live wire between pods.

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::mpsc;

use super::{PortError, Result};
use crate::domain::entry::{Entry, Record, RefKey};
use crate::domain::ids::{ConnectionId, Epoch, RoomId, Seq};
use crate::domain::signal::Signal;

/// Deliveries that wait for one subscriber before they collapse into a [`Delivery::Gap`].
pub const SUBSCRIPTION_CAPACITY: usize = 1024;

/// Records in one append, at most.
pub const APPEND_MAX: usize = 1024;

/// Bytes of JSON in one append, at most: it travels to every subscriber as one message.
pub const APPEND_MAX_BYTES: usize = 16 << 20;

/// Bytes of JSON after which a read stops short of its limit.
pub const READ_MAX_BYTES: usize = 8 << 20;

/// Where a room's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    pub epoch: Epoch,
    /// The last entry's.
    pub seq: Seq,
    /// All up to here is in the archive, as far as the log has been told.
    pub archived: Seq,
    /// All after here can be read from the log; what is at or before it only from the archive.
    pub trimmed: Seq,
    /// The room's role version that writes are fenced by; 0 = not told yet.
    pub role_version: u64,
    /// When the log was last seeded, server milliseconds: for 24 h from then (unless seeded at 0, brand new) refs
    /// must also be looked up in the archive, because the log may have forgotten them.
    pub seeded_at_ms: i64,
    /// The seq it was seeded with.
    pub seeded_seq: Seq,
}

/// N records for one room, in order, all or none.
#[derive(Debug)]
pub struct Append<'a> {
    pub room: &'a RoomId,
    /// The epoch the writer knows.
    pub epoch: Epoch,
    /// The highest seq the writer has seen: a log that is shorter was rolled back.
    pub seen: Seq,
    /// The role version the writer checked rights against.
    pub role_version: u64,
    pub now_ms: i64,
    pub records: &'a [Record],
}

/// What became of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    New(Seq),
    /// Its ref was known: stored before, at this seq. Nothing was written or delivered.
    Duplicate(Seq),
    /// A later copy of it was refused ([`RoomLog::bar`]). Nothing was written or delivered.
    Barred,
}

impl Appended {
    /// Where it is stored, if it is.
    pub fn seq(self) -> Option<Seq> {
        match self {
            Self::New(seq) | Self::Duplicate(seq) => Some(seq),
            Self::Barred => None,
        }
    }
}

/// Refs whose messages are refused, each with the connection that was told so.
#[derive(Debug)]
pub struct Bar<'a> {
    pub room: &'a RoomId,
    /// As in an [`Append`].
    pub epoch: Epoch,
    /// As in an [`Append`].
    pub seen: Seq,
    pub now_ms: i64,
    pub refs: &'a [(RefKey, ConnectionId)],
}

/// Why an append wrote nothing.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No log here (emptied, or never loaded): see [`crate::recovery`].
    #[error("the log is not loaded")]
    NotSeeded,
    /// The writer's epoch is not the log's.
    #[error("the log is in epoch {}", .0.epoch)]
    Epoch(LogHead),
    /// The log is shorter than what the writer has seen: rolled back.
    #[error("the log ends at {}, before what was seen", .0.seq)]
    Behind(LogHead),
    /// Roles changed since the writer checked.
    #[error("role version is {0}")]
    RoleVersion(u64),
    /// The archive is so far behind that the tail reached its cap, or all tails together what the store has for them; reading
    /// goes on, and what was stored before is told as such. Retryable.
    #[error("the archive is too far behind")]
    ArchiveBehind,
    #[error(transparent)]
    Port(#[from] PortError),
}

/// What a subscriber receives. Small: a subscription has places for some even where nothing happens.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// Consecutive entries of one epoch.
    Entries {
        epoch: Epoch,
        entries: Vec<Entry>,
    },
    Signal(Box<Signal>),
    /// Something may have been missed here: compare with the log and with presence.
    Gap,
}

impl From<Signal> for Delivery {
    fn from(signal: Signal) -> Self {
        Self::Signal(Box::new(signal))
    }
}

/// The live feed of one room; dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    pub receiver: mpsc::Receiver<Delivery>,
    /// Dropped with the subscription; adapters hang their clean-up on it.
    pub guard: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl Subscription {
    /// `None`: the log was shut down.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.receiver.recv().await
    }
}

/// Promises, kept by every adapter:
/// - `append` is atomic and gives consecutive seqs after the head's; entries once acknowledged are read back unchanged
///   until trimmed; two appends of one ref, however far apart within 24 h, give one entry.
/// - A ref that was barred is not stored for 24 h (or until the log is unloaded or seeded anew) by a connection older than
///   the one it was barred for: what a client was told is refused is not stored by a copy that was on its way.
/// - A subscriber gets every entry appended after `subscribe` returned, in order, or a `Gap` in the place of what is missing.
/// - Signals are delivered to all subscribers, the publisher's pod included, at most once, possibly never.
/// - Nothing is trimmed that `confirm_archived` has not covered.
#[async_trait]
pub trait RoomLog: Send + Sync {
    async fn ping(&self) -> Result<()>;

    /// `None`: no log is loaded for this room.
    async fn head(&self, room: &RoomId) -> Result<Option<LogHead>>;

    /// False: since this log was seeded its store was started again (embedded: the machine was, and what is acknowledged was
    /// not synced), or another took its place, so that its last entries may be missing without a trace. True also where no log
    /// is loaded, and where the store can't lose what it acknowledged.
    async fn is_unbroken(&self, room: &RoomId) -> Result<bool>;

    /// Starts a log at `(epoch, seq)` with nothing in its tail, if there is none, or if what is there has a lower
    /// epoch (its tail is dropped, and subscribers get `Signal::EpochRaised`). Otherwise leaves it be. Returns the
    /// head as it is afterwards. `role_version` is only ever raised.
    async fn seed(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
    ) -> Result<LogHead>;

    /// Appends at most [`APPEND_MAX`] records of [`APPEND_MAX_BYTES`] in all (more is a final error); the answers are in
    /// the order of the records. Also says whether the room had nothing waiting to be
    /// archived before (the caller then wakes the archive).
    async fn append(&self, append: Append<'_>) -> Result<(Vec<Appended>, bool), Refusal>;

    /// Up to `limit` entries after `after`, in order; fewer, but at least one if there is any, where they come to more
    /// than [`READ_MAX_BYTES`]. If `after` lies before the trimmed part the answer starts
    /// later than asked: compare the first seq. `None`: not loaded, or in another epoch.
    async fn read(
        &self,
        room: &RoomId,
        epoch: Epoch,
        after: Seq,
        limit: usize,
    ) -> Result<Option<Vec<Entry>>>;

    /// The seqs of refs that the log remembers, in the order asked.
    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>>;

    /// Bars refs that are not stored from being stored by older connections than these: a copy of the message may be on its
    /// way through another pod. What the same connection or a later one says under the ref is taken as before. Answers as
    /// [`Self::seqs_of_refs`] does: what is stored is not barred. Refused as an append of this epoch, and of one who has seen as
    /// much, would be.
    async fn bar(&self, bar: Bar<'_>) -> Result<Vec<Option<Seq>>, Refusal>;

    async fn subscribe(&self, room: &RoomId) -> Result<Subscription>;

    /// Of calls that are begun one after another, without waiting for each other, the signals arrive in that order.
    async fn publish(&self, room: &RoomId, signal: &Signal) -> Result<()>;

    /// Raises the role version that appends are fenced by; never lowers it. Nothing happens where no log is loaded.
    async fn set_role_version(&self, room: &RoomId, role_version: u64) -> Result<()>;

    /// In how many groups rooms are archived, each group by one job at a time: as many as shall be at work together. A
    /// divisor of [`PARTITIONS`](crate::domain::ids::PARTITIONS).
    fn archive_groups(&self) -> u16;

    /// The group that a room is archived with.
    fn archive_group_of(&self, room: &RoomId) -> u16 {
        room.partition() % self.archive_groups()
    }

    /// Rooms with entries that wait for the archive (of one group, or of all), any order, at most `limit`.
    async fn dirty_rooms(&self, group: Option<u16>, limit: usize) -> Result<Vec<RoomId>>;

    /// The archive holds all up to `seq` durably: remembers it, tells subscribers (`Signal::Archived`), drops tail
    /// entries up to `trim_to` (never beyond `seq`), and clears the room's dirty mark if nothing came meanwhile.
    /// Returns whether the room is clean. Does nothing and returns true in another epoch.
    async fn confirm_archived(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
    ) -> Result<bool>;

    /// Forgets a room that is wholly archived (an idle room leaves the hot store). False: it is not, or changed.
    async fn unload(&self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<bool>;
}
