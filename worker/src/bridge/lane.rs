//! What the parts of one queue's worker share: its place in the queue, its bounds, what it holds, and its end.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::ports::{Lease, Queue, QueueWaker, Result};
use futures::StreamExt;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::in_flight::InFlight;

/// How long handing back at the end may take, all jobs together; what is left then comes back when its lease lapses.
const HAND_BACK: Duration = Duration::from_secs(5);
/// Jobs handed back at a time.
const HAND_BACK_AT_ONCE: usize = 16;

#[derive(Debug, Clone, Copy)]
pub struct LaneConfig {
    /// Jobs held at a time, from claim to settled.
    pub concurrency: usize,
    /// Of one tenant, over all workers.
    pub in_flight_per_tenant: u32,
    /// How long a claim holds without being renewed.
    pub lease: Duration,
    /// How often it is renewed; several times within `lease`.
    pub renew_every: Duration,
}

/// One queue, as one worker process serves it.
pub struct Lane {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) name: &'static str,
    pub(super) config: LaneConfig,
    /// A permit goes with a job from before its claim until it is settled. (apalis frees its own before settling.)
    pub(super) permits: Arc<Semaphore>,
    pub(super) in_flight: InFlight,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    waker: OnceCell<QueueWaker>,
}

impl Lane {
    /// Claims until `stop`.
    pub fn new(
        queue: Arc<dyn Queue>,
        name: &'static str,
        config: LaneConfig,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue,
            name,
            config,
            permits: Arc::new(Semaphore::new(config.concurrency)),
            in_flight: InFlight::default(),
            stop,
            tasks: TaskTracker::new(),
            waker: OnceCell::new(),
        })
    }

    /// Moves from now on whenever something in the queue may concern us. Subscribed once for the lane.
    pub(super) async fn waker(&self) -> Result<QueueWaker> {
        let subscribe = || self.queue.waker(self.name);
        let mut waker = self.waker.get_or_try_init(subscribe).await?.clone();
        waker.mark_unchanged();
        Ok(waker)
    }

    /// After the monitor ended: waits for a claim under way, then hands back everything that is still held.
    pub async fn close(&self) {
        self.tasks.close();
        let close = async {
            self.tasks.wait().await;
            self.hand_back(self.in_flight.take_all()).await;
        };
        if tokio::time::timeout(HAND_BACK, close).await.is_err() {
            tracing::warn!(
                queue = self.name,
                "could not hand all jobs back in {HAND_BACK:?}; they come back when their leases lapse"
            );
        }
    }

    /// Gives jobs back untouched.
    pub(super) async fn hand_back(&self, leases: Vec<Lease>) {
        futures::stream::iter(leases)
            .for_each_concurrent(HAND_BACK_AT_ONCE, |lease| async move {
                match self.queue.release(&lease).await {
                    Ok(settled) => {
                        tracing::info!(queue = self.name, job = lease.id, ?settled, "job handed back");
                    }
                    Err(error) => {
                        tracing::warn!(queue = self.name, job = lease.id, %error, "job not handed back; it comes back when its lease lapses");
                    }
                }
            })
            .await;
    }
}
