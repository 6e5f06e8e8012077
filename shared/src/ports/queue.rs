//! The queue of jobs: at least once, with leases and fencing.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{PortError, Result};
use crate::domain::job::AskedLimits;

/// Longest payload of a job, in bytes.
pub const PAYLOAD_MAX_BYTES: usize = 256 * 1024;
/// Longest id of a job and longest name of a tenant, in bytes.
pub const ID_MAX_BYTES: usize = 256;
/// Jobs that may wait in one queue (delayed ones counted) before it takes no more.
pub const DEPTH_MAX: u64 = 1_000_000;
/// Dead letters kept per queue; beyond it the oldest goes.
pub const DEAD_MAX: u64 = 10_000;
/// Most dead letters read in one call (each may carry a whole payload).
pub const DEAD_PAGE_MAX: usize = 500;
/// Longest reason kept with a dead letter, in bytes.
pub const REASON_MAX_BYTES: usize = 1_024;
/// The reason of a job whose last holder went silent.
pub const LEASE_LAPSED: &str = "lease lapsed";

/// A job to be queued. Times are milliseconds since 1970 on the store's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enqueue {
    /// Unique within the queue: while a job with this id is waiting, delayed or claimed, another is not added.
    /// 1 to 256 bytes.
    pub id: String,
    /// At most 256 KiB; the queue does not look inside.
    pub payload: String,
    /// Turns are taken round-robin between tenants. 1 to 256 bytes.
    pub tenant: String,
    /// Greater first, within a tenant.
    pub priority: i16,
    /// Wait so long before the first claim.
    pub delay: Duration,
    /// Attempts in all before it is dead; at least 1.
    pub max_attempts: u32,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// If the id is claimed right now, run it once more after that (set for "something changed" jobs, whose running
    /// attempt may have looked already).
    pub again_if_running: bool,
}

impl Enqueue {
    /// Holds the job to the queue's bounds; adapters call it first.
    ///
    /// # Errors
    /// Final, naming the field.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(PortError::fatal("enqueue", reason));
        if self.payload.len() > PAYLOAD_MAX_BYTES {
            return refuse(format!(
                "payload: {} bytes, at most {PAYLOAD_MAX_BYTES} are allowed",
                self.payload.len()
            ));
        }
        for (field, value) in [("id", &self.id), ("tenant", &self.tenant)] {
            if value.is_empty() || value.len() > ID_MAX_BYTES {
                return refuse(format!("{field}: must have 1 to {ID_MAX_BYTES} bytes"));
            }
        }
        if self.max_attempts == 0 {
            return refuse("max_attempts: must be at least 1".into());
        }
        Ok(())
    }
}

/// `reason` cut to [`REASON_MAX_BYTES`], on a character's edge.
pub(crate) fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_MAX_BYTES)]
}

/// What became of an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    Added,
    /// It was there already (waiting, delayed or claimed); nothing was added.
    Known,
    /// It is claimed right now and will run once more.
    Again,
}

/// The right to work on a claimed job. `token` rises with every claim, so a late holder is told from the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub queue: String,
    pub id: String,
    pub token: u64,
}

/// A job in hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    pub lease: Lease,
    pub payload: String,
    pub tenant: String,
    /// This claim included.
    pub attempt: u32,
    pub max_attempts: u32,
    /// Earlier attempts that ended with their holder's silence: what kills its worker each time is poison.
    pub lapses: u32,
    pub enqueued_at: DateTime<Utc>,
    pub traceparent: Option<String>,
    /// It was cancelled while an earlier holder had it.
    pub cancelled: bool,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is claimed: its holder, or whoever holds it next, sees the mark.
    Marked,
    /// It waited, or was delayed, and is out: nobody will hold it.
    TakenOut,
    /// There is no such job.
    Unknown,
}

/// Did the settling count?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// The lease had lapsed and somebody else has (or had) the job; nothing changed.
    Lost,
}

/// A job that used up its attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadJob {
    pub id: String,
    pub payload: String,
    pub tenant: String,
    pub attempts: u32,
    /// What the last attempt said; "lease lapsed" if it said nothing.
    pub reason: String,
    pub died_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueStats {
    pub waiting: u64,
    pub delayed: u64,
    pub in_flight: u64,
    pub dead: u64,
    /// How long the first in line has waited.
    pub oldest_ms: u64,
    /// Since the queue was made.
    pub finished_total: u64,
    /// In the last 60 s, give or take ten.
    pub finished_last_minute: u64,
}

