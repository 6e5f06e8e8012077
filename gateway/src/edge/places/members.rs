//! Who belongs to a workspace, a project or a team, and what becomes of their rooms when that changes.

use atelier_shared::domain::ids::{PlaceId, RoomId, UserId};
use atelier_shared::domain::place::{PlaceKind, PlaceRole};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{PAGE_MAX, PlaceChange, PlaceMember};
use axum::Json;
use axum::http::StatusCode;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{known, may, needs};
use crate::edge::members::{actor, problem as standing_problem};
use crate::edge::page::{Page, PageParams, cursor};
use crate::edge::problem::Problem;
use crate::edge::state::App;
use crate::edge::words::PlaceRoleWord;
use crate::identity::Principal;
use crate::room::standing::{self, Change};

/// Rooms told of a change at the same time.
const ROOMS_AT_ONCE: usize = 32;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPlaceMember {
    user_id: Uuid,
    #[schema(value_type = PlaceRoleWord, example = "member")]
    role: PlaceRole,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceMemberPatch {
    #[schema(value_type = PlaceRoleWord, example = "admin")]
    role: PlaceRole,
}

/// Somebody's own standing in a workspace, a project or a team.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlaceMemberView {
    user_id: Uuid,
    /// `owner`, `admin`, `member` or `viewer`
    #[schema(example = "member")]
    role: &'static str,
    name: Option<String>,
}

impl From<PlaceMember> for PlaceMemberView {
    fn from(member: PlaceMember) -> Self {
        Self {
            user_id: member.user_id.0,
            role: member.role.as_str(),
            name: member.name,
        }
    }
}

pub async fn list(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    principal: &Principal,
    page: &PageParams,
) -> Result<Json<Page<PlaceMemberView>>, Problem> {
    known(app, kind, id, principal).await?;
    let after: Option<UserId> = page.after()?;
    let members = app
        .backends
        .records
        .place_members(id, after, page.limit()?)
        .await?;
    let last = members.items.last().map(|member| member.user_id);
    let next_cursor = last.filter(|_| members.more).and_then(|id| cursor(&id));
    let items = members.items.into_iter().map(Into::into).collect();
    Ok(Json(Page { items, next_cursor }))
}

pub async fn add(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    principal: Principal,
    asked: NewPlaceMember,
) -> Result<(StatusCode, Json<PlaceMemberView>), Problem> {
    may_give(app, kind, id, &principal, None, asked.role).await?;
    let user_id = UserId(asked.user_id);
    let user = app.backends.records.user(user_id).await?;
    let user = user.ok_or_else(|| Problem::invalid("user_id", "there is no such person"))?;
    match set_role(app, id, principal, user_id, None, Some(asked.role)).await? {
        PlaceChange::Changed => {
            return Err(Problem::conflict("This person is a member already.").at("user_id"));
        }
        other => done(kind, other)?,
    }
    let member = PlaceMemberView {
        user_id: asked.user_id,
        role: asked.role.as_str(),
        name: Some(user.name),
    };
    Ok((StatusCode::CREATED, Json(member)))
}

pub async fn change(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    user: UserId,
    principal: Principal,
    asked: PlaceMemberPatch,
) -> Result<Json<PlaceMemberView>, Problem> {
    may(app, kind, id, &principal, PlaceRole::Admin).await?;
    let member = member(app, id, user).await?;
    may_give(app, kind, id, &principal, Some(member.role), asked.role).await?;
    let (seen, role) = (Some(member.role), Some(asked.role));
    done(kind, set_role(app, id, principal, user, seen, role).await?)?;
    Ok(Json(PlaceMemberView {
        user_id: user.0,
        role: asked.role.as_str(),
        name: member.name,
    }))
}

