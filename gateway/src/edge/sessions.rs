//! `/sessions`: rooms of kind `session`, and their participants.

use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::names;
use atelier_shared::domain::room::{RoomChoice, RoomKind};
use atelier_shared::ports::{RoomQuery, RoomVisibility};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::client::{Authenticated, ClientAddress, MaybePrincipal, may_enter};
use super::events;
use super::extract::{Body, Id, Ids, Query};
use super::history::WireEntry;
use super::members::{self, MemberPatch, MemberView, NewMember};
use super::messages::{self, MessageFilter, MessageStats};
use super::page::{Page, PageParams};
use super::problem::Problem;
use super::refusals::{BadBody, BadQuery, Failures, Missing, NeedsRight, NeedsToken, Taken};
use super::room_view::{RoomSummary, RoomView, Viewer, view, viewers};
use super::rooms::{self, RoomPatch, create_room, summaries};
use super::state::App;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// A label, 1 to 64 characters
    #[schema(example = "Pairing on the parser")]
    name: Option<String>,
}

/// Makes a session; its maker is host.
#[utoipa::path(post, path = "/sessions", tag = "sessions", request_body = NewSession, security(("bearer" = [])), responses(
    (status = 201, description = "The session", body = RoomView, headers(("location" = String, description = "Its path"))),
    NeedsToken, BadBody, Failures,
))]
pub async fn create(
    State(app): State<App>,
    address: ClientAddress,
    Authenticated(principal): Authenticated,
    Body(asked): Body<NewSession>,
) -> Result<impl IntoResponse, Problem> {
    let choice = RoomChoice {
        name: asked
            .name
            .as_deref()
            .map(|name| names::label("name", name))
            .transpose()?,
        kind: Some(RoomKind::Session),
        ..RoomChoice::default()
    };
    create_room(&app, &address, &principal, choice, "/api/v1/sessions").await
}

/// The sessions you take part in, and listed ones; newest first.
#[utoipa::path(get, path = "/sessions", tag = "sessions", params(PageParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of sessions", body = Page<RoomSummary>), NeedsToken, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<RoomSummary>>, Problem> {
    let visible = if principal.is_admin {
        RoomVisibility::All
    } else {
        RoomVisibility::For(principal.user_id)
    };
    let query = RoomQuery {
        kind: Some(RoomKind::Session),
        ..RoomQuery::of(visible)
    };
    summaries(&app, query, &page).await.map(Json)
}

/// One session and the people in it.
#[utoipa::path(get, path = "/sessions/{session_id}", tag = "sessions", params(("session_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "The session", body = RoomView), NeedsRight, Missing, Failures,
))]
pub async fn get(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<Json<RoomView>, Problem> {
    let (room, role) = may_enter(&app, &id, principal.as_ref()).await?;
    if room.kind != RoomKind::Session {
        return Err(Problem::not_found("session"));
    }
    view(&app, &room, role).await.map(Json)
}

/// Changes what a session is: its name by editors, the rest by hosts.
#[utoipa::path(patch, path = "/sessions/{session_id}", tag = "sessions", params(("session_id" = String, Path)), request_body = RoomPatch, security(("bearer" = [])), responses(
    (status = 200, description = "The session as it is now", body = RoomView), NeedsRight, Missing, BadBody, Failures,
))]
pub async fn patch(
    State(app): State<App>,
    principal: Authenticated,
    Id(id): Id<RoomId>,
    body: Body<RoomPatch>,
) -> Result<Json<RoomView>, Problem> {
    is_session(&app, &id).await?;
    rooms::patch(State(app), principal, Id(id), body).await
}

/// Deletes a session and closes its sockets; hosts only.
#[utoipa::path(delete, path = "/sessions/{session_id}", tag = "sessions", params(("session_id" = String, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Gone"), NeedsRight, Missing, Failures,
))]
pub async fn delete(
    State(app): State<App>,
    principal: Authenticated,
    Id(id): Id<RoomId>,
) -> Result<StatusCode, Problem> {
    if let Err(problem) = is_session(&app, &id).await {
        rooms::tell_deletion(&app, &id, &problem).await?;
        return Err(problem);
    }
    rooms::delete(State(app), principal, Id(id)).await
}

/// Who takes part.
#[utoipa::path(get, path = "/sessions/{session_id}/participants", tag = "sessions", params(("session_id" = String, Path), PageParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of those with a role, by user id", body = Page<MemberView>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn participants(
    State(app): State<App>,
    principal: MaybePrincipal,
    Id(id): Id<RoomId>,
    page: Query<PageParams>,
) -> Result<Json<Page<MemberView>>, Problem> {
    is_session(&app, &id).await?;
    members::list(State(app), principal, Id(id), page).await
}

