//! Files: bytes by key.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;

use super::Result;

/// What is known of a stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    pub key: String,
    pub size: u64,
    pub modified_at: DateTime<Utc>,
}

/// Promises: a file is whole or absent (a failed or abandoned `put` leaves nothing behind); `put` holds one part in
/// memory, not the file; keys are `[A-Za-z0-9_./-]` without `..` and can't reach outside the store. Where the store is a
/// folder, a key can't be both a file and a folder of others.
#[async_trait]
pub trait Files: Send + Sync {
    async fn ping(&self) -> Result<()>;

    /// How much of a file one `put` holds in memory, bytes.
    fn part_bytes(&self) -> usize;

    /// Streams a file in; overwrites. An `Err` item in the stream abandons it.
    async fn put(&self, key: &str, bytes: BoxStream<'static, Result<Bytes>>) -> Result<FileMeta>;

    async fn head(&self, key: &str) -> Result<Option<FileMeta>>;

    /// Streams a file, or the bytes in `range` as far as it has them, out. `None`: no such file.
    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes>>>>;

    /// It is gone now, whether it was there or not.
    async fn delete(&self, key: &str) -> Result<()>;

    /// Files in the folder `prefix` (whole parts of keys; empty = all) and below, in key order after `after`, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<FileMeta>>;
}
