//! Roles, when they changed: read again before anything more is written.

use std::collections::{BTreeSet, HashMap};

use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::room::{Access, Role, Room};
use atelier_shared::ports::{MEMBERS_MAX, PortError, Records};
use futures::FutureExt;

use super::actor::{Actor, Done};
use super::durable::RETRY_AFTER;

/// The room's row, and what it makes of the people that were asked about.
#[derive(Debug)]
pub struct RolesRead {
    room: Room,
    asked: BTreeSet<UserId>,
    roles: HashMap<UserId, Role>,
}

/// The row first: roles that are read after it are at least as new as its version.
async fn read(
    records: &dyn Records,
    room: &RoomId,
    asked: BTreeSet<UserId>,
) -> Result<Option<Box<RolesRead>>, PortError> {
    let Some(room) = records.room(room).await? else {
        return Ok(None);
    };
    let people: Vec<UserId> = asked.iter().copied().collect();
    let mut roles = HashMap::new();
    for chunk in people.chunks(MEMBERS_MAX) {
        roles.extend(records.roles(&room.id, chunk).await?);
    }
    Ok(Some(Box::new(RolesRead { room, asked, roles })))
}

impl Actor {
    /// Reads the room's row and the roles of its people again; nothing is appended before they are known.
    pub fn read_roles(&mut self) {
        if self.reading_roles {
            // What is under way may have been read before this change.
            self.roles_changed_again = true;
            return;
        }
        self.reading_roles = true;
        self.roles_changed_again = false;
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let asked = self.locals.values().map(|l| l.member.user_id).collect();
        let read = async move {
            let read = read(&*rooms.backends.records, &room, asked).await;
            if read.is_err() {
                // The records are away: not in a tight circle.
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Done::Roles(read)
        };
        self.work.push(read.boxed());
    }

    pub fn roles_read(&mut self, read: Result<Option<Box<RolesRead>>, PortError>) {
        self.reading_roles = false;
        if self.roles_changed_again {
            // What was read may be older than what the log has told since: not even for a moment.
            return self.read_roles();
        }
        let read = match read {
            Ok(Some(read)) => *read,
            Ok(None) => return self.close_all(4404, "this room is gone"),
            Err(error) => {
                tracing::debug!(room = %self.room.id, %error, "roles will be read again");
                self.give_up_waiting();
                return self.read_roles();
            }
        };
        self.room_changed(read.room);
        let open = self.room.access == Access::Open;
        let mut changed = Vec::new();
        let mut newcomers = false;
        for (id, local) in &mut self.locals {
            let user = local.member.user_id;
            newcomers |= !read.asked.contains(&user);
            if local.principal.is_admin || !read.asked.contains(&user) {
                continue;
            }
            let given = read.roles.get(&user).copied();
            match given.or(open.then_some(Role::Editor)) {
                Some(role) if role == local.member.role => {}
                Some(role) => {
                    local.member.role = role;
                    local.changed = true;
                    changed.push((*id, local.member.client_id.clone(), role));
                }
                None => local
                    .connection
                    .close(4403, "you are no longer a member of this room"),
            }
        }
        self.write_changed();
        for (id, client_id, role) in changed {
            self.tell_scope(id);
            if let Some(member) = self.members.get_mut(&client_id) {
                member.role = role;
            }
        }
        if self.roles_changed_again || newcomers {
            self.read_roles();
        }
    }
}
