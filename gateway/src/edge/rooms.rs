//! `/rooms`: made, listed, looked at, changed, deleted.

use atelier_shared::domain::ids::{PlaceId, RoomId};
use atelier_shared::domain::job::QUEUE_CLEANUP;
use atelier_shared::domain::names;
use atelier_shared::domain::place::{PlaceKind, PlaceRole};
use atelier_shared::domain::room::{Access, Activity, Retention, Role, Room, RoomChoice, RoomKind};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{self, RoomQuery, RoomVisibility};
use atelier_shared::removals;
use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use chrono::{DateTime, SubsecRound, Utc};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::board;
use super::client::{
    Authenticated, ClientAddress, MaybePrincipal, make_room, may, may_enter, may_make_room,
};
use super::documents;
use super::extract::{Body, Id, Query};
use super::page::{Page, PageParams, cursor};
use super::places;
use super::problem::{Kind, Problem};
use super::refusals::{BadBody, BadQuery, Failures, Missing, NeedsRight, NeedsToken};
use super::room_view::{
    ActiveRoom, RoomSummary, RoomView, UserInRoom, users_in, users_in_all, view,
};
use super::state::App;
use super::whole::whole;
use super::words::{AccessWord, ActivityWord, FormatWord, KindWord, RetentionWord};
use crate::identity::Principal;

/// Rooms that the bare list of active rooms shows.
const ACTIVE_ROOMS_MAX: usize = 1_000;

/// Whoever was just writing into a room that is deleted is out of it by then.
const REMAINS_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// Where a page of rooms starts: behind this one.
pub(super) type RoomKey = (DateTime<Utc>, RoomId);

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Design review", "kind": "open"}))]
pub struct NewRoom {
    /// A label, 1 to 64 characters, not unique; the id where absent
    #[schema(example = "Design review")]
    name: Option<String>,
    /// Sets the defaults of the rest
    #[schema(value_type = Option<KindWord>, example = "open")]
    kind: Option<RoomKind>,
    #[schema(value_type = Option<AccessWord>, example = "open")]
    access: Option<Access>,
    listed: Option<bool>,
    #[schema(value_type = Option<RetentionWord>, example = "keep")]
    retention: Option<Retention>,
    #[schema(value_type = Option<Vec<ActivityWord>>, min_items = 1, example = json!(["draw", "chat"]))]
    allows: Option<Vec<Activity>>,
    /// The project whose people may enter: its role is theirs here
    project_id: Option<Uuid>,
}

/// What is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Design review, second round"}))]
pub struct RoomPatch {
    name: Option<String>,
    /// Only what it is called: what a kind would set is changed by the fields below
    #[schema(value_type = Option<KindWord>)]
    kind: Option<RoomKind>,
    #[schema(value_type = Option<AccessWord>, example = "members")]
    access: Option<Access>,
    listed: Option<bool>,
    #[schema(value_type = Option<RetentionWord>, example = "keep")]
    retention: Option<Retention>,
    #[schema(value_type = Option<Vec<ActivityWord>>, min_items = 1, example = json!(["draw", "chat"]))]
    allows: Option<Vec<Activity>>,
}

