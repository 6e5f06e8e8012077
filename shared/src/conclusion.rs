//! The end of a run: its result is stored once, before the row says that it is over, before the room and the sender are
//! told. Whoever comes after a kill between any two of these steps does what is left.

use chrono::{DateTime, Utc};

use crate::domain::Invalid;
use crate::domain::entry::{Author, Body, Record};
use crate::domain::ids::Ref;
use crate::domain::job::{Job, JobResult};
use crate::ports::{Archive, PortError, Queue, Records, Result, RoomLog};
use crate::{outbox, recovery};

/// Stores the result (or takes the one that was stored before), closes the row, tells the room and the sender's
/// `callback_url`. Can be repeated.
///
/// # Errors
/// A store is away.
pub async fn conclude(
    records: &dyn Records,
    archive: &dyn Archive,
    log: &dyn RoomLog,
    queue: &dyn Queue,
    job: &Job,
    result: &JobResult,
    expires_at: DateTime<Utc>,
) -> Result<()> {
    let mut earlier = None;
    if !archive.put_result(job.id, result, expires_at).await? {
        // Somebody was first: a late holder of this very job. What everybody reads is what is stored.
        earlier = archive.result(job.id, Utc::now()).await?;
    }
    let result = earlier.as_ref().unwrap_or(result);
    records
        .finish_job(job.id, result.status, result.finished_at)
        .await?;
    let body = Body::RunFinished {
        run_id: job.id,
        status: result.status,
        exit_code: result.exit_code,
        signal: result.signal,
        wall_ms: result.usage.wall_ms,
    };
    let invalid = |error: Invalid| PortError::fatal("tell of a run", error.to_string());
    let by = author(job).map_err(invalid)?;
    tell(
        records,
        archive,
        log,
        queue,
        job,
        by,
        (reference(job, "finished"), body),
    )
    .await?;
    outbox::call_back(queue, job).await
}

/// Appends to the job's room, once. A job without a room, or whose room is gone, tells nobody.
///
/// # Errors
/// A store is away.
pub async fn tell(
    records: &dyn Records,
    archive: &dyn Archive,
    log: &dyn RoomLog,
    queue: &dyn Queue,
    job: &Job,
    author: Author,
    (reference, body): (Ref, Body),
) -> Result<()> {
    let Some(room) = &job.room_id else {
        return Ok(());
    };
    if records.room(room).await?.is_none() {
        return Ok(());
    }
    let now_ms = Utc::now().timestamp_millis();
    let record = Record {
        ts_ms: now_ms,
        author,
        reference: Some(reference),
        audience: None,
        body,
    };
    recovery::append(log, archive, queue, room, &record, now_ms)
        .await
        .map(drop)
}

/// The owner, as the client that asked, or on a connection of the job's own: refs are remembered per person and client.
///
/// # Errors
/// An id that is none.
pub fn author(job: &Job) -> std::result::Result<Author, Invalid> {
    Ok(Author {
        client_id: job.speaks_as()?,
        user_id: job.owner,
        connection: None,
        name: job.owner_name.clone(),
        color: None,
        avatar_url: None,
    })
}

/// What a room has heard under it, it does not hear again: a job that was put back speaks under another.
pub fn reference(job: &Job, what: &str) -> Ref {
    match job.revivals {
        0 => job.own_reference(format_args!("{what}")),
        again => job.own_reference(format_args!("{what}:{again}")),
    }
}
