//! Places are made, listed, changed and deleted alike, whichever kind they are.

use atelier_shared::domain::ids::PlaceId;
use atelier_shared::domain::names;
use atelier_shared::domain::place::{Place, PlaceKind, PlaceRole, description};
use atelier_shared::ports::{self, PlaceDeletion, PlaceScope};
use axum::Json;
use axum::http::{HeaderName, StatusCode, header};
use chrono::{SubsecRound, Utc};

use super::{NewPlace, PlacePatch, PlaceView, may};
use crate::edge::page::{Page, PageParams, cursor};
use crate::edge::problem::Problem;
use crate::edge::rooms::delete_room;
use crate::edge::state::App;
use crate::identity::Principal;

/// Rooms deleted with their project before the caller must ask again.
const ROOMS_DELETED_AT_ONCE: usize = 1_000;

pub type Made = (StatusCode, [(HeaderName, String); 1], Json<PlaceView>);

pub async fn create(
    app: &App,
    kind: PlaceKind,
    parent: Option<PlaceId>,
    principal: &Principal,
    asked: NewPlace,
) -> Result<Made, Problem> {
    let place = Place {
        id: PlaceId::generate(),
        kind,
        parent,
        name: names::label("name", &asked.name)?,
        description: description(asked.description.as_deref().unwrap_or_default())?,
        created_by: principal.row(),
        created_at: Utc::now().trunc_subsecs(6),
    };
    if !app.backends.records.create_place(&place).await? {
        return Err(Problem::not_found("workspace"));
    }
    let location = format!("/api/v1/{}s/{}", kind.as_str(), place.id);
    let view = PlaceView::new(place, Some(PlaceRole::Owner));
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(view),
    ))
}

/// `inherited`: what the reader is in all of them by their workspace.
pub async fn list(
    app: &App,
    scope: PlaceScope,
    principal: &Principal,
    inherited: Option<PlaceRole>,
    page: &PageParams,
) -> Result<Json<Page<PlaceView>>, Problem> {
    let before: Option<PlaceId> = page.after()?;
    let records = &app.backends.records;
    let places = records
        .list_places(scope, principal.user_id, before, page.limit()?)
        .await?;
    let last = places.items.last().map(|(place, _)| place.id);
    let next_cursor = last.filter(|_| places.more).and_then(|id| cursor(&id));
    let administers = principal.is_admin.then_some(PlaceRole::Owner);
    let items = places
        .items
        .into_iter()
        .map(|(place, own)| PlaceView::new(place, own.max(inherited).max(administers)))
        .collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Workspaces or teams: one's own, or all for administrators.
pub async fn list_of_kind(
    app: &App,
    kind: PlaceKind,
    principal: &Principal,
    page: &PageParams,
) -> Result<Json<Page<PlaceView>>, Problem> {
    let scope = if principal.is_admin {
        PlaceScope::All(kind)
    } else {
        PlaceScope::Of(principal.user_id, kind)
    };
    list(app, scope, principal, None, page).await
}

pub async fn patch(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    principal: &Principal,
    asked: PlacePatch,
) -> Result<Json<PlaceView>, Problem> {
    let (_, role) = may(app, kind, id, principal, PlaceRole::Admin).await?;
    let (name, text) = (asked.name.as_deref(), asked.description.as_deref());
    let patch = ports::PlacePatch {
        name: name.map(|name| names::label("name", name)).transpose()?,
        description: text.map(description).transpose()?,
    };
    let place = app.backends.records.patch_place(id, &patch).await?;
    let place = place.ok_or_else(|| Problem::not_found(kind.as_str()))?;
    Ok(Json(PlaceView::new(place, Some(role))))
}

/// The rooms first, each as if deleted alone, so that a call that was cut short can be made again.
pub async fn delete(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    principal: &Principal,
) -> Result<StatusCode, Problem> {
    may(app, kind, id, principal, PlaceRole::Owner).await?;
    let records = &app.backends.records;
    let mut deleted = 0;
    loop {
        match records.delete_place(id).await? {
            PlaceDeletion::Deleted => return Ok(StatusCode::NO_CONTENT),
            PlaceDeletion::Missing => return Err(Problem::not_found(kind.as_str())),
            PlaceDeletion::HasRooms if deleted >= ROOMS_DELETED_AT_ONCE => {
                return Err(Problem::conflict(format!(
                    "{deleted} rooms were deleted and there are more; ask again."
                )));
            }
            PlaceDeletion::HasRooms => {}
        }
        for room in records.rooms_in(id, ROOMS_DELETED_AT_ONCE).await? {
            match delete_room(app, &room).await {
                Ok(_) => deleted += 1,
                // Somebody else was faster.
                Err(problem) if problem.status() == StatusCode::NOT_FOUND => {}
                Err(problem) => return Err(problem),
            }
        }
    }
}
