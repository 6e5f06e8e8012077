//! The span of an attempt, a child of whoever queued the job.

use std::collections::HashMap;

use apalis_core::task::Task;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::jobs::{Attempt, Job};

/// apalis's own span counts attempts within the process; the queue's number is the right one.
pub(super) fn make_span<J: Job>(task: &Task<J>) -> Span {
    let Some(attempt) = task.data().get::<Attempt>() else {
        return Span::none();
    };
    let span = tracing::info_span!(
        parent: None,
        "job",
        otel.kind = "consumer",
        queue = J::QUEUE,
        job = attempt.id,
        attempt = attempt.number,
    );
    if let Some(traceparent) = &attempt.traceparent {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.clone())]);
        let parent = opentelemetry::global::get_text_map_propagator(|p| p.extract(&carrier));
        // Fails where no OpenTelemetry layer is installed: then there is no trace to belong to.
        let _ = span.set_parent(parent);
    }
    span
}