impl RoomPatch {
    /// What one must be to change this: its editors say what a room is called, its hosts who may enter and do what.
    fn least(&self) -> Role {
        let standing = self.kind.is_some()
            || self.access.is_some()
            || self.listed.is_some()
            || self.retention.is_some()
            || self.allows.is_some();
        if standing { Role::Host } else { Role::Editor }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RoomFilter {
    /// Only rooms with people in them
    active: Option<bool>,
    /// Most items to answer with, 1 to 200
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Creation {
    /// The body is a drawing, `svg` or `json`, whose strokes the room begins with; the room is then described here
    #[param(value_type = Option<FormatWord>)]
    import: Option<board::Format>,
    /// With `import`: a label, 1 to 64 characters
    name: Option<String>,
    /// With `import`: `open` or `whiteboard`
    #[param(value_type = Option<KindWord>)]
    kind: Option<RoomKind>,
}

/// Makes a room; its maker is host. From a drawing, if `import` says so: shapes become strokes (filled ones outlines in their
/// colour), all or nothing; the refusal of a file names the element.
#[utoipa::path(post, path = "/rooms", tag = "rooms", params(Creation), request_body(content(
    (NewRoom = "application/json"),
    (String = "image/svg+xml"),
)), security(("bearer" = [])), responses(
    (status = 201, description = "The room", body = RoomView, headers(("location" = String, description = "Its path"))),
    NeedsRight, BadBody, Failures,
))]
pub async fn create(
    State(app): State<App>,
    address: ClientAddress,
    Authenticated(principal): Authenticated,
    Query(creation): Query<Creation>,
    request: Request,
) -> Result<impl IntoResponse, Problem> {
    let Some(format) = creation.import else {
        let Body(asked) = Body::from_request(request, &app).await?;
        let choice = choice(&app, &principal, asked).await?;
        return create_room(&app, &address, &principal, choice, "/api/v1/rooms").await;
    };
    let asked = NewRoom {
        name: creation.name,
        kind: creation.kind,
        ..NewRoom::default()
    };
    let choice = choice(&app, &principal, asked).await?;
    let room = new_room(&address, &principal, choice);
    // Before the drawing is kept anywhere; who is over the limit leaves nothing behind.
    may_make_room(&app, &room, &address).await?;
    let imported = board::import(&app, &principal, &room, format, request).await?;
    let (status, headers, Json(mut view)) =
        made_room(&app, &address, &room, "/api/v1/rooms").await?;
    view.imported = Some(imported);
    Ok((status, headers, Json(view)))
}

type Created = (StatusCode, [(HeaderName, String); 1], Json<RoomView>);

pub(super) async fn create_room(
    app: &App,
    address: &ClientAddress,
    principal: &Principal,
    choice: RoomChoice,
    base: &str,
) -> Result<Created, Problem> {
    let room = new_room(address, principal, choice);
    made_room(app, address, &room, base).await
}

fn new_room(address: &ClientAddress, principal: &Principal, choice: RoomChoice) -> Room {
    let now = Utc::now().trunc_subsecs(6);
    let id = RoomId::generate();
    Room::new(id, choice, principal.row(), Some(address.0.clone()), now)
}

async fn made_room(
    app: &App,
    address: &ClientAddress,
    room: &Room,
    base: &str,
) -> Result<Created, Problem> {
    if !make_room(app, room, address).await? {
        if let Some(project) = room.project_id
            && app
                .backends
                .records
                .place(PlaceId(project))
                .await?
                .is_none()
        {
            return Err(no_such_project());
        }
        // A UUID v7 that is taken means the clock and the randomness of this machine can't be trusted.
        return Err(Problem::internal());
    }
    let location = format!("{base}/{}", room.id);
    let view = view(app, room, Role::Host).await?;
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(view),
    ))
}

async fn choice(app: &App, principal: &Principal, asked: NewRoom) -> Result<RoomChoice, Problem> {
    let in_project = match asked.project_id {
        Some(project) => {
            may_make_rooms_in(app, principal, project).await?;
            Some(RoomKind::Project)
        }
        None if asked.kind == Some(RoomKind::Project) => {
            return Err(Problem::invalid("project_id", "must name the project"));
        }
        None => None,
    };
    Ok(RoomChoice {
        name: asked
            .name
            .as_deref()
            .map(|name| names::label("name", name))
            .transpose()?,
        kind: asked.kind.or(in_project),
        access: asked.access,
        listed: asked.listed,
        retention: asked.retention,
        allows: asked.allows.map(check_allows).transpose()?,
        project_id: asked.project_id,
    })
}

/// A project that one may not know of is none.
async fn may_make_rooms_in(app: &App, principal: &Principal, project: Uuid) -> Result<(), Problem> {
    let known = places::may(
        app,
        PlaceKind::Project,
        PlaceId(project),
        principal,
        PlaceRole::Member,
    );
    match known.await {
        Ok(_) => Ok(()),
        Err(problem) if problem.kind == Kind::NotFound => Err(no_such_project()),
        Err(problem) => Err(problem.at("project_id")),
    }
}

fn no_such_project() -> Problem {
    Problem::invalid("project_id", "there is no such project")
}

