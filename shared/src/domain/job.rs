//! A code-execution job: what was asked, where it stands, what came of it.

use std::collections::BTreeMap;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Invalid;
use super::ids::{ClientId, JobId, Ref, RoomId, UserId};
use super::moment;
use super::room::word_enum;

/// Queues, named as users know them.
pub const QUEUE_CODE: &str = "code_execution";
pub const QUEUE_ARCHIVE: &str = "archive";
pub const QUEUE_BACKUP: &str = "backup";
pub const QUEUE_CLEANUP: &str = "cleanup";
/// Results on their way to whoever asked for them.
pub const QUEUE_CALLBACK: &str = "callback";
pub const QUEUES: [&str; 5] = [
    QUEUE_CODE,
    QUEUE_ARCHIVE,
    QUEUE_BACKUP,
    QUEUE_CLEANUP,
    QUEUE_CALLBACK,
];

word_enum!(
    /// Where a job stands. All but the first two are final.
    JobState, "state" {
        Queued = "queued",
        Running = "running",
        /// Exit code 0.
        Succeeded = "succeeded",
        /// Another exit code, or the compiler's.
        Failed = "failed",
        TimedOut = "timed_out",
        OutOfMemory = "out_of_memory",
        OutputLimit = "output_limit",
        /// Ended by a signal that was not ours.
        Killed = "killed",
        Cancelled = "cancelled",
        /// The worker would not run it (unknown version, tier too weak).
        Rejected = "rejected",
        /// Every attempt was lost (the worker died under it); in the dead letters.
        Dead = "dead",
    }
);

impl JobState {
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// One file of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Relative, no `..`, at most 255 bytes.
    pub path: String,
    pub content: String,
    /// `utf8` (default) or `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// Limits as asked; absent ones take the language's defaults, all are cut to the configured ceilings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// What to run. Immutable once accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Canonical name of a row of [`super::language::LANGUAGES`].
    pub language: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// At least one. The entry is the one that `entrypoint` names, else the language's own (`main.py`, …), else the first.
    pub files: Vec<SourceFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdin: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub limits: AskedLimits,
    /// Where the result is posted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
}

/// The message that asked for a run in a room: under one ref of one client, if it had one, it runs once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedBy {
    pub client_id: ClientId,
    pub reference: Option<Ref>,
}

/// The row that Records keeps for a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub owner: UserId,
    /// The submitter's display name, for the room.
    pub owner_name: String,
    pub room_id: Option<RoomId>,
    pub project_id: Option<Uuid>,
    pub priority: i16,
    pub spec: JobSpec,
    pub state: JobState,
    pub attempts: u32,
    /// How often it was dead and put back; 0 when it is made.
    pub revivals: u32,
    /// W3C trace context of the request that made it.
    pub traceparent: Option<String>,
    pub asked_by: Option<AskedBy>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl Job {
    /// Who shares the queue's turns: the project where one is named, else the person.
    pub fn tenant(&self) -> String {
        self.project_id.unwrap_or(self.owner.0).to_string()
    }

    /// As whom it speaks in its room: the client that asked for it there, else a connection of its own.
    pub fn speaks_as(&self) -> Result<ClientId, Invalid> {
        match &self.asked_by {
            Some(asked) => Ok(asked.client_id.clone()),
            None => self.id.to_string().parse(),
        }
    }

    /// The ref that it says this under, where no message gave one: no client can name it.
    pub fn own_reference(&self, what: std::fmt::Arguments<'_>) -> Ref {
        Ref::of_server(format_args!("run:{}:{what}", self.id))
    }
}

/// What a step used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub wall_ms: u64,
    /// Summed over all processes.
    pub cpu_ms: u64,
    pub max_memory_bytes: u64,
    pub pids_max: u64,
}

/// What the compiler said, where there was one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompileResult {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub truncated: bool,
    pub usage: Usage,
}

/// Where an artifact's bytes are kept: the `index`-th of the result of this attempt.
pub fn artifact_key(job: JobId, attempt: u32, index: usize) -> String {
    format!("{}/{attempt}-{index}", artifact_folder(job))
}

/// Where all bytes of a job's artifacts are kept.
pub fn artifact_folder(job: JobId) -> String {
    format!("jobs/{job}")
}

/// How far a running program says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// At most [`PROGRESS_MESSAGE_MAX_BYTES`]; may be empty.
    pub message: String,
}

/// Longest message of a [`Progress`], in bytes.
pub const PROGRESS_MESSAGE_MAX_BYTES: usize = 200;

/// A file the program left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub path: String,
    pub size: u64,
}

/// A file the program left behind that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedArtifact {
    pub path: String,
    pub reason: String,
}

/// What came of a job; kept in the archive. Output that is not UTF-8 has U+FFFD in place of bad bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    pub status: JobState,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// Output was cut at `output_bytes`.
    pub truncated: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile: Option<CompileResult>,
    pub usage: Usage,
    pub artifacts: Vec<Artifact>,
    pub queued_ms: u64,
    #[serde(serialize_with = "moment::serialize")]
    pub started_at: DateTime<Utc>,
    #[serde(serialize_with = "moment::serialize")]
    pub finished_at: DateTime<Utc>,
    pub attempts: u32,
    pub trace_id: Option<String>,
    /// What the program said last of how far it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Files that were left where they were, with the reason: links, devices, hidden ones, what was too much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts_skipped: Vec<SkippedArtifact>,
    /// Why it was rejected or is dead, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl JobResult {
    /// That of a job of which nothing is known but how it stands, and why in words.
    pub fn without_outcome(
        job: &Job,
        attempts: u32,
        started_at: DateTime<Utc>,
        status: JobState,
        message: String,
    ) -> Self {
        let queued = started_at - job.created_at;
        Self {
            status,
            exit_code: None,
            signal: None,
            stdout: String::new(),
            stderr: String::new(),
            truncated: false,
            compile: None,
            usage: Usage::default(),
            artifacts: Vec::new(),
            // Two machines' clocks: never below nothing.
            queued_ms: u64::try_from(queued.num_milliseconds()).unwrap_or(0),
            started_at,
            finished_at: Utc::now().max(started_at),
            attempts,
            trace_id: job.traceparent.as_deref().and_then(trace_id),
            progress: None,
            artifacts_skipped: Vec::new(),
            message: (!message.is_empty()).then_some(message),
        }
    }
}

/// The second field of a W3C `traceparent`.
fn trace_id(traceparent: &str) -> Option<String> {
    traceparent.split('-').nth(1).map(str::to_owned)
}
