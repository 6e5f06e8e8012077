//! What a process without a REST interface answers: is it alive, is it ready, and its figures.

use atelier_shared::Backends;
use axum::Router;
use axum::extract::{FromRef, State};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::{self, Checks};
use super::problem::Problem;
use super::prometheus;
use crate::metrics::Metrics;

#[derive(Clone)]
struct Operations {
    backends: Backends,
    checks: Checks,
    metrics: Metrics,
}

impl FromRef<Operations> for Checks {
    fn from_ref(operations: &Operations) -> Self {
        operations.checks.clone()
    }
}

/// Answers until it is dropped; from `shutdown` on, while the process drains, `/readyz` says no.
pub async fn serve(
    backends: Backends,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let checks = Checks::new(backends.clone());
    let state = Operations {
        backends,
        checks: checks.clone(),
        metrics: Metrics::new(),
    };
    let router = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics))
        .with_state(state);
    let draining = async move {
        shutdown.cancelled().await;
        checks.begin_drain();
        std::future::pending().await
    };
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served,
        never = draining => never,
    }
}

async fn metrics(State(state): State<Operations>) -> Result<impl IntoResponse, Problem> {
    prometheus::exposition(&state.backends, &state.checks, &state.metrics).await
}
