//! How somebody leaves the room: at once, when what they said last is through, or for a newer connection of theirs.

use std::time::Duration;

use atelier_shared::domain::ids::{ClientId, ConnectionId, RoomId};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::signal::Signal;

use super::actor::{Actor, Local, Parting};
use super::registry::Rooms;
use super::was_here;

/// Pauses between tries to leave while presence is away.
const LEAVE_AGAIN: Duration = Duration::from_millis(500);
const LEAVE_AGAIN_MAX: Duration = Duration::from_secs(15);
/// To the earlier of two connections of one client.
pub const REPLACED: &str = "replaced by a newer connection of the same client";
/// Beats that somebody who has gone stays for what they said last.
const PARTING_BEATS: u8 = 2;

impl Actor {
    /// Its socket is over. What it had said before counts: while that is being looked into, it stays.
    pub fn leave(&mut self, id: ConnectionId) {
        if !self.parts_later(id, false) {
            self.leave_now(id);
        }
    }

    fn parts_later(&mut self, id: ConnectionId, replaced: bool) -> bool {
        let Some(local) = self.locals.get_mut(&id).filter(|local| local.busy) else {
            return false;
        };
        let parting = Parting { replaced, beats: 0 };
        local.parting.get_or_insert(parting).replaced |= replaced;
        true
    }

    /// Those of its messages that waited are through, or can't be waited for any longer.
    pub fn part(&mut self, id: ConnectionId, parting: Parting) {
        if !parting.replaced {
            return self.leave_now(id);
        }
        if self.forget_local(id).is_some() {
            self.awareness_of_gone(id);
        }
    }

    /// A store that is away keeps nobody here who has gone.
    pub fn part_with_those_who_waited(&mut self) {
        let mut overdue = Vec::new();
        for (id, local) in &mut self.locals {
            if let Some(parting) = &mut local.parting {
                parting.beats += 1;
                if parting.beats > PARTING_BEATS {
                    overdue.push((*id, *parting));
                }
            }
        }
        for (id, parting) in overdue {
            self.part(id, parting);
        }
    }

    fn leave_now(&mut self, id: ConnectionId) {
        let Some(local) = self.forget_local(id) else {
            return;
        };
        self.let_go_of_name(&local);
        self.drop_challenges(id);
        let remembered = was_here::to_be_remembered(&local);
        if local.member.joined {
            self.tells_leave(&local.member);
        }
        self.rooms
            .metrics
            .traffic
            .left(&self.room.id, &local.member.client_id);
        let client_id = local.member.client_id;
        self.gone(&client_id, id, None);
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let noted = self.notes_visits();
        self.rooms.tasks.spawn(async move {
            if let Some(person) = remembered {
                rooms.remember(&room, person).await;
            }
            leave_for_good(rooms, room, client_id, id, noted).await;
        });
    }

    /// For whoever watches what happens on this pod.
    pub fn tells_leave(&self, member: &Member) {
        let details = format!("User {} left", member.name);
        let traffic = &self.rooms.metrics.traffic;
        traffic.event("leave", &self.room.id, &member.client_id, details);
    }

    fn forget_local(&mut self, id: ConnectionId) -> Option<Box<Local>> {
        let local = self.locals.remove(&id)?;
        self.ahead_of_us.retain(|waiting| waiting.connection != id);
        self.sockets.retain(|socket| socket.id != id);
        self.joining.remove(&id);
        self.spoken.remove(local.connection.dialect);
        Some(local)
    }

    /// Its own principal came again: the old socket goes, the person stays.
    pub fn replaced(&mut self, id: ConnectionId) {
        self.drop_challenges(id);
        let Some(local) = self.locals.get(&id) else {
            // Perhaps it is still on its way in.
            return self.shared.coming.replaced(id);
        };
        local.connection.close(4409, REPLACED);
        if !self.parts_later(id, true) {
            let replaced = Parting {
                replaced: true,
                beats: 0,
            };
            self.part(id, replaced);
        }
    }
}

/// Presence decides who tells the others, so that nobody is told twice. While it is away this is tried again: the lease of
/// a pod that lives would keep a ghost for ever.
async fn leave_for_good(
    rooms: Rooms,
    room: RoomId,
    client_id: ClientId,
    connection: ConnectionId,
    noted: bool,
) {
    let mut pause = LEAVE_AGAIN;
    loop {
        let left = rooms
            .backends
            .presence
            .leave(&room, &client_id, connection)
            .await;
        match left {
            Ok(true) => {
                rooms.people_changed();
                if noted {
                    rooms.visits.end(&room, &client_id, None);
                }
                let signal = Signal::Left {
                    client_id,
                    connection,
                    reason: None,
                };
                if let Err(error) = rooms.backends.log.publish(&room, &signal).await {
                    tracing::debug!(%room, %error, "a leave was not told; presence repairs it");
                }
                return;
            }
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%room, %error, "a leave is tried again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LEAVE_AGAIN_MAX),
            // What is left then is left to the lease.
            () = rooms.stop.cancelled() => return,
        }
    }
}
