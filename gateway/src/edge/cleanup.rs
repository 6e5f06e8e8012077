//! `/cleanup`: asks for a run of the cleanup, waits a while for what it did, and tells how cleaning goes.

use std::collections::BTreeMap;
use std::time::Duration;

use atelier_shared::domain::cleanup::{Cleanup, CleanupRun, Counts, KEPT_ROOMS, RunState, Scope};
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::job::QUEUE_CLEANUP;
use atelier_shared::domain::moment;
use atelier_shared::ports::Enqueue;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::client::Administrator;
use super::extract::{Id, Query};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;
use super::trace;

/// How long a call waits for its run.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ATTEMPTS: u32 = 3;
/// What a run says of a room that it left alone.
const KEPT: &str = "the room's retention is `keep`: only ephemeral rooms are cleaned up";
/// Runs that rates are taken of.
const RUNS: usize = 1_000;
/// Runs that the status shows.
const SHOWN: usize = 20;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Options {
    /// Count what would be removed, and remove nothing
    dry_run: Option<bool>,
}

/// One run of the cleanup.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunView {
    id: Uuid,
    #[schema(example = "orphaned-files")]
    scope: &'static str,
    dry_run: bool,
    /// `queued`, `succeeded` or `failed`
    status: &'static str,
    /// What was removed (in a dry run: what would be), by kind
    #[schema(value_type = Object, example = json!({"orphaned_files": 2, "orphaned_records": 0}))]
    removed: Counts,
    /// Why nothing was removed, where the room is one that is kept
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "the room's retention is `keep`: only ephemeral rooms are cleaned up")]
    skipped: Option<&'static str>,
    error: Option<String>,
    #[serde(serialize_with = "moment::serialize")]
    asked_at: DateTime<Utc>,
    #[serde(serialize_with = "moment::serialize_option")]
    finished_at: Option<DateTime<Utc>>,
}

impl From<CleanupRun> for RunView {
    fn from(mut run: CleanupRun) -> Self {
        let kept = run.counts.remove(KEPT_ROOMS).is_some();
        Self {
            id: run.id,
            scope: run.scope.as_str(),
            dry_run: run.dry_run,
            status: run.state.as_str(),
            removed: run.counts,
            skipped: kept.then_some(KEPT),
            error: run.error,
            asked_at: run.asked_at,
            finished_at: run.finished_at,
        }
    }
}

/// How cleaning goes.
#[derive(Debug, Serialize, ToSchema)]
pub struct CleanupStatus {
    /// Room to people connected
    #[schema(value_type = Object)]
    connections: BTreeMap<String, usize>,
    active_connections: usize,
    /// Empty rooms whose removal is scheduled
    scheduled_rooms: u64,
    /// Connections that the last look found dead
    stale_connections: u64,
    /// What the last look found, or removed
    orphaned_files: u64,
    orphaned_records: u64,
    /// Rooms whose content outlived them, as the last look found
    orphaned_rooms: u64,
    succeeded: usize,
    failed: usize,
    /// Shares of the finished runs of the last seven days
    success_rate: f64,
    failure_rate: f64,
    #[serde(serialize_with = "moment::serialize_option")]
    last_run: Option<DateTime<Utc>>,
    #[serde(serialize_with = "moment::serialize_option")]
    next_run: Option<DateTime<Utc>>,
    runs: Vec<RunView>,
}

macro_rules! runs {
    ($($(#[$doc:meta])* $name:ident: $path:literal, $scope:ident;)+) => {$(
        $(#[$doc])*
        #[utoipa::path(post, path = $path, operation_id = concat!("cleanup_", stringify!($name)), tag = "cleanup", params(Options), security(("bearer" = [])), responses(
            (status = 200, description = "What was removed", body = RunView),
            (status = 202, description = "It takes longer; GET /cleanup/status shows what comes of it", body = RunView),
            NeedsRight, BadQuery, Failures,
        ))]
        pub async fn $name(
            State(app): State<App>,
            Administrator(_): Administrator,
            Query(options): Query<Options>,
        ) -> Result<Response, Problem> {
            ask(&app, Scope::$scope, None, &options).await
        }
    )+};
}

runs! {
    /// Takes connections out of their rooms whose gateway died, and one person's doubles where a name is one connection's.
    connections: "/cleanup", Connections;
    /// Takes people under made-up names (`User123`) out of their rooms whose gateway died, and frees the names.
    auto_users: "/cleanup/auto-users", AutoUsers;
    /// Removes uploads that no room has, and rows whose bytes are gone.
    orphaned_files: "/cleanup/orphaned-files", OrphanedFiles;
    /// Every layer, and what is left of rooms that are gone.
    comprehensive: "/cleanup/comprehensive", Comprehensive;
    /// Takes people out of rooms that a crash left them in.
    force_stuck_users: "/cleanup/force-stuck-users", StuckUsers;
}

