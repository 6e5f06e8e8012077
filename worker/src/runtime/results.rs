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
