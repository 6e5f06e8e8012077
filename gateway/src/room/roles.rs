//! Roles, when they changed: read again before anything more is written.

use atelier_shared::domain::ids::UserId;
use atelier_shared::domain::room::{Access, Role, Room};
use atelier_shared::ports::{Membership, PortError};
use futures::FutureExt;

use super::actor::{Actor, Done};
use super::durable::RETRY_AFTER;

impl Actor {
    /// Reads the room's row and roles again; nothing is appended before they are known.
    pub fn read_roles(&mut self) {
        if self.reading_roles {
            return;
        }
        self.reading_roles = true;
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let read = async move {
            let records = &rooms.backends.records;
            let read = tokio::try_join!(records.room(&room), records.members(&room));
            if read.is_err() {
                // The records are away: not in a tight circle.
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Done::Roles(read)
        };
        self.work.push(read.boxed());
    }

    pub fn roles_read(&mut self, read: Result<(Option<Room>, Vec<Membership>), PortError>) {
        self.reading_roles = false;
        let (room, members) = match read {
            Ok((Some(room), members)) => (room, members),
            Ok((None, _)) => return self.close_all(4404, "this room is gone"),
            Err(error) => {
                tracing::debug!(room = %self.room.id, %error, "roles will be read again");
                self.give_up_waiting();
                return self.read_roles();
            }
        };
        self.room_changed(room);
        let open = self.room.access == Access::Open;
        let role_of = |user: UserId| {
            let given = members.iter().find(|m| m.user_id == user).map(|m| m.role);
            given.or(open.then_some(Role::Editor))
        };
        let mut changed = Vec::new();
        for local in self.locals.values_mut() {
            match role_of(local.member.user_id) {
                _ if local.principal.is_admin => {}
                Some(role) if role == local.member.role => {}
                Some(role) => {
                    local.member.role = role;
                    local.changed = true;
                    changed.push((local.member.client_id.clone(), role));
                }
                None => local
                    .connection
                    .close(4403, "you are no longer a member of this room"),
            }
        }
        for (client_id, role) in changed {
            if let Some(member) = self.members.get_mut(&client_id) {
                member.role = role;
            }
        }
    }
}
