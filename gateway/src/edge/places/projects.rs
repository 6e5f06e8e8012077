//! `/projects`: rooms that stand together; the workspace's people belong to them.

use atelier_shared::domain::place::{PlaceKind, PlaceRole};
use atelier_shared::ports::PlaceScope;

use super::may;
use super::routes::place_routes;
use super::routes::prelude::*;

place_routes!(
    PlaceKind::Project, "project", tag: "projects", id: "project_id",
    place: "/projects/{project_id}", members: "/projects/{project_id}/members",
    member: "/projects/{project_id}/members/{user_id}",
    deleting: "Deletes a project with its rooms"
);

/// Makes a project in a workspace; its maker is owner. For members of the workspace, not for viewers.
#[utoipa::path(post, path = "/workspaces/{workspace_id}/projects", operation_id = "create", tag = "projects", params(("workspace_id" = uuid::Uuid, Path)), request_body = NewPlace, security(("bearer" = [])), responses(
    (status = 201, description = "The project", body = PlaceView, headers(("location" = String, description = "Its path"))),
    NeedsRight, Missing, BadBody, Failures,
))]
pub async fn create(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(workspace): Id<PlaceId>,
    Body(asked): Body<NewPlace>,
) -> Result<impl IntoResponse, Problem> {
    let least = PlaceRole::Member;
    may(&app, PlaceKind::Workspace, workspace, &principal, least).await?;
    lifecycle::create(&app, PlaceKind::Project, Some(workspace), &principal, asked).await
}

/// The projects of a workspace, newest first.
#[utoipa::path(get, path = "/workspaces/{workspace_id}/projects", operation_id = "list", tag = "projects", params(("workspace_id" = uuid::Uuid, Path), PageParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of projects", body = Page<PlaceView>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(workspace): Id<PlaceId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<PlaceView>>, Problem> {
    let (_, role) = known(&app, PlaceKind::Workspace, workspace, &principal).await?;
    let scope = PlaceScope::In(workspace);
    lifecycle::list(&app, scope, &principal, Some(role), &page).await
}
