//! Files that a program left behind, kept with its result.

use atelier_shared::domain::job::{Artifact, Job as Row, JobResult, SkippedArtifact, artifact_key};
use atelier_shared::domain::language;
use atelier_shared::ports::Files;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
const LEFT_BY_TOOLS: [&str; 2] = ["__pycache__", "node_modules"];

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
    let language = language::find(&row.spec.language);
    if language.is_some_and(|language| language.compiles_to(&file.path)) {
        return false;
    }
    if let Some(stem) = file.path.strip_suffix(".js") {
        let mut sources = row.spec.files.iter();
        if sources.any(|source| source.path == format!("{stem}.ts")) {
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
        source.path == file.path
            && match source.encoding.as_deref() {
                Some("base64") => {
                    let decoded = STANDARD.decode(&source.content);
                    decoded.is_ok_and(|content| content == file.content)
                }
                _ => source.content.as_bytes() == file.content,
            }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atelier_shared::domain::ids::{JobId, UserId};
    use atelier_shared::domain::job::{AskedLimits, JobSpec, JobState, SourceFile};
    use chrono::Utc;

    use super::*;

    fn row(language: &str) -> Row {
        let source = |path: &str, content: &str, encoding: Option<&str>| SourceFile {
            path: path.into(),
            content: content.into(),
            encoding: encoding.map(Into::into),
        };
        Row {
            id: JobId::generate(),
            owner: UserId::generate(),
            owner_name: "Ada".into(),
            room_id: None,
            project_id: None,
            priority: 0,
            spec: JobSpec {
                language: language.into(),
                version: None,
                files: vec![
                    source("main.ts", "1", None),
                    source("data.bin", "AAEC", Some("base64")),
                ],
                entrypoint: None,
                stdin: String::new(),
                args: Vec::new(),
                env: BTreeMap::new(),
                limits: AskedLimits::default(),
                callback_url: None,
            },
            state: JobState::Running,
            attempts: 1,
            revivals: 0,
            traceparent: None,
            asked_by: None,
            created_at: Utc::now(),
            started_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn what_the_program_made_or_changed_is_kept_and_what_its_compiler_made_is_not() {
        for (language, path, content, kept) in [
            ("python", "data.bin", &[0, 1, 2][..], false),
            ("python", "data.bin", &[0, 1, 3], true),
            ("python", "main.ts", b"1", false),
            ("python", "main.ts", b"2", true),
            ("python", "program", b"x", true),
            ("python", "program/plot.png", b"x", true),
            ("python", "A.class", b"x", true),
            ("python", "__pycache__/a.pyc", b"x", false),
            ("c", "program", b"x", false),
            ("c", "program/plot.png", b"x", true),
            ("rust", "out/program", b"x", true),
            ("java", "com/A.class", b"x", false),
            ("java", "program", b"x", true),
            ("typescript", "main.js", b"x", false),
            ("typescript", "other.js", b"x", true),
        ] {
            let file = sandbox::Artifact {
                path: path.into(),
                content: Bytes::copy_from_slice(content),
            };
            assert_eq!(is_made(&row(language), &file), kept, "{language} {path}");
        }
    }

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
