//! `POST /jobs/batch`: many jobs in one request, each accepted or refused by itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::client::Authenticated;
use super::extract::{Body, parse_value};
use super::idempotency::AskedKey;
use super::jobs::accept;
use super::problem::{Problem, ProblemBody};
use super::refusals::{BadBody, Failures, NeedsToken};
use super::state::App;
use crate::runs::spec::NewJob;

const JOBS_MAX: usize = 100;

/// 1 to 100 jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJobs {
    #[schema(value_type = Vec<NewJob>, min_items = 1, max_items = 100)]
    jobs: Vec<Value>,
}

/// What became of each, in the order sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchView {
    items: Vec<BatchItem>,
}

/// A job that was accepted, or why it was not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum BatchItem {
    Accepted {
        id: Uuid,
        #[schema(example = "queued")]
        status: &'static str,
    },
    Refused(ProblemBody),
}

/// Takes up to 100 jobs in. One that is refused does not keep the others out; its item is the problem that
/// `POST /jobs` would answer.
#[utoipa::path(post, path = "/jobs/batch", tag = "jobs", operation_id = "create_batch", request_body = NewJobs,
    security(("bearer" = [])), responses(
        (status = 202, description = "What became of each", body = BatchView), NeedsToken, BadBody, Failures,
    ))]
pub async fn create(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    key: AskedKey,
    Body(asked): Body<NewJobs>,
) -> Result<(StatusCode, Json<BatchView>), Problem> {
    if !(1..=JOBS_MAX).contains(&asked.jobs.len()) {
        return Err(Problem::invalid(
            "jobs",
            format!("must have 1 to {JOBS_MAX} items"),
        ));
    }
    let mut items = Vec::with_capacity(asked.jobs.len());
    for (index, job) in asked.jobs.into_iter().enumerate() {
        let accepted = match parse_value::<NewJob>(job) {
            Ok(job) => accept(&app, &principal, job, key.part(index)).await,
            Err(problem) => Err(problem),
        };
        items.push(match accepted {
            Ok(job) => BatchItem::Accepted {
                id: job.id.0,
                status: job.state.as_str(),
            },
            Err(problem) => BatchItem::Refused(problem.within(&format!("jobs[{index}]")).body()),
        });
    }
    Ok((StatusCode::ACCEPTED, Json(BatchView { items })))
}
