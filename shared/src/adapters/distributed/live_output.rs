//! Live output in Redis: a capped list for each running program, with wake-ups by pub/sub.
//!
//! Keys: `{ns}:out:{<job>}:pieces|meta`; channel `{ns}:out:<job>`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fred::types::scripts::Script;

use super::redis::{Redis, port_error};
use super::wake::Wakers;
use crate::domain::ids::JobId;
use crate::domain::job::Progress;
use crate::ports::{
    LiveOutput, OUTPUT_PIECE_MAX_BYTES, OUTPUT_PIECES_MAX, OutputPage, OutputPiece, OutputWaker,
    PortError, Result,
};

/// How long a program's words are kept after the last of them, should nobody say that it ended.
const KEPT: Duration = Duration::from_secs(60 * 60);

pub struct RedisLiveOutput {
    redis: Redis,
    wakers: Arc<Wakers>,
    write: Script,
    read: Script,
}

impl RedisLiveOutput {
    pub fn new(redis: Redis, wakers: Arc<Wakers>) -> Self {
        Self {
            redis,
            wakers,
            write: Script::from_lua(include_str!("live_output.lua")),
            read: Script::from_lua(include_str!("live_output_read.lua")),
        }
    }

    fn keys(&self, job: JobId) -> Vec<String> {
        let ns = &self.redis.namespace;
        vec![
            format!("{ns}:out:{{{job}}}:pieces"),
            format!("{ns}:out:{{{job}}}:meta"),
        ]
    }

    fn channel(&self, job: JobId) -> String {
        format!("{}:out:{job}", self.redis.namespace)
    }

    async fn write(&self, job: JobId, how: &str, attempt: u32, piece: String) -> Result<bool> {
        let args = vec![
            self.channel(job),
            KEPT.as_millis().to_string(),
            how.to_owned(),
            attempt.to_string(),
            piece,
            OUTPUT_PIECES_MAX.to_string(),
        ];
        self.write
            .evalsha_with_reload(self.redis.pool.next(), self.keys(job), args)
            .await
            .map_err(|e| port_error("write live output", e))
    }
}

#[async_trait]
impl LiveOutput for RedisLiveOutput {
    async fn begin(&self, job: JobId, attempt: u32) -> Result<bool> {
        self.write(job, "begin", attempt, String::new()).await
    }

    async fn append(&self, job: JobId, attempt: u32, piece: &OutputPiece) -> Result<bool> {
        const OPERATION: &str = "write live output";
        if piece.text.len() > OUTPUT_PIECE_MAX_BYTES {
            return Err(PortError::fatal(OPERATION, "the piece is too long"));
        }
        let piece = serde_json::to_string(piece).map_err(|e| PortError::fatal(OPERATION, e))?;
        self.write(job, "append", attempt, piece).await
    }

    async fn progress(&self, job: JobId, attempt: u32, progress: &Progress) -> Result<bool> {
        let progress = serde_json::to_string(progress)
            .map_err(|e| PortError::fatal("write live output", e))?;
        self.write(job, "progress", attempt, progress).await
    }

    async fn end(&self, job: JobId) -> Result<()> {
        self.write(job, "end", 0, String::new()).await.map(drop)
    }

    async fn read(&self, job: JobId, attempt: u32, after: u64, limit: usize) -> Result<OutputPage> {
        const OPERATION: &str = "read live output";
        let args = vec![attempt.to_string(), after.to_string(), limit.to_string()];
        let found: Vec<String> = self
            .read
            .evalsha_with_reload(self.redis.pool.next(), self.keys(job), args)
            .await
            .map_err(|e| port_error(OPERATION, e))?;
        let [attempt, next, progress, pieces @ ..] = found.as_slice() else {
            return Err(PortError::fatal(OPERATION, "an answer without a place"));
        };
        Ok(OutputPage {
            attempt: attempt
                .parse()
                .map_err(|e| PortError::fatal(OPERATION, e))?,
            next: next.parse().map_err(|e| PortError::fatal(OPERATION, e))?,
            pieces: pieces
                .iter()
                .map(|piece| serde_json::from_str(piece))
                .collect::<Result<_, _>>()
                .map_err(|e| PortError::fatal(OPERATION, e))?,
            progress: match progress.as_str() {
                "" => None,
                told => {
                    Some(serde_json::from_str(told).map_err(|e| PortError::fatal(OPERATION, e))?)
                }
            },
        })
    }

    async fn waker(&self, job: JobId) -> Result<OutputWaker> {
        self.wakers.watch(self.channel(job)).await
    }
}
