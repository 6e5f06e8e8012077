//! The backend that apalis polls: a task claims jobs one at a time and hands them over.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::data::MissingDataError;
use apalis_core::task::from_request::FromRequest;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::context::WorkerContext;
use atelier_shared::ports::{Claimed, QueueWaker, Result};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::Backoff;
use super::lane::Lane;
use super::lease::{Held, moved};
use super::settle::SettleLayer;
use crate::jobs::{Attempt, Job};

/// The longest an idle worker sleeps without asking, should a wake-up have been lost.
const IDLE_MOST: Duration = Duration::from_secs(30);

/// While the store is away.
const STORE_AWAY: Backoff = Backoff {
    first: Duration::from_millis(100),
    most: Duration::from_secs(5),
};

pub(super) struct QueueBackend<J> {
    lane: Arc<Lane>,
    claimed: mpsc::Receiver<Task<J>>,
}

impl<J: Job> QueueBackend<J> {
    pub fn start(lane: Arc<Lane>) -> Self {
        // Never full: each job in it holds a permit.
        let (hand_over, claimed) = mpsc::channel(lane.config.concurrency);
        lane.tasks.spawn(claim_jobs::<J>(lane.clone(), hand_over));
        Self { lane, claimed }
    }
}

/// Never an `Err`: apalis would drop every running handler with the worker.
impl<J: Job> Backend for QueueBackend<J> {
    type Task = Task<J>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<J>, Infallible>>> {
        self.claimed.poll_recv(cx).map(|task| task.map(Ok))
    }

    /// The claiming task ends by itself and hands back what nobody began; see [`Lane::close`].
    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        self.claimed.close();
        Poll::Ready(Ok(()))
    }
}

impl<J: Job> BackendConfig for QueueBackend<J> {
    type Args = J;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = SettleLayer<J>;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> SettleLayer<J> {
        SettleLayer::new(self.lane.clone())
    }
}

/// Claims until the lane stops or the worker is gone, then hands back what was claimed and not begun.
async fn claim_jobs<J: Job>(lane: Arc<Lane>, hand_over: mpsc::Sender<Task<J>>) {
    let mut source = Source {
        lane: &lane,
        hand_over: &hand_over,
        waker: None,
        failures: 0,
    };
    while let Some((permit, asked_at, claimed)) = source.next().await {
        let lease = claimed.lease.clone();
        lane.in_flight.add(lease.clone());
        match serde_json::from_str::<J>(&claimed.payload) {
            Ok(job) => {
                let held = Held::new(&lane, &claimed, asked_at, permit);
                let task = into_task(job, claimed, held);
                if hand_over.send(task).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                let reason = format!("the payload can't be read: {error}");
                tracing::error!(queue = lane.name, job = lease.id, reason, "job buried");
                if let Err(error) = lane.queue.bury(&lease, &reason).await {
                    tracing::warn!(queue = lane.name, job = lease.id, %error, "job not buried; it comes back when its lease lapses");
                }
                lane.in_flight.remove(&lease);
            }
        }
    }
    lane.hand_back(lane.in_flight.take_waiting()).await;
}

struct Source<'a, J> {
    lane: &'a Lane,
    hand_over: &'a mpsc::Sender<Task<J>>,
    waker: Option<QueueWaker>,
    /// Of the store, in a row.
    failures: u32,
}

impl<J> Source<'_, J> {
    /// The next job, the permit it is held under, and when it was asked for; `None` at the end.
    async fn next(&mut self) -> Option<(OwnedSemaphorePermit, Instant, Claimed)> {
        let permits = self.lane.permits.clone();
        let permit = self.unless_ended(permits.acquire_owned()).await?.ok()?;
        while !self.is_ended() {
            // Not cut short by the end: a claim that the store carried out and nobody heard of would have to lapse.
            let asked_at = Instant::now();
            match self.claim().await {
                Ok(Ok(claimed)) => {
                    self.recovered();
                    return Some((permit, asked_at, claimed));
                }
                Ok(Err(due)) => {
                    self.recovered();
                    self.wait(due.unwrap_or(IDLE_MOST).min(IDLE_MOST)).await?;
                }
                Err(error) => {
                    if self.failures == 0 {
                        tracing::warn!(queue = self.lane.name, %error, "no claims while the store is away");
                    }
                    self.failures = self.failures.saturating_add(1);
                    self.waker = None;
                    let pause = STORE_AWAY.delay(self.failures);
                    self.unless_ended(tokio::time::sleep(pause)).await?;
                }
            }
        }
        None
    }

    async fn claim(&mut self) -> Result<std::result::Result<Claimed, Option<Duration>>> {
        let lane = self.lane;
        // Looked at before the claim, so that what comes between the claim and the wait is not missed.
        match &mut self.waker {
            Some(waker) => {
                waker.borrow_and_update();
            }
            None => self.waker = Some(lane.waker().await?),
        }
        let cap = lane.config.in_flight_per_tenant;
        lane.queue.claim(lane.name, lane.config.lease, cap).await
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            tracing::info!(queue = self.lane.name, "the store is back");
        }
        self.failures = 0;
    }

    /// Until something may have become claimable.
    async fn wait(&mut self, most: Duration) -> Option<()> {
        let mut waker = self.waker.take();
        let _ = self
            .unless_ended(tokio::time::timeout(most, moved(&mut waker)))
            .await?;
        self.waker = waker;
        Some(())
    }

    fn is_ended(&self) -> bool {
        self.lane.stop.is_cancelled() || self.hand_over.is_closed()
    }

    async fn unless_ended<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            value = wait => Some(value),
            () = self.lane.stop.cancelled() => None,
            () = self.hand_over.closed() => None,
        }
    }
}

fn into_task<J: Job>(job: J, claimed: Claimed, held: Arc<Held>) -> Task<J> {
    let attempt = Attempt {
        id: claimed.lease.id,
        number: claimed.attempt,
        most: claimed.max_attempts,
        lapses: claimed.lapses,
        enqueued_at: claimed.enqueued_at,
        traceparent: claimed.traceparent,
        cancel: held.cancel.clone(),
    };
    TaskBuilder::new(job)
        .task_id(TaskId::from_string(attempt.id.clone()))
        .max_attempts(usize::try_from(attempt.most).unwrap_or(usize::MAX))
        .data(attempt)
        .data(held)
        .build()
}

impl<J: Job> FromRequest<Task<J>> for Attempt {
    type Error = MissingDataError;

    async fn from_request(task: &Task<J>) -> std::result::Result<Self, MissingDataError> {
        task.data().get_checked::<Self>().cloned()
    }
}
