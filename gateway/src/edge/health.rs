//! Is it alive, is it ready, which stores answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use atelier_shared::ports::PortError;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::problem::{Kind, Problem};
use super::refusals::Unready;
use super::state::App;

/// A store that takes longer to answer counts as away.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// However often somebody asks, each store is pinged at most once in this time.
const FRESH: Duration = Duration::from_millis(500);

/// What a store said when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreStatus {
    Ok,
    Away,
}

/// Store name (`log`, `presence`, `records`, `archive`, `queue`, `vault`, `files`) to its status.
type Stores = BTreeMap<&'static str, StoreStatus>;

/// The last look at the stores; single-flight.
#[derive(Default)]
pub struct StoreChecks(Mutex<Option<(Instant, Stores)>>);

#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `healthy`, `draining` or `unhealthy`
    #[schema(example = "healthy")]
    status: &'static str,
    timestamp: String,
    /// Each store: `ok` or `away`
    #[schema(value_type = BTreeMap<String, StoreStatus>)]
    stores: Stores,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Alive {
    #[schema(example = "alive")]
    status: &'static str,
}

/// Times as every response writes them: RFC 3339, UTC, milliseconds.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Every store, checked one by one.
#[utoipa::path(get, path = "/health", tag = "health", operation_id = "health", responses(
    (status = 200, description = "Every store answers", body = Health),
    (status = 503, description = "A store is away, or the gateway is stopping", body = Health),
))]
pub async fn health(State(app): State<App>) -> Response {
    let stores = look(&app).await;
    let whole = stores.values().all(|status| *status == StoreStatus::Ok);
    let (code, status) = match (whole, app.is_draining()) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
        (true, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (true, false) => (StatusCode::OK, "healthy"),
    };
    let health = Health {
        status,
        timestamp: rfc3339(Utc::now()),
        stores,
    };
    (code, Json(health)).into_response()
}

/// The process runs. Says nothing of the stores: restarting would not bring them back.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "Alive", body = Alive)))]
pub async fn livez() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// May traffic be sent here? Not while the gateway is stopping or a store is gone.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, description = "Ready", body = Alive), Unready))]
pub async fn readyz(State(app): State<App>) -> Result<Json<Alive>, Problem> {
    if app.is_draining() {
        return Err(Problem::new(Kind::Draining, "This gateway is stopping."));
    }
    let away: Vec<&str> = look(&app)
        .await
        .into_iter()
        .filter(|(_, status)| *status == StoreStatus::Away)
        .map(|(store, _)| store)
        .collect();
    if away.is_empty() {
        return Ok(Json(Alive { status: "ready" }));
    }
    Err(Problem::new(
        Kind::Unavailable,
        format!("Away: {}.", away.join(", ")),
    ))
}

async fn look(app: &App) -> Stores {
    let mut last = app.store_checks.0.lock().await;
    if let Some((at, stores)) = last.as_ref()
        && at.elapsed() < FRESH
    {
        return stores.clone();
    }
    let b = &app.backends;
    let (log, presence, records, archive, queue, vault, files) = tokio::join!(
        check("log", b.log.ping()),
        check("presence", b.presence.ping()),
        check("records", b.records.ping()),
        check("archive", b.archive.ping()),
        check("queue", b.queue.ping()),
        check("vault", b.vault.ping()),
        check("files", b.files.ping()),
    );
    let stores = Stores::from([log, presence, records, archive, queue, vault, files]);
    *last = Some((Instant::now(), stores.clone()));
    stores
}

async fn check(
    store: &'static str,
    ping: impl Future<Output = Result<(), PortError>>,
) -> (&'static str, StoreStatus) {
    let status = match timeout(PING_TIMEOUT, ping).await {
        Ok(Ok(())) => StoreStatus::Ok,
        Ok(Err(error)) => {
            tracing::warn!(store, %error, "store does not answer");
            StoreStatus::Away
        }
        Err(_) => {
            tracing::warn!(store, timeout = ?PING_TIMEOUT, "store does not answer in time");
            StoreStatus::Away
        }
    };
    (store, status)
}
