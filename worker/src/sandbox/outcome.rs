//! What a program did.

use atelier_shared::domain::job::{JobState, Usage};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// By itself, with an exit code.
    Exited,
    /// By a signal that was not ours.
    Signaled,
    /// Killed at `wall_ms`.
    TimedOut,
    /// Killed at `cpu_ms`.
    CpuExceeded,
    /// Killed at `memory_bytes`.
    OutOfMemory,
    /// Killed at `output_bytes`.
    OutputLimit,
    /// Killed at `disk_bytes` or `inodes`, where the file system itself has no bounds.
    DiskExceeded,
    /// Killed because the caller asked.
    Cancelled,
    /// The operating system refused to start it; `StepOutcome::message` says why.
    NotStarted,
}

/// How one step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutcome {
    pub verdict: Verdict,
    /// Set when the verdict is [`Verdict::Exited`].
    pub exit_code: Option<i32>,
    /// The signal that ended it, ours included.
    pub signal: Option<i32>,
    pub stdout: Bytes,
    pub stderr: Bytes,
    /// Whether output beyond `output_bytes` was cut off.
    pub truncated: bool,
    pub usage: Usage,
    /// In words, where the verdict alone would leave one guessing.
    pub message: Option<String>,
}

/// A regular file brought out of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Relative to the work folder; bytes that are no UTF-8 are replaced.
    pub path: String,
    pub content: Bytes,
}

impl Artifact {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.content.len() as u64
    }
}

/// Something that matched the request and was left in the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub path: String,
    pub reason: String,
}

/// What a program did, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `None` when the program has no compile step.
    pub compile: Option<StepOutcome>,
    /// `None` when the compile step failed.
    pub run: Option<StepOutcome>,
    pub artifacts: Vec<Artifact>,
    pub artifacts_skipped: Vec<Skipped>,
}

impl Outcome {
    /// The step that decided: the run, or the compile step that kept it from running.
    pub fn deciding_step(&self) -> Option<&StepOutcome> {
        self.run.as_ref().or(self.compile.as_ref())
    }

    /// One word for the whole. A program that was cancelled before its first step has none, and one that was cancelled before
    /// its run has a compile step that passed.
    pub fn state(&self) -> JobState {
        let Some(step) = self.deciding_step() else {
            return JobState::Cancelled;
        };
        match step.verdict {
            Verdict::Exited if step.exit_code == Some(0) && self.run.is_none() => {
                JobState::Cancelled
            }
            Verdict::Exited if step.exit_code == Some(0) => JobState::Succeeded,
            Verdict::Exited | Verdict::NotStarted => JobState::Failed,
            Verdict::Signaled | Verdict::DiskExceeded => JobState::Killed,
            Verdict::TimedOut | Verdict::CpuExceeded => JobState::TimedOut,
            Verdict::OutOfMemory => JobState::OutOfMemory,
            Verdict::OutputLimit => JobState::OutputLimit,
            Verdict::Cancelled => JobState::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_cancelled_between_compiling_and_running_did_not_succeed() {
        let step = |exit_code| StepOutcome {
            verdict: Verdict::Exited,
            exit_code: Some(exit_code),
            signal: None,
            stdout: Bytes::new(),
            stderr: Bytes::new(),
            truncated: false,
            usage: Usage::default(),
            message: None,
        };
        for (compile, run, state) in [
            (None, None, JobState::Cancelled),
            (Some(0), None, JobState::Cancelled),
            (Some(1), None, JobState::Failed),
            (Some(0), Some(0), JobState::Succeeded),
            (None, Some(0), JobState::Succeeded),
        ] {
            let outcome = Outcome {
                compile: compile.map(step),
                run: run.map(step),
                artifacts: Vec::new(),
                artifacts_skipped: Vec::new(),
            };
            assert_eq!(outcome.state(), state, "{compile:?} {run:?}");
        }
    }
}
