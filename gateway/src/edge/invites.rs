//! `/rooms/{id}/invites` and `/invites/{code}`: letting people in by a code. A code has 128 random bits; only its hash is
//! stored, so it is told once.

use std::time::Duration;

use atelier_shared::Backends;
use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::invite::Invite;
use atelier_shared::domain::room::Role;
use atelier_shared::ports::{Acceptance, Throttle};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::client::{Authenticated, ClientAddress, may};
use super::extract::{Body, Id, Ids, Query};
use super::health::rfc3339;
use super::members::{actor, problem};
use super::page::{Page, PageParams, cursor};
use super::problem::{Kind, Problem};
use super::refusals::{BadBody, BadQuery, Failures, Missing, NeedsRight, Over};
use super::room_view::{RoomView, view};
use super::state::App;
use super::whole::whole;
use super::words::RoleWord;
use crate::identity::Principal;
use crate::room::standing::{self, Change};

const CODE_BYTES: usize = 16;
/// Longest life of an invitation: a year.
const EXPIRES_IN_MAX_S: u32 = 365 * 24 * 60 * 60;
const USES_MAX: u32 = 1_000_000;
const LOOK_WINDOW: Duration = Duration::from_secs(60);

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"role": "editor", "expires_in_s": 86400, "max_uses": 5}))]
pub struct NewInvite {
    /// At most your own; `editor` where absent
    #[schema(value_type = Option<RoleWord>, example = "editor")]
    role: Option<Role>,
    /// Seconds, at most a year; never where absent
    #[schema(minimum = 1, maximum = 31_536_000)]
    expires_in_s: Option<u32>,
    /// Any number where absent
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_uses: Option<u32>,
}

/// An invitation.
#[derive(Debug, Serialize, ToSchema)]
pub struct InviteView {
    id: Uuid,
    /// Told once, when it is made
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// Where it is looked at; `POST` to its `/accept` to use it
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[schema(example = "editor")]
    role: &'static str,
    created_at: String,
    expires_at: Option<String>,
    max_uses: Option<u32>,
    uses: u32,
}

impl InviteView {
    fn new(invite: &Invite, code: Option<String>) -> Self {
        Self {
            id: invite.id,
            url: code.as_ref().map(|code| format!("/api/v1/invites/{code}")),
            code,
            role: invite.role.as_str(),
            created_at: rfc3339(invite.created_at),
            expires_at: invite.expires_at.map(rfc3339),
            max_uses: invite.max_uses,
            uses: invite.uses,
        }
    }
}

/// What an invitation leads to.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvitationView {
    room_id: String,
    room: InvitationRoom,
    #[schema(example = "editor")]
    role: &'static str,
    expires_at: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct InvitationRoom {
    id: String,
    name: String,
    #[schema(example = "session")]
    kind: &'static str,
}

/// What accepting gave.
#[derive(Debug, Serialize, ToSchema)]
pub struct AcceptedView {
    room_id: String,
    #[schema(example = "editor")]
    role: &'static str,
    room: RoomView,
}

/// Makes an invitation; hosts only. Its code is in this answer and nowhere else.
#[utoipa::path(post, path = "/rooms/{room_id}/invites", tag = "invites", params(("room_id" = String, Path)), request_body = NewInvite, security(("bearer" = [])), responses(
    (status = 201, description = "The invitation", body = InviteView, headers(("location" = String, description = "Where it is looked at"))),
    NeedsRight, Missing, BadBody, Failures,
))]
pub async fn create(
    State(app): State<App>,
    Authenticated(by): Authenticated,
    Id(room): Id<RoomId>,
    Body(asked): Body<NewInvite>,
) -> Result<impl IntoResponse, Problem> {
    let (room, own) = may(&app, &room, Some(&by), Role::Host).await?;
    let role = asked.role.unwrap_or(Role::Editor);
    if role > own {
        let text = format!("must be at most your own: {}", own.as_str());
        return Err(Problem::invalid("role", text));
    }
    let bounded = |field, value: Option<u32>, most| match value {
        Some(value) if value == 0 || value > most => {
            Err(Problem::invalid(field, format!("must be 1 to {most}")))
        }
        value => Ok(value),
    };
    let expires_in = bounded("expires_in_s", asked.expires_in_s, EXPIRES_IN_MAX_S)?;
    let code = URL_SAFE_NO_PAD.encode(rand::random::<[u8; CODE_BYTES]>());
    let now = Utc::now().trunc_subsecs(6);
    let invite = Invite {
        id: Uuid::now_v7(),
        room: room.id,
        code_hash: hash(&code),
        role,
        created_by: by.user_id,
        created_at: now,
        expires_at: expires_in.map(|s| now + TimeDelta::seconds(s.into())),
        max_uses: bounded("max_uses", asked.max_uses, USES_MAX)?,
        uses: 0,
    };
    if !app.backends.records.create_invite(&invite).await? {
        return Err(Problem::conflict(
            "The room has as many invitations as it may; revoke one first.",
        ));
    }
    let view = InviteView::new(&invite, Some(code));
    let location = view.url.clone().unwrap_or_default();
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(view),
    ))
}

