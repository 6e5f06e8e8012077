//! Writes down a run: the row, the result, the room's entries. Every step may be repeated; a store that is away is
//! waited for, so that its absence costs no attempt.

use std::time::Duration;

use atelier_shared::domain::entry::Body;
use atelier_shared::domain::ids::JobId;
use atelier_shared::domain::job::{Job as Row, JobResult};
use atelier_shared::domain::presence::Member;
use atelier_shared::ports::PortError;
use atelier_shared::{conclusion, withdrawal};
use chrono::{TimeDelta, Utc};
use tokio::time::Instant;

use super::Execution;
use crate::bridge::Backoff;
use crate::jobs::Failure;

/// How long one step waits for a store before the attempt fails.
const PATIENCE: Duration = Duration::from_secs(60);
const STORE_AWAY: Backoff = Backoff {
    first: Duration::from_millis(100),
    most: Duration::from_secs(2),
};

pub(super) struct Recorder<'a> {
    services: &'a Execution,
}

impl<'a> Recorder<'a> {
    pub fn new(services: &'a Execution) -> Self {
        Self { services }
    }

    pub async fn row(&self, id: JobId) -> Result<Option<Row>, Failure> {
        patiently(|| self.services.records.job(id)).await
    }

    pub async fn result(&self, id: JobId) -> Result<Option<JobResult>, Failure> {
        patiently(|| self.services.archive.result(id, Utc::now())).await
    }

    /// False: it is over already.
    pub async fn start(&self, row: &Row, attempt: u32) -> Result<bool, Failure> {
        patiently(|| self.services.records.start_job(row.id, attempt, Utc::now())).await
    }

    pub async fn tell_started(&self, row: &Row) -> Result<(), Failure> {
        let body = Body::RunStarted {
            run_id: row.id,
            language: row.spec.language.clone(),
        };
        // In the name of the message that asked for it, if one did: the place of this entry is its ack.
        let by = conclusion::author(row).map_err(invalid)?;
        let (mut by, mut reference) = (by, conclusion::reference(row, "started"));
        // Under that ref it starts once; after it was dead and put back it starts under its own.
        let asked = row.asked_by.as_ref().filter(|_| row.revivals == 0);
        if let Some(asked) = asked.and_then(|asked| asked.reference.clone()) {
            reference = asked;
        }
        if let Some(member) = self.owner_in_room(row).await {
            by.color = Some(member.color);
            by.avatar_url = member.avatar_url;
        }
        let s = self.services;
        patiently(|| {
            let (records, archive, log, queue) = (&*s.records, &*s.archive, &*s.log, &*s.queue);
            let said = (reference.clone(), body.clone());
            conclusion::tell(records, archive, log, queue, row, by.clone(), said)
        })
        .await
    }

    /// The owner as the room sees them, if they are there: by the connection that asked, else by any.
    async fn owner_in_room(&self, row: &Row) -> Option<Member> {
        let members = self.services.presence.members(row.room_id.as_ref()?).await;
        let members = members
            .inspect_err(|error| tracing::debug!(%error, "a run starts in nobody's colour"))
            .ok()?;
        let asked = row.asked_by.as_ref().map(|asked| &asked.client_id);
        let theirs = members.into_iter().filter(|m| m.user_id == row.owner);
        theirs.max_by_key(|member| Some(&member.client_id) == asked)
    }

    /// Whoever cancelled it before it began may not have come to that.
    pub async fn tell_withdrawn(&self, row: &Row) -> Result<(), Failure> {
        let (s, at) = (self.services, row.finished_at.unwrap_or_else(Utc::now));
        patiently(|| withdrawal::tell(&*s.records, &*s.log, &*s.archive, &*s.queue, row, at))
            .await?;
        if let Err(error) = s.output.end(row.id).await {
            tracing::debug!(%error, "watchers not told of the end; they look themselves in a while");
        }
        Ok(())
    }

    /// Stores the result (or takes the one that was stored before), closes the row, and tells the room.
    pub async fn conclude(&self, row: &Row, result: JobResult) -> Result<(), Failure> {
        let s = self.services;
        let keep = TimeDelta::from_std(s.keep_results).unwrap_or(TimeDelta::MAX);
        let expires_at = Utc::now()
            .checked_add_signed(keep)
            .unwrap_or(chrono::DateTime::<Utc>::MAX_UTC);
        patiently(|| {
            let (records, archive, log, queue) = (&*s.records, &*s.archive, &*s.log, &*s.queue);
            conclusion::conclude(records, archive, log, queue, row, &result, expires_at)
        })
        .await?;
        if let Err(error) = s.output.end(row.id).await {
            tracing::debug!(%error, "watchers not told of the end; they look themselves in a while");
        }
        Ok(())
    }
}

fn invalid(error: atelier_shared::domain::Invalid) -> Failure {
    Failure::Final(error.to_string())
}

pub(super) async fn patiently<T, F>(step: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, PortError>>,
{
    let patience_ends = Instant::now() + PATIENCE;
    let mut failures = 0;
    loop {
        match step().await {
            Ok(value) => return Ok(value),
            Err(error) if error.is_retryable() => {
                failures += 1;
                let pause = STORE_AWAY.delay(failures);
                if Instant::now() + pause >= patience_ends {
                    return Err(error.into());
                }
                tracing::debug!(%error, failures, "a store is away, waiting for it");
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
