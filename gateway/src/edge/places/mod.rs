//! Workspaces, their projects, and teams: who may know of one, who may do what in it, and what all three share.

mod lifecycle;
pub mod members;
pub mod projects;
mod routes;
pub mod teams;
pub mod workspaces;

use atelier_shared::domain::ids::PlaceId;
use atelier_shared::domain::place::{Place, PlaceKind, PlaceRole};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::health::rfc3339;
use super::problem::Problem;
use super::state::App;
use crate::identity::Principal;

/// A workspace, a project or a team, and what the asker is in it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlaceView {
    id: Uuid,
    #[schema(example = "Compilers")]
    name: String,
    description: String,
    /// The project's workspace; not there in workspaces and teams
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_id: Option<Uuid>,
    /// What you are in it: `owner`, `admin`, `member` or `viewer`
    #[schema(example = "owner")]
    role: Option<&'static str>,
    created_by: Option<Uuid>,
    created_at: String,
}

impl PlaceView {
    fn new(place: Place, role: Option<PlaceRole>) -> Self {
        Self {
            id: place.id.0,
            name: place.name,
            description: place.description,
            workspace_id: place.parent.map(|parent| parent.0),
            role: role.map(PlaceRole::as_str),
            created_by: place.created_by.map(|user| user.0),
            created_at: rfc3339(place.created_at),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Compilers"}))]
pub struct NewPlace {
    /// A label, 1 to 64 characters, not unique
    #[schema(example = "Compilers")]
    name: String,
    /// At most 4,096 bytes
    description: Option<String>,
}

/// What is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"description": "Parsers and those who write them"}))]
pub struct PlacePatch {
    name: Option<String>,
    description: Option<String>,
}

/// The place and the person's role in it. A place of another kind, or one that the person may not know of: 404.
pub async fn known(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    principal: &Principal,
) -> Result<(Place, PlaceRole), Problem> {
    let missing = || Problem::not_found(kind.as_str());
    let records = &app.backends.records;
    let place = records.place(id).await?.filter(|place| place.kind == kind);
    let place = place.ok_or_else(missing)?;
    if principal.is_admin {
        return Ok((place, PlaceRole::Owner));
    }
    let role = records.place_role(id, principal.user_id).await?;
    Ok((place, role.ok_or_else(missing)?))
}

/// [`known`], with at least this role: 403.
pub async fn may(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    principal: &Principal,
    least: PlaceRole,
) -> Result<(Place, PlaceRole), Problem> {
    let (place, role) = known(app, kind, id, principal).await?;
    if role >= least {
        return Ok((place, role));
    }
    Err(needs(least, role))
}

fn needs(least: PlaceRole, role: PlaceRole) -> Problem {
    Problem::forbidden(format!(
        "This needs the role {}; yours is {}.",
        least.as_str(),
        role.as_str()
    ))
}
