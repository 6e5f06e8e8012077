//! From the row of an accepted job to the queue: the row is written first and is the outbox, so an accepted job is
//! never lost between the two stores.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobState, QUEUE_CALLBACK, QUEUE_CODE};
use crate::ports::{Archive, Enqueue, PortError, Queue, Records, Result};

/// Attempts at one job before it is dead: one is lost if its worker died under it, or the sandbox, or a store was away
/// for long.
pub const EXECUTE_ATTEMPTS: u32 = 5;
/// Attempts that ended with their worker's death before the job is taken for poison, and dead.
pub const EXECUTE_LAPSES: u32 = 2;

/// The payload of a job in [`QUEUE_CODE`]: what to run is in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecuteJob {
    pub job_id: JobId,
}

/// The payload of a job in [`QUEUE_CALLBACK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallBack {
    pub job_id: JobId,
}

/// Attempts at one callback before it is dead: over an hour, with their backoff.
const CALLBACK_ATTEMPTS: u32 = 12;

/// Queues the posting of a finished job's result, if its sender asked for that. Safe to repeat: it may then be posted
/// again, as it may anyway.
///
/// # Errors
/// The queue is away.
pub async fn call_back(queue: &dyn Queue, job: &Job) -> Result<()> {
    if job.spec.callback_url.is_none() {
        return Ok(());
    }
    let payload = serde_json::to_string(&CallBack { job_id: job.id })
        .map_err(|error| PortError::fatal("encode job", error))?;
    let enqueue = Enqueue {
        id: job.id.to_string(),
        payload,
        tenant: job.tenant(),
        priority: 0,
        delay: Duration::ZERO,
        max_attempts: CALLBACK_ATTEMPTS,
        traceparent: job.traceparent.clone(),
        // What is being posted may be an earlier result: an administrator had the job tried again.
        again_if_running: true,
    };
    queue.enqueue(QUEUE_CALLBACK, &enqueue).await.map(drop)
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

/// Makes a job that is dead one that waits, without the result that said so; [`sweep`] queues it, if nobody else does.
/// False: it is not dead.
///
/// # Errors
/// The records or the archive are away. The result may be gone already; the job can be revived again.
pub async fn revive(records: &dyn Records, archive: &dyn Archive, job: JobId) -> Result<bool> {
    let row = records.job(job).await?;
    if row.is_none_or(|row| row.state != JobState::Dead) {
        return Ok(false);
    }
    // First: a worker that found it would take it for the result of the new run.
    archive.delete_results(&[job]).await?;
    records.revive_job(job).await
}
