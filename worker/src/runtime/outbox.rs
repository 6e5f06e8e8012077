//! The outbox: a job's row is written before the queue hears of it; rows that the queue was never confirmed to have
//! (the gateway died in between, the queue was away) are queued here.

use std::time::Duration;

use atelier_shared::domain::job::QUEUE_CODE;
use atelier_shared::ports::PortError;
use atelier_shared::{Backends, outbox};
use chrono::{TimeDelta, Utc};

use super::schedule::OUTBOX_DOUBT;

/// A mark that the queue keeps for as long as it remembers anything: where it is missing the queue is new, or was emptied.
const MEMORY_MARK: &str = "queue-memory";
const MEMORY_KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Jobs doubted at a time, oldest first.
const DOUBTED: usize = 1_000;
/// How long whoever wrote the row has to queue the job itself.
const GRACE: Duration = Duration::from_secs(3);
/// Jobs queued in one sweep.
const BATCH: usize = 200;

pub(super) async fn sweep(backends: Backends) -> Result<(), PortError> {
    let queue = &backends.queue;
    if queue.claim_tick(MEMORY_MARK, 0, MEMORY_KEPT).await? {
        let stats = queue.stats(QUEUE_CODE).await?;
        let known = stats.waiting + stats.delayed + stats.in_flight;
        let jobs = doubt_all(&backends).await?;
        if jobs > known {
            tracing::warn!(
                jobs,
                known,
                "the queue was emptied; what it does not know is queued anew"
            );
        }
    }
    let before = Utc::now() - GRACE;
    let queued = outbox::sweep(&*backends.records, &*backends.queue, before, BATCH).await?;
    if queued > 0 {
        tracing::info!(jobs = queued, "jobs queued from the outbox");
    }
    Ok(())
}

/// Jobs that ended so long ago are taken up once more when the queue was emptied: whoever ended them may have got no
/// further than their row, and who waits for a callback may have been forgotten. Whoever has heard hears no more of it (a
/// callback may come twice).
const ENDED: TimeDelta = TimeDelta::hours(1);

/// Every job that is not over, and every one that ended lately and has somebody to be told, whatever its row says of the
/// queue. Answers how many are not over.
async fn doubt_all(backends: &Backends) -> Result<u64, PortError> {
    let since = Utc::now() - ENDED;
    while backends.records.doubt_ended(since, DOUBTED).await? >= DOUBTED as u64 {}
    let mut all = 0;
    loop {
        let doubted = backends.records.doubt_queued(Utc::now(), DOUBTED).await?;
        all += doubted;
        if doubted < DOUBTED as u64 {
            return Ok(all);
        }
    }
}

/// The queue may have lost a part of its memory, rolled back by a failover. One that still has the jobs says so, and nothing changes.
pub(super) async fn doubt(backends: Backends) -> Result<(), PortError> {
    let before = Utc::now() - OUTBOX_DOUBT.every;
    backends
        .records
        .doubt_queued(before, DOUBTED)
        .await
        .map(drop)
}
