//! The bridge from our [`Queue`](atelier_shared::ports::Queue) to apalis: one [`Lane`] per queue claims jobs one at a
//! time, holds their leases while they run, and settles them.
//!
//! Promises: at most `concurrency` jobs are held at a time, settling included; a lost lease stops its handler; no
//! failure of the store ends the worker; at the end every job is finished, or handed back with its attempt uncounted.

mod backoff;
mod claim;
mod in_flight;
mod lane;
mod lease;
mod settle;
#[cfg(test)]
mod tests;
mod trace;

pub use backoff::Backoff;
pub use lane::{Lane, LaneConfig};

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use apalis::layers::WorkerBuilderExt;
use apalis::layers::catch_panic::CatchPanicLayer;
use apalis::layers::tracing::TraceLayer;
use apalis_core::monitor::{Monitor, MonitorError};
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::ext::parallelize::ParallelizeExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::jobs::{Attempt, Failure, Job};

/// Adds a worker that serves the lane's queue with `J`.
pub fn register<J: Job>(monitor: Monitor, lane: Arc<Lane>, services: J::Services) -> Monitor {
    monitor.register(move |restarts| {
        // The layer called first is outermost. Handlers run on tasks of their own (all of a worker would share one);
        // panics are caught and the span entered inside of that.
        WorkerBuilder::new(format!("{}-{restarts}", J::QUEUE))
            .backend(claim::QueueBackend::<J>::start(lane.clone()))
            .data(services.clone())
            .concurrency(lane.config.concurrency)
            .parallelize(|handler| AbortOnDropHandle::new(tokio::spawn(handler)))
            .layer(
                TraceLayer::new()
                    .make_span_with(trace::make_span::<J>)
                    .on_response(())
                    .on_failure(()),
            )
            .layer(CatchPanicLayer::with_panic_handler(panicked))
            .build(handle::<J>)
    })
}

/// Runs the monitor's workers until `stop`; then lets running jobs go on for at most `drain`, and hands back the rest.
///
/// # Errors
/// A worker ended by itself.
pub async fn serve(
    monitor: Monitor,
    lanes: Vec<Arc<Lane>>,
    stop: CancellationToken,
    drain: Duration,
) -> Result<(), MonitorError> {
    let served = monitor
        // Made lazily: it starts counting at the signal.
        .with_terminator(async move { tokio::time::sleep(drain).await })
        .run_with_signal(async move {
            stop.cancelled().await;
            Ok(())
        })
        .await;
    for lane in lanes {
        lane.close().await;
    }
    served
}

async fn handle<J: Job>(
    job: J,
    attempt: Attempt,
    services: Data<J::Services>,
) -> Result<(), Failure> {
    job.run(attempt, services.0).await
}

/// A panic may be chance (a race, a full disk): it is tried again like any other failure.
fn panicked(panic: &Box<dyn Any + Send>) -> Failure {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::Retry(format!("panicked: {}", said.unwrap_or("without words")))
}
