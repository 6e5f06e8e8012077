//! A job that is cancelled before it began: its row first, then its room, the queue last, so that a worker tells the room if
//! whoever cancelled it died in between.

use chrono::{DateTime, SubsecRound, Utc};

use crate::Backends;
use crate::domain::Invalid;
use crate::domain::entry::{Author, Body, Record};
use crate::domain::ids::Ref;
use crate::domain::job::{Job, JobState, QUEUE_CODE};
use crate::ports::{Archive, PortError, Queue, Records, Result, RoomLog};
use crate::{outbox, recovery};

/// Was this job cancelled before it began?
pub fn is_withdrawn(job: &Job) -> bool {
    job.state == JobState::Cancelled && job.started_at.is_none()
}

/// Cancels a job that waits. False: it does not, or not any more; whoever runs it has to be told. Can be repeated after an
/// error: [`tell`] then does what is left.
///
/// # Errors
/// A store is away.
pub async fn withdraw(b: &Backends, job: &Job) -> Result<bool> {
    let at = Utc::now().trunc_subsecs(6);
    if !b.records.cancel_job(job.id, at).await? {
        return Ok(false);
    }
    tell(&*b.records, &*b.log, &*b.archive, &*b.queue, job, at).await?;
    b.queue.cancel(QUEUE_CODE, &job.id.to_string()).await?;
    b.output.end(job.id).await?;
    Ok(true)
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
        author: Author {
            client_id: job.speaks_as()?,
            user_id: job.owner,
            connection: None,
            name: job.owner_name.clone(),
            color: None,
            avatar_url: None,
        },
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
