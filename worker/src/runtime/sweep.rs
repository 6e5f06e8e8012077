//! Upkeep on a beat, done by one of all workers at a time.

use std::time::Duration;

use atelier_shared::ports::{PortError, Queue};
use chrono::Utc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Ticks are remembered for so many beats: longer than any two clocks of an installation differ.
const REMEMBERED_BEATS: u32 = 10;

/// Calls `sweep` once per beat among all workers, until `stop`. A sweep that fails is tried again at the next beat.
pub(super) async fn every<F>(
    queue: &dyn Queue,
    name: &str,
    beat: Duration,
    stop: &CancellationToken,
    mut sweep: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), PortError>>,
{
    let beat_ms = i64::try_from(beat.as_millis()).unwrap_or(i64::MAX).max(1);
    let mut beats = tokio::time::interval(beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            () = stop.cancelled() => return,
        }
        let tick = Utc::now().timestamp_millis() / beat_ms;
        let swept = match queue.claim_tick(name, tick, beat * REMEMBERED_BEATS).await {
            Ok(true) => sweep().await,
            Ok(false) => continue,
            Err(error) => Err(error),
        };
        if let Err(error) = &swept
            && !failed
        {
            tracing::warn!(sweep = name, %error, "sweep failed; trying again every {beat:?}");
        }
        failed = swept.is_err();
    }
}
