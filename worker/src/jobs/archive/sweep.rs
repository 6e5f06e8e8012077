//! The sweep: finds rooms whose wake-up was lost (a pod died between its append and the queue) and queues their groups.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atelier_shared::ports::Result;
use atelier_shared::recovery::{self, ARCHIVE_DELAY};
use tokio_util::sync::CancellationToken;

use super::Archiver;

/// Beats are the same on every worker (multiples of this since 1970); one worker takes each.
const BEAT: Duration = Duration::from_secs(30);
/// How long it is remembered who took a beat: longer than clocks differ.
const BEAT_KEPT: Duration = Duration::from_secs(10 * 60);
/// Rooms looked at in one beat; the rest come with the next.
const ROOMS_PER_BEAT: usize = 10_000;

/// Runs until `stop`.
pub async fn sweep(archiver: Arc<Archiver>, stop: CancellationToken) {
    loop {
        let beat_ms = i64::try_from(BEAT.as_millis()).unwrap_or(i64::MAX);
        let now_ms = chrono::Utc::now().timestamp_millis();
        let beat = now_ms.div_euclid(beat_ms);
        let rest_ms = u64::try_from(beat_ms - now_ms.rem_euclid(beat_ms)).unwrap_or(0);
        // The beat under way is taken too: after a start of the whole system nobody waits for the next.
        if let Err(error) = archiver.sweep_once(beat).await {
            tracing::warn!(%error, "the archive sweep failed; the next beat tries again");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(rest_ms)) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Archiver {
    /// Queues what waits, if this beat is nobody's yet.
    pub(super) async fn sweep_once(&self, beat: i64) -> Result<()> {
        if !self
            .queue
            .claim_tick("archive-sweep", beat, BEAT_KEPT)
            .await?
        {
            return Ok(());
        }
        let rooms = self.log.dirty_rooms(None, ROOMS_PER_BEAT).await?;
        let groups: BTreeSet<u16> = rooms
            .iter()
            .map(|room| self.log.archive_group_of(room))
            .collect();
        for group in groups {
            // Known already, nearly always: then this changes nothing.
            recovery::wake_archive_group(&*self.queue, group, ARCHIVE_DELAY).await?;
        }
        if !rooms.is_empty() {
            tracing::debug!(rooms = rooms.len(), "rooms wait for the archive");
        }
        Ok(())
    }
}