/// What a worker tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub id: String,
    pub queues: Vec<String>,
    /// `(name, version)` of each language found.
    pub languages: Vec<(String, String)>,
    pub sandbox_tier: String,
    /// The most it lets a job ask for.
    #[serde(default)]
    pub ceiling: AskedLimits,
}

/// Wakes whoever waits for work. The value changes with every wake-up.
pub type QueueWaker = watch::Receiver<u64>;

/// Promises:
/// - A job is claimed by one holder at a time; its lease runs out unless renewed, and then it is claimable again (or
///   dead, if its attempts are used up). Attempts are counted at the claim, so a crash counts.
/// - Settling with a lapsed lease changes nothing and says so.
/// - Between tenants turns go round-robin; within a tenant by priority, then first in first out.
/// - At most `in_flight_per_tenant` of a tenant's jobs are claimed at a time.
/// - A waiting worker is woken at once by an enqueue on any pod, without polling.
/// - Delays are on the store's clock; a due job is promoted by the next claim, in bounded chunks.
/// - Every call is one step: it happens wholly or not at all. A queue that holds [`DEPTH_MAX`] jobs refuses more, retryably.
#[async_trait]
pub trait Queue: Send + Sync {
    async fn ping(&self) -> Result<()>;

    async fn enqueue(&self, queue: &str, job: &Enqueue) -> Result<Enqueued>;

    /// Takes one job, or says when the next is due at the latest (`None`: nothing is delayed or leased): the caller
    /// asks again then, or when the waker moves.
    async fn claim(
        &self,
        queue: &str,
        lease: Duration,
        in_flight_per_tenant: u32,
    ) -> Result<std::result::Result<Claimed, Option<Duration>>>;

    async fn renew(&self, lease: &Lease, for_: Duration) -> Result<Settled>;

    /// Done; the id may be queued anew.
    async fn finish(&self, lease: &Lease) -> Result<Settled>;

    /// This attempt failed: again after `delay`, or dead with `reason` if the attempts are used up.
    async fn retry(&self, lease: &Lease, delay: Duration, reason: &str) -> Result<Settled>;

    /// No use in trying again: dead with `reason`.
    async fn bury(&self, lease: &Lease, reason: &str) -> Result<Settled>;

    /// Hands it back untouched: the attempt does not count, and it is next in line.
    async fn release(&self, lease: &Lease) -> Result<Settled>;

    /// Takes a waiting or delayed job out. For a claimed one marks it so that its holder sees [`Queue::is_cancelled`], and
    /// whoever claims it after them [`Claimed::cancelled`]. A wish to run again after it is dropped as well.
    async fn cancel(&self, queue: &str, id: &str) -> Result<Cancelled>;

    async fn is_cancelled(&self, lease: &Lease) -> Result<bool>;

    /// Newest first, at most `limit` and never more than [`DEAD_PAGE_MAX`].
    async fn dead(&self, queue: &str, limit: usize) -> Result<Vec<DeadJob>> {
        self.dead_before(queue, None, limit).await
    }

    /// As [`Queue::dead`], those after this one: `(died_at, id)` of a letter that was listed (it may be gone since).
    async fn dead_before(
        &self,
        queue: &str,
        before: Option<(DateTime<Utc>, String)>,
        limit: usize,
    ) -> Result<Vec<DeadJob>>;

    /// Puts a dead job back with its attempts and lapses at 0. False: no such dead job, or its id is queued anew already.
    async fn replay(&self, queue: &str, id: &str) -> Result<bool>;

    async fn stats(&self, queue: &str) -> Result<QueueStats>;

    /// Changes whenever something may have become claimable.
    async fn waker(&self, queue: &str) -> Result<QueueWaker>;

    /// True for exactly one caller for each `(name, tick)`; remembered for `keep`.
    async fn claim_tick(&self, name: &str, tick: i64, keep: Duration) -> Result<bool>;

    /// Says that this worker is here, for `ttl`; a zero `ttl` takes it back.
    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()>;

    /// The workers whose announcement still holds.
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;
}
