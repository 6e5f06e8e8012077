//! Turns what the sandbox saw into the result that is kept.

use atelier_shared::domain::job::{
    CompileResult, Job as Row, JobResult, JobState, SkippedArtifact, Usage,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::jobs::Attempt;
use crate::sandbox::{Outcome, StepOutcome};

/// Most files told that were not kept.
pub(super) const SKIPPED_MAX: usize = 64;

pub(super) fn of_outcome(
    row: &Row,
    attempt: &Attempt,
    started_at: DateTime<Utc>,
    outcome: Outcome,
) -> JobResult {
    let status = outcome.state();
    let mut result = without_outcome(row, attempt.number, started_at, status, String::new());
    result.message = outcome.deciding_step().and_then(|step| {
        let message = step.message.clone()?;
        // Which of the two steps it was is seen nowhere else.
        Some(if outcome.run.is_none() {
            format!("compiling: {message}")
        } else {
            message
        })
    });
    result.artifacts_skipped = outcome
        .artifacts_skipped
        .into_iter()
        .map(|skipped| SkippedArtifact {
            path: skipped.path,
            reason: skipped.reason,
        })
        .collect();
    if let Some(step) = &outcome.run {
        result.exit_code = step.exit_code;
        result.signal = step.signal;
        result.stdout = text(&step.stdout);
        result.stderr = text(&step.stderr);
        result.truncated = step.truncated;
        result.usage = step.usage;
    }
    result.compile = outcome.compile.as_ref().map(compile);
    result
}

/// A job of which nothing is known but how it stands, and why in words.
pub(super) fn without_outcome(
    row: &Row,
    attempts: u32,
    started_at: DateTime<Utc>,
    status: JobState,
    message: String,
) -> JobResult {
    let queued = started_at - row.created_at;
    JobResult {
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
        trace_id: row.traceparent.as_deref().and_then(trace_id),
        progress: None,
        artifacts_skipped: Vec::new(),
        message: (!message.is_empty()).then_some(message),
    }
}

fn compile(step: &StepOutcome) -> CompileResult {
    CompileResult {
        exit_code: step.exit_code,
        signal: step.signal,
        stdout: text(&step.stdout),
        stderr: text(&step.stderr),
        truncated: step.truncated,
        usage: step.usage,
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The second field of a W3C `traceparent`.
fn trace_id(traceparent: &str) -> Option<String> {
    traceparent.split('-').nth(1).map(str::to_owned)
}
