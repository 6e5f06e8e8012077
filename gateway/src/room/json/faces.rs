//! People on the wire: how others see them, one by one and all together.
//!
//! Written straight into bytes: a newcomer is told everybody, and a crowd is everybody for each of its own.

use atelier_shared::domain::ids::{ClientId, Epoch, Seq, UserId};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::room::{Role, Room};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::outgoing::frame;

/// A person as others see them: `{id, user_id, name, color, avatar_url, cursorPosition, selection, status, role, simulated}`.
#[derive(Serialize)]
struct User<'a> {
    id: &'a ClientId,
    user_id: UserId,
    name: &'a str,
    color: &'a str,
    avatar_url: Option<&'a str>,
    #[serde(rename = "cursorPosition")]
    cursor_position: Option<&'a Value>,
    selection: Option<&'a Value>,
    status: Status,
    role: Role,
    simulated: bool,
}

impl<'a> From<&'a Member> for User<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            id: &member.client_id,
            user_id: member.user_id,
            name: &member.name,
            color: &member.color,
            avatar_url: member.avatar_url.as_deref(),
            cursor_position: member.cursor_position.as_deref(),
            selection: member.selection.as_deref(),
            status: member.status,
            role: member.role,
            simulated: member.simulated,
        }
    }
}

/// People as a JSON array, ready to stand in a frame.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Users(Box<RawValue>);

impl Users {
    pub fn of<'a>(members: impl Iterator<Item = &'a Member>) -> Self {
        let all: Vec<User<'_>> = members.map(User::from).collect();
        // Serialising our own types to memory does not fail.
        Self(serde_json::value::to_raw_value(&all).unwrap_or_default())
    }
}

/// `users` (everybody) or `users_list` (everybody but the receiver).
pub fn users(kind: &'static str, users: &Users) -> Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        users: &'a Users,
    }
    frame(&Frame { kind, users })
}

/// `user_joined` or `user_updated`.
pub fn user_event(kind: &'static str, member: &Member) -> Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        #[serde(rename = "userId")]
        client_id: &'a ClientId,
        user_id: UserId,
        name: &'a str,
        color: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        avatar_url: Option<&'a str>,
        role: Role,
        simulated: bool,
        user: User<'a>,
    }
    frame(&Frame {
        kind,
        client_id: &member.client_id,
        user_id: member.user_id,
        name: &member.name,
        color: &member.color,
        avatar_url: member.avatar_url.as_deref(),
        role: member.role,
        simulated: member.simulated,
        user: member.into(),
    })
}

/// What `connected` says of the room and the newcomer.
pub struct Connected<'a> {
    pub member: &'a Member,
    pub room: &'a Room,
    pub participants: &'a Users,
    pub epoch: Epoch,
    pub seq: Seq,
    pub archived: Seq,
    pub resume_token: &'a str,
    pub heartbeat_ms: u64,
    pub max_frame: usize,
    pub metadata: &'a serde_json::Map<String, Value>,
}

pub fn connected(c: &Connected<'_>) -> Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        client_id: &'a ClientId,
        user: User<'a>,
        role: Role,
        room: Value,
        participants: &'a Users,
        epoch: Epoch,
        seq: Seq,
        archived_seq: Seq,
        resume_token: &'a str,
        heartbeat_ms: u64,
        max_frame: usize,
    }
    frame(&Frame {
        kind: "connected",
        client_id: &c.member.client_id,
        user: c.member.into(),
        role: c.member.role,
        room: serde_json::json!({
            "id": c.room.id,
            "name": c.room.name,
            "kind": c.room.kind,
            "access": c.room.access,
            "allows": c.room.allows,
            "listed": c.room.listed,
            "retention": c.room.retention,
            "metadata": c.metadata,
        }),
        participants: c.participants,
        epoch: c.epoch,
        seq: c.seq,
        archived_seq: c.archived,
        resume_token: c.resume_token,
        heartbeat_ms: c.heartbeat_ms,
        max_frame: c.max_frame,
    })
}
