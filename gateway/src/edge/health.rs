//! Is it alive, is it ready, which stores answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atelier_shared::Backends;
pub use atelier_shared::domain::moment::rfc3339;
use axum::Json;
use axum::extract::{FromRef, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::problem::{Kind, Problem};
use super::refusals::Unready;
use super::state::App;

/// However often somebody asks, each store is pinged at most once in this time.
const FRESH: Duration = Duration::from_millis(500);
/// Of `exclude`: whatever the stores do.
const ALL_STORES: &str = "stores";

/// What a store said when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreStatus {
    Ok,
    Away,
}

/// Store name (`log`, `presence`, `records`, `archive`, `queue`, `vault`, `files`) to its status.
type Stores = BTreeMap<&'static str, StoreStatus>;

/// What health is asked of: the stores, and whether this process is stopping. Cheap to clone.
#[derive(Clone)]
pub struct Checks(Arc<Inner>);

struct Inner {
    backends: Backends,
    draining: AtomicBool,
    /// The last look at the stores; single-flight.
    last: Mutex<Option<(Instant, Stores)>>,
}

impl Checks {
    pub fn new(backends: Backends) -> Self {
        Self(Arc::new(Inner {
            backends,
            draining: AtomicBool::new(false),
            last: Mutex::new(None),
        }))
    }

    /// From now on `/readyz` says no.
    pub fn begin_drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Is this process ready, and which stores (by name) answer?
    pub async fn ready(&self) -> (bool, impl Iterator<Item = (&'static str, bool)> + use<>) {
        let stores = self.look().await;
        let up = |status: StoreStatus| status == StoreStatus::Ok;
        let ready = !self.is_draining() && stores.values().all(|status| up(*status));
        (
            ready,
            stores
                .into_iter()
                .map(move |(store, status)| (store, up(status))),
        )
    }

    async fn look(&self) -> Stores {
        let mut last = self.0.last.lock().await;
        if let Some((at, stores)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return stores.clone();
        }
        let answers = self.0.backends.health().await;
        let stores: Stores = answers
            .into_iter()
            .map(|(store, answer)| match answer {
                Ok(()) => (store, StoreStatus::Ok),
                Err(error) => {
                    tracing::warn!(store, %error, "store does not answer");
                    (store, StoreStatus::Away)
                }
            })
            .collect();
        *last = Some((Instant::now(), stores.clone()));
        stores
    }
}

impl FromRef<App> for Checks {
    fn from_ref(app: &App) -> Self {
        app.checks.clone()
    }
}

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

/// Every store, checked one by one.
#[utoipa::path(get, path = "/health", tag = "health", operation_id = "health", responses(
    (status = 200, description = "Every store answers", body = Health),
    (status = 503, description = "A store is away, or the gateway is stopping", body = Health),
))]
pub async fn health(State(checks): State<Checks>) -> Response {
    let stores = checks.look().await;
    let whole = stores.values().all(|status| *status == StoreStatus::Ok);
    let (code, status) = match (whole, checks.is_draining()) {
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

/// May traffic be sent here? Not while the gateway is stopping or a store is gone. `exclude` leaves stores out of the answer
/// (names as `/health` shows them, with commas between, or `stores` for all): a balancer that took every gateway out because
/// of a store that they share would close the rooms that go on without it.
#[utoipa::path(get, path = "/readyz", tag = "health", params(("exclude" = Option<String>, Query, description = "Stores that do not count", example = "stores")), responses(
    (status = 200, description = "Ready", body = Alive), Unready,
))]
pub async fn readyz(
    State(checks): State<Checks>,
    RawQuery(query): RawQuery,
) -> Result<Json<Alive>, Problem> {
    if checks.is_draining() {
        return Err(Problem::new(Kind::Draining, "This gateway is stopping."));
    }
    let ready = Ok(Json(Alive { status: "ready" }));
    let excluded = excluded(query.as_deref().unwrap_or(""));
    if excluded.iter().any(|name| name == ALL_STORES) {
        return ready;
    }
    let mut stores = checks.look().await;
    stores.retain(|store, status| {
        *status == StoreStatus::Away && !excluded.iter().any(|name| name == store)
    });
    if stores.is_empty() {
        return ready;
    }
    let away: Vec<&str> = stores.into_keys().collect();
    Err(Problem::new(
        Kind::Unavailable,
        format!("Away: {}.", away.join(", ")),
    ))
}

/// Names that no store has exclude nothing.
fn excluded(query: &str) -> Vec<String> {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let given = pairs.filter(|(name, _)| name == "exclude");
    given
        .flat_map(|(_, names)| names.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use atelier_shared::config::StoreConfig;

    use super::*;

    /// Stores that were just looked at, some of them away.
    async fn with_away(away: &[&'static str]) -> (Checks, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            data_dir: folder.path().to_owned(),
            ..StoreConfig::default()
        };
        let checks = Checks::new(Backends::open(&config).await.unwrap());
        let mut stores = checks.look().await;
        assert!(stores.values().all(|status| *status == StoreStatus::Ok));
        for store in away {
            assert!(stores.insert(store, StoreStatus::Away).is_some(), "{store}");
        }
        // A look that stays fresh for as long as the test takes.
        let until = Instant::now() + Duration::from_secs(3_600);
        *checks.0.last.lock().await = Some((until, stores));
        (checks, folder)
    }

    async fn ready(checks: &Checks, query: &str) -> StatusCode {
        let query = RawQuery(Some(query.to_owned()).filter(|query| !query.is_empty()));
        readyz(State(checks.clone()), query)
            .await
            .into_response()
            .status()
    }

    #[tokio::test]
    async fn stores_that_are_excluded_do_not_count_and_unknown_names_exclude_nothing() {
        let (checks, _folder) = with_away(&["records", "files"]).await;
        for (query, code) in [
            ("", 503),
            ("exclude=", 503),
            ("exclude=nothing", 503),
            ("exclude=Stores", 503),
            ("exclude=store", 503),
            ("include=stores", 503),
            ("exclude=records", 503),
            ("exclude=log,presence,archive", 503),
            ("exclude=records,files", 200),
            ("exclude=records&exclude=files", 200),
            ("exclude=nothing,files%2Crecords", 200),
            ("exclude=stores", 200),
            ("exclude=nothing,stores", 200),
        ] {
            assert_eq!(ready(&checks, query).await.as_u16(), code, "?{query}");
        }
        // Who stops is not ready, whatever is left out.
        checks.begin_drain();
        for query in ["", "exclude=stores", "exclude=records,files"] {
            assert_eq!(ready(&checks, query).await.as_u16(), 503, "?{query}");
        }
    }

    #[tokio::test]
    async fn with_every_store_there_any_exclusion_is_ready() {
        let (checks, _folder) = with_away(&[]).await;
        for query in ["", "exclude=stores", "exclude=nothing", "exclude=log"] {
            assert_eq!(ready(&checks, query).await.as_u16(), 200, "?{query}");
        }
    }
}