/// The room's invitations, newest first, without their codes; hosts only.
#[utoipa::path(get, path = "/rooms/{room_id}/invites", tag = "invites", params(("room_id" = String, Path), PageParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of them", body = Page<InviteView>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(room): Id<RoomId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<InviteView>>, Problem> {
    may(&app, &room, Some(&principal), Role::Host).await?;
    let before: Option<Uuid> = page.after()?;
    let records = &app.backends.records;
    let invites = records.invites(&room, before, page.limit()?).await?;
    let last = invites.items.last().map(|invite| invite.id);
    let next_cursor = last.filter(|_| invites.more).and_then(|id| cursor(&id));
    let items = invites.items.iter();
    let items = items.map(|invite| InviteView::new(invite, None)).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Revokes an invitation: nobody comes in by it any more; who came stays. Hosts only.
#[utoipa::path(delete, path = "/rooms/{room_id}/invites/{invite_id}", tag = "invites", params(("room_id" = String, Path), ("invite_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Revoked"), NeedsRight, Missing, Failures,
))]
pub async fn revoke(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Ids(room, id): Ids<RoomId, Uuid>,
) -> Result<StatusCode, Problem> {
    may(&app, &room, Some(&principal), Role::Host).await?;
    if app.backends.records.revoke_invite(&room, id).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found("invitation"))
}

/// Where an invitation leads, for whoever holds its code.
#[utoipa::path(get, path = "/invites/{code}", tag = "invites", params(("code" = String, Path)), responses(
    (status = 200, description = "The room and the role", body = InvitationView), Missing, Over, Failures,
))]
pub async fn look(
    State(app): State<App>,
    address: ClientAddress,
    Id(code): Id<String>,
) -> Result<Json<InvitationView>, Problem> {
    throttle(&app, &address).await?;
    let invite = app.backends.records.invite_by_code(hash(&code)).await?;
    let invite = invite.ok_or_else(|| Problem::not_found("invitation"))?;
    if !invite.stands(Utc::now()) {
        return Err(over());
    }
    let room = app.backends.records.room(&invite.room).await?;
    let room = room.ok_or_else(|| Problem::not_found("invitation"))?;
    Ok(Json(InvitationView {
        room_id: room.id.to_string(),
        role: invite.role.as_str(),
        expires_at: invite.expires_at.map(rfc3339),
        room: InvitationRoom {
            id: room.id.to_string(),
            name: room.name,
            kind: room.kind.as_str(),
        },
    }))
}

/// Takes an invitation: you have its role in the room from now on. One who has as much already uses nothing up. Guests may.
#[utoipa::path(post, path = "/invites/{code}/accept", tag = "invites", params(("code" = String, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The room, and what you are in it", body = AcceptedView), NeedsRight, Missing, Over, Failures,
))]
pub async fn accept(
    State(app): State<App>,
    address: ClientAddress,
    Authenticated(principal): Authenticated,
    Id(code): Id<String>,
) -> Result<Json<AcceptedView>, Problem> {
    throttle(&app, &address).await?;
    let user = principal
        .row()
        .ok_or_else(|| Problem::forbidden("The administrator enters every room anyway."))?;
    let (id, role) = whole(join(app.backends.clone(), principal, user, hash(&code))).await?;
    let room = app.backends.records.room(&id).await?;
    let room = room.ok_or_else(|| Problem::not_found("room"))?;
    Ok(Json(AcceptedView {
        room_id: id.to_string(),
        role: role.as_str(),
        room: view(&app, &room, role).await?,
    }))
}

async fn join(
    b: Backends,
    principal: Principal,
    user: UserId,
    code_hash: [u8; 32],
) -> Result<(RoomId, Role), Problem> {
    let accepted = b.records.accept_invite(code_hash, user, Utc::now());
    match accepted.await? {
        Acceptance::Joined {
            room,
            role,
            role_version,
        } => {
            let told = Change {
                by: actor(&principal)?,
                reference: None,
                user_id: user,
                role: Some(role),
                kicked: false,
            };
            standing::tell(&b, &room, role_version, told)
                .await
                .map_err(problem)?;
            Ok((room, role))
        }
        // Perhaps by a call that failed half-way.
        Acceptance::Member { room, role } => {
            standing::tell_again(&b, &room).await?;
            Ok((room, role))
        }
        Acceptance::Over => Err(over()),
        Acceptance::Unknown => Err(Problem::not_found("invitation")),
    }
}

fn hash(code: &str) -> [u8; 32] {
    Sha256::digest(code).into()
}

fn over() -> Problem {
    Problem::new(Kind::Gone, "This invitation has expired or was used up.")
}

async fn throttle(app: &App, address: &ClientAddress) -> Result<(), Problem> {
    let limit = app.config.invites_per_minute;
    let key = format!("invites:{}", address.0);
    match app
        .backends
        .vault
        .throttle(&key, limit, LOOK_WINDOW)
        .await?
    {
        Throttle::Allowed => Ok(()),
        Throttle::Wait(wait) => Err(Problem::rate_limited(wait).policy(limit, LOOK_WINDOW)),
    }
}
