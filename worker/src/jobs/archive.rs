//! Archiving: moves rooms' hot tails to the archive, keeps their checkpoints fresh, and lets idle rooms leave the hot store.
//!
//! Tails are moved by groups of rooms, as a move costs several commits whatever it moves; what takes longer (a checkpoint,
//! a tail that can't be moved) is a job of the room's own. Of each kind a room has at most one job at work, but nothing
//! rests on that: the archive compares epoch and place, and what was written by a job that is thought dead is skipped.

mod checkpoint;
mod group;
mod idle;
mod known;
mod sweep;
mod tail;
#[cfg(test)]
mod tests;
mod weight;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier_shared::Backends;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::job::QUEUE_ARCHIVE;
use atelier_shared::ports::{Archive, Presence, Queue, Result, RoomLog};
use atelier_shared::recovery::{self, ArchiveWork, IDLE_AFTER};

pub use self::sweep::sweep;

use self::checkpoint::Saved;
use self::known::Known;
use self::tail::Tail;
use super::{Attempt, Failure, Job};
use crate::bridge::Backoff;

/// How much, how long, how often. The defaults serve; tests change them.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Entries moved at a time.
    pub batch: usize,
    /// A job that has moved tails for so long leaves the rest to the next.
    pub slice: Duration,
    /// Archived entries younger than this stay in the log: those who reconnect are served from there.
    pub trim_grace: Duration,
    /// So many archived entries stay in the log, however old.
    pub trim_keep: u64,
    /// But not more bytes than these, about, whatever their number and age.
    pub trim_keep_bytes: u64,
    /// Nothing is trimmed for less than this.
    pub trim_step: u64,
    /// A room that was looked at for trimming is left alone for so long.
    pub trim_pause: Duration,
    /// A checkpoint is due so many entries after the last, and at most once in `checkpoint_pause`: a large board that
    /// is drawn on fast is not written out all the time.
    pub checkpoint_every: u64,
    pub checkpoint_pause: Duration,
    /// Fewer entries make it due when the room falls quiet, so often at most.
    pub checkpoint_quiet: Duration,
    /// A room nobody is in is unloaded so long after its last entry.
    pub idle_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            batch: 1_000,
            slice: Duration::from_secs(5),
            trim_grace: Duration::from_secs(60),
            trim_keep: 1_000,
            trim_keep_bytes: 4 << 20,
            trim_step: 256,
            trim_pause: Duration::from_secs(5),
            checkpoint_every: 500,
            checkpoint_pause: Duration::from_secs(5),
            checkpoint_quiet: Duration::from_secs(60),
            idle_after: IDLE_AFTER,
        }
    }
}

/// What the jobs of [`QUEUE_ARCHIVE`] and the sweep work with.
pub struct Archiver {
    log: Arc<dyn RoomLog>,
    archive: Arc<dyn Archive>,
    queue: Arc<dyn Queue>,
    presence: Arc<dyn Presence>,
    policy: Policy,
    saved: Saved,
    known: Known,
}

impl Archiver {
    pub fn new(backends: &Backends, policy: Policy) -> Self {
        Self {
            log: backends.log.clone(),
            archive: backends.archive.clone(),
            queue: backends.queue.clone(),
            presence: backends.presence.clone(),
            policy,
            saved: Saved::default(),
            known: Known::default(),
        }
    }

    /// Moves what waits in one room, then sees to its checkpoint and to what comes next.
    async fn archive(&self, room: &RoomId) -> Result<()> {
        let tail = self
            .move_tail(room, Instant::now() + self.policy.slice)
            .await?;
        let (head, clean) = match tail {
            Tail::NotOurs => return Ok(()),
            Tail::Clean(head) => (head, true),
            Tail::More(head) => (head, false),
        };
        if let Err(error) = self.checkpoint_if_due(room, head, clean).await {
            // The entries are safe; only loading takes longer until the next.
            tracing::warn!(%room, %error, "no checkpoint this time");
        }
        if clean {
            self.watch_idle(room).await?;
        } else {
            recovery::wake_archive(&*self.log, &*self.queue, room).await?;
        }
        Ok(())
    }

    /// Has the room looked at when it has been idle for long enough. Known already, nearly always: then nobody is asked.
    async fn watch_idle(&self, room: &RoomId) -> Result<()> {
        let after = self.policy.idle_after;
        // Shorter than any room lives unwatched, so that one that left and came back is watched anew.
        if !self.known.is_watched(room, after / 2) {
            recovery::watch_idle(&*self.queue, room, after).await?;
            self.known.watched(room);
        }
        Ok(())
    }
}

impl Job for ArchiveWork {
    type Services = Arc<Archiver>;

    const QUEUE: &'static str = QUEUE_ARCHIVE;
    const TIMEOUT: Duration = Duration::from_secs(60);
    /// Short: when the archive comes back, what waits must not wait much longer.
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(100),
        most: Duration::from_secs(2),
    };

    async fn run(self, _: Attempt, archiver: Arc<Archiver>) -> std::result::Result<(), Failure> {
        match self {
            Self::Group { group } => archiver.archive_group(group).await?,
            Self::Room(work) if work.unload => archiver.unload_if_idle(&work.room).await?,
            Self::Room(work) => archiver.archive(&work.room).await?,
        }
        Ok(())
    }
}
