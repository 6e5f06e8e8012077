//! From the row of an accepted job to the queue: the row is written first and is the outbox, so an accepted job is
//! never lost between the two stores.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::ids::JobId;
use crate::domain::job::{Job, QUEUE_CODE};
use crate::ports::{Enqueue, PortError, Queue, Records, Result};

/// Attempts at one job before it is dead: an attempt is lost only if its worker died under it.
pub const EXECUTE_ATTEMPTS: u32 = 3;

/// The payload of a job in [`QUEUE_CODE`]: what to run is in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteJob {
    pub job_id: JobId,
}

/// Queues a job whose row is stored, and notes in the row that the queue has it. Safe to repeat.
///
/// # Errors
/// The queue or the records are away; [`sweep`] finds the job later.
pub async fn hand_over(records: &dyn Records, queue: &dyn Queue, job: &Job) -> Result<()> {
    let payload = serde_json::to_string(&ExecuteJob { job_id: job.id })
        .map_err(|error| PortError::fatal("encode job", error))?;
    let enqueue = Enqueue {
        id: job.id.to_string(),
        payload,
        tenant: job.tenant(),
        priority: job.priority,
        delay: Duration::ZERO,
        max_attempts: EXECUTE_ATTEMPTS,
        traceparent: job.traceparent.clone(),
        again_if_running: false,
    };
    queue.enqueue(QUEUE_CODE, &enqueue).await?;
    records.mark_queued(job.id).await
}

/// Hands over jobs made before `before` that the queue was never confirmed to have, at most `limit`. Returns how many.
/// `before` lies far enough back that whoever accepted them is not doing it right now.
///
/// # Errors
/// As [`hand_over`]; the rest is found by the next sweep.
pub async fn sweep(
    records: &dyn Records,
    queue: &dyn Queue,
    before: DateTime<Utc>,
    limit: usize,
) -> Result<usize> {
    let jobs = records.unqueued_jobs(before, limit).await?;
    for job in &jobs {
        hand_over(records, queue, job).await?;
    }
    Ok(jobs.len())
}