fn check_allows(mut allows: Vec<Activity>) -> Result<Vec<Activity>, Problem> {
    allows.sort_unstable();
    allows.dedup();
    if allows.is_empty() {
        return Err(Problem::invalid("allows", "must name something"));
    }
    Ok(allows)
}

/// Rooms that are listed, and those you are a member of; newest first.
#[utoipa::path(get, path = "/rooms", tag = "rooms", params(RoomFilter), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of rooms", body = Page<RoomSummary>), NeedsToken, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Query(filter): Query<RoomFilter>,
) -> Result<Json<Page<RoomSummary>>, Problem> {
    let visible = match &principal {
        Some(principal) if principal.is_admin => RoomVisibility::All,
        Some(principal) => RoomVisibility::For(principal.user_id),
        None => RoomVisibility::Listed,
    };
    let page = PageParams {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let occupied = app.occupancy.now().await?;
    let query = RoomQuery {
        among: filter
            .active
            .unwrap_or(false)
            .then(|| occupied.keys().cloned().collect()),
        ..RoomQuery::of(visible)
    };
    summaries(&app, query, &page).await.map(Json)
}

/// A page of the rooms asked for.
pub(super) async fn summaries(
    app: &App,
    mut query: RoomQuery,
    page: &PageParams,
) -> Result<Page<RoomSummary>, Problem> {
    let limit = page.limit()?;
    query.before = page.after::<RoomKey>()?;
    let occupied = app.occupancy.now().await?;
    let rooms = app.backends.records.list_rooms(&query, limit).await?;
    let last = rooms.items.last().filter(|_| rooms.more);
    let next_cursor = last.and_then(|room| cursor(&(room.created_at, &room.id)));
    let summary = |room: &Room| {
        let people = occupied.get(&room.id).copied().unwrap_or(0);
        RoomSummary::new(room, people)
    };
    Ok(Page {
        items: rooms.items.iter().map(summary).collect(),
        next_cursor,
    })
}

/// The listed rooms that have people in them, at most 1,000, by id. (The paginated list is under `/api/v1`.)
#[utoipa::path(get, path = "/api/rooms", tag = "rooms", operation_id = "active", responses(
    (status = 200, description = "Active rooms", body = Vec<ActiveRoom>), Failures,
))]
pub async fn active(State(app): State<App>) -> Result<Json<Vec<ActiveRoom>>, Problem> {
    let occupied = app.occupancy.now().await?;
    let mut shown: Vec<Room> = Vec::new();
    let ids: Vec<RoomId> = occupied.keys().cloned().collect();
    for chunk in ids.chunks(ACTIVE_ROOMS_MAX) {
        let mut rooms = app.backends.records.rooms(chunk).await?;
        rooms.retain(|room| room.listed);
        rooms.sort_by(|a, b| a.id.cmp(&b.id));
        shown.extend(rooms);
        if shown.len() >= ACTIVE_ROOMS_MAX {
            shown.truncate(ACTIVE_ROOMS_MAX);
            break;
        }
    }
    let open: Vec<RoomId> = shown
        .iter()
        .filter(|room| room.access == Access::Open)
        .map(|room| room.id.clone())
        .collect();
    let mut users = users_in_all(&app, open).await?;
    let ids: Vec<RoomId> = shown.iter().map(|room| room.id.clone()).collect();
    let sizes = documents::sizes(&app, &ids).await;
    let rooms = shown.into_iter().map(|room| {
        let count = occupied.get(&room.id).copied().unwrap_or(0);
        let users = users.remove(&room.id);
        let count = users.as_ref().map_or(count, Vec::len);
        let size = sizes.get(&room.id).copied().unwrap_or(0);
        ActiveRoom::new(room, users.unwrap_or_default(), count, size)
    });
    Ok(Json(rooms.collect()))
}

