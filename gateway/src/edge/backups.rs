//! `/rooms/{id}/backups`: listed, made, exported, restored.

use atelier_shared::backups;
use atelier_shared::domain::backup::{self, Backup, BackupReason};
use atelier_shared::domain::drawing::Rest;
use atelier_shared::domain::ids::{BackupId, RoomId};
use atelier_shared::domain::room::{Role, Room};
use atelier_shared::domain::state::RoomState;
use atelier_shared::recovery;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::board::{self, Format};
use super::client::{Authenticated, MaybePrincipal, may, may_enter};
use super::extract::{Id, Ids, Query};
use super::health::rfc3339;
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;
use super::words::FormatWord;
use crate::identity::Principal;

/// A backup in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackupView {
    id: Uuid,
    /// All up to this entry of the room's log is in it
    seq: u64,
    made_at: String,
    /// `scheduled`, `asked`, or `restore` (made before one)
    reason: &'static str,
    strokes: u64,
    document_bytes: u64,
    /// What it takes in the archive
    bytes: u64,
}

impl From<Backup> for BackupView {
    fn from(backup: Backup) -> Self {
        Self {
            id: backup.id.0,
            seq: backup.seq.0,
            made_at: rfc3339(backup.made_at),
            reason: backup.reason.as_str(),
            strokes: backup.strokes,
            document_bytes: backup.document_bytes,
            bytes: backup.bytes,
        }
    }
}

/// What a restore did.
#[derive(Debug, Serialize, ToSchema)]
pub struct Restored {
    restored: BackupView,
    /// The room as it was before: restore this to undo
    before: BackupView,
    /// Entries that were written; 0: the room was as in the backup
    edits: usize,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ExportParams {
    /// `svg` or `json`
    #[param(value_type = Option<FormatWord>, default = "json")]
    format: Option<Format>,
}

/// A room's backups, newest first.
#[utoipa::path(get, path = "/rooms/{room_id}/backups", tag = "backups", params(("room_id" = String, Path), PageParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of backups", body = Page<BackupView>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(room): Id<RoomId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<BackupView>>, Problem> {
    may_enter(&app, &room, principal.as_ref()).await?;
    let limit = page.limit()?;
    let archive = &app.backends.archive;
    let mut found = archive.backups(&room, page.after()?, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more).map(|backup| backup.id);
    Ok(Json(Page {
        items: found.into_iter().map(BackupView::from).collect(),
        next_cursor: last.and_then(|id| cursor(&id)),
    }))
}

/// Makes a backup of the room as it is now; editors and hosts.
#[utoipa::path(post, path = "/rooms/{room_id}/backups", tag = "backups", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 201, description = "The backup", body = BackupView, headers(("location" = String, description = "The list it is in"))), NeedsRight, Missing, Failures,
))]
pub async fn create(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<impl IntoResponse, Problem> {
    let (room, _) = may(&app, &id, principal.as_ref(), Role::Editor).await?;
    let _turn = board::turn(&app).await?;
    let (backup, _) = take(&app, &room, BackupReason::Asked).await?;
    let location = format!("/api/v1/rooms/{id}/backups");
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(BackupView::from(backup)),
    ))
}

/// A backup of the present, and the present.
async fn take(
    app: &App,
    room: &Room,
    reason: BackupReason,
) -> Result<(Backup, RoomState), Problem> {
    let b = &app.backends;
    // Before what it holds: a room that is removed meanwhile leaves no backup in the next one of its name.
    let epoch = b.archive.head(&room.id).await?.epoch;
    let (state, seq) = recovery::present(&*b.log, &*b.archive, &room.id).await?;
    let taken = backups::take(
        &*b.archive,
        &room.id,
        epoch,
        (state.clone(), seq),
        reason,
        b.backup_keep,
    );
    Ok((taken.await?, state))
}

/// Brings board, document and metadata back to what the backup holds; hosts only. By edits on top of what is there, which every
/// open client gets as ordinary messages; a backup made right before undoes it.
#[utoipa::path(post, path = "/rooms/{room_id}/backups/{backup_id}/restore", tag = "backups", params(("room_id" = String, Path), ("backup_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "What was done", body = Restored), NeedsRight, Missing, Failures,
))]
pub async fn restore(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Ids(id, backup_id): Ids<RoomId, BackupId>,
) -> Result<Json<Restored>, Problem> {
    let (room, _) = may(&app, &id, Some(&principal), Role::Host).await?;
    let _turn = board::turn(&app).await?;
    let (backup, then) = read(&app, &id, backup_id).await?;
    let (before, now) = take(&app, &room, BackupReason::Restore).await?;
    let edits = bring_back(&app, &principal, &id, now, then).await?;
    tracing::info!(room = %id, backup = %backup_id, edits, "room restored");
    Ok(Json(Restored {
        restored: backup.into(),
        before: before.into(),
        edits,
    }))
}

async fn bring_back(
    app: &App,
    principal: &Principal,
    room: &RoomId,
    now: RoomState,
    then: RoomState,
) -> Result<usize, Problem> {
    let now_ms = Utc::now().timestamp_millis();
    let edits = tokio::task::spawn_blocking(move || backup::edits(&now, &then, now_ms));
    let edits = edits.await.map_err(|_| Problem::internal())?;
    let edits = edits.map_err(|error| {
        tracing::error!(%room, %error, "a document could not be restored");
        Problem::internal()
    })?;
    let count = edits.len();
    board::append(app, principal, room, edits).await?;
    Ok(count)
}

async fn read(app: &App, room: &RoomId, id: BackupId) -> Result<(Backup, RoomState), Problem> {
    backups::read(&*app.backends.archive, room, id)
        .await?
        .ok_or_else(|| Problem::not_found("backup"))
}

/// A backup as a file: of JSON with drawing, document (a v1 update of Yjs, in hexadecimal) and metadata, or the drawing as SVG.
#[utoipa::path(get, path = "/rooms/{room_id}/backups/{backup_id}/export", tag = "backups", params(("room_id" = String, Path), ("backup_id" = Uuid, Path), ExportParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "The drawing", content((String = "image/svg+xml"), (Object = "application/json"))), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn export(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Ids(id, backup_id): Ids<RoomId, BackupId>,
    Query(params): Query<ExportParams>,
) -> Result<impl IntoResponse, Problem> {
    let (room, _) = may_enter(&app, &id, principal.as_ref()).await?;
    let _turn = board::turn(&app).await?;
    let (backup, state) = read(&app, &id, backup_id).await?;
    let format = params.format.unwrap_or(Format::Json);
    let strokes = state.board.strokes();
    let rest = (format == Format::Json).then_some(state);
    let rest = tokio::task::spawn_blocking(move || {
        rest.map(|state| Rest {
            document: hex::encode(state.document.snapshot().state()),
            metadata: state.metadata,
        })
    });
    let rest = rest.await.map_err(|_| Problem::internal())?;
    board::file(&room.name, strokes, backup.seq, rest, format).await
}
