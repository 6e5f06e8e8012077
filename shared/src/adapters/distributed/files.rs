//! Files where every pod reaches them: a bucket, or a folder that all share.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use crate::adapters::files::ObjectFiles;
use crate::ports::{PortError, Result};

/// All tries of one call together. (One request has 30 s, its connection 5 s: the client's own limits, which
/// `AWS_TIMEOUT` and `AWS_CONNECT_TIMEOUT` change.)
const ALL_TRIES: Duration = Duration::from_secs(20);
const RETRIES: usize = 3;

const OPERATION: &str = "open files";

/// `file:///folder`, `s3://bucket[/prefix]` (region, endpoint and credentials from `AWS_*`) or `gs://bucket[/prefix]`
/// (credentials from `GOOGLE_*`, or the machine's own). The process must have installed a rustls crypto provider.
pub async fn open(files_url: &str) -> Result<ObjectFiles> {
    let url = Url::parse(files_url).map_err(|e| PortError::fatal(OPERATION, e))?;
    let bucket: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => {
            let folder = url.to_file_path().map_err(|()| {
                PortError::fatal(OPERATION, "a file URL is file:///absolute/folder")
            })?;
            return ObjectFiles::folder(&folder).await;
        }
        "s3" => Arc::new(
            AmazonS3Builder::from_env()
                .with_url(bucket_of(&url)?)
                .with_retry(retry())
                .build()
                .map_err(|e| PortError::fatal(OPERATION, e))?,
        ),
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(bucket_of(&url)?)
                .with_retry(retry())
                .build()
                .map_err(|e| PortError::fatal(OPERATION, e))?,
        ),
        other => {
            let reason = format!("must begin with file:, s3: or gs:, not {other}:");
            return Err(PortError::fatal(OPERATION, reason));
        }
    };
    let prefix = Path::from_url_path(url.path()).map_err(|e| PortError::fatal(OPERATION, e))?;
    if prefix.as_ref().is_empty() {
        return Ok(ObjectFiles::bucket(bucket));
    }
    Ok(ObjectFiles::bucket(Arc::new(PrefixStore::new(
        bucket, prefix,
    ))))
}

/// `scheme://bucket` without the rest.
fn bucket_of(url: &Url) -> Result<String> {
    match url.host_str() {
        Some(bucket) if !bucket.is_empty() => Ok(format!("{}://{bucket}", url.scheme())),
        _ => Err(PortError::fatal(OPERATION, "names no bucket")),
    }
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: RETRIES,
        retry_timeout: ALL_TRIES,
        ..RetryConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_files_url_that_names_no_store_is_refused() {
        for bad in ["", "files", "ftp://x", "s3://", "file://host/x", "/folder"] {
            let refused = open(bad).await;
            assert!(
                refused.is_err_and(|e| e.to_string().starts_with(OPERATION)),
                "{bad:?}"
            );
        }
    }
}
