//! Keeping a room's checkpoint fresh, so that loading it folds few entries.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use atelier_shared::costly::{Costly, Unfinished};
use atelier_shared::domain::document::{self, Document};
use atelier_shared::domain::ids::{Epoch, RoomId, Seq};
use atelier_shared::ports::{ArchiveHead, PortError, Result};
use atelier_shared::recovery;
use parking_lot::Mutex;

use super::Archiver;

/// Entries folded at a time.
const FOLD_PAGE: usize = 500;
/// Rooms whose last checkpoint is remembered; beyond it all are forgotten, which costs a read each.
const REMEMBERED_MAX: usize = 10_000;

/// A document that takes longer to compact (somebody made it so) stays merged.
const COMPACT_PATIENCE: Duration = Duration::from_secs(20);
/// Documents compacted at once, each of which takes ten times its bytes meanwhile; and two that nobody waits for any more.
static COMPACTIONS: Costly = Costly::new(2, 4, COMPACT_PATIENCE);

/// A room's checkpoint, as this process last saved or found it.
#[derive(Clone, Copy)]
struct Last {
    /// The archive's. A room that was removed and made again is in a later one, and begins at seq 1 again.
    epoch: Epoch,
    seq: Seq,
    at: Instant,
}

/// When this process last saved (or found) each room's checkpoint, and at which seq: so that a quiet room's every
/// message doesn't read a whole state to learn that none is due.
#[derive(Default)]
pub struct Saved {
    rooms: Mutex<HashMap<RoomId, Last>>,
    /// Rooms whose documents can't be compacted: not tried again by this process.
    uncompactable: Mutex<HashSet<RoomId>>,
}

impl Saved {
    fn last(&self, room: &RoomId) -> Option<Last> {
        self.rooms.lock().get(room).copied()
    }

    fn remember(&self, room: &RoomId, epoch: Epoch, seq: Seq) {
        let mut rooms = self.rooms.lock();
        if rooms.len() >= REMEMBERED_MAX {
            rooms.clear();
        }
        let at = Instant::now();
        rooms.insert(room.clone(), Last { epoch, seq, at });
    }

    pub fn forget(&self, room: &RoomId) {
        self.rooms.lock().remove(room);
    }
}

impl Archiver {
    /// The document without what was deleted long ago, where it can be had in time; else as it is.
    async fn compacted(&self, room: &RoomId, document: Document) -> Document {
        if document.is_empty() || self.saved.uncompactable.lock().contains(room) {
            return document;
        }
        let kept = document.clone();
        let compact = move || {
            let mut document = document;
            let done = document::compact(&mut document);
            (document, done)
        };
        match COMPACTIONS.run(compact).await {
            Ok((document, true)) => document,
            Err(Unfinished::Busy) => {
                // It may be with the next checkpoint.
                tracing::debug!(%room, bytes = kept.bytes(), "no turn to compact a document, it stays merged");
                kept
            }
            outcome => {
                tracing::warn!(%room, bytes = kept.bytes(), timed_out = outcome.is_err(), "a document can't be compacted and stays merged");
                let mut rooms = self.saved.uncompactable.lock();
                if rooms.len() >= REMEMBERED_MAX {
                    rooms.clear();
                }
                rooms.insert(room.clone());
                drop(rooms);
                outcome.map_or(kept, |(document, _)| document)
            }
        }
    }

    /// `quiet`: nothing waits in the room any more.
    pub(super) fn is_checkpoint_due(&self, room: &RoomId, head: ArchiveHead, quiet: bool) -> bool {
        self.saved.last(room).is_none_or(|last| {
            let (many, age) = (head.seq.0.saturating_sub(last.seq.0), last.at.elapsed());
            let policy = &self.policy;
            last.epoch != head.epoch
                || (many >= policy.checkpoint_every && age >= policy.checkpoint_pause)
                || (quiet && many > 0 && age >= policy.checkpoint_quiet)
        })
    }

    pub(super) async fn checkpoint_if_due(
        &self,
        room: &RoomId,
        head: ArchiveHead,
        quiet: bool,
    ) -> Result<()> {
        if self.is_checkpoint_due(room, head, quiet) {
            self.checkpoint(room, head).await?;
        }
        Ok(())
    }

    /// Folds what was archived since the last checkpoint, up to `head`, and saves it. Archived entries are final while the
    /// epoch lasts, so whichever of two that run at once comes last, the newer is kept and both are right; one that comes
    /// after the room was removed is refused.
    pub(super) async fn checkpoint(&self, room: &RoomId, head: ArchiveHead) -> Result<()> {
        let mut checkpoint = self.archive.checkpoint(room).await?.unwrap_or_default();
        let from = checkpoint.seq;
        while checkpoint.seq < head.seq {
            let page = self.archive.read(room, checkpoint.seq, FOLD_PAGE).await?;
            if page.first().is_none_or(|e| e.seq != checkpoint.seq.next()) {
                let reason = format!("room {room}: no entry after {}", checkpoint.seq);
                return Err(PortError::fatal("fold checkpoint", reason));
            }
            for entry in &page {
                checkpoint.state.apply(entry);
                checkpoint.seq = entry.seq;
            }
            recovery::merge_if_due(&mut checkpoint.state.document).await;
            // Folding is pure work; others on this thread want their turn.
            tokio::task::yield_now().await;
        }
        if checkpoint.seq > from {
            checkpoint.epoch = head.epoch;
            let document = std::mem::take(&mut checkpoint.state.document);
            checkpoint.state.document = self.compacted(room, document).await;
            let kept = self.archive.save_checkpoint(room, &checkpoint).await?;
            if !kept && self.archive.head(room).await?.epoch != head.epoch {
                self.saved.forget(room);
                return Ok(());
            }
        }
        self.saved.remember(room, head.epoch, checkpoint.seq);
        Ok(())
    }
}
