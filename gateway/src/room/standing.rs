//! Roles given and taken: first in Records, with a version that fences the log, then told in the room. REST and hosts in the
//! room come this way alike.

use atelier_shared::Backends;
use atelier_shared::domain::entry::{Author, Body, Record};
use atelier_shared::domain::ids::{ConnectionId, Ref, RoomId, UserId};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::{Access, Role};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{PortError, RoleChange};
use atelier_shared::recovery;
use bytes::Bytes;
use chrono::Utc;
use futures::FutureExt;
use thiserror::Error;

use super::actor::{Actor, Done};
use super::json::incoming::StandingChange;
use super::json::outgoing::ErrorFrame;
use super::sent_out;
use super::submit::{author, away};
use super::was_here;

/// Why a role was not changed.
#[derive(Debug, Error)]
pub enum StandingError {
    #[error("the last host can't leave or be less; make somebody else host first")]
    LastHost,
    #[error("there is no such room")]
    NoRoom,
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A role to be given or (`None`) taken away.
#[derive(Debug)]
pub struct Change {
    pub by: Author,
    /// The client's own name for it.
    pub reference: Option<Ref>,
    pub user_id: UserId,
    pub role: Option<Role>,
    /// Sent out: their sockets are closed even where they may come back.
    pub kicked: bool,
}

/// Commits the role, and tells of it. A room keeps at least one host.
pub async fn change(b: &Backends, room: &RoomId, change: Change) -> Result<(), StandingError> {
    let Change { user_id, role, .. } = change;
    match b.records.set_role(room, user_id, role).await? {
        RoleChange::Done(version) => tell(b, room, version, change).await,
        RoleChange::LastHost => Err(StandingError::LastHost),
        RoleChange::Missing => Err(StandingError::NoRoom),
    }
}

/// Tells of a role that Records has under this version, and closes the sockets of one who lost their way in.
pub async fn tell(
    b: &Backends,
    room: &RoomId,
    version: u64,
    change: Change,
) -> Result<(), StandingError> {
    let user_id = change.user_id;
    // The fence first: from here on a gateway that has not heard of it is refused and looks again.
    b.log.set_role_version(room, version).await?;
    // What the room's project gives still stands.
    let role = b.records.role(room, user_id).await?;
    if role.is_some() {
        sent_out::let_in_again(b, room, user_id).await?;
    } else {
        // Before their sockets are closed: they may come back at once.
        if change.kicked {
            sent_out::send_out(b, room, user_id).await?;
        }
        let settings = b.records.room(room).await?;
        if change.kicked || settings.is_none_or(|room| room.access != Access::Open) {
            let removed = Signal::Removed {
                user_id,
                reason: if change.kicked {
                    "a host sent you out".to_owned()
                } else {
                    "membership ended".to_owned()
                },
            };
            b.log.publish(room, &removed).await?;
        }
    }
    let now_ms = Utc::now().timestamp_millis();
    let reference = match change.reference {
        Some(reference) => reference,
        // One per version: told once, however often this is tried.
        None => Ref::of_server(format_args!("role:{version}")),
    };
    let record = Record {
        ts_ms: now_ms,
        author: change.by,
        reference: Some(reference),
        audience: None,
        body: Body::RoleChanged {
            user_id,
            role,
            version,
            kicked: change.kicked,
        },
    };
    recovery::append(&*b.log, &*b.archive, &*b.queue, room, &record, now_ms).await?;
    Ok(())
}

/// Raises the fence to what Records has, and has every gateway look again at who is what: makes good what a change that was
/// cut short did not tell.
pub async fn tell_again(b: &Backends, room: &RoomId) -> Result<(), PortError> {
    if let Some(room) = b.records.room(room).await? {
        b.log.set_role_version(&room.id, room.role_version).await?;
        b.log.publish(&room.id, &Signal::Changed).await?;
    }
    Ok(())
}

/// Is there this person: stored, with a role here, connected under whatever name on any pod or until just now, or sent out?
pub async fn exists(b: &Backends, room: &RoomId, person: UserId) -> Result<bool, PortError> {
    if b.records.user(person).await?.is_some() || b.records.role(room, person).await?.is_some() {
        return Ok(true);
    }
    let members = b.presence.members(room).await?;
    // In this order: whoever leaves in between is remembered first.
    let is_here = members.iter().any(|member| member.user_id == person);
    let is_known = is_here || was_here::was_here(b, room, person).await?;
    Ok(is_known || sent_out::is_sent_out(b, room, person).await?)
}

impl Actor {
    /// A host changes somebody's standing. The room hears of it by the log, the host by the ack that stands there.
    pub fn change_standing(&mut self, id: ConnectionId, asked: StandingChange) {
        let Some(local) = self.locals.get(&id) else {
            return;
        };
        let by = author(&local.member);
        let present = self.is_here(asked.user_id);
        let (rooms, room, head) = (self.rooms.clone(), self.room.id.clone(), self.head);
        self.hold(id);
        let work = async move {
            let b = &rooms.backends;
            let reference = asked.reference.clone();
            let told = async {
                let known = super::run::known(b, &room, &head, &by, reference.as_ref()).await;
                if let Some(ack) = known.map_err(|error| away(&error))? {
                    return Ok(Some(ack));
                }
                let there = present
                    || exists(b, &room, asked.user_id)
                        .await
                        .map_err(|e| away(&e))?;
                if !there {
                    let text = "user_id: there is no such person";
                    return Err(ErrorFrame::new("not_found", text).field("user_id"));
                }
                let asked = Change {
                    by,
                    reference: asked.reference,
                    user_id: asked.user_id,
                    role: asked.role,
                    kicked: asked.kick,
                };
                change(b, &room, asked).await.map_err(|error| match error {
                    StandingError::LastHost => {
                        ErrorFrame::new("conflict", format!("user_id: {error}")).field("user_id")
                    }
                    StandingError::NoRoom => ErrorFrame::new("not_found", error.to_string()),
                    StandingError::Port(error) => away(&error),
                })?;
                Ok::<Option<Bytes>, ErrorFrame>(None)
            };
            let told: Result<Option<Bytes>, ErrorFrame> = told.await;
            Done::Submitted {
                connection: id,
                reference,
                epoch: head.epoch,
                told,
            }
        };
        self.work.push(work.boxed());
    }

    /// The log says that somebody's role is another. It counts from here on, before everybody's is read again: who is told
    /// of a new role may act on it at once. (Of two changes that crossed on their way here, Records has the last word.)
    pub fn role_changed(&mut self, user_id: UserId, role: Option<Role>, version: u64) {
        if let Some(role) = role.filter(|_| version >= self.room.role_version) {
            let theirs = |member: &Member| member.user_id == user_id;
            let mut changed = Vec::new();
            for (id, local) in &mut self.locals {
                let other = local.member.role != role && !local.principal.is_admin;
                if theirs(&local.member) && other {
                    local.member.role = role;
                    local.changed = true;
                    changed.push(*id);
                }
            }
            changed.into_iter().for_each(|id| self.tell_scope(id));
            // REST shows what presence knows.
            self.write_changed();
            self.members
                .values_mut()
                .filter(|member| theirs(member))
                .for_each(|member| member.role = role);
        }
        self.read_roles();
    }

    pub fn close_person(&self, user_id: UserId, reason: &str) {
        for local in self.locals.values() {
            if local.member.user_id == user_id {
                local.connection.close(4403, reason);
            }
        }
    }
}
