//! Files in any object store: a folder, S3 or GCS. What is said of keys, parts and ranges here holds for all of them.

mod folder;
mod upload;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};

use self::upload::{BUCKET_PART, FOLDER_PART, put_streamed};
use crate::ports::{FileMeta, Files, PortError, Result};

/// Longest key, and longest part of one between slashes (file systems take 255 bytes, and an upload under way has a
/// suffix).
const KEY_BYTES: usize = 512;
const SEGMENT_BYTES: usize = 200;

pub struct ObjectFiles {
    store: Arc<dyn ObjectStore>,
    /// Set where the store is a folder.
    folder: Option<std::path::PathBuf>,
}

impl ObjectFiles {
    /// A folder, made if it is not there. Files are synced to disk before `put` returns.
    pub async fn folder(folder: &std::path::Path) -> Result<Self> {
        let store = folder::open(folder).await?;
        Ok(Self {
            store: Arc::new(store),
            folder: Some(folder.to_owned()),
        })
    }

    /// A bucket; it lists in key order.
    pub fn bucket(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            folder: None,
        }
    }
}

/// Checks a key and makes it the store's. Nothing that passes can leave the store: no `..`, no empty segment.
fn path_of(key: &str) -> Result<Path> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-');
    let segment_ok =
        |segment: &str| !segment.is_empty() && segment != "." && segment.len() <= SEGMENT_BYTES;
    let ok = key.len() <= KEY_BYTES
        && key.bytes().all(allowed)
        && !key.contains("..")
        && key.split('/').all(segment_ok);
    if !ok {
        // The key itself is not told: it may be a stranger's text.
        return Err(PortError::fatal(
            "check file key",
            format!(
                "a key has 1 to {KEY_BYTES} characters of A-Z a-z 0-9 _ . / - and no `..` or empty part"
            ),
        ));
    }
    Path::parse(key).map_err(|e| PortError::fatal("check file key", e))
}

fn port_error(operation: &'static str, error: Error) -> PortError {
    match error {
        // Everything about the network and the disk; the store's own retries are over by then.
        Error::Generic { .. } | Error::JoinError { .. } => PortError::retry(operation, error),
        other => PortError::fatal(operation, other),
    }
}

fn meta_of(object: ObjectMeta) -> FileMeta {
    FileMeta {
        key: object.location.to_string(),
        size: object.size,
        modified_at: object.last_modified,
    }
}

#[async_trait]
impl Files for ObjectFiles {
    async fn ping(&self) -> Result<()> {
        const OPERATION: &str = "ping files";
        if let Some(folder) = &self.folder {
            let meta = tokio::fs::metadata(folder)
                .await
                .map_err(|e| PortError::retry(OPERATION, e))?;
            if !meta.is_dir() {
                return Err(PortError::fatal(OPERATION, "the files folder is no folder"));
            }
            return Ok(());
        }
        match self.store.head(&Path::from("ping")).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(port_error(OPERATION, e)),
        }
    }

    fn part_bytes(&self) -> usize {
        if self.folder.is_some() {
            FOLDER_PART
        } else {
            BUCKET_PART
        }
    }

    async fn put(&self, key: &str, bytes: BoxStream<'static, Result<Bytes>>) -> Result<FileMeta> {
        let path = path_of(key)?;
        let size = put_streamed(&*self.store, &path, self.part_bytes(), bytes).await?;
        match self.head(key).await? {
            Some(meta) if meta.size == size => Ok(meta),
            // Replaced or deleted since.
            _ => Ok(FileMeta {
                key: key.to_owned(),
                size,
                modified_at: chrono::Utc::now(),
            }),
        }
    }

    async fn head(&self, key: &str) -> Result<Option<FileMeta>> {
        match self.store.head(&path_of(key)?).await {
            Ok(object) => Ok(Some(meta_of(object))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(port_error("look up file", e)),
        }
    }

    async fn get(
        &self,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes>>>> {
        const OPERATION: &str = "read file";
        let mut options = GetOptions::default();
        if let Some(range) = range {
            // Stores refuse a range that begins at or past the end, each in its own words.
            let Some(meta) = self.head(key).await? else {
                return Ok(None);
            };
            let end = range.end.min(meta.size);
            if range.start >= end {
                return Ok(Some(futures::stream::empty().boxed()));
            }
            options.range = Some((range.start..end).into());
        }
        match self.store.get_opts(&path_of(key)?, options).await {
            Ok(found) => Ok(Some(
                found
                    .into_stream()
                    .map_err(|e| port_error(OPERATION, e))
                    .boxed(),
            )),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(port_error(OPERATION, e)),
        }
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.store.delete(&path_of(key)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(port_error("delete file", e)),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<FileMeta>> {
        let folder = prefix.trim_end_matches('/');
        let folder = (!folder.is_empty()).then(|| path_of(folder)).transpose()?;
        let after = after.map(path_of).transpose()?;
        let mut objects = match &after {
            Some(after) => self.store.list_with_offset(folder.as_ref(), after),
            None => self.store.list(folder.as_ref()),
        };
        // The `limit` first by key. A folder is walked in no order, so all of it must be seen; a bucket is in order.
        let mut first: BTreeMap<String, FileMeta> = BTreeMap::new();
        while let Some(object) = objects
            .try_next()
            .await
            .map_err(|e| port_error("list files", e))?
        {
            let meta = meta_of(object);
            if after
                .as_ref()
                .is_some_and(|after| *meta.key <= *after.as_ref())
            {
                continue;
            }
            first.insert(meta.key.clone(), meta);
            if first.len() > limit {
                first.pop_last();
                if self.folder.is_none() {
                    break;
                }
            }
        }
        Ok(first.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_leave_the_store_are_refused() {
        for good in ["a", "rooms/01/file-1_x.png", "a.b/c.d"] {
            assert_eq!(path_of(good).unwrap().as_ref(), good);
        }
        let long = "x".repeat(SEGMENT_BYTES + 1);
        for bad in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", "a/..", "a..b", ".", "./a", "a\\b", "a b",
            "a%2e%2e", "é", "a\0b", "a#1", &long,
        ] {
            assert!(path_of(bad).is_err(), "{bad:?}");
        }
    }
}
