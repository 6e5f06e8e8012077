//! `/rooms/{id}/persist`, `/load` and `/document`: the room's document for those who hold no socket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::room::{Retention, Role, Room};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::RoomPatch;
use atelier_shared::recovery;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::client::{MaybePrincipal, may, may_enter};
use super::extract::Id;
use super::problem::{Kind, Problem};
use super::refusals::{Failures, Missing, NeedsRight};
use super::state::App;
use crate::room::DocumentSnapshot;

/// How long `persist` waits for the archive.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A room that is just being put away is opened again so often.
const OPEN_TRIES: usize = 3;
/// A document of an open room is merged for the sake of its size up to so many bytes, and as long as it takes no longer.
const MERGED_MAX: usize = 256 << 10;
const MERGED_WITHIN: Duration = Duration::from_millis(250);
/// Of a long list so many are merged; the others are as large as their updates are together.
const MERGED_OF_LIST: usize = 100;
/// So many at a time, for one list.
const OPEN_AT_ONCE: usize = 16;

/// What became of it: `{"success": true, "size": 2048}` or `{"success": false, "error": "No document found"}`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": true, "size": 2048}))]
pub struct Outcome {
    success: bool,
    /// Hex characters of the document's state
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

impl Outcome {
    const NONE: Json<Self> = Self::failed("No document found");
    const BEHIND: Json<Self> =
        Self::failed("The archive is behind; the document is in the room's log, try again");

    const fn failed(error: &'static str) -> Json<Self> {
        Json(Self {
            success: false,
            size: None,
            error: Some(error),
        })
    }

    async fn of(document: &DocumentSnapshot) -> Json<Self> {
        Json(Self {
            success: true,
            size: Some(document.state().await.len() * 2),
            error: None,
        })
    }
}

/// The document as text.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentText {
    /// The whole state as one Yjs update (v1), in hex
    #[schema(example = "0000")]
    data: String,
    /// Hex characters
    size: usize,
    /// The place in the room's log that it stands for
    seq: u64,
}

/// Keeps a room and its document: waits until all of it is archived; a room that would go when empty stays from now on.
/// Editors only. Where there is no room or no document, or the archive does not keep up, it says so with 200.
#[utoipa::path(post, path = "/rooms/{room_id}/persist", tag = "document", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "Kept, or why not", body = Outcome), NeedsRight, Missing, Failures,
))]
pub async fn persist(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<Json<Outcome>, Problem> {
    if app.backends.records.room(&id).await?.is_none() {
        return Ok(Outcome::NONE);
    }
    let (room, _) = may(&app, &id, principal.as_ref(), Role::Editor).await?;
    let Some(document) = document_of(&app, &room).await? else {
        return Ok(Outcome::NONE);
    };
    if !is_archived_soon(&app, &id).await? {
        return Ok(Outcome::BEHIND);
    }
    if room.retention == Retention::Ephemeral {
        keep(&app, &id).await?;
    }
    Ok(Outcome::of(&document).await)
}

/// Brings a room's document back from where it is kept, if the room is not open already, and says how large it is. Where
/// there is no room or no document, it says so with 200.
#[utoipa::path(get, path = "/rooms/{room_id}/load", tag = "document", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "Loaded, or nothing to load", body = Outcome), NeedsRight, Missing, Failures,
))]
pub async fn load(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<Json<Outcome>, Problem> {
    if app.backends.records.room(&id).await?.is_none() {
        return Ok(Outcome::NONE);
    }
    let (room, _) = may_enter(&app, &id, principal.as_ref()).await?;
    match document_of(&app, &room).await? {
        Some(document) => Ok(Outcome::of(&document).await),
        None => Ok(Outcome::NONE),
    }
}

/// The whole document as one Yjs update (v1): its bytes, or with `Accept: application/json` in hex.
#[utoipa::path(get, path = "/rooms/{room_id}/document", tag = "document", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "The document's state", content((Vec<u8> = "application/octet-stream"), (DocumentText = "application/json"))),
    NeedsRight, Missing, Failures,
))]
pub async fn get(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (room, _) = may_enter(&app, &id, principal.as_ref()).await?;
    let document = document_of(&app, &room).await?;
    let document = document.ok_or_else(|| Problem::not_found("document"))?;
    let state = document.state().await;
    if wants_json(&headers) {
        let text = DocumentText {
            size: state.len() * 2,
            data: hex::encode(&state),
            seq: document.seq.0,
        };
        return Ok(Json(text).into_response());
    }
    let name = format!("attachment; filename=\"{id}.yjs\"");
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((headers, state).into_response())
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .map(|range| range.split(';').next().unwrap_or("").trim())
        .find(|range| matches!(*range, "application/json" | "application/octet-stream"))
        == Some("application/json")
}

