//! `/workspaces`: where projects stand together, and who belongs to all of them.

use atelier_shared::domain::place::PlaceKind;

use super::routes::prelude::*;
use super::routes::{place_of_its_own, place_routes};

place_of_its_own!(PlaceKind::Workspace, "workspace", tag: "workspaces", places: "/workspaces");
place_routes!(
    PlaceKind::Workspace, "workspace", tag: "workspaces", id: "workspace_id",
    place: "/workspaces/{workspace_id}", members: "/workspaces/{workspace_id}/members",
    member: "/workspaces/{workspace_id}/members/{user_id}",
    deleting: "Deletes a workspace with its projects and their rooms"
);