/// Lets somebody take part; hosts only.
#[utoipa::path(post, path = "/sessions/{session_id}/participants", tag = "sessions", params(("session_id" = String, Path)), request_body = NewMember, security(("bearer" = [])), responses(
    (status = 201, description = "The participant", body = MemberView), NeedsRight, Missing, BadBody, Taken, Failures,
))]
pub async fn add_participant(
    State(app): State<App>,
    principal: Authenticated,
    Id(id): Id<RoomId>,
    body: Body<NewMember>,
) -> Result<(StatusCode, Json<MemberView>), Problem> {
    is_session(&app, &id).await?;
    members::add(State(app), principal, Id(id), body).await
}

/// Changes a participant's role; hosts only.
#[utoipa::path(patch, path = "/sessions/{session_id}/participants/{user_id}", tag = "sessions", params(("session_id" = String, Path), ("user_id" = uuid::Uuid, Path)), request_body = MemberPatch, security(("bearer" = [])), responses(
    (status = 200, description = "The participant", body = MemberView), NeedsRight, Missing, BadBody, Taken, Failures,
))]
pub async fn change_participant(
    State(app): State<App>,
    principal: Authenticated,
    Ids(id, user): Ids<RoomId, UserId>,
    body: Body<MemberPatch>,
) -> Result<Json<MemberView>, Problem> {
    is_session(&app, &id).await?;
    members::change(State(app), principal, Ids(id, user), body).await
}

/// Ends somebody's part; hosts, or the participant itself.
#[utoipa::path(delete, path = "/sessions/{session_id}/participants/{user_id}", tag = "sessions", params(("session_id" = String, Path), ("user_id" = uuid::Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Not a participant any more"), NeedsRight, Missing, Taken, Failures,
))]
pub async fn remove_participant(
    State(app): State<App>,
    principal: Authenticated,
    Ids(id, user): Ids<RoomId, UserId>,
) -> Result<StatusCode, Problem> {
    is_session(&app, &id).await?;
    members::remove(State(app), principal, Ids(id, user)).await
}

/// The session's messages and comments, newest first.
#[utoipa::path(get, path = "/sessions/{session_id}/messages", tag = "sessions", params(("session_id" = String, Path), MessageFilter), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of messages", body = Page<WireEntry>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn messages(
    State(app): State<App>,
    principal: MaybePrincipal,
    Id(id): Id<RoomId>,
    filter: Query<MessageFilter>,
) -> Result<Json<Page<WireEntry>>, Problem> {
    is_session(&app, &id).await?;
    messages::list(State(app), principal, Id(id), filter).await
}

/// Figures of the session's messages.
#[utoipa::path(get, path = "/sessions/{session_id}/messages/stats", tag = "sessions", params(("session_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "The figures", body = MessageStats), NeedsRight, Missing, Failures,
))]
pub async fn message_stats(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<Json<MessageStats>, Problem> {
    is_session(&app, &id).await?;
    messages::stats(&app, &id, principal.as_ref())
        .await
        .map(Json)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileFilter {
    /// Only who views this file
    path: Option<String>,
    /// Most items to answer with, 1 to 200
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// Who views which file, by connection: the last one that a cursor or viewport named.
#[utoipa::path(get, path = "/sessions/{session_id}/files", tag = "sessions", params(("session_id" = String, Path), FileFilter), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of those who view it now, on any pod, by client id", body = Page<Viewer>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn files(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
    Query(filter): Query<FileFilter>,
) -> Result<Json<Page<Viewer>>, Problem> {
    is_session(&app, &id).await?;
    may_enter(&app, &id, principal.as_ref()).await?;
    let page = PageParams {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let page = viewers(&app, &id, filter.path.as_deref(), &page).await?;
    Ok(Json(page))
}

/// Everything durable that happened in the session, and who joined and left (`user_joined`, `user_left`, without a `seq`:
/// they are not in the log); newest first.
#[utoipa::path(get, path = "/sessions/{session_id}/events", tag = "sessions", params(("session_id" = String, Path), PageParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of events", body = Page<WireEntry>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn events(
    State(app): State<App>,
    principal: MaybePrincipal,
    Id(id): Id<RoomId>,
    page: Query<PageParams>,
) -> Result<Json<Page<WireEntry>>, Problem> {
    is_session(&app, &id).await?;
    events::events(State(app), principal, Id(id), page).await
}

/// A room of another kind is no session. Who may do what in it is asked next.
async fn is_session(app: &App, id: &RoomId) -> Result<(), Problem> {
    let room = app.backends.records.room(id).await?;
    if room.is_some_and(|room| room.kind == RoomKind::Session) {
        return Ok(());
    }
    Err(Problem::not_found("session"))
}
