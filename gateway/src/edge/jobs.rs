//! `/jobs`: code taken in, looked at, cancelled.

use atelier_shared::domain::ids::{JobId, PlaceId, RoomId};
use atelier_shared::domain::job::{AskedLimits, Job, JobResult, JobState, Progress};
use atelier_shared::domain::place::{PlaceKind, PlaceRole};
use atelier_shared::domain::room::{Activity, Role};
use atelier_shared::ports::{JobQuery, Throttle};
use atelier_shared::withdrawal;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use chrono::{SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::artifacts;
use super::client::{Authenticated, may, role_in};
use super::extract::{Body, Id, Query};
use super::health::rfc3339;
use super::idempotency::{self, AskedKey};
use super::page::{Page, PageParams, cursor};
use super::places;
use super::problem::Problem;
use super::refusals::{BadBody, BadQuery, Failures, Missing, NeedsRight, NeedsToken, Taken};
use super::state::App;
use super::trace;
use super::words::JobStateWord;
use crate::identity::Principal;
use crate::runs::bounds;
use crate::runs::spec::NewJob;
use crate::runs::{self, Accepted, SUBMIT_WINDOW};

/// A job in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobSummary {
    id: Uuid,
    /// `queued`, `running`, `succeeded`, `failed`, `timed_out`, `out_of_memory`, `output_limit`, `killed`, `cancelled`,
    /// `rejected` or `dead`
    #[schema(example = "queued")]
    status: &'static str,
    #[schema(example = "python")]
    language: String,
    version: Option<String>,
    room_id: Option<String>,
    project_id: Option<Uuid>,
    priority: i16,
    attempts: u32,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
}

/// A job and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobView {
    #[serde(flatten)]
    job: JobSummary,
    /// What the program said last of how far it is, in a line `::progress 42 half way`
    #[schema(value_type = Option<ProgressBody>)]
    progress: Option<Progress>,
    /// `null` until it is over, and again after its result was thrown away
    #[schema(value_type = Option<ResultBody>)]
    result: Option<JobResult>,
}

/// What a run left.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents JobResult")]
pub struct ResultBody {
    status: String,
    exit_code: Option<i32>,
    signal: Option<i32>,
    stdout: String,
    stderr: String,
    /// Output was cut at `output_bytes`
    truncated: bool,
    /// What the compiler said, where there is one
    compile: Option<Value>,
    usage: UsageBody,
    artifacts: Vec<ArtifactBody>,
    queued_ms: u64,
    started_at: String,
    finished_at: String,
    attempts: u32,
    trace_id: Option<String>,
    progress: Option<ProgressBody>,
    /// Files that were not kept (hidden ones among them), with the reason; absent where there are none
    artifacts_skipped: Option<Vec<SkippedBody>>,
    /// Why it was rejected or is dead
    message: Option<String>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "documents Progress")]
pub struct ProgressBody {
    /// 0 to 100
    #[schema(example = 42)]
    percent: u8,
    #[schema(example = "half way")]
    message: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "documents Usage")]
pub struct UsageBody {
    wall_ms: u64,
    /// Summed over all processes
    cpu_ms: u64,
    max_memory_bytes: u64,
    pids_max: u64,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "documents Artifact")]
pub struct ArtifactBody {
    path: String,
    size: u64,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "documents SkippedArtifact")]
pub struct SkippedBody {
    path: String,
    #[schema(example = "not a regular file")]
    reason: String,
}

impl From<Job> for JobSummary {
    fn from(job: Job) -> Self {
        Self {
            id: job.id.0,
            status: job.state.as_str(),
            language: job.spec.language,
            version: job.spec.version,
            room_id: job.room_id.map(|id| id.to_string()),
            project_id: job.project_id,
            priority: job.priority,
            attempts: job.attempts,
            created_at: rfc3339(job.created_at),
            started_at: job.started_at.map(rfc3339),
            finished_at: job.finished_at.map(rfc3339),
        }
    }
}

/// Takes code in to be run. With `room_id` the people there see it start and finish.
#[utoipa::path(post, path = "/jobs", tag = "jobs", request_body = NewJob, security(("bearer" = [])), responses(
    (status = 202, description = "Accepted", body = JobSummary, headers(("location" = String, description = "Its path"))),
    NeedsRight, Missing, BadBody, Failures,
))]
pub async fn create(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    key: AskedKey,
    Body(asked): Body<NewJob>,
) -> Result<impl IntoResponse, Problem> {
    let job = accept(&app, &principal, asked, key).await?;
    let location = format!("/api/v1/jobs/{}", job.id);
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        Json(JobSummary::from(job)),
    ))
}

