//! Letting a room that nobody is in leave the hot store; the archive has all of it.

use std::time::Duration;

use atelier_shared::domain::ids::{RoomId, Seq};
use atelier_shared::ports::{LogHead, Result};
use atelier_shared::recovery;

use super::Archiver;

impl Archiver {
    /// Unloads the room, or looks again later.
    pub(super) async fn unload_if_idle(&self, room: &RoomId) -> Result<()> {
        let archived = self.archive.head(room).await?;
        let Some(head) = self.log.head(room).await? else {
            return Ok(());
        };
        let again_after = |after: Duration| recovery::watch_idle(&*self.queue, room, after);
        let idle = self.idle_for(room, &head).await?;
        if let Some(early) = self.policy.idle_after.checked_sub(idle)
            && !early.is_zero()
        {
            again_after(early).await?;
            return Ok(());
        }
        if !self.presence.members(room).await?.is_empty() {
            again_after(self.policy.idle_after).await?;
            return Ok(());
        }
        if archived.epoch != head.epoch || archived.seq != head.seq {
            // Waiting for the archive, or for recovery: not ours to drop.
            again_after(self.policy.idle_after).await?;
            return Ok(());
        }
        // Whoever opens it next loads it in one read.
        self.checkpoint(room, archived).await?;
        if self.log.unload(room, head.epoch, head.seq).await? {
            self.saved.forget(room);
            self.known.forget(room);
            tracing::debug!(%room, seq = %head.seq, "idle room unloaded");
        } else {
            again_after(self.policy.idle_after).await?;
        }
        Ok(())
    }

    /// Since its last entry, or since it was loaded.
    async fn idle_for(&self, room: &RoomId, head: &LogHead) -> Result<Duration> {
        let before = Seq(head.seq.0.saturating_sub(1));
        let tail = self.log.read(room, head.epoch, before, 1).await?;
        let last_ms = tail
            .and_then(|tail| tail.last().map(|entry| entry.record.ts_ms))
            .map_or(head.seeded_at_ms, |ts_ms| ts_ms.max(head.seeded_at_ms));
        let now_ms = chrono::Utc::now().timestamp_millis();
        let idle_ms = u64::try_from(now_ms.saturating_sub(last_ms)).unwrap_or(0);
        Ok(Duration::from_millis(idle_ms))
    }
}
