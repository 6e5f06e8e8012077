//! Job results as MongoDB keeps them: text, and packed where the text may be more than a document holds.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{self, Binary};
use serde::{Deserialize, Serialize};

use super::rows::uuid_key;
use crate::domain::ids::JobId;
use crate::domain::job::JobResult;
use crate::ports::{PortError, Result};

/// From here on output is packed. As JSON a byte of it may take six, and a document may have 16 MiB.
const PACKED_FROM_BYTES: usize = 1 << 20;
/// Bounds what a packed result may unpack to.
const UNPACKED_MAX_BYTES: u64 = 64 << 20;

/// A result; one of `result` and `packed` is there.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResultRow {
    #[serde(rename = "_id")]
    job: bson::Uuid,
    /// JSON text of a [`JobResult`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    /// BSON of it (where no byte takes six), by gzip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packed: Option<Binary>,
    expires_at: bson::DateTime,
}

impl ResultRow {
    pub async fn of(job: JobId, result: &JobResult, expires_at: bson::DateTime) -> Result<Self> {
        let failed = |e: std::io::Error| PortError::fatal("encode job result", e);
        let row = Self {
            job: uuid_key(job.0),
            result: None,
            packed: None,
            expires_at,
        };
        if output_bytes(result) < PACKED_FROM_BYTES {
            let text = serde_json::to_string(result).map_err(|e| failed(e.into()))?;
            return Ok(Self {
                result: Some(text),
                ..row
            });
        }
        let result = result.clone();
        let bytes = off_the_async_threads(move || pack(&result))
            .await
            .map_err(failed)?;
        let subtype = BinarySubtype::Generic;
        Ok(Self {
            packed: Some(Binary { subtype, bytes }),
            ..row
        })
    }

    pub async fn read(self) -> Result<JobResult> {
        let failed = |e: std::io::Error| PortError::fatal("decode job result", e);
        if let Some(packed) = self.packed {
            return off_the_async_threads(move || unpack(&packed.bytes))
                .await
                .map_err(failed);
        }
        let text = self.result.unwrap_or_default();
        serde_json::from_str(&text).map_err(|e| failed(e.into()))
    }
}

fn output_bytes(result: &JobResult) -> usize {
    let compile = result.compile.as_ref();
    let compile = compile.map_or(0, |step| step.stdout.len() + step.stderr.len());
    result.stdout.len() + result.stderr.len() + compile
}

async fn off_the_async_threads<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other)?
}

fn pack(result: &JobResult) -> std::io::Result<Vec<u8>> {
    let plain = bson::serialize_to_vec(result).map_err(std::io::Error::other)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&plain)?;
    gzip.finish()
}

fn unpack(packed: &[u8]) -> std::io::Result<JobResult> {
    let mut plain = Vec::new();
    GzDecoder::new(packed)
        .take(UNPACKED_MAX_BYTES)
        .read_to_end(&mut plain)?;
    bson::deserialize_from_slice(&plain).map_err(std::io::Error::other)
}
