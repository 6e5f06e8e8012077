//! `/rooms/{id}/members` and `/sessions/{id}/participants`: who has which role in a room.

use atelier_shared::domain::entry::Author;
use atelier_shared::domain::ids::{ClientId, RoomId, UserId};
use atelier_shared::domain::room::Role;
use atelier_shared::ports::Membership;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::client::{Authenticated, MaybePrincipal, may, may_enter};
use super::extract::{Body, Id, Ids, Query};
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::refusals::{BadBody, BadQuery, Failures, Missing, NeedsRight, Taken};
use super::state::App;
use super::whole::whole;
use super::words::RoleWord;
use crate::identity::Principal;
use crate::room::standing::{self, Change, StandingError};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    user_id: Uuid,
    #[schema(value_type = RoleWord, example = "editor")]
    role: Role,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberPatch {
    #[schema(value_type = RoleWord, example = "viewer")]
    role: Role,
}

/// Somebody's standing in a room.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberView {
    user_id: Uuid,
    #[schema(example = "editor")]
    role: &'static str,
    name: Option<String>,
}

impl From<Membership> for MemberView {
    fn from(membership: Membership) -> Self {
        Self {
            user_id: membership.user_id.0,
            role: membership.role.as_str(),
            name: membership.name,
        }
    }
}

/// The members of a room, for those who may enter it.
#[utoipa::path(get, path = "/rooms/{room_id}/members", operation_id = "members_list", tag = "rooms", params(("room_id" = String, Path), PageParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of those with a role, by user id", body = Page<MemberView>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(room): Id<RoomId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<MemberView>>, Problem> {
    may_enter(&app, &room, principal.as_ref()).await?;
    let after: Option<UserId> = page.after()?;
    let records = &app.backends.records;
    let members = records.members(&room, after, page.limit()?).await?;
    let last = members.items.last().map(|member| member.user_id);
    let next_cursor = last.filter(|_| members.more).and_then(|id| cursor(&id));
    let items = members.items.into_iter().map(MemberView::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Gives somebody a role; hosts only.
#[utoipa::path(post, path = "/rooms/{room_id}/members", operation_id = "members_add", tag = "rooms", params(("room_id" = String, Path)), request_body = NewMember, security(("bearer" = [])), responses(
    (status = 201, description = "The member", body = MemberView), NeedsRight, Missing, BadBody, Taken, Failures,
))]
pub async fn add(
    State(app): State<App>,
    Authenticated(by): Authenticated,
    Id(room): Id<RoomId>,
    Body(asked): Body<NewMember>,
) -> Result<(StatusCode, Json<MemberView>), Problem> {
    may(&app, &room, Some(&by), Role::Host).await?;
    let user_id = UserId(asked.user_id);
    let user = app.backends.records.user(user_id).await?;
    let user = user.ok_or_else(|| Problem::invalid("user_id", "there is no such person"))?;
    if app.backends.records.member(&room, user_id).await?.is_some() {
        standing::tell_again(&app.backends, &room).await?;
        return Err(Problem::conflict("This person is a member already.").at("user_id"));
    }
    change_role(&app, &room, &by, user_id, Some(asked.role)).await?;
    let member = MemberView {
        user_id: asked.user_id,
        role: asked.role.as_str(),
        name: Some(user.name),
    };
    Ok((StatusCode::CREATED, Json(member)))
}

/// Changes somebody's role; hosts only. A room keeps at least one host.
#[utoipa::path(patch, path = "/rooms/{room_id}/members/{user_id}", operation_id = "members_change", tag = "rooms", params(("room_id" = String, Path), ("user_id" = Uuid, Path)), request_body = MemberPatch, security(("bearer" = [])), responses(
    (status = 200, description = "The member", body = MemberView), NeedsRight, Missing, BadBody, Taken, Failures,
))]
pub async fn change(
    State(app): State<App>,
    Authenticated(by): Authenticated,
    Ids(room, user_id): Ids<RoomId, UserId>,
    Body(asked): Body<MemberPatch>,
) -> Result<Json<MemberView>, Problem> {
    may(&app, &room, Some(&by), Role::Host).await?;
    let member = member(&app, &room, user_id).await?;
    change_role(&app, &room, &by, user_id, Some(asked.role)).await?;
    Ok(Json(MemberView {
        user_id: user_id.0,
        role: asked.role.as_str(),
        name: member.name,
    }))
}

/// Takes somebody's role away and closes their sockets; hosts, or the member itself. A room keeps at least one host.
#[utoipa::path(delete, path = "/rooms/{room_id}/members/{user_id}", operation_id = "members_remove", tag = "rooms", params(("room_id" = String, Path), ("user_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Not a member any more"), NeedsRight, Missing, Taken, Failures,
))]
pub async fn remove(
    State(app): State<App>,
    Authenticated(by): Authenticated,
    Ids(room, user_id): Ids<RoomId, UserId>,
) -> Result<StatusCode, Problem> {
    if by.user_id == user_id {
        may_enter(&app, &room, Some(&by)).await?;
    } else {
        may(&app, &room, Some(&by), Role::Host).await?;
    }
    member(&app, &room, user_id).await?;
    change_role(&app, &room, &by, user_id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn member(app: &App, room: &RoomId, user: UserId) -> Result<Membership, Problem> {
    let member = app.backends.records.member(room, user).await?;
    if member.is_none() {
        // Whoever was sent away by a call that failed half-way is gone for those who ask again.
        standing::tell_again(&app.backends, room).await?;
    }
    member.ok_or_else(|| Problem::not_found("member"))
}

/// [`standing::change`], by a person who acts over REST.
pub async fn change_role(
    app: &App,
    room: &RoomId,
    by: &Principal,
    user_id: UserId,
    role: Option<Role>,
) -> Result<(), Problem> {
    let change = Change {
        by: actor(by)?,
        reference: None,
        user_id,
        role,
        kicked: false,
    };
    let (b, room) = (app.backends.clone(), room.clone());
    whole(async move {
        let changed = standing::change(&b, &room, change).await;
        changed.map_err(problem)
    })
    .await
}

/// A person who acts over REST has no connection; entries name them by their user id.
pub(super) fn actor(by: &Principal) -> Result<Author, Problem> {
    Ok(Author {
        client_id: by.user_id.to_string().parse::<ClientId>()?,
        user_id: by.user_id,
        connection: None,
        name: by.name.clone().unwrap_or_default(),
        color: None,
        avatar_url: None,
    })
}

pub(super) fn problem(error: StandingError) -> Problem {
    match error {
        StandingError::LastHost => {
            Problem::conflict("The last host can't leave; make somebody else host first.")
        }
        StandingError::NoRoom => Problem::not_found("room"),
        StandingError::Port(error) => error.into(),
    }
}
