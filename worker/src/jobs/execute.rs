//! Runs one piece of code in the sandbox and records what came of it, in exactly one final state with one result.
//!
//! The order of the steps is what makes a kill between any two of them harmless: the result is stored once, before the
//! row says it is over, before the room is told, before the queue forgets the job. Whoever comes next begins by looking
//! for the result and only does what is still undone.

mod artifacts;
mod live;
mod progress;
mod record;
mod result;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::job::{Job as Row, JobResult, JobState, Progress, QUEUE_CODE};
use atelier_shared::outbox::{EXECUTE_LAPSES, ExecuteJob};
use atelier_shared::ports::{Archive, Files, LiveOutput, Presence, Queue, Records, RoomLog};
use atelier_shared::withdrawal;
use chrono::{DateTime, Utc};
use tracing::Instrument;

use self::record::Recorder;
use super::{Attempt, Failure, Job};
use crate::bridge::Backoff;
use crate::sandbox::toolchains::Toolchains;
use crate::sandbox::{Limits, Outcome, Sandbox, SandboxError};

/// What running code needs.
pub struct Execution {
    pub records: Arc<dyn Records>,
    pub archive: Arc<dyn Archive>,
    pub log: Arc<dyn RoomLog>,
    pub queue: Arc<dyn Queue>,
    pub output: Arc<dyn LiveOutput>,
    pub files: Arc<dyn Files>,
    pub presence: Arc<dyn Presence>,
    pub sandbox: Arc<dyn Sandbox>,
    pub toolchains: Toolchains,
    /// The most a job may ask for.
    pub ceiling: Limits,
    /// How long results are kept.
    pub keep_results: Duration,
    /// Most bytes of files kept of one job; 0: none.
    pub artifact_bytes: u64,
}

impl Job for ExecuteJob {
    type Services = Arc<Execution>;

    const QUEUE: &'static str = QUEUE_CODE;
    /// Compiling and running at the highest ceiling (5 minutes each), and patience with stores that are away.
    const TIMEOUT: Duration = Duration::from_secs(20 * 60);
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        most: Duration::from_secs(60),
    };

    async fn run(self, attempt: Attempt, services: Arc<Execution>) -> Result<(), Failure> {
        let recorder = Recorder::new(&services);
        let Some(row) = recorder.row(self.job_id).await? else {
            tracing::info!(job = %self.job_id, "the job was deleted before it ran");
            return Ok(());
        };
        // Run before, and killed before everybody had heard.
        if let Some(result) = recorder.result(row.id).await? {
            return recorder.conclude(&row, result).await;
        }
        if !row.state.is_final() && attempt.lapses >= EXECUTE_LAPSES {
            let reason = format!("quarantined: {} workers died under it", attempt.lapses);
            let attempts = attempt.number.saturating_sub(1);
            services
                .give_up(&row, attempts, &reason, Utc::now())
                .await?;
            return Err(Failure::Final(reason));
        }
        if withdrawal::is_withdrawn(&row) {
            return recorder.tell_withdrawn(&row).await;
        }
        if row.state.is_final() {
            return Ok(());
        }
        if attempt.cancel.is_cancelled() {
            // While an earlier attempt had it.
            let (attempts, at) = (attempt.number, Utc::now());
            let state = JobState::Cancelled;
            let result = JobResult::without_outcome(&row, attempts, at, state, String::new());
            return recorder.conclude(&row, result).await;
        }
        if !recorder.start(&row, attempt.number).await? {
            return Ok(());
        }
        recorder.tell_started(&row).await?;
        // Whoever watches hears that it runs; that what they have heard of an earlier attempt is void.
        if let Err(error) = services.output.begin(row.id, attempt.number).await {
            tracing::debug!(%error, "watchers not told of the start");
        }
        let started_at = Utc::now();
        match services.run(&row, &attempt).await {
            Ok((mut outcome, progress)) => {
                let left = std::mem::take(&mut outcome.artifacts);
                let mut result = result::of_outcome(&row, &attempt, started_at, outcome);
                result.progress = progress;
                artifacts::keep(&*services.files, &row, left, &mut result).await;
                recorder.conclude(&row, result).await
            }
            Err(error) if error.is_retryable() && !attempt.is_last() => {
                Err(Failure::Retry(error.to_string()))
            }
            Err(error) => {
                let state = if error.is_retryable() {
                    JobState::Dead
                } else {
                    JobState::Rejected
                };
                let (attempts, reason) = (attempt.number, error.to_string());
                let result =
                    JobResult::without_outcome(&row, attempts, started_at, state, reason.clone());
                recorder.conclude(&row, result).await?;
                match state {
                    // Its letter lies with the others, to be looked at and put back.
                    JobState::Dead => Err(Failure::Final(reason)),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl Execution {
    /// The program's own span; what the room sees of its output, it sees while it is made.
    async fn run(
        &self,
        row: &Row,
        attempt: &Attempt,
    ) -> Result<(Outcome, Option<Progress>), SandboxError> {
        let mut program = self.toolchains.program(&row.spec, &self.ceiling)?;
        program.artifacts = artifacts::request(self.artifact_bytes);
        let memory_bytes = program.limits.memory_bytes;
        let span = tracing::info_span!(
            "sandbox",
            language = row.spec.language,
            state = tracing::field::Empty
        );
        let cancel = attempt.cancel.clone();
        let (sink, chunks) = live::channel();
        let run = self.sandbox.run(program, sink, cancel);
        let telling = live::Telling {
            output: &*self.output,
            log: &*self.log,
            room: row.room_id.as_ref(),
            job: row.id,
            attempt: attempt.number,
        };
        // The sink goes with the run, so that the telling ends after its last word.
        let (mut ran, progress) = tokio::join!(run.instrument(span.clone()), telling.tell(chunks));
        if let Ok(outcome) = &mut ran {
            self.toolchains.judge(&row.spec, memory_bytes, outcome);
            span.record("state", outcome.state().as_str());
        }
        Ok((ran?, progress))
    }

    /// Records a job whose attempts were all lost (the worker died under each), unless a result says otherwise.
    ///
    /// # Errors
    /// A store is away.
    pub async fn give_up(
        &self,
        row: &Row,
        attempts: u32,
        reason: &str,
        at: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let recorder = Recorder::new(self);
        let result = match recorder.result(row.id).await? {
            Some(result) => result,
            None => {
                JobResult::without_outcome(row, attempts, at, JobState::Dead, reason.to_owned())
            }
        };
        recorder.conclude(row, result).await
    }
}
