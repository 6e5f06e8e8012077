//! Cancelling. A job that has not begun: its row first, then its room, the queue last, so that a worker tells the room if
//! whoever cancelled it died in between. One that has begun ends by its holder; if nobody holds it, here.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::Backends;
use crate::domain::Invalid;
use crate::domain::entry::{Body, Record};
use crate::domain::ids::Ref;
use crate::domain::job::{Job, JobResult, JobState, QUEUE_CODE};
use crate::ports::{Archive, Cancelled, PortError, Queue, Records, Result, RoomLog};
use crate::{conclusion, outbox, recovery};

/// How long is kept that a run was cancelled while nobody held it: there is nothing in it but that, and a late holder of the
/// job must find it.
const KEPT: TimeDelta = TimeDelta::days(30);

/// Was this job cancelled before it began?
pub fn is_withdrawn(job: &Job) -> bool {
    job.state == JobState::Cancelled && job.started_at.is_none()
}

/// What such a job comes to. Nothing of it is stored: its row says it all.
pub fn result_of(job: &Job) -> Option<JobResult> {
    is_withdrawn(job).then(|| {
        let at = job.finished_at.unwrap_or(job.created_at);
        JobResult {
            finished_at: at,
            ..JobResult::without_outcome(job, job.attempts, at, JobState::Cancelled, String::new())
        }
    })
}

/// Cancels a job that is not over: at once if nobody has it in hand (it waits, or waits again after an attempt, or the queue
/// has lost it), else its holder ends it in a moment. Can be repeated after an error.
///
/// # Errors
/// A store is away.
pub async fn cancel(b: &Backends, job: &Job) -> Result<()> {
    let id = job.id.to_string();
    let at = Utc::now().trunc_subsecs(6);
    if b.records.cancel_job(job.id, at).await? {
        tell(&*b.records, &*b.log, &*b.archive, &*b.queue, job, at).await?;
        b.queue.cancel(QUEUE_CODE, &id).await?;
        return b.output.end(job.id).await;
    }
    if b.queue.cancel(QUEUE_CODE, &id).await? == Cancelled::Marked {
        return Ok(());
    }
    // It has begun and nobody holds it: left as it is, it would be queued again and run. Or it has just ended.
    let Some(job) = b.records.job(job.id).await? else {
        return Ok(());
    };
    if job.state.is_final() {
        return Ok(());
    }
    let (state, started_at) = (JobState::Cancelled, job.started_at.unwrap_or(at));
    let result = JobResult::without_outcome(&job, job.attempts, started_at, state, String::new());
    let (records, archive, log, queue) = (&*b.records, &*b.archive, &*b.log, &*b.queue);
    conclusion::conclude(records, archive, log, queue, &job, &result, at + KEPT).await?;
    b.output.end(job.id).await
}

/// Tells a withdrawn job's room (in the name of the message that asked for it, if one did: this entry's place is then its
/// ack) and its sender's `callback_url`. Can be repeated: the room hears it once.
///
/// # Errors
/// A store is away.
pub async fn tell(
    records: &dyn Records,
    log: &dyn RoomLog,
    archive: &dyn Archive,
    queue: &dyn Queue,
    job: &Job,
    at: DateTime<Utc>,
) -> Result<()> {
    if let Some(room) = &job.room_id
        && records.room(room).await?.is_some()
    {
        let record = record(job, at)
            .map_err(|error| PortError::fatal("tell of a withdrawn job", error.to_string()))?;
        recovery::append(log, archive, queue, room, &record, at.timestamp_millis()).await?;
    }
    outbox::call_back(queue, job).await
}

fn record(job: &Job, at: DateTime<Utc>) -> Result<Record, Invalid> {
    // As a run that began: by its message once, and after it was dead and put back in its own name.
    let asked = job.asked_by.as_ref();
    let reference: Ref = match (
        asked.and_then(|asked| asked.reference.clone()),
        job.revivals,
    ) {
        (Some(reference), 0) => reference,
        (_, again) => job.own_reference(format_args!("withdrawn:{again}")),
    };
    Ok(Record {
        ts_ms: at.timestamp_millis(),
        author: conclusion::author(job)?,
        reference: Some(reference),
        audience: None,
        body: Body::RunFinished {
            run_id: job.id,
            status: JobState::Cancelled,
            exit_code: None,
            signal: None,
            wall_ms: 0,
        },
    })
}
