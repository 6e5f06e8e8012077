//! Live output: what a running program has said so far, for whoever looks from any pod.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Result;
use crate::domain::ids::JobId;
use crate::domain::job::Progress;

/// Longest text of one piece, in bytes.
pub const OUTPUT_PIECE_MAX_BYTES: usize = 64 * 1024;
/// Pieces kept of one program; beyond it the oldest goes. (How many bytes a program may say is its `output_bytes`.)
pub const OUTPUT_PIECES_MAX: usize = 8_192;

/// Something a program said, in one of its streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPiece {
    /// `stdout`, `stderr`, `compile_stdout` or `compile_stderr`.
    pub stream: String,
    /// Bytes of text before it in its stream.
    pub offset: u64,
    pub text: String,
}

/// A part of what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputPage {
    /// The attempt that speaks; 0: none has begun, or all is forgotten.
    pub attempt: u32,
    pub pieces: Vec<OutputPiece>,
    /// Where to read on.
    pub next: u64,
    /// What the present attempt said last of how far it is.
    pub progress: Option<Progress>,
}

/// Moves when something was said or a step was made, when an attempt began, and when the program ended.
pub type OutputWaker = watch::Receiver<u64>;

/// Promises: pieces are read in the order they were appended, by any pod, until [`LiveOutput::end`]; an attempt that was
/// followed by a later one says nothing more; nothing is kept for longer than an hour after the last word, whatever died.
/// It may all be lost: what a program said stands in its result.
#[async_trait]
pub trait LiveOutput: Send + Sync {
    /// An attempt begins, and what earlier ones said is forgotten. False: a later one has begun; nothing changed.
    async fn begin(&self, job: JobId, attempt: u32) -> Result<bool>;

    /// False: this attempt does not speak (any more); nothing changed.
    async fn append(&self, job: JobId, attempt: u32, piece: &OutputPiece) -> Result<bool>;

    /// How far the program is, in place of what was told before. False as in [`LiveOutput::append`].
    async fn progress(&self, job: JobId, attempt: u32, progress: &Progress) -> Result<bool>;

    /// It is over, and its result is stored: all is forgotten, and watchers are woken.
    async fn end(&self, job: JobId) -> Result<()>;

    /// At most `limit` pieces of the present attempt after `after`, which is the `next` of an earlier page of the same
    /// attempt, or 0. Pieces that were dropped meanwhile show as a hole in the offsets. `limit` 0 asks for the progress alone.
    async fn read(&self, job: JobId, attempt: u32, after: u64, limit: usize) -> Result<OutputPage>;

    async fn waker(&self, job: JobId) -> Result<OutputWaker>;
}