/// Anybody may go; who sends others away needs the rank for it.
pub async fn remove(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    user: UserId,
    principal: Principal,
) -> Result<StatusCode, Problem> {
    let (_, role) = known(app, kind, id, &principal).await?;
    let leaves = principal.user_id == user;
    if !leaves && role < PlaceRole::Admin {
        return Err(needs(PlaceRole::Admin, role));
    }
    let member = match member(app, id, user).await {
        Ok(member) => member,
        Err(problem) => {
            // Perhaps taken away by a call that failed half-way: whoever may take it away makes that good.
            if role >= PlaceRole::Admin {
                fence_all(app, id).await?;
            }
            return Err(problem);
        }
    };
    if !leaves && member.role == PlaceRole::Owner && role < PlaceRole::Owner {
        return Err(needs(PlaceRole::Owner, role));
    }
    let changed = set_role(app, id, principal, user, Some(member.role), None).await?;
    done(kind, changed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Admins give and change roles; only an owner makes an owner, or changes one.
async fn may_give(
    app: &App,
    kind: PlaceKind,
    id: PlaceId,
    principal: &Principal,
    from: Option<PlaceRole>,
    to: PlaceRole,
) -> Result<(), Problem> {
    let least = if from.max(Some(to)) == Some(PlaceRole::Owner) {
        PlaceRole::Owner
    } else {
        PlaceRole::Admin
    };
    may(app, kind, id, principal, least).await.map(drop)
}

async fn member(app: &App, id: PlaceId, user: UserId) -> Result<PlaceMember, Problem> {
    let member = app.backends.records.place_member(id, user).await?;
    member.ok_or_else(|| Problem::not_found("member"))
}

fn done(kind: PlaceKind, change: PlaceChange) -> Result<(), Problem> {
    match change {
        PlaceChange::Done(_) => Ok(()),
        PlaceChange::Missing => Err(Problem::not_found(kind.as_str())),
        PlaceChange::Changed => Err(Problem::conflict(
            "This person's role changed meanwhile; look again.",
        )),
        PlaceChange::LastOwner => Err(Problem::conflict(
            "The last owner can't leave; make somebody else owner first.",
        )),
    }
}

/// On a task of its own: a caller who hangs up must not leave the role changed and the rooms untold.
async fn set_role(
    app: &App,
    id: PlaceId,
    by: Principal,
    user: UserId,
    seen: Option<PlaceRole>,
    role: Option<PlaceRole>,
) -> Result<PlaceChange, Problem> {
    let app = app.clone();
    let work = async move {
        let records = &app.backends.records;
        let change = records.set_place_role(id, user, seen, role).await?;
        if let PlaceChange::Done(rooms) = &change {
            tell_rooms(&app, &by, user, rooms.clone()).await?;
        }
        Ok::<_, Problem>(change)
    };
    tokio::spawn(work).await.map_err(|_| Problem::internal())?
}

/// [`fence_rooms`]; then the rooms that this person is in get an entry that says so.
pub async fn tell_rooms(
    app: &App,
    by: &Principal,
    user: UserId,
    mut rooms: Vec<(RoomId, u64)>,
) -> Result<(), Problem> {
    let occupied = app.occupancy.get().await?;
    // Those with people in them first.
    rooms.sort_by_cached_key(|(room, _)| !occupied.contains_key(room));
    fence_rooms(app, &rooms).await?;
    // All of them: what is known of who is where may be a second old.
    let mut entries = Vec::with_capacity(rooms.len());
    for (room, version) in rooms {
        let (app, by) = (app.clone(), by.clone());
        entries.push(tell_who_is_there(app, by, user, room, version));
    }
    stream::iter(entries)
        .buffer_unordered(ROOMS_AT_ONCE)
        .try_collect::<()>()
        .await
}

/// Fences the rooms' logs by their new versions, and has every gateway look at the roles of whoever is in them.
pub async fn fence_rooms(app: &App, rooms: &[(RoomId, u64)]) -> Result<(), Problem> {
    let mut fences = Vec::with_capacity(rooms.len());
    for (room, version) in rooms {
        fences.push(fence(app.clone(), room.clone(), *version));
    }
    stream::iter(fences)
        .buffer_unordered(ROOMS_AT_ONCE)
        .try_collect::<()>()
        .await
}

/// [`fence_rooms`] of a place, by what Records has.
async fn fence_all(app: &App, place: PlaceId) -> Result<(), Problem> {
    let records = &app.backends.records;
    let rooms = records.rooms_in(place, PAGE_MAX).await?;
    let rooms = records.rooms(&rooms).await?;
    let versions: Vec<_> = rooms
        .into_iter()
        .map(|room| (room.id, room.role_version))
        .collect();
    fence_rooms(app, &versions).await
}

async fn fence(app: App, room: RoomId, version: u64) -> Result<(), Problem> {
    let log = &app.backends.log;
    log.set_role_version(&room, version).await?;
    log.publish(&room, &Signal::Changed).await?;
    Ok(())
}

async fn tell_who_is_there(
    app: App,
    by: Principal,
    user: UserId,
    room: RoomId,
    version: u64,
) -> Result<(), Problem> {
    let b = &app.backends;
    let people = b.presence.members(&room).await?;
    if people.iter().any(|member| member.user_id == user) {
        let role = b.records.role(&room, user).await?;
        let change = Change {
            by: actor(&by)?,
            reference: None,
            user_id: user,
            role,
            kicked: false,
        };
        standing::tell(b, &room, version, change)
            .await
            .map_err(standing_problem)?;
    }
    Ok(())
}
