//! Files that a program left behind, kept with its result.

use atelier_shared::domain::job::{Artifact, Job as Row, JobResult, SkippedArtifact, artifact_key};
use atelier_shared::ports::Files;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::record::patiently;
use super::result::SKIPPED_MAX;
use crate::sandbox::{self, ArtifactRequest};

/// Most files kept of one job.
const FILES_MAX: usize = 64;
/// Read from a box: sources and what compilers leave are among them, and are left out afterwards.
const FILES_COLLECTED: usize = 1_024;
/// Folders and files that tools leave, which nobody asks for.
const LEFT_BY_TOOLS: [&str; 3] = ["__pycache__", "node_modules", "program"];

pub(super) fn request(max_bytes: u64) -> Option<ArtifactRequest> {
    (max_bytes > 0).then(|| ArtifactRequest {
        patterns: vec!["**".into()],
        max_files: FILES_COLLECTED,
        max_bytes,
    })
}

/// Stores what the program made itself, and lists it in the result. A file store that stays away costs the files, not
/// the result: running the program again would be worse.
pub(super) async fn keep(
    files: &dyn Files,
    row: &Row,
    left: Vec<sandbox::Artifact>,
    result: &mut JobResult,
) {
    let skipped = &mut result.artifacts_skipped;
    skipped.retain(|file| !is_left_by_tools(&file.path));
    skipped.truncate(SKIPPED_MAX);
    let mut skip = |path: String, reason: &str| {
        if skipped.len() < SKIPPED_MAX {
            let reason = reason.to_owned();
            skipped.push(SkippedArtifact { path, reason });
        }
    };
    let mut made: Vec<sandbox::Artifact> = Vec::new();
    for file in left {
        if is_hidden(&file.path) && !is_source(row, &file) {
            skip(file.path, "its name begins with a dot");
        } else if !is_made(row, &file) {
            // Nobody misses it.
        } else if made.len() == FILES_MAX {
            skip(file.path, "more files than are kept");
        } else if made.iter().any(|other| other.path == file.path) {
            // Two names that are no UTF-8, told alike.
            skip(file.path, "another file is told by this name");
        } else {
            made.push(file);
        }
    }
    for (index, file) in made.into_iter().enumerate() {
        let key = artifact_key(row.id, result.attempts, index);
        let put = patiently(|| files.put(&key, whole(file.content.clone()))).await;
        if let Err(failure) = put {
            tracing::warn!(job = %row.id, %failure, "files of a job are lost");
            result
                .message
                .get_or_insert_with(|| "some of its files could not be kept".to_owned());
            return;
        }
        result.artifacts.push(Artifact {
            size: file.size(),
            path: file.path,
        });
    }
}

fn whole(content: Bytes) -> stream::BoxStream<'static, atelier_shared::ports::Result<Bytes>> {
    stream::iter([Ok(content)]).boxed()
}

fn is_left_by_tools(path: &str) -> bool {
    path.split('/')
        .any(|part| part.starts_with('.') || LEFT_BY_TOOLS.contains(&part))
}

/// Not a source that is as it was, nor what a tool leaves on its own.
fn is_made(row: &Row, file: &sandbox::Artifact) -> bool {
    if is_left_by_tools(&file.path) {
        return false;
    }
    if let Some((stem, extension)) = file.path.rsplit_once('.') {
        let mut sources = row.spec.files.iter();
        let mut has_source = |end: &str| sources.any(|s| s.path == format!("{stem}.{end}"));
        if extension == "class" || (extension == "js" && has_source("ts")) {
            return false;
        }
    }
    !is_source(row, file)
}

/// A file of the program's own that hides itself (what lies in hidden folders is a tool's).
fn is_hidden(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    name.starts_with('.') && !is_left_by_tools(folder)
}

/// A source that is as it was.
fn is_source(row: &Row, file: &sandbox::Artifact) -> bool {
    row.spec.files.iter().any(|source| {
        let unchanged = match source.encoding.as_deref() {
            Some("base64") => true,
            _ => source.content.as_bytes() == file.content,
        };
        source.path == file.path && unchanged
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_file_is_told_of_and_a_tool_s_folder_is_not() {
        for (path, hidden) in [
            (".result.json", true),
            ("out/.env", true),
            ("result.json", false),
            (".cache/x", false),
            (".cache/.x", false),
            ("node_modules/.package-lock.json", false),
        ] {
            assert_eq!(is_hidden(path), hidden, "{path}");
        }
    }
}
