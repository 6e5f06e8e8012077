//! The service outside all others of a worker: begins a job, keeps its lease, and settles it.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use atelier_shared::ports::{Result, Settled};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::Backoff;
use super::lane::Lane;
use super::lease::{End, Held};
use crate::jobs::{Attempt, Failure, Job};

/// While a job can't be settled because the store is away.
const SETTLE_AGAIN: Backoff = Backoff {
    first: Duration::from_millis(50),
    most: Duration::from_secs(1),
};

pub(super) struct SettleLayer<J> {
    lane: Arc<Lane>,
    job: PhantomData<fn(J)>,
}

impl<J> SettleLayer<J> {
    pub fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            job: PhantomData,
        }
    }
}

impl<S, J> Layer<S> for SettleLayer<J> {
    type Service = Settling<S>;

    fn layer(&self, inner: S) -> Settling<S> {
        Settling {
            inner,
            lane: self.lane.clone(),
        }
    }
}

pub(super) struct Settling<S> {
    inner: S,
    lane: Arc<Lane>,
}

impl<S, J> Service<Task<J>> for Settling<S>
where
    J: Job,
    S: Service<Task<J>, Response = ()>,
    S::Error: Into<BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<J>) -> Self::Future {
        let (held, attempt) = match (task.data().get::<Arc<Held>>(), task.data().get::<Attempt>()) {
            (Some(held), Some(attempt)) => (held.clone(), attempt.clone()),
            // Every task of our backend carries both; without them there is nothing to settle.
            _ => return futures::future::ready(Err("a task without its lease".into())).boxed(),
        };
        if !self.lane.in_flight.begin(&held.lease) {
            return futures::future::ready(Ok(())).boxed();
        }
        let handler = self
            .inner
            .call(task)
            .map(|result| result.map_err(Into::into));
        let lane = self.lane.clone();
        async move {
            let (end, ours_until) = held.keep_while(&lane, J::TIMEOUT, handler).await;
            settle::<J>(&lane, &held, &attempt, end, ours_until).await;
            lane.in_flight.remove(&held.lease);
            Ok(())
        }
        .boxed()
    }
}

async fn settle<J: Job>(
    lane: &Lane,
    held: &Held,
    attempt: &Attempt,
    end: End,
    ours_until: Instant,
) {
    let failure = match end {
        End::Returned(Ok(())) => {
            return until_settled(lane, held, ours_until, || lane.queue.finish(&held.lease)).await;
        }
        End::LeaseLost => {
            tracing::warn!(
                queue = lane.name,
                job = attempt.id,
                attempt = attempt.number,
                "lease lost, attempt stopped"
            );
            return;
        }
        End::TimedOut => Failure::Retry(format!("no end within {:?}", J::TIMEOUT)),
        End::Returned(Err(error)) => match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(other) => Failure::Retry(other.to_string()),
        },
    };
    let dead = matches!(failure, Failure::Final(_)) || attempt.is_last();
    tracing::warn!(queue = lane.name, job = attempt.id, attempt = attempt.number, reason = %failure, dead, "attempt failed");
    match failure {
        Failure::Retry(reason) => {
            let delay = J::BACKOFF.delay(attempt.number);
            until_settled(lane, held, ours_until, || {
                lane.queue.retry(&held.lease, delay, &reason)
            })
            .await;
        }
        Failure::Final(reason) => {
            until_settled(lane, held, ours_until, || {
                lane.queue.bury(&held.lease, &reason)
            })
            .await;
        }
    }
}

/// Tries until the store answers or the lease is over: then the job comes back by itself, and its steps are idempotent.
async fn until_settled<'a, F>(lane: &Lane, held: &Held, ours_until: Instant, settle: impl Fn() -> F)
where
    F: Future<Output = Result<Settled>> + 'a,
{
    let mut failures = 0;
    loop {
        match settle().await {
            Ok(Settled::Done) => return,
            Ok(Settled::Lost) => {
                tracing::warn!(
                    queue = lane.name,
                    job = held.lease.id,
                    "job not settled: its lease was lost"
                );
                return;
            }
            Err(error) => {
                failures += 1;
                let pause = SETTLE_AGAIN.delay(failures);
                if !error.is_retryable() || Instant::now() + pause >= ours_until {
                    tracing::warn!(queue = lane.name, job = held.lease.id, %error, "job not settled; it comes back when its lease lapses");
                    return;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}
