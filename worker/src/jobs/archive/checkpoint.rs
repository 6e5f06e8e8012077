//! Keeping a room's checkpoint fresh, so that loading it folds few entries.

use std::collections::HashMap;
use std::time::Instant;

use atelier_shared::domain::ids::{RoomId, Seq};
use atelier_shared::ports::{ArchiveHead, PortError, Result};
use parking_lot::Mutex;

use super::Archiver;

/// Entries folded at a time.
const FOLD_PAGE: usize = 500;
/// Rooms whose last checkpoint is remembered; beyond it all are forgotten, which costs a read each.
const REMEMBERED_MAX: usize = 10_000;

/// When this process last saved (or found) each room's checkpoint, and at which seq: so that a quiet room's every
/// message doesn't read a whole state to learn that none is due.
#[derive(Default)]
pub struct Saved(Mutex<HashMap<RoomId, (Seq, Instant)>>);

impl Saved {
    fn last(&self, room: &RoomId) -> Option<(Seq, Instant)> {
        self.0.lock().get(room).copied()
    }

    fn remember(&self, room: &RoomId, seq: Seq) {
        let mut rooms = self.0.lock();
        if rooms.len() >= REMEMBERED_MAX {
            rooms.clear();
        }
        rooms.insert(room.clone(), (seq, Instant::now()));
    }

    pub fn forget(&self, room: &RoomId) {
        self.0.lock().remove(room);
    }
}

impl Archiver {
    pub(super) async fn checkpoint_if_due(
        &self,
        room: &RoomId,
        head: ArchiveHead,
        quiet: bool,
    ) -> Result<()> {
        let due = self.saved.last(room).is_none_or(|(seq, at)| {
            let (many, age) = (head.seq.0.saturating_sub(seq.0), at.elapsed());
            let policy = &self.policy;
            (many >= policy.checkpoint_every && age >= policy.checkpoint_pause)
                || (quiet && many > 0 && age >= policy.checkpoint_quiet)
        });
        if due {
            self.checkpoint(room, head).await?;
        }
        Ok(())
    }

    /// Folds what was archived since the last checkpoint, up to `head`, and saves it. Archived entries are final, so
    /// whichever of two that run at once comes last, the newer is kept and both are right.
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
            // Folding is pure work; others on this thread want their turn.
            tokio::task::yield_now().await;
        }
        if checkpoint.seq > from {
            checkpoint.epoch = head.epoch;
            self.archive.save_checkpoint(room, &checkpoint).await?;
        }
        self.saved.remember(room, checkpoint.seq);
        Ok(())
    }
}
