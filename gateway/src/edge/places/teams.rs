//! `/teams`: people who share insights and are counted together.

use atelier_shared::domain::ids::{PlaceId, UserId};
use atelier_shared::domain::place::PlaceKind;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::members::{self, NewPlaceMember, PlaceMemberPatch, PlaceMemberView};
use super::{NewPlace, PlacePatch, PlaceView, known, lifecycle};
use crate::edge::client::Authenticated;
use crate::edge::extract::{Body, Id, Ids, Query};
use crate::edge::page::{Page, PageParams};
use crate::edge::problem::Problem;
use crate::edge::refusals::{BadBody, BadQuery, Failures, Missing, NeedsRight, NeedsToken, Taken};
use crate::edge::state::App;

const KIND: PlaceKind = PlaceKind::Team;

/// Makes a team; its maker is owner.
#[utoipa::path(post, path = "/teams", operation_id = "create", tag = "teams", request_body = NewPlace, security(("bearer" = [])), responses(
    (status = 201, description = "The team", body = PlaceView, headers(("location" = String, description = "Its path"))),
    NeedsToken, BadBody, Failures,
))]
pub async fn create(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Body(asked): Body<NewPlace>,
) -> Result<impl IntoResponse, Problem> {
    lifecycle::create(&app, KIND, None, &principal, asked).await
}

/// The teams that you belong to, newest first.
#[utoipa::path(get, path = "/teams", operation_id = "list", tag = "teams", params(PageParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of teams", body = Page<PlaceView>), NeedsToken, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<PlaceView>>, Problem> {
    lifecycle::list_of_kind(&app, KIND, &principal, &page).await
}

/// One team, for those who belong to it.
#[utoipa::path(get, path = "/teams/{team_id}", operation_id = "get", tag = "teams", params(("team_id" = uuid::Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The team", body = PlaceView), NeedsRight, Missing, Failures,
))]
pub async fn get(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<PlaceId>,
) -> Result<Json<PlaceView>, Problem> {
    let (place, role) = known(&app, KIND, id, &principal).await?;
    Ok(Json(PlaceView::new(place, Some(role))))
}

/// Changes what a team is; admins only.
#[utoipa::path(patch, path = "/teams/{team_id}", operation_id = "patch", tag = "teams", params(("team_id" = uuid::Uuid, Path)), request_body = PlacePatch, security(("bearer" = [])), responses(
    (status = 200, description = "The team as it is now", body = PlaceView), NeedsRight, Missing, BadBody, Failures,
))]
pub async fn patch(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<PlaceId>,
    Body(asked): Body<PlacePatch>,
) -> Result<Json<PlaceView>, Problem> {
    lifecycle::patch(&app, KIND, id, &principal, asked).await
}

/// Deletes a team; owners only.
#[utoipa::path(delete, path = "/teams/{team_id}", operation_id = "delete", tag = "teams", params(("team_id" = uuid::Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Gone"), NeedsRight, Missing, Taken, Failures,
))]
pub async fn delete(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<PlaceId>,
) -> Result<StatusCode, Problem> {
    lifecycle::delete(&app, KIND, id, &principal).await
}

/// Who belongs to the team, by user id.
#[utoipa::path(get, path = "/teams/{team_id}/members", operation_id = "members_list", tag = "teams", params(("team_id" = uuid::Uuid, Path), PageParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of members", body = Page<PlaceMemberView>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn members(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<PlaceId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<PlaceMemberView>>, Problem> {
    members::list(&app, KIND, id, &principal, &page).await
}

/// Takes somebody into the team; admins only, and owners only for another owner.
#[utoipa::path(post, path = "/teams/{team_id}/members", operation_id = "members_add", tag = "teams", params(("team_id" = uuid::Uuid, Path)), request_body = NewPlaceMember, security(("bearer" = [])), responses(
    (status = 201, description = "The member", body = PlaceMemberView), NeedsRight, Missing, BadBody, Taken, Failures,
))]
pub async fn add_member(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<PlaceId>,
    Body(asked): Body<NewPlaceMember>,
) -> Result<(StatusCode, Json<PlaceMemberView>), Problem> {
    members::add(&app, KIND, id, principal, asked).await
}

/// Changes somebody's role; admins only, and owners only where an owner is made or changed. One owner stays.
#[utoipa::path(patch, path = "/teams/{team_id}/members/{user_id}", operation_id = "members_change", tag = "teams", params(("team_id" = uuid::Uuid, Path), ("user_id" = uuid::Uuid, Path)), request_body = PlaceMemberPatch, security(("bearer" = [])), responses(
    (status = 200, description = "The member", body = PlaceMemberView), NeedsRight, Missing, BadBody, Taken, Failures,
))]
pub async fn change_member(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Ids(id, user): Ids<PlaceId, UserId>,
    Body(asked): Body<PlaceMemberPatch>,
) -> Result<Json<PlaceMemberView>, Problem> {
    members::change(&app, KIND, id, user, principal, asked).await
}

/// Sends somebody away, or leaves. One owner stays.
#[utoipa::path(delete, path = "/teams/{team_id}/members/{user_id}", operation_id = "members_remove", tag = "teams", params(("team_id" = uuid::Uuid, Path), ("user_id" = uuid::Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Not a member any more"), NeedsRight, Missing, Taken, Failures,
))]
pub async fn remove_member(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Ids(id, user): Ids<PlaceId, UserId>,
) -> Result<StatusCode, Problem> {
    members::remove(&app, KIND, id, user, principal).await
}
