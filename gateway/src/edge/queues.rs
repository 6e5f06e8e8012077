//! `/queues`: what waits, what died, and putting it back; for administrators.

use std::str::FromStr;

use atelier_shared::domain::ids::JobId;
use atelier_shared::domain::job::{QUEUE_CODE, QUEUES};
use atelier_shared::outbox;
use atelier_shared::ports::DeadJob;
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::client::Administrator;
use super::extract::{Id, Ids, Query};
use super::health::rfc3339;
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;

/// A queue as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueView {
    #[schema(example = "code_execution")]
    name: &'static str,
    /// Jobs that wait, delayed ones counted
    depth: u64,
    waiting: u64,
    delayed: u64,
    in_flight: u64,
    dead: u64,
    /// How long the first in line has waited, milliseconds
    age_ms: u64,
    oldest_ms: u64,
    /// Jobs finished per second, over the last minute
    rate_per_s: f64,
    finished_total: u64,
}

/// A job that used up its attempts, or was buried.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadView {
    id: String,
    tenant: String,
    attempts: u32,
    /// What the last attempt said
    reason: String,
    died_at: String,
    /// What was asked for; of `code_execution` the job's id
    payload: Value,
}

/// What a replay made of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayView {
    id: String,
    #[schema(example = "queued")]
    status: &'static str,
}

impl From<DeadJob> for DeadView {
    fn from(letter: DeadJob) -> Self {
        Self {
            payload: serde_json::from_str(&letter.payload)
                .unwrap_or_else(|_| Value::from(letter.payload.as_str())),
            id: letter.id,
            tenant: letter.tenant,
            attempts: letter.attempts,
            reason: letter.reason,
            died_at: rfc3339(letter.died_at),
        }
    }
}

/// One of the queues there are.
#[derive(Debug, Clone, Copy)]
pub struct QueueName(&'static str);

impl FromStr for QueueName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let name = QUEUES.into_iter().find(|name| *name == text);
        name.map(Self).ok_or(())
    }
}

/// What waits in each queue; administrators only.
#[utoipa::path(get, path = "/queues", tag = "jobs", operation_id = "queues", security(("bearer" = [])), responses(
    (status = 200, description = "Queues", body = Page<QueueView>), NeedsRight, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Administrator(_): Administrator,
) -> Result<Json<Page<QueueView>>, Problem> {
    let mut items = Vec::with_capacity(QUEUES.len());
    for name in QUEUES {
        let stats = app.backends.queue.stats(name).await?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "nobody finishes 2^52 jobs a minute"
        )]
        let rate_per_s = stats.finished_last_minute as f64 / 60.0;
        items.push(QueueView {
            name,
            depth: stats.waiting + stats.delayed,
            waiting: stats.waiting,
            delayed: stats.delayed,
            in_flight: stats.in_flight,
            dead: stats.dead,
            age_ms: stats.oldest_ms,
            oldest_ms: stats.oldest_ms,
            rate_per_s,
            finished_total: stats.finished_total,
        });
    }
    Ok(Json(Page::whole(items)))
}

/// Dead letters, newest first; administrators only.
#[utoipa::path(get, path = "/queues/{name}/dead", tag = "jobs", operation_id = "dead_letters",
    params(("name" = String, Path, example = "code_execution"), PageParams), security(("bearer" = [])), responses(
        (status = 200, description = "A page of dead letters", body = Page<DeadView>), NeedsRight, Missing, BadQuery, Failures,
    ))]
pub async fn dead(
    State(app): State<App>,
    Administrator(_): Administrator,
    Id(QueueName(queue)): Id<QueueName>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<DeadView>>, Problem> {
    let (limit, before) = (page.limit()?, page.after::<(DateTime<Utc>, String)>()?);
    let mut letters = app
        .backends
        .queue
        .dead_before(queue, before, limit + 1)
        .await?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let last = letters.last().filter(|_| more);
    let next_cursor = last.and_then(|letter| cursor(&(letter.died_at, &letter.id)));
    let items = letters.into_iter().map(DeadView::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Puts a dead job back into its queue, as if it had never been tried; administrators only. A `code_execution` job is
/// `queued` again, and its result is forgotten.
#[utoipa::path(post, path = "/queues/{name}/dead/{id}/replay", tag = "jobs",
    params(("name" = String, Path, example = "code_execution"), ("id" = String, Path)), security(("bearer" = [])), responses(
        (status = 200, description = "It waits again", body = ReplayView), NeedsRight, Missing, Failures,
    ))]
pub async fn replay(
    State(app): State<App>,
    Administrator(_): Administrator,
    Ids(QueueName(queue), id): Ids<QueueName, String>,
) -> Result<Json<ReplayView>, Problem> {
    let b = &app.backends;
    let job: Option<JobId> = id.parse().ok().filter(|_| queue == QUEUE_CODE);
    let mut revived = false;
    if let Some(job) = job {
        // The row before the letter: if this ends between the two, the sweep of the outbox queues the job.
        revived = outbox::revive(&*b.records, &*b.archive, job).await?;
    }
    let replayed = b.queue.replay(queue, &id).await?;
    if !replayed && !revived {
        return Err(Problem::not_found("dead letter"));
    }
    if let Some(job) = job {
        if replayed {
            b.records.mark_queued(job).await?;
        } else if let Some(job) = b.records.job(job).await? {
            // Its letter made room for ten thousand others, or went with an emptied queue.
            outbox::hand_over(&*b.records, &*b.queue, &job).await?;
        }
    }
    Ok(Json(ReplayView {
        id,
        status: "queued",
    }))
}
