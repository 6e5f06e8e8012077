//! `GET /jobs/{id}/artifacts/{path}`: files that a program left behind, as downloads that no browser shows or runs.

use atelier_shared::domain::ids::JobId;
use atelier_shared::domain::job::{artifact_folder, artifact_key};
use atelier_shared::domain::room::Role;
use atelier_shared::ports::PortError;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use super::client::Authenticated;
use super::extract::Ids;
use super::jobs::find;
use super::problem::Problem;
use super::refusals::{Failures, Missing, NeedsToken};
use super::state::App;

/// More than are kept of one job.
const FILES_MAX: usize = 1_000;

/// A file that the job's program left in its work folder, as `artifacts` of the result lists it.
#[utoipa::path(get, path = "/jobs/{job_id}/artifacts/{*path}", tag = "jobs", operation_id = "artifact",
    params(("job_id" = Uuid, Path), ("path" = String, Path, description = "As listed; slashes stay as they are")),
    security(("bearer" = [])), responses(
        (status = 200, description = "Its bytes, as an attachment", content_type = "application/octet-stream", body = String),
        NeedsToken, Missing, Failures,
    ))]
pub async fn get(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Ids(id, path): Ids<JobId, String>,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found("file");
    find(&app, id, &principal, Role::Viewer).await?;
    let result = app.backends.archive.result(id, Utc::now()).await?;
    let result = result.ok_or_else(missing)?;
    // The path is looked up, never followed: a file is kept under a number.
    let index = result.artifacts.iter().position(|file| file.path == path);
    let index = index.ok_or_else(missing)?;
    let key = artifact_key(id, result.attempts, index);
    let bytes = app.backends.files.get(&key, None).await?;
    let bytes = bytes.ok_or_else(missing)?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::CONTENT_DISPOSITION, attachment(&path)),
        (
            header::CONTENT_LENGTH,
            HeaderValue::from(result.artifacts[index].size),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; sandbox; frame-ancestors 'none'"),
        ),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-store"),
        ),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

/// RFC 6266: the last part of the path, in ASCII and, exactly, as RFC 8187 has it.
fn attachment(path: &str) -> HeaderValue {
    let name = path.rsplit('/').next().unwrap_or_default();
    let plain: String = name
        .chars()
        .map(|c| match c {
            ' '..='~' if !matches!(c, '"' | '\\' | '%') => c,
            _ => '_',
        })
        .collect();
    let mut exact = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            exact.push(char::from(byte));
        } else {
            exact.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"
    ))
    .unwrap_or(HeaderValue::from_static("attachment"))
}

/// Removes what a deleted job left. What can't be removed now goes when the result expires.
pub(super) async fn forget(app: &App, id: JobId) {
    if let Err(error) = remove(app, id).await {
        tracing::debug!(job = %id, %error, "a deleted job's result stays until it expires");
    }
}

async fn remove(app: &App, id: JobId) -> Result<(), PortError> {
    let files = &app.backends.files;
    for file in files.list(&artifact_folder(id), None, FILES_MAX).await? {
        files.delete(&file.key).await?;
    }
    app.backends.archive.delete_results(&[id]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_leave_its_header() {
        let header = attachment("out/a\"b\\\r\nSet-Cookie: x=ü.txt");
        assert_eq!(
            header.to_str().unwrap(),
            "attachment; filename=\"a_b___Set-Cookie: x=_.txt\"; \
             filename*=UTF-8''a%22b%5C%0D%0ASet-Cookie%3A%20x%3D%C3%BC.txt"
        );
    }
}
