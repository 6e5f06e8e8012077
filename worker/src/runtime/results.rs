//! Results whose time is over: their files go first, then they themselves, so that nothing is left that nobody knows of.

use atelier_shared::Backends;
use atelier_shared::domain::job::artifact_folder;
use atelier_shared::ports::{Files, PortError};
use chrono::Utc;

/// Results looked up, and files of one listed, at a time.
const CHUNK: usize = 200;
/// Results removed in one beat; the rest goes with the next.
const MOST: usize = 10_000;

pub(super) async fn purge(backends: Backends) -> Result<(), PortError> {
    let (archive, files) = (&backends.archive, &*backends.files);
    let mut removed = 0;
    while removed < MOST {
        let expired = archive.expired_results(Utc::now(), CHUNK).await?;
        for job in &expired {
            delete_folder(files, &artifact_folder(*job)).await?;
        }
        archive.delete_results(&expired).await?;
        removed += expired.len();
        if expired.len() < CHUNK {
            break;
        }
    }
    if removed > 0 {
        tracing::info!(results = removed, "expired results removed");
    }
    Ok(())
}

async fn delete_folder(files: &dyn Files, folder: &str) -> Result<(), PortError> {
    loop {
        let found = files.list(folder, None, CHUNK).await?;
        for file in &found {
            files.delete(&file.key).await?;
        }
        if found.len() < CHUNK {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use atelier_shared::config::StoreConfig;
    use atelier_shared::domain::ids::JobId;
    use atelier_shared::domain::job::{JobResult, JobState, Usage, artifact_key};
    use bytes::Bytes;
    use chrono::TimeDelta;
    use futures::{StreamExt, stream};

    use super::*;

    fn result() -> JobResult {
        JobResult {
            status: JobState::Succeeded,
            exit_code: Some(0),
            signal: None,
            stdout: String::new(),
            stderr: String::new(),
            truncated: false,
            compile: None,
            usage: Usage::default(),
            artifacts: Vec::new(),
            queued_ms: 0,
            started_at: Utc::now(),
            finished_at: Utc::now(),
            attempts: 1,
            trace_id: None,
            progress: None,
            artifacts_skipped: Vec::new(),
            message: None,
        }
    }

    #[tokio::test]
    async fn an_expired_result_goes_with_its_files_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let stores = StoreConfig {
            data_dir: folder.path().to_owned(),
            ..StoreConfig::default()
        };
        let backends = Backends::open(&stores).await.unwrap();
        let (expired, kept) = (JobId::generate(), JobId::generate());
        let hour = TimeDelta::hours(1);
        for (job, expires_at) in [(expired, Utc::now() - hour), (kept, Utc::now() + hour)] {
            let archive = &backends.archive;
            archive
                .put_result(job, &result(), expires_at)
                .await
                .unwrap();
            for index in 0..2 {
                let bytes = stream::iter([Ok(Bytes::from_static(b"x"))]).boxed();
                let key = artifact_key(job, 1, index);
                backends.files.put(&key, bytes).await.unwrap();
            }
        }
        purge(backends.clone()).await.unwrap();
        let left = backends.files.list("jobs", None, 10).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|file| file.key).collect();
        assert_eq!(left, [artifact_key(kept, 1, 0), artifact_key(kept, 1, 1)]);
        let long_ago = Utc::now() - hour * 2;
        let archive = &backends.archive;
        assert!(archive.result(expired, long_ago).await.unwrap().is_none());
        assert!(archive.result(kept, Utc::now()).await.unwrap().is_some());
    }
}
