//! Live output on its way out of the sandbox.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Which step made the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    Compile,
    Run,
}

/// Which of a step's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    Stdout,
    Stderr,
}

/// A piece of output as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    pub step: StepKind,
    pub channel: Channel,
    /// Byte position of `bytes` in this channel of this step.
    pub offset: u64,
    /// May cut a character in two: decode over chunks, not in them.
    pub bytes: Bytes,
}

/// Where live output goes: a bounded channel, or nowhere.
#[derive(Debug, Clone)]
pub struct OutputSink(Option<mpsc::Sender<OutputChunk>>);

impl OutputSink {
    /// Output is only wanted in the outcome.
    pub fn none() -> Self {
        Self(None)
    }

    /// A sink and its reader; the program waits while `capacity` chunks (of at most 64 KiB) are unread.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<OutputChunk>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self(Some(sender)), receiver)
    }

    /// Hands a chunk on. A reader that went away is no reason to stop the program.
    pub(crate) async fn send(&mut self, chunk: OutputChunk) {
        if let Some(sender) = &self.0
            && sender.send(chunk).await.is_err()
        {
            self.0 = None;
        }
    }
}
