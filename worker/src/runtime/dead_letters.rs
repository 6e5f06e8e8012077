//! Code-execution jobs whose every attempt was lost with its worker: the queue buries them, and nobody was left to say
//! so. Their rows, results and rooms are brought up to date here.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::job::{JobState, QUEUE_CODE};
use atelier_shared::outbox::ExecuteJob;
use atelier_shared::ports::{DeadJob, PortError};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::jobs::execute::Execution;

/// Letters looked at in one sweep, newest first.
const BATCH: usize = 100;
/// Letters older than the newest one seen are looked at again for so long: they may have been written late.
const OVERLAP: Duration = Duration::from_secs(60);

/// `seen`: when the newest letter died that an earlier sweep, ours or another worker's, recorded; the first looks at all
/// it gets.
pub(super) async fn sweep(
    execution: Arc<Execution>,
    seen: Arc<Mutex<DateTime<Utc>>>,
) -> Result<(), PortError> {
    let since = *seen.lock();
    let newest = once(&execution, since).await?;
    *seen.lock() = newest;
    Ok(())
}

async fn once(execution: &Execution, since: DateTime<Utc>) -> Result<DateTime<Utc>, PortError> {
    let letters = execution.queue.dead(QUEUE_CODE, BATCH).await?;
    let newest = letters
        .iter()
        .map(|letter| letter.died_at)
        .fold(since, DateTime::max);
    let from = since.checked_sub_signed(chrono::TimeDelta::from_std(OVERLAP).unwrap_or_default());
    for letter in letters {
        if from.is_none_or(|from| letter.died_at >= from) {
            record(execution, &letter).await?;
        }
    }
    Ok(newest)
}

async fn record(execution: &Execution, letter: &DeadJob) -> Result<(), PortError> {
    // What can't be read has no row.
    let Ok(ExecuteJob { job_id }) = serde_json::from_str(&letter.payload) else {
        return Ok(());
    };
    let Some(row) = execution.records.job(job_id).await? else {
        return Ok(());
    };
    // One that is being put back waits, untried, while its letter is still here.
    let revived = row.state == JobState::Queued && row.attempts == 0;
    if row.state.is_final() || revived {
        return Ok(());
    }
    tracing::warn!(job = %job_id, attempts = letter.attempts, reason = letter.reason, "job is dead");
    let reason = format!(
        "given up after {} attempts: {}",
        letter.attempts, letter.reason
    );
    execution
        .give_up(&row, letter.attempts, &reason, letter.died_at)
        .await
        .map_err(|failure| PortError::retry("record a dead job", failure))
}
