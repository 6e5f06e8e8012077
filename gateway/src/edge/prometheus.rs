//! `/metrics` for Prometheus.

use std::time::Duration;

use atelier_shared::Backends;
use atelier_shared::domain::job::QUEUES;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::health::Checks;
use super::problem::Problem;
use super::refusals::Failures;
use super::state::App;
use crate::metrics::Metrics;

/// A queue that answers later keeps the figures of the last scrape.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// What this gateway counts, in OpenMetrics' text format.
#[utoipa::path(get, path = "/metrics", tag = "metrics", operation_id = "prometheus", responses(
    (status = 200, description = "OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text"), Failures,
))]
pub async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    exposition(&app.backends, &app.checks, &app.metrics).await
}

/// The text, with the present figures of the stores and the queues.
pub async fn exposition(
    backends: &Backends,
    checks: &Checks,
    metrics: &Metrics,
) -> Result<impl IntoResponse + use<>, Problem> {
    let look = |queue| async move {
        match tokio::time::timeout(QUEUE_TIMEOUT, backends.queue.stats(queue)).await {
            Ok(Ok(stats)) => metrics.queue(queue, &stats),
            Ok(Err(error)) => tracing::warn!(queue, %error, "no figures of the queue"),
            Err(_) => tracing::warn!(queue, "no figures of the queue in time"),
        }
    };
    let queues = futures::future::join_all(QUEUES.map(look));
    let (_, (ready, stores), redis) =
        tokio::join!(queues, checks.ready(), backends.redis_that_may_evict());
    metrics.health(ready, stores);
    for (name, may_evict) in redis {
        metrics.redis_may_evict(name, may_evict);
    }
    let text = metrics.encode().map_err(|_| Problem::internal())?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}
