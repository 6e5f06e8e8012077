//! `/upload` and `/files`: what is known of uploaded files, who may see, link and delete them.

mod kinds;
mod sender;
mod serve;
mod svg;
mod tap;
mod upload;

use atelier_shared::domain::file::{self, StoredFile};
use atelier_shared::domain::ids::{FileId, RoomId};
use atelier_shared::domain::room::Role;
use atelier_shared::domain::user::DELETED_NAME;
use atelier_shared::ports::{ANSWER_MAX_BYTES, FileIs};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::client::{Authenticated, MaybePrincipal, may_enter, role_in};
use super::extract::{Id, Query};
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;

pub(crate) use kinds::allowed as file_types;
pub use serve::{__path_get, get};
pub use upload::{__path_upload, Uploads, upload};

/// An uploaded file. Its link is signed anew each time it is told.
#[derive(Debug, Serialize, ToSchema)]
pub struct FileView {
    id: Uuid,
    #[schema(example = "plan.pdf")]
    name: String,
    /// Bytes as stored
    size: u64,
    #[schema(example = "application/pdf")]
    content_type: String,
    /// SHA-256 of the bytes as stored, hexadecimal
    sha256: String,
    room_id: Option<String>,
    /// `null`: somebody anonymous
    uploaded_by: Option<Uuid>,
    uploader_name: String,
    created_at: String,
    /// Where the file can be read for an hour
    url: String,
    /// The same, as chat messages call it
    file_url: String,
    file_name: String,
}

impl FileView {
    fn new(app: &App, file: StoredFile) -> Self {
        let url = app.identity.file_url(file.id);
        Self {
            id: file.id.0,
            file_name: file.name.clone(),
            name: file.name,
            size: file.size,
            content_type: file.content_type,
            sha256: file.sha256,
            room_id: file.room.map(|room| room.to_string()),
            uploaded_by: file.uploader.map(|user| user.0),
            uploader_name: file.uploader_name,
            created_at: crate::room::json::outgoing::rfc3339(file.created_at.timestamp_millis()),
            file_url: url.clone(),
            url,
        }
    }
}

/// The files of a room, newest first, each with a fresh link.
#[utoipa::path(get, path = "/rooms/{room_id}/files", operation_id = "files_of_room", tag = "files", params(("room_id" = String, Path), PageParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of files", body = Page<FileView>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(room): Id<RoomId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<FileView>>, Problem> {
    may_enter(&app, &room, principal.as_ref()).await?;
    let (before, limit) = (page.after()?, page.limit()?);
    let files = app
        .backends
        .records
        .files_of_room(&room, before, limit)
        .await?;
    let next_cursor = files
        .items
        .last()
        .filter(|_| files.more)
        .and_then(|file| cursor(&file.id));
    let uploaders = files.items.iter().filter_map(|file| file.uploader);
    let deleted = app.profiles.deleted_among(uploaders.collect()).await?;
    let items = files.items.into_iter().map(|mut file| {
        if file.uploader.is_some_and(|user| deleted.contains(&user)) {
            DELETED_NAME.clone_into(&mut file.uploader_name);
        }
        file
    });
    Ok(Json(Page {
        items: items.map(|file| FileView::new(&app, file)).collect(),
        next_cursor,
    }))
}

/// An answer to an upload that is given again, perhaps hours later: with a link that is good now.
pub async fn linked_anew(app: &App, answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    // It was kept, so it is small.
    let Ok(bytes) = axum::body::to_bytes(body, ANSWER_MAX_BYTES).await else {
        return Problem::internal().into_response();
    };
    let linked = serde_json::from_slice(&bytes)
        .ok()
        .and_then(|mut view: Value| {
            let id: FileId = view.get("id")?.as_str()?.parse().ok()?;
            let url = app.identity.file_url(id);
            for name in ["url", "file_url"] {
                *view.get_mut(name)? = Value::from(url.as_str());
            }
            serde_json::to_vec(&view).ok()
        });
    let body = linked.map_or_else(|| Body::from(bytes), Body::from);
    Response::from_parts(parts, body)
}

/// Deletes a file: who uploaded it, or a host of its room.
#[utoipa::path(delete, path = "/files/{file_id}", operation_id = "files_delete", tag = "files", params(("file_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Gone; its links lead nowhere"), NeedsRight, Missing, Failures,
))]
pub async fn delete(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<FileId>,
) -> Result<StatusCode, Problem> {
    let records = &app.backends.records;
    let file = records.file(id).await?;
    let file = file.ok_or_else(|| Problem::not_found("file"))?;
    let mut may = principal.is_admin || file.uploader == Some(principal.user_id);
    if let (false, Some(room)) = (may, &file.room)
        && let Some(room) = records.room(room).await?
    {
        may = role_in(&app, &room, Some(&principal)).await? == Some(Role::Host);
    }
    if !may {
        return Err(Problem::forbidden(
            "Only who uploaded a file, or a host of its room, deletes it.",
        ));
    }
    if !records.delete_file(id, FileIs::Anywhere).await? {
        return Err(Problem::not_found("file"));
    }
    // If this fails, the bytes belong to nobody, and the cleanup of orphaned files takes them.
    app.backends.files.delete(&file::key(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
