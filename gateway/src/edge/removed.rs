//! `/cleanup/removed`: rooms that the cleanup removed, while what they held is kept: listed, exported, brought back.

use atelier_shared::domain::ids::Seq;
use atelier_shared::domain::removal::{Removal, RemovalState};
use atelier_shared::removals::{self, Restored};
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::board::{self, Format};
use super::client::Administrator;
use super::extract::{Id, Query};
use super::health::rfc3339;
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight, Taken};
use super::state::App;

/// A removed room.
#[derive(Debug, Serialize, ToSchema)]
pub struct RemovalView {
    id: Uuid,
    /// What the room was; somebody may have made another one of that name since
    room_id: String,
    name: String,
    /// `removing`, `kept`, `removed` or `restoring`
    #[schema(example = "removed")]
    state: &'static str,
    /// Entries of its log that are kept
    entries: u64,
    files: u64,
    removed_at: String,
    /// Until then it can be brought back
    expires_at: String,
}

impl From<Removal> for RemovalView {
    fn from(removal: Removal) -> Self {
        Self {
            id: removal.id,
            room_id: removal.room.to_string(),
            name: removal.snapshot.room.name,
            state: removal.state.as_str(),
            entries: removal.entries,
            files: removal.files,
            removed_at: rfc3339(removal.removed_at),
            expires_at: rfc3339(removal.expires_at),
        }
    }
}

/// A room that is there again.
#[derive(Debug, Serialize, ToSchema)]
pub struct RestoredRoom {
    /// Its own id, or a new one where another room has that meanwhile
    room_id: String,
    entries: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RemovedExport {
    /// `svg` or `json`
    #[param(value_type = Option<String>, default = "json")]
    format: Option<Format>,
}

/// Rooms that the cleanup removed and that can still be brought back, newest first.
#[utoipa::path(get, path = "/cleanup/removed", operation_id = "cleanup_removed", tag = "cleanup", params(PageParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of removed rooms", body = Page<RemovalView>), NeedsRight, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Administrator(_): Administrator,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<RemovalView>>, Problem> {
    let found = app
        .backends
        .records
        .removals(page.after()?, page.limit()?)
        .await?;
    let last = found.items.last().filter(|_| found.more);
    Ok(Json(Page {
        next_cursor: last.and_then(|removal| cursor(&removal.id)),
        items: found.items.into_iter().map(RemovalView::from).collect(),
    }))
}

/// Brings a removed room back as it was, with its messages, drawing, document, files and members, as one that is kept.
#[utoipa::path(post, path = "/cleanup/removed/{removal_id}/restore", operation_id = "cleanup_restore", tag = "cleanup", params(("removal_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "It is there again", body = RestoredRoom), NeedsRight, Missing, Taken, Failures,
))]
pub async fn restore(
    State(app): State<App>,
    Administrator(_): Administrator,
    Id(id): Id<Uuid>,
) -> Result<Json<RestoredRoom>, Problem> {
    // On a task of its own: a caller who hangs up must not leave it half done.
    let restoring = async move { removals::restore(&app.backends, id, Utc::now()).await };
    let restored = tokio::spawn(restoring)
        .await
        .map_err(|_| Problem::internal())?;
    match restored? {
        Restored::Done { room, entries } => {
            tracing::info!(%room, entries, removal = %id, "removed room brought back");
            Ok(Json(RestoredRoom {
                room_id: room.to_string(),
                entries,
            }))
        }
        Restored::Missing => Err(Problem::not_found("removed room")),
        Restored::UnderWay => Err(Problem::conflict(
            "This room is just being removed or brought back; ask again.",
        )),
    }
}

/// The drawing of a removed room, as a file.
#[utoipa::path(get, path = "/cleanup/removed/{removal_id}/export", operation_id = "cleanup_export", tag = "cleanup", params(("removal_id" = Uuid, Path), RemovedExport), security(("bearer" = [])), responses(
    (status = 200, description = "The drawing", content((String = "image/svg+xml"), (Object = "application/json"))), NeedsRight, Missing, Taken, BadQuery, Failures,
))]
pub async fn export(
    State(app): State<App>,
    Administrator(_): Administrator,
    Id(id): Id<Uuid>,
    Query(params): Query<RemovedExport>,
) -> Result<impl IntoResponse, Problem> {
    let removal = app.backends.records.removal(id).await?;
    let removal = removal.ok_or_else(|| Problem::not_found("removed room"))?;
    if removal.state == RemovalState::Removing {
        return Err(Problem::conflict(
            "This room is just being removed; ask again.",
        ));
    }
    let _turn = board::turn(&app).await?;
    let state = removals::state(&*app.backends.archive, &removal).await?;
    let (name, seq) = (&removal.snapshot.room.name, removal.entries);
    let format = params.format.unwrap_or(Format::Json);
    board::file(name, state.board.strokes(), Seq(seq), None, format).await
}
