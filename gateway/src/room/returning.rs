//! Somebody anonymous who shows only by `resume` who they are: from there on the connection is that person's.

use atelier_shared::domain::ids::{ConnectionId, UserId};
use atelier_shared::domain::room::{Access, Role};
use atelier_shared::ports::PortError;

use super::actor::Actor;
use super::json::outgoing::ErrorFrame;
use super::sent_out;
use super::session::Session;
use super::submit::away;
use crate::identity::Principal;

/// Whom a resume token shows.
#[derive(Debug)]
pub struct Shown {
    person: UserId,
    /// The role that is given to them here.
    role: Option<Role>,
}

fn refused(code: &'static str, text: &str) -> ErrorFrame {
    ErrorFrame::new(code, format!("resume_token: {text}")).field("resume_token")
}

impl Session {
    /// `None`: nobody else than who it is. Whoever came with a token is known by that.
    pub async fn who_is_shown(
        &self,
        token: Option<&str>,
    ) -> Result<Option<Box<Shown>>, ErrorFrame> {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Ok(None);
        };
        let socket = self.rooms.sockets.get(&self.connection.id);
        if socket.is_some_and(|socket| socket.family.is_some()) {
            return Ok(None);
        }
        let claim = self.rooms.identity.verify_resume_token(token);
        let claim = claim.ok_or_else(|| refused("token", "this token does not count any more"))?;
        let person = claim.user_id;
        if person == self.connection.person() {
            return Ok(None);
        }
        if !claim.anonymous {
            return Err(refused(
                "token",
                "who has an account or is a guest comes in with `token`",
            ));
        }
        let (b, room) = (&self.rooms.backends, &self.handle.shared.id);
        let known = async {
            let role = b.records.role(room, person).await?;
            let is_out = role.is_none() && sent_out::is_sent_out(b, room, person).await?;
            Ok::<_, PortError>((role, is_out))
        };
        match known.await.map_err(|error| away(&error))? {
            (_, true) => Err(refused("forbidden", "a host sent you out of this room")),
            (role, false) => Ok(Some(Box::new(Shown { person, role }))),
        }
    }
}

impl Actor {
    /// Makes the connection theirs, if they may be here. False: it was told why not.
    pub fn is_shown_to_be(&mut self, id: ConnectionId, shown: Option<Box<Shown>>) -> bool {
        let (Some(shown), Some(local)) = (shown, self.locals.get_mut(&id)) else {
            return true;
        };
        let Shown { person, role } = *shown;
        let open = self.room.access == Access::Open;
        let error = match role.or(open.then_some(Role::Editor)) {
            _ if !local.principal.is_anonymous() => return true,
            None => refused("forbidden", "they are no member of this room"),
            Some(role) => {
                let before = local.member.clone();
                local.principal = Principal::anonymous(person);
                local.member.user_id = person;
                local.member.role = role;
                local.changed = true;
                local.connection.is_of(person);
                let member = local.member.clone();
                if let Some(mut socket) = self.rooms.sockets.get_mut(&id) {
                    socket.user_id = person;
                }
                if member.joined {
                    self.renamed_to_another(before, id);
                    self.present(member, Some(id));
                }
                self.write_changed();
                // Theirs may have changed since it was read.
                self.read_roles();
                return true;
            }
        };
        self.tell_error(id, &error);
        false
    }
}
