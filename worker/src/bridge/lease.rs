//! Holding one job: its lease is renewed, its cancel looked for, its time measured, until its handler ends.

use std::sync::Arc;
use std::time::Duration;

use apalis_core::error::BoxDynError;
use atelier_shared::ports::{Claimed, Lease, QueueWaker, Settled};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;

/// Wake-ups come with every enqueue; a holder looks for its cancel at most so often because of them.
const CANCEL_LOOK: Duration = Duration::from_millis(100);

/// A claimed job in this process. Its permit is free when the last handle is gone.
pub(super) struct Held {
    pub lease: Lease,
    pub cancel: CancellationToken,
    /// Nobody else can have the job before.
    claimed_until: Instant,
    _permit: OwnedSemaphorePermit,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    Returned(Result<(), BoxDynError>),
    TimedOut,
    /// The lease lapsed, or somebody else has the job. Nothing may be settled.
    LeaseLost,
}

impl Held {
    /// `asked_at`: before the claim was sent, so that we count the lease as over before the store does.
    pub fn new(
        lane: &Lane,
        claimed: &Claimed,
        asked_at: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let cancel = CancellationToken::new();
        if claimed.cancelled {
            cancel.cancel();
        }
        Arc::new(Self {
            lease: claimed.lease.clone(),
            cancel,
            claimed_until: asked_at + lane.config.lease,
            _permit: permit,
        })
    }

    /// Waits for the handler while keeping the lease. Dropping `handler` on the way out stops it.
    /// Returns how it ended and until when the job is ours.
    pub async fn keep_while(
        &self,
        lane: &Lane,
        timeout: Duration,
        handler: impl Future<Output = Result<(), BoxDynError>>,
    ) -> (End, Instant) {
        let end = Instant::now() + timeout;
        let mut ours_until = self.claimed_until;
        let mut renewal = tokio::time::interval_at(
            Instant::now() + lane.config.renew_every,
            lane.config.renew_every,
        );
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waker = lane.waker().await.ok();
        // One that was cancelled between the claim and the waker is found a moment later.
        let mut look_at = Some(Instant::now() + CANCEL_LOOK);
        tokio::pin!(handler);
        loop {
            tokio::select! {
                // The handler's end counts before everything else.
                biased;
                result = &mut handler => return (End::Returned(result), ours_until),
                () = sleep_until(ours_until) => return (End::LeaseLost, ours_until),
                () = sleep_until(end) => return (End::TimedOut, ours_until),
                _ = renewal.tick() => {
                    let asked = Instant::now();
                    match lane.queue.renew(&self.lease, lane.config.lease).await {
                        Ok(Settled::Done) => ours_until = asked + lane.config.lease,
                        Ok(Settled::Lost) => return (End::LeaseLost, ours_until),
                        Err(error) => tracing::warn!(queue = lane.name, job = self.lease.id, %error, "lease not renewed"),
                    }
                    look_at.get_or_insert(asked);
                    if waker.is_none() {
                        waker = lane.waker().await.ok();
                    }
                }
                () = moved(&mut waker) => {
                    look_at.get_or_insert(Instant::now() + CANCEL_LOOK);
                }
                () = sleep_until(look_at.unwrap_or(end)), if look_at.is_some() && !self.cancel.is_cancelled() => {
                    look_at = None;
                    match lane.queue.is_cancelled(&self.lease).await {
                        Ok(true) => self.cancel.cancel(),
                        Ok(false) => {}
                        Err(error) => tracing::debug!(queue = lane.name, job = self.lease.id, %error, "could not look for a cancel"),
                    }
                }
            }
        }
    }
}

/// Resolves when the waker moves; never, where there is none.
pub(super) async fn moved(waker: &mut Option<QueueWaker>) {
    match waker {
        Some(watch) => {
            if watch.changed().await.is_err() {
                *waker = None;
            }
        }
        None => std::future::pending().await,
    }
}
