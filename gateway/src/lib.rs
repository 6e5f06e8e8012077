//! The gateway: HTTP and WebSockets in front, the ports behind. It holds no truth of its own.

pub mod config;
pub mod edge;
pub mod figures;
#[cfg(test)]
mod fuzz;
pub mod identity;
pub mod metrics;
mod process;
pub mod room;
mod runs;
mod seats;
mod serde_words;
mod traceparent;

use atelier_shared::Backends;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{ConfigError, GatewayConfig};

/// Why the gateway did not start.
pub use edge::state::StartError as ServeError;

/// Serves until `shutdown`, then drains: `/readyz` says no at once, people are told and moved, requests in flight are
/// answered, and after [`GatewayConfig::drain`] what is still open is cut. Returns when nothing of it runs any more.
///
/// `config` must have been [prepared](GatewayConfig::prepare).
pub async fn serve(
    backends: Backends,
    config: GatewayConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let app = edge::App::start(backends, config).await?;
    edge::run(app, listener, shutdown).await;
    Ok(())
}

/// `/livez`, `/readyz`, `/health` and `/metrics` alone, for a process that serves nobody else (a worker). Answers until it
/// is dropped; from `shutdown` on it is not ready.
pub async fn serve_operations(
    backends: Backends,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    edge::operations::serve(backends, listener, shutdown).await
}

/// The OpenAPI 3.1 document of the REST interface, as JSON.
pub fn openapi() -> String {
    edge::document().to_pretty_json().unwrap_or_default()
}