/// Everything between a body that could be read and a job that is queued.
pub(super) async fn accept(
    app: &App,
    principal: &Principal,
    asked: NewJob,
    AskedKey(key): AskedKey,
) -> Result<Job, Problem> {
    let (room_id, project_id) = (asked.room_id.clone(), asked.project_id);
    let (asked_spec, priority) = asked.check()?;
    if let Some(room) = &room_id {
        may_run_in(app, room, principal).await?;
    }
    if let Some(project) = project_id {
        may_run_for(app, project, principal).await?;
    }
    if asked_spec.limits != AskedLimits::default() || asked_spec.version.is_some() {
        // While the queue is away nobody says what is granted; whoever runs it then cuts or rejects it.
        let workers = app.backends.queue.workers().await.unwrap_or_default();
        let ceilings: Vec<AskedLimits> = workers.iter().map(|worker| worker.ceiling).collect();
        bounds::within(&asked_spec.limits, &ceilings)?;
        let languages = workers.into_iter().flat_map(|worker| worker.languages);
        let versions = languages
            .filter(|(name, _)| *name == asked_spec.language)
            .map(|(_, version)| version);
        bounds::version_is_here(&asked_spec, &versions.collect())?;
    }
    throttle(app, principal).await?;
    let accepted = Accepted {
        owner: principal.user_id,
        owner_name: principal.name.clone().unwrap_or_default(),
        room_id,
        project_id,
        spec: asked_spec,
        priority,
        traceparent: trace::current_traceparent(),
        asked_by: None,
        key: key.map(|key| (key, idempotency::KEPT)),
    };
    let taken = runs::accept(&app.backends, accepted).await?;
    taken.ok_or_else(AskedKey::mismatch)
}

async fn may_run_in(app: &App, room: &RoomId, principal: &Principal) -> Result<(), Problem> {
    let found = may(app, room, Some(principal), Role::Editor).await;
    let (room, _) = found.map_err(|problem| problem.at("room_id"))?;
    if room.allows(Activity::Code) {
        return Ok(());
    }
    Err(Problem::forbidden("This room does not allow code to be run.").at("room_id"))
}

/// A project's turns in the queue are its members' to take.
async fn may_run_for(app: &App, project: Uuid, principal: &Principal) -> Result<(), Problem> {
    let (kind, least) = (PlaceKind::Project, PlaceRole::Member);
    let allowed = places::may(app, kind, PlaceId(project), principal, least).await;
    allowed
        .map(drop)
        .map_err(|problem| problem.at("project_id"))
}

async fn throttle(app: &App, principal: &Principal) -> Result<(), Problem> {
    let limit = app.config.jobs_per_minute;
    let wait = runs::throttle(&app.backends, principal.user_id, limit);
    match wait.await? {
        Throttle::Allowed => Ok(()),
        Throttle::Wait(wait) => Err(Problem::rate_limited(wait).policy(limit, SUBMIT_WINDOW)),
    }
}

/// Which of your jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobParams {
    /// Only those that stand so
    #[param(value_type = Option<JobStateWord>)]
    status: Option<String>,
    /// Only those of this room
    room_id: Option<String>,
    /// Only those of this project
    project_id: Option<Uuid>,
    // Not flattened: serde's flattening takes numbers of a query string for text.
    /// Most items to answer with, 1 to 200
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// Your jobs, newest first.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(JobParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of jobs", body = Page<JobSummary>), NeedsToken, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Query(asked): Query<JobParams>,
) -> Result<Json<Page<JobSummary>>, Problem> {
    let page = PageParams {
        limit: asked.limit,
        cursor: asked.cursor,
    };
    let (limit, before) = (page.limit()?, page.after::<JobId>()?);
    let query = JobQuery {
        owner: principal.user_id,
        state: asked
            .status
            .map(|status| status.parse::<JobState>())
            .transpose()
            .map_err(|error| Problem::invalid("status", error.reason))?,
        room: asked
            .room_id
            .map(|room| room.parse::<RoomId>())
            .transpose()
            .map_err(|error| Problem::invalid("room_id", error.reason))?,
        project: asked.project_id,
        before,
    };
    let jobs = app.backends.records.list_jobs(&query, limit).await?;
    let last = jobs.items.last().map(|job| job.id);
    let next_cursor = last.filter(|_| jobs.more).and_then(|id| cursor(&id));
    let items = jobs.items.into_iter().map(JobSummary::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// One job and its result, for whoever sent it and for the people of its room.
#[utoipa::path(get, path = "/jobs/{job_id}", tag = "jobs", params(("job_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The job", body = JobView), NeedsToken, Missing, Failures,
))]
pub async fn get(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<JobId>,
) -> Result<Json<JobView>, Problem> {
    let job = find(&app, id, &principal, Role::Viewer).await?;
    view(&app, job).await.map(Json)
}

