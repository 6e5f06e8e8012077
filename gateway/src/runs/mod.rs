//! Code to be run, taken in: what may be asked for, how often, and the way from a checked request to the queue. REST and
//! rooms come this way alike.

pub mod bounds;
pub mod spec;

use std::time::Duration;

use atelier_shared::Backends;
use atelier_shared::domain::ids::{JobId, RoomId, UserId};
use atelier_shared::domain::job::{AskedBy, Job, JobSpec, JobState};
use atelier_shared::outbox;
use atelier_shared::ports::{PortError, Throttle};
use chrono::{SubsecRound, Utc};
use uuid::Uuid;

/// The window of `JOBS_PER_MINUTE`.
pub const SUBMIT_WINDOW: Duration = Duration::from_secs(60);

/// A checked request, and whose it is.
#[derive(Debug)]
pub struct Accepted {
    pub owner: UserId,
    pub owner_name: String,
    pub room_id: Option<RoomId>,
    /// Whose turns it takes, instead of the owner's.
    pub project_id: Option<Uuid>,
    pub spec: JobSpec,
    pub priority: i16,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// The message in the room that asked for it.
    pub asked_by: Option<AskedBy>,
    /// The key it is asked for under, and for how long that is its own.
    pub key: Option<([u8; 32], Duration)>,
}

/// Counts one job of this person's; more than `per_minute` must wait.
pub async fn throttle(
    backends: &Backends,
    owner: UserId,
    per_minute: u32,
) -> Result<Throttle, PortError> {
    let key = format!("jobs:{owner}");
    backends
        .vault
        .throttle(&key, per_minute, SUBMIT_WINDOW)
        .await
}

/// Stores the job's row, which is the queue's outbox too, and hands it to the queue; not if the message that asks for it has
/// asked before, or it is there under its key: then that one is answered. `None`: the key is another request's.
pub async fn accept(backends: &Backends, accepted: Accepted) -> Result<Option<Job>, PortError> {
    let key = accepted.key;
    let job = Job {
        id: JobId::generate(),
        owner: accepted.owner,
        owner_name: accepted.owner_name,
        room_id: accepted.room_id,
        project_id: accepted.project_id,
        priority: accepted.priority,
        spec: accepted.spec,
        state: JobState::Queued,
        attempts: 0,
        revivals: 0,
        traceparent: accepted.traceparent,
        asked_by: accepted.asked_by,
        created_at: Utc::now().trunc_subsecs(6),
        started_at: None,
        finished_at: None,
    };
    let records = &backends.records;
    let made = match key {
        None => records.create_job(&job).await?,
        Some((key, kept)) => match records
            .create_job_once(&job, &key, job.created_at - kept)
            .await?
        {
            Some(first) => {
                let same = first.spec == job.spec
                    && first.room_id == job.room_id
                    && first.project_id == job.project_id
                    && first.priority == job.priority;
                return Ok(same.then_some(first));
            }
            None => true,
        },
    };
    if made {
        hand_over(backends, &job).await;
    }
    Ok(Some(job))
}

/// From the row on it is accepted: if the queue is away, the sweep of the outbox hands it over later.
async fn hand_over(backends: &Backends, job: &Job) {
    if let Err(error) = outbox::hand_over(&*backends.records, &*backends.queue, job).await {
        tracing::warn!(job = %job.id, %error, "a job waits in the outbox");
    }
}
