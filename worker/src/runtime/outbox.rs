//! The outbox: a job's row is written before the queue hears of it; rows that the queue was never confirmed to have
//! (the gateway died in between, the queue was away) are queued here.

use std::time::Duration;

use atelier_shared::ports::PortError;
use atelier_shared::{Backends, outbox};
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::sweep;

const BEAT: Duration = Duration::from_secs(2);
/// How often jobs that are not over are offered to the queue again, in case it lost its memory (emptied, or rolled back
/// by a failover). A queue that has them says so, and nothing changes.
const DOUBT_BEAT: Duration = Duration::from_secs(30);
/// Jobs doubted at a time, oldest first.
const DOUBTED: usize = 1_000;
/// How long whoever wrote the row has to queue the job itself.
const GRACE: Duration = Duration::from_secs(3);
/// Jobs queued in one sweep.
const BATCH: usize = 200;

pub(super) async fn sweep(backends: Backends, stop: CancellationToken) {
    let queue = backends.queue.clone();
    sweep::every(&*queue, "outbox", BEAT, &stop, || once(&backends)).await;
}

pub(super) async fn doubt(backends: Backends, stop: CancellationToken) {
    let queue = backends.queue.clone();
    let records = &backends.records;
    sweep::every(&*queue, "outbox-doubt", DOUBT_BEAT, &stop, || async {
        let before = Utc::now() - DOUBT_BEAT;
        records.doubt_queued(before, DOUBTED).await.map(drop)
    })
    .await;
}

async fn once(backends: &Backends) -> Result<(), PortError> {
    let before = Utc::now() - GRACE;
    let queued = outbox::sweep(&*backends.records, &*backends.queue, before, BATCH).await?;
    if queued > 0 {
        tracing::info!(jobs = queued, "jobs queued from the outbox");
    }
    Ok(())
}
