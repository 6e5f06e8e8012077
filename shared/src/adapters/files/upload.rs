//! One file on its way in: part by part, visible when it is whole, gone when it is not.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use super::port_error;
use crate::ports::Result;

/// What is held in memory of a file on its way to a bucket. S3 wants at least 5 MiB a part and takes 10,000 parts: files
/// up to 48 GiB.
pub const BUCKET_PART: usize = 5 << 20;
/// What is held of one on its way to a folder.
pub const FOLDER_PART: usize = 256 << 10;

const OPERATION: &str = "store file";

/// Streams `bytes` to `path`; returns their number. On an `Err` item, a failure, or when the caller goes away,
/// nothing stays. A file of less than one part is written by a single call.
pub async fn put_streamed(
    store: &dyn ObjectStore,
    path: &Path,
    part_bytes: usize,
    mut bytes: BoxStream<'static, Result<Bytes>>,
) -> Result<u64> {
    let mut size = 0;
    let mut part = BytesMut::new();
    let mut upload: Option<Upload> = None;
    while let Some(chunk) = bytes.next().await {
        let mut chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                if let Some(upload) = upload {
                    upload.abort().await;
                }
                return Err(error);
            }
        };
        size += chunk.len() as u64;
        while !chunk.is_empty() {
            let room = part_bytes - part.len();
            part.extend_from_slice(&chunk.split_to(room.min(chunk.len())));
            if part.len() == part_bytes {
                let whole = part.split().freeze();
                let mut under_way = match upload.take() {
                    Some(upload) => upload,
                    None => Upload::start(store, path).await?,
                };
                if let Err(error) = under_way.put_part(whole).await {
                    under_way.abort().await;
                    return Err(error);
                }
                upload = Some(under_way);
            }
        }
    }
    let Some(mut upload) = upload else {
        store
            .put(path, PutPayload::from_bytes(part.freeze()))
            .await
            .map_err(|e| port_error(OPERATION, e))?;
        return Ok(size);
    };
    let finished = async {
        if !part.is_empty() {
            upload.put_part(part.freeze()).await?;
        }
        upload.complete().await
    }
    .await;
    if let Err(error) = finished {
        upload.abort().await;
        return Err(error);
    }
    Ok(size)
}

/// A multipart upload that is taken back unless it completed.
struct Upload {
    parts: Option<Box<dyn MultipartUpload>>,
}

impl Upload {
    async fn start(store: &dyn ObjectStore, path: &Path) -> Result<Self> {
        let parts = store
            .put_multipart(path)
            .await
            .map_err(|e| port_error(OPERATION, e))?;
        Ok(Self { parts: Some(parts) })
    }

    /// One part at a time: what is being sent is all that is held.
    async fn put_part(&mut self, part: Bytes) -> Result<()> {
        if let Some(parts) = &mut self.parts {
            parts
                .put_part(part.into())
                .await
                .map_err(|e| port_error(OPERATION, e))?;
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<()> {
        if let Some(parts) = &mut self.parts {
            parts
                .complete()
                .await
                .map_err(|e| port_error(OPERATION, e))?;
        }
        self.parts = None;
        Ok(())
    }

    async fn abort(mut self) {
        if let Some(mut parts) = self.parts.take() {
            take_back(&mut *parts).await;
        }
    }
}

impl Drop for Upload {
    /// The caller went away in the middle: buckets keep (and bill) parts until told.
    fn drop(&mut self) {
        if let (Some(mut parts), Ok(runtime)) =
            (self.parts.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { take_back(&mut *parts).await });
        }
    }
}

async fn take_back(parts: &mut dyn MultipartUpload) {
    if let Err(error) = parts.abort().await {
        tracing::warn!(%error, "an abandoned upload could not be taken back; the bucket's lifecycle rule must");
    }
}
