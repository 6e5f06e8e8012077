//! Opens a folder as an object store, and removes what uploads left there when their process died.

use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::local::LocalFileSystem;

use crate::ports::{PortError, Result};

/// An upload under way is `name#number` beside its destination. One untouched for so long has no process any more
/// (other processes may share the folder).
const STAGED_AGE: Duration = Duration::from_secs(24 * 60 * 60);

pub async fn open(folder: &Path) -> Result<LocalFileSystem> {
    const OPERATION: &str = "open files folder";
    tokio::fs::create_dir_all(folder)
        .await
        .map_err(|e| PortError::fatal(OPERATION, format!("{}: {e}", folder.display())))?;
    let store = LocalFileSystem::new_with_prefix(folder)
        .map_err(|e| PortError::fatal(OPERATION, e))?
        .with_fsync(true);
    let swept = folder.to_owned();
    // Beside the start, which a large folder must not hold up.
    tokio::task::spawn_blocking(move || {
        let removed = remove_staged(swept);
        if removed > 0 {
            tracing::info!(removed, "removed uploads that were never finished");
        }
    });
    Ok(store)
}

/// What can't be read or removed is left for the next start.
fn remove_staged(folder: PathBuf) -> usize {
    let mut removed = 0;
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() && is_staged(&entry) => {
                    removed += usize::from(std::fs::remove_file(entry.path()).is_ok());
                }
                _ => {}
            }
        }
    }
    removed
}

/// Keys have no `#`, so no file of ours has such a name.
fn is_staged(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name();
    let numbered = name
        .to_string_lossy()
        .rsplit_once('#')
        .is_some_and(|(_, number)| {
            !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        });
    numbered
        && entry
            .metadata()
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|modified| modified.elapsed().ok())
            .is_some_and(|age| age > STAGED_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_unfinished_uploads_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("rooms");
        std::fs::create_dir(&deep).unwrap();
        let old = std::time::SystemTime::now() - 2 * STAGED_AGE;
        for (name, is_old) in [("a#1", true), ("b#2", false), ("c", true), ("d#x", true)] {
            let file = std::fs::File::create(deep.join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        assert_eq!(remove_staged(folder.path().to_owned()), 1);
        assert!(!deep.join("a#1").exists());
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 3);
    }
}
