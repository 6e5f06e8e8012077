//! Cleaning up: one file per layer. Whatever is removed was found to be nobody's by the rules of
//! [`atelier_shared::domain::cleanup`]; every step can be repeated, so a run that was cut off is simply done again.

mod files;
mod guests;
#[cfg(test)]
mod late_tests;
mod people;
#[cfg(test)]
mod people_tests;
mod remains;
mod rooms;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::Backends;
use atelier_shared::domain::cleanup::{Cleanup, CleanupRun, Counts, RunState, Scope};
use atelier_shared::domain::job::QUEUE_CLEANUP;
use atelier_shared::ports::{Enqueue, PortError, Result};
use atelier_shared::removals;
use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

use super::{Attempt, Failure, Job};
use crate::bridge::Backoff;

/// How long things must have been nobody's, and how often they are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// An ephemeral room is removed so long after it emptied.
    pub room_delay: Duration,
    /// Files and rows younger than this are left alone.
    pub file_grace: Duration,
    /// Whoever is connected to a room that an administrator has cleaned is told so long before.
    pub notice: Duration,
    /// Between a room's row going and its content: whoever was just coming in shows up meanwhile, and has it back.
    pub settle: Duration,
    /// What a removed room held is kept for so long.
    pub keep: Duration,
    pub rooms_every: Duration,
    pub people_every: Duration,
    pub everything_every: Duration,
}

impl Policy {
    fn every(&self, scope: Scope) -> Duration {
        match scope {
            Scope::Rooms | Scope::Room => self.rooms_every,
            Scope::Connections | Scope::AutoUsers | Scope::StuckUsers => self.people_every,
            Scope::OrphanedFiles | Scope::Comprehensive => self.everything_every,
        }
    }
}

/// What the jobs of [`QUEUE_CLEANUP`] work with.
pub struct Cleaner {
    backends: Backends,
    policy: Policy,
}

impl Cleaner {
    pub fn new(backends: Backends, policy: Policy) -> Self {
        Self { backends, policy }
    }

    async fn clean(&self, job: &Cleanup, counts: &mut Counts) -> Result<()> {
        let dry_run = job.dry_run;
        match job.scope {
            Scope::Connections | Scope::AutoUsers | Scope::StuckUsers => {
                self.people(job.scope, dry_run, counts).await?;
                // By the clock they go with everything: every living guest is asked about.
                if job.scope == Scope::AutoUsers && job.run.is_some() {
                    self.guests(dry_run, counts).await?;
                }
                Ok(())
            }
            Scope::Rooms => self.rooms(dry_run, counts).await,
            Scope::Room => match &job.room {
                // Asked for by name, it need not have been empty for long, or at all.
                Some(room) if job.run.is_some() => self.room_asked_for(room, dry_run, counts).await,
                Some(room) => self.abandoned_room(room, dry_run, counts).await,
                None => Err(PortError::fatal("clean a room", "the job names no room")),
            },
            Scope::OrphanedFiles => self.files(dry_run, counts).await,
            Scope::Comprehensive => {
                self.people(Scope::Comprehensive, dry_run, counts).await?;
                self.rooms(dry_run, counts).await?;
                self.files(dry_run, counts).await?;
                self.guests(dry_run, counts).await?;
                self.remains(dry_run, counts).await
            }
        }
    }
}

fn count(counts: &mut Counts, what: &str, amount: u64) {
    *counts.entry(what.to_owned()).or_default() += amount;
}

/// A scheduled run: the same id each time, so that late ones do not pile up.
pub fn scheduled(scope: Scope) -> Enqueue {
    let job = Cleanup {
        run: None,
        scope,
        room: None,
        dry_run: false,
    };
    removals::job(
        format!("scheduled:{}", scope.as_str()),
        &job,
        Duration::ZERO,
    )
}

fn chrono_of(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::MAX)
}

fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

impl Job for Cleanup {
    type Services = Arc<Cleaner>;

    const QUEUE: &'static str = QUEUE_CLEANUP;
    const TIMEOUT: Duration = Duration::from_secs(30 * 60);
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        most: Duration::from_secs(60),
    };

    async fn run(self, _: Attempt, cleaner: Arc<Cleaner>) -> std::result::Result<(), Failure> {
        let records = &cleaner.backends.records;
        let asked = match self.run {
            Some(id) => records.cleanup(id).await?,
            None => None,
        };
        let mut run = asked.unwrap_or_else(|| CleanupRun {
            id: self.run.unwrap_or_else(Uuid::now_v7),
            scope: self.scope,
            dry_run: self.dry_run,
            state: RunState::Queued,
            counts: Counts::new(),
            error: None,
            asked_at: now(),
            finished_at: None,
            next_at: None,
        });
        let mut counts = Counts::new();
        let outcome = cleaner.clean(&self, &mut counts).await;
        run.counts = counts;
        run.finished_at = Some(now());
        run.next_at = Some(now() + chrono_of(cleaner.policy.every(self.scope)));
        (run.state, run.error) = match &outcome {
            Ok(()) => (RunState::Succeeded, None),
            Err(error) => (RunState::Failed, Some(error.operation.to_owned())),
        };
        // A room's own job that found nothing to do is not worth a line among the runs.
        if self.run.is_some()
            || outcome.is_err()
            || !run.counts.is_empty()
            || self.scope != Scope::Room
        {
            records.save_cleanup(&run).await?;
        }
        tracing::info!(scope = self.scope.as_str(), dry_run = self.dry_run, counts = ?run.counts, failed = outcome.is_err(), "cleaned up");
        outcome.map_err(Failure::from)
    }
}