/// Removes one room if it is ephemeral (one that is kept is left alone, and `skipped` says so), without waiting for its time. Whoever is in it gets a `notice` first (5 s ahead), and
/// may make the room one that is kept meanwhile. What it held is kept for a week: see `/cleanup/removed`.
#[utoipa::path(post, path = "/cleanup/room/{room_id}", operation_id = "cleanup_room", tag = "cleanup", params(("room_id" = String, Path), Options), security(("bearer" = [])), responses(
    (status = 200, description = "What was removed", body = RunView),
    (status = 202, description = "It takes longer; GET /cleanup/status shows what comes of it", body = RunView),
    NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn room(
    State(app): State<App>,
    Administrator(_): Administrator,
    Id(room): Id<RoomId>,
    Query(options): Query<Options>,
) -> Result<Response, Problem> {
    if app.backends.records.room(&room).await?.is_none() {
        return Err(Problem::not_found("room"));
    }
    ask(&app, Scope::Room, Some(room), &options).await
}

async fn ask(
    app: &App,
    scope: Scope,
    room: Option<RoomId>,
    options: &Options,
) -> Result<Response, Problem> {
    let b = &app.backends;
    let run = CleanupRun {
        id: Uuid::now_v7(),
        scope,
        dry_run: options.dry_run.unwrap_or(false),
        state: RunState::Queued,
        counts: Counts::new(),
        error: None,
        asked_at: Utc::now().trunc_subsecs(6),
        finished_at: None,
        next_at: None,
    };
    b.records.save_cleanup(&run).await?;
    let job = Cleanup {
        run: Some(run.id),
        scope,
        room,
        dry_run: run.dry_run,
    };
    let job = Enqueue {
        id: format!("run:{}", run.id),
        payload: serde_json::to_string(&job).map_err(|_| Problem::internal())?,
        tenant: "installation".to_owned(),
        priority: 1,
        delay: Duration::ZERO,
        max_attempts: ATTEMPTS,
        traceparent: trace::current_traceparent(),
        again_if_running: false,
    };
    b.queue.enqueue(QUEUE_CLEANUP, &job).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = b.records.cleanup(run.id).await?.unwrap_or(run.clone());
        if now.state == RunState::Succeeded {
            return Ok(Json(RunView::from(now)).into_response());
        }
        if Instant::now() >= deadline {
            return Ok((StatusCode::ACCEPTED, Json(RunView::from(now))).into_response());
        }
    }
}

/// Connections, what is scheduled, what was found, and how runs end.
#[utoipa::path(get, path = "/cleanup/status", operation_id = "cleanup_status", tag = "cleanup", security(("bearer" = [])), responses(
    (status = 200, description = "How cleaning goes", body = CleanupStatus), NeedsRight, Failures,
))]
pub async fn status(
    State(app): State<App>,
    Administrator(_): Administrator,
) -> Result<Json<CleanupStatus>, Problem> {
    let b = &app.backends;
    let occupied = app.occupancy.now().await?;
    let scheduled = b.queue.stats(QUEUE_CLEANUP).await?.delayed;
    let runs = b.records.cleanups(RUNS).await?;
    let ended = |state| runs.iter().filter(|run| run.state == state).count();
    let (succeeded, failed) = (ended(RunState::Succeeded), ended(RunState::Failed));
    let last = |what: &str| {
        let found = runs.iter().find_map(|run| run.counts.get(what));
        found.copied().unwrap_or(0)
    };
    #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
    let rate = |part: usize| match succeeded + failed {
        0 => 0.0,
        all => part as f64 / all as f64,
    };
    let now = Utc::now();
    Ok(Json(CleanupStatus {
        active_connections: occupied.values().sum(),
        connections: occupied
            .iter()
            .map(|(room, people)| (room.to_string(), *people))
            .collect(),
        scheduled_rooms: scheduled,
        stale_connections: last("stale_connections"),
        orphaned_files: last("orphaned_files"),
        orphaned_records: last("orphaned_records"),
        orphaned_rooms: last("orphaned_rooms"),
        succeeded,
        failed,
        success_rate: rate(succeeded),
        failure_rate: rate(failed),
        last_run: runs.iter().filter_map(|run| run.finished_at).max(),
        next_run: runs
            .iter()
            .filter_map(|run| run.next_at)
            .filter(|next| *next > now)
            .min(),
        runs: runs.into_iter().take(SHOWN).map(RunView::from).collect(),
    }))
}
