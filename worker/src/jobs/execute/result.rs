//! Turns what the sandbox saw into the result that is kept.

use atelier_shared::domain::job::{CompileResult, Job as Row, JobResult, SkippedArtifact};
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
    let mut result =
        JobResult::without_outcome(row, attempt.number, started_at, status, String::new());
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
