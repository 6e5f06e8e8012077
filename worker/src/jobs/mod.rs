//! One file per job: the struct is its payload, the constants are its policy, `run` is the work.

pub mod archive;
pub mod backup;
pub mod callback;
pub mod cleanup;
pub mod execute;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use atelier_shared::ports::PortError;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::bridge::Backoff;

/// A kind of job. It may be run more than once (a worker can die anywhere), so every step of `run` is idempotent.
pub trait Job: DeserializeOwned + Send + Sync + 'static {
    /// What the work needs; shared by all jobs of a kind.
    type Services: Clone + Send + Sync + 'static;

    const QUEUE: &'static str;
    /// An attempt that takes longer is given up and counts as failed.
    const TIMEOUT: Duration;
    /// How long a failed attempt waits for the next.
    const BACKOFF: Backoff;

    /// One attempt. Dropped at any await if the lease is lost or the worker must end.
    fn run(
        self,
        attempt: Attempt,
        services: Self::Services,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What the queue says about the attempt at hand.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The job's id in its queue.
    pub id: String,
    /// This one; the first is 1.
    pub number: u32,
    /// Attempts in all.
    pub most: u32,
    /// Earlier ones under which the worker fell silent.
    pub lapses: u32,
    pub enqueued_at: DateTime<Utc>,
    /// W3C trace context of whoever queued it.
    pub traceparent: Option<String>,
    /// Cancelled when somebody asked for that; the job then ends in its own good order.
    pub cancel: CancellationToken,
}

impl Attempt {
    /// Nothing comes after it but the dead letters.
    pub fn is_last(&self) -> bool {
        self.number >= self.most
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub enum Failure {
    /// Worth trying again; if attempts are left, after the job's backoff.
    Retry(String),
    /// The same attempt will fail again: a dead letter at once.
    Final(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(reason) | Self::Final(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Failure {}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        if error.is_retryable() {
            Self::Retry(error.to_string())
        } else {
            Self::Final(error.to_string())
        }
    }
}