/// One room and the people in it.
#[utoipa::path(get, path = "/rooms/{room_id}", tag = "rooms", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "The room", body = RoomView), NeedsRight, Missing, Failures,
))]
pub async fn get(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<Json<RoomView>, Problem> {
    let (room, role) = may_enter(&app, &id, principal.as_ref()).await?;
    view(&app, &room, role).await.map(Json)
}

/// The people in a room, by connection.
#[utoipa::path(get, path = "/rooms/{room_id}/users", tag = "rooms", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "Everybody who has joined", body = Vec<UserInRoom>), NeedsRight, Missing, Failures,
))]
pub async fn users(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<Json<Vec<UserInRoom>>, Problem> {
    may_enter(&app, &id, principal.as_ref()).await?;
    users_in(&app, &id).await.map(Json)
}

/// Changes what a room is: its name by editors, the rest by hosts.
#[utoipa::path(patch, path = "/rooms/{room_id}", tag = "rooms", params(("room_id" = String, Path)), request_body = RoomPatch, security(("bearer" = [])), responses(
    (status = 200, description = "The room as it is now", body = RoomView), NeedsRight, Missing, BadBody, Failures,
))]
pub async fn patch(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<RoomId>,
    Body(asked): Body<RoomPatch>,
) -> Result<Json<RoomView>, Problem> {
    let least = asked.least();
    let (room, role) = may(&app, &id, Some(&principal), least).await?;
    if let Some(kind) = asked.kind
        && (kind == RoomKind::Project) != room.project_id.is_some()
    {
        let text = "is `project` for the rooms of projects, and for them alone";
        return Err(Problem::invalid("kind", text));
    }
    let name = asked.name.as_deref();
    let patch = ports::RoomPatch {
        name: name.map(|name| names::label("name", name)).transpose()?,
        kind: asked.kind,
        access: asked.access,
        listed: asked.listed,
        retention: asked.retention,
        allows: asked.allows.map(check_allows).transpose()?,
    };
    let room = whole(change(app.clone(), id, patch)).await?;
    view(&app, &room, role).await.map(Json)
}

async fn change(app: App, id: RoomId, patch: ports::RoomPatch) -> Result<Room, Problem> {
    let room = app.backends.records.patch_room(&id, &patch).await?;
    let room = room.ok_or_else(|| Problem::not_found("room"))?;
    // A pod that misses it reads the row again with the next newcomer.
    app.backends.log.publish(&id, &Signal::Changed).await?;
    Ok(room)
}

/// Deletes a room and closes its sockets (4404); hosts only. Its id stays reserved for 24 h.
#[utoipa::path(delete, path = "/rooms/{room_id}", tag = "rooms", params(("room_id" = String, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Gone"), NeedsRight, Missing, Failures,
))]
pub async fn delete(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<RoomId>,
) -> Result<StatusCode, Problem> {
    match may(&app, &id, Some(&principal), Role::Host).await {
        Ok(_) => delete_room(&app, &id).await,
        Err(problem) => {
            tell_deletion(&app, &id, &problem).await?;
            Err(problem)
        }
    }
}

/// A room that is not there any more may have been deleted by a call that failed before anybody was told: whoever asks
/// again makes that good.
pub(super) async fn tell_deletion(app: &App, id: &RoomId, found: &Problem) -> Result<(), Problem> {
    if found.kind == Kind::NotFound && app.backends.records.is_room_deleted(id).await? {
        whole(tell_deleted(app.clone(), id.clone())).await?;
    }
    Ok(())
}

pub(super) async fn delete_room(app: &App, id: &RoomId) -> Result<StatusCode, Problem> {
    let (app, id) = (app.clone(), id.clone());
    whole(async move {
        if !app.backends.records.delete_room(&id, Utc::now()).await? {
            return Err(Problem::not_found("room"));
        }
        tell_deleted(app, id).await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// After the row: a socket that is closed now and comes again finds the room gone.
async fn tell_deleted(app: App, id: RoomId) -> Result<(), Problem> {
    let closed = Signal::Closed {
        reason: "the room was deleted".to_owned(),
    };
    let told = app.backends.log.publish(&id, &closed).await;
    // Its files and its log go soon; if this is lost, the cleanup finds them.
    let remains = removals::room_job(id.clone(), REMAINS_AFTER);
    if let Err(error) = app.backends.queue.enqueue(QUEUE_CLEANUP, &remains).await {
        tracing::warn!(room = %id, %error, "what is left of a deleted room waits for the cleanup");
    }
    Ok(told?)
}
