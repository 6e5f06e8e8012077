//! This worker's place in the list of workers: what it serves and can run.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::ports::{Queue, WorkerInfo};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A worker that is not heard of for so long is gone.
const TTL: Duration = Duration::from_secs(15);

/// Until `stop`; then takes it back.
pub(super) async fn announce(queue: Arc<dyn Queue>, info: WorkerInfo, stop: CancellationToken) {
    let mut beats = tokio::time::interval(RENEW_EVERY);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        tokio::select! {
            _ = beats.tick() => {
                if let Err(error) = queue.announce(&info, TTL).await {
                    tracing::debug!(%error, "not announced; trying again in {RENEW_EVERY:?}");
                }
            }
            () = stop.cancelled() => {}
        }
    }
    if let Err(error) = queue.announce(&info, Duration::ZERO).await {
        tracing::debug!(%error, "announcement not taken back; it ends by itself");
    }
}