/// The room's document, if it has one and may; the room is opened where it is not.
async fn document_of(app: &App, room: &Room) -> Result<Option<Arc<DocumentSnapshot>>, Problem> {
    for _ in 0..OPEN_TRIES {
        let handle = app.rooms.open(room).await?;
        if let Ok(document) = handle.document().await {
            return Ok(document.filter(|document| !document.is_empty()));
        }
    }
    Err(Problem::new(Kind::Busy, "The room is just being put away."))
}

/// Waits until everything that is in the room's log now is archived. False: it is not within [`ARCHIVE_PATIENCE`].
async fn is_archived_soon(app: &App, room: &RoomId) -> Result<bool, Problem> {
    let b = &app.backends;
    let Some(log) = b.log.head(room).await? else {
        // It left the hot store: it is archived whole.
        return Ok(true);
    };
    let deadline = Instant::now() + ARCHIVE_PATIENCE;
    let mut woken = false;
    while b.archive.head(room).await?.seq < log.seq {
        if !woken {
            recovery::wake_archive(&*b.log, &*b.queue, room).await?;
            woken = true;
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(true)
}

async fn keep(app: &App, id: &RoomId) -> Result<(), Problem> {
    let kept = RoomPatch {
        retention: Some(Retention::Keep),
        ..RoomPatch::default()
    };
    let room = app.backends.records.patch_room(id, &kept).await?;
    room.ok_or_else(|| Problem::not_found("room"))?;
    app.backends.log.publish(id, &Signal::Changed).await?;
    Ok(())
}

/// Hex characters of the documents of these rooms: as this gateway has them where it has the room open, else as they are
/// archived. A view of rooms does not fail for want of a figure: an archive that is away leaves it 0.
pub(super) async fn sizes(app: &App, rooms: &[RoomId]) -> HashMap<RoomId, usize> {
    let (mut open, mut elsewhere) = (Vec::new(), Vec::new());
    for room in rooms {
        match app.rooms.document_bytes(room) {
            Some(bytes) => open.push((room.clone(), bytes)),
            None => elsewhere.push(room.clone()),
        }
    }
    let mut sizes: HashMap<RoomId, usize> = stream::iter(open.into_iter().enumerate())
        .map(|(at, (room, together))| async move {
            let bytes = match at {
                0..MERGED_OF_LIST => merged_bytes(app, &room, together).await,
                _ => together,
            };
            (room, bytes * 2)
        })
        .buffer_unordered(OPEN_AT_ONCE)
        .collect()
        .await;
    if elsewhere.is_empty() {
        return sizes;
    }
    match app.backends.archive.document_bytes(&elsewhere).await {
        Ok(archived) => sizes.extend(archived.into_iter().map(|(room, bytes)| {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX / 2);
            (room, bytes * 2)
        })),
        Err(error) => tracing::warn!(%error, "sizes of documents are not known now"),
    }
    sizes
}

/// How large the document of an open room is as one update. Of a large one, or of a room that has too much to do, as large
/// as its updates are together until they are merged.
async fn merged_bytes(app: &App, room: &RoomId, together: usize) -> usize {
    if together == 0 || together > MERGED_MAX {
        return together;
    }
    let state = async {
        let document = app.rooms.document(room).await?;
        Some(document.state().await.len())
    };
    let merged = tokio::time::timeout(MERGED_WITHIN, state).await;
    merged.ok().flatten().unwrap_or(together)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn bytes_are_answered_unless_json_is_asked_for_first() {
        let json = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            wants_json(&headers)
        };
        assert!(json("application/json") && json("text/html, application/json;q=0.9, */*"));
        assert!(!json("*/*") && !json("application/octet-stream, application/json"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