/// Stops a job: one that waits is cancelled at once, one that runs a moment later. Cancelling twice is no error.
#[utoipa::path(post, path = "/jobs/{job_id}/cancel", tag = "jobs", params(("job_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The job as it is now", body = JobView), NeedsToken, Missing, Taken, Failures,
))]
pub async fn cancel(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<JobId>,
) -> Result<Json<JobView>, Problem> {
    let job = find(&app, id, &principal, Role::Host).await?;
    let (job, _) = with_result(&app, job).await?;
    if job.state.is_final() && job.state != JobState::Cancelled {
        return Err(Problem::conflict(format!(
            "The job is over: {}.",
            job.state.as_str()
        )));
    }
    let job = stop(&app, job).await?;
    view(&app, job).await.map(Json)
}

/// Cancels a job that is not over; removes one that is.
#[utoipa::path(delete, path = "/jobs/{job_id}", tag = "jobs", params(("job_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Cancelled or removed"), NeedsToken, Missing, Failures,
))]
pub async fn delete(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<JobId>,
) -> Result<StatusCode, Problem> {
    let job = find(&app, id, &principal, Role::Host).await?;
    let (job, _) = with_result(&app, job).await?;
    if job.state.is_final() {
        // Its worker may not have come to that yet, and finds nothing left to do.
        let finished_at = job.finished_at.unwrap_or_else(Utc::now).trunc_subsecs(6);
        let records = &app.backends.records;
        records.finish_job(id, job.state, finished_at).await?;
        records.delete_job(id).await?;
        artifacts::forget(&app, id).await;
    } else {
        stop(&app, job).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The job, if it is this person's, or one of a room where they have at least this role. To all others it does not exist.
pub(super) async fn find(
    app: &App,
    id: JobId,
    principal: &Principal,
    least: Role,
) -> Result<Job, Problem> {
    let missing = || Problem::not_found("job");
    let records = &app.backends.records;
    let job = records.job(id).await?.ok_or_else(missing)?;
    if job.owner == principal.user_id || principal.is_admin {
        return Ok(job);
    }
    let Some(room) = &job.room_id else {
        return Err(missing());
    };
    let room = records.room(room).await?.ok_or_else(missing)?;
    match role_in(app, &room, Some(principal)).await? {
        Some(role) if role >= least => Ok(job),
        _ => Err(missing()),
    }
}

async fn stop(app: &App, job: Job) -> Result<Job, Problem> {
    let b = &app.backends;
    if withdrawal::is_withdrawn(&job) {
        // Asked for again, perhaps because the first time a store was away half-way.
        let at = job.finished_at.unwrap_or_else(Utc::now);
        withdrawal::tell(&*b.records, &*b.log, &*b.archive, &*b.queue, &job, at).await?;
    } else if !job.state.is_final() {
        withdrawal::cancel(b, &job).await?;
    }
    let now = b.records.job(job.id).await?;
    now.ok_or_else(|| Problem::not_found("job"))
}

async fn view(app: &App, job: Job) -> Result<JobView, Problem> {
    let (job, result) = with_result(app, job).await?;
    let progress = match &result {
        Some(result) => result.progress.clone(),
        None if job.state == JobState::Running => {
            let output = &app.backends.output;
            // The job is worth more than its progress: where that can't be read, it has none.
            let page = output.read(job.id, job.attempts, 0, 0).await;
            page.ok().and_then(|page| page.progress)
        }
        None => None,
    };
    Ok(JobView {
        job: job.into(),
        progress,
        result,
    })
}

/// The result is written before the row: between the two, the result is right.
async fn with_result(app: &App, mut job: Job) -> Result<(Job, Option<JobResult>), Problem> {
    let result = if job.state == JobState::Queued {
        None
    } else {
        let stored = app.backends.archive.result(job.id, Utc::now()).await?;
        stored.or_else(|| withdrawal::result_of(&job))
    };
    if let Some(result) = result.as_ref().filter(|_| !job.state.is_final()) {
        job.state = result.status;
        job.finished_at = Some(result.finished_at);
    }
    Ok((job, result))
}
