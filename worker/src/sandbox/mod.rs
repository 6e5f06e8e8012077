//! Running other people's code: the [`Sandbox`] trait, what goes in ([`Program`]) and what comes out ([`Outcome`]).
//!
//! A driver keeps one promise: code it runs can spend what its [`Limits`] allow and touch nothing else.
//! What a machine lets a driver promise is its [`Tier`]; [`Policy`] says which tier is enough.

mod choice;
mod compiled;
mod error;
mod exhausted;
mod gvisor;
pub mod init;
mod landlock;
mod limits;
mod ns;
mod outcome;
mod output;
mod package;
mod probe;
mod program;
mod sys;
pub mod toolchains;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use choice::{DriverChoice, start};
pub use compiled::CompileCache;
pub use error::SandboxError;
pub use gvisor::{GvisorConfig, GvisorSandbox};
pub use limits::Limits;
pub use ns::{AccountingChoice, BoxKind, NsConfig, NsSandbox};
pub use outcome::{Artifact, Outcome, Skipped, StepOutcome, Verdict};
pub use output::{Channel, OutputChunk, OutputSink, StepKind};
pub use probe::{Layer, LayerReport, LayerState, Policy, Tier, TierLevel};
pub use program::{ArtifactRequest, Program, ProgramFile, Step};

/// Something that runs a [`Program`] apart from the machine.
#[async_trait]
pub trait Sandbox: Send + Sync + std::fmt::Debug {
    /// How strong the walls are, found by trying them at start.
    fn tier(&self) -> &Tier;

    /// Runs the steps of `program` in a box of its own, used once.
    ///
    /// Output goes to `output` while it is made and is in the [`Outcome`] again, both cut at `limits.output_bytes`.
    /// A full sink slows the program down, it loses nothing. Cancelling (or dropping the future) kills the box.
    /// Waits when every slot is taken; the caller bounds how many wait.
    ///
    /// # Errors
    /// [`SandboxError::Invalid`] when the program can't be run as written (never worth a retry), otherwise the
    /// sandbox failed and nothing is known of the program: see [`SandboxError::is_retryable`].
    async fn run(
        &self,
        program: Program,
        output: OutputSink,
        cancel: CancellationToken,
    ) -> Result<Outcome, SandboxError>;

    /// Ends every program and clears up; nothing runs afterwards.
    async fn shutdown(&self) {}
}
