//! What a room does on every beat for its sockets and its people: pings, timeouts, tokens, and agreement with presence.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use atelier_shared::domain::ids::{ClientId, ConnectionId};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::Claim;
use chrono::Utc;
use futures::FutureExt;

use super::actor::{Actor, Done, People, PeopleWrite};
use super::json::outgoing;
use super::registry::LEASE;
use super::websocket;

/// After presence has lost its memory every living pod learns so with its next renewal, and has its people enter again: two
/// leases later whoever is still missing is gone.
const COMPLETE_AFTER: Duration = LEASE.saturating_mul(2);

impl Actor {
    /// Sends pings, ends what is stale, stuck or out of token.
    pub fn look_after_sockets(&mut self) {
        let now = Utc::now();
        let now_ms = now.timestamp_millis();
        let config = &self.rooms.config;
        let silent_ms = i64::from(config.websocket_connection_timeout_ms);
        let heartbeat_ms = i64::from(config.heartbeat_ms);
        let warn_stale_ms = heartbeat_ms.min(silent_ms / 2);
        let presence_ms = i64::from(config.presence_timeout_s) * 1_000;
        let stuck_ms = i64::from(config.slow_reader_timeout_s) * 1_000;
        let mut dropped = Vec::new();
        for (id, local) in &mut self.locals {
            let connection = &local.connection;
            let silent = now_ms - connection.heard_ms.load(Ordering::Relaxed);
            if silent >= silent_ms {
                connection.close(4500, "silent for too long");
                continue;
            }
            let stale_in_ms = silent_ms - silent;
            if stale_in_ms > warn_stale_ms {
                local.warned_stale = false;
            } else if !local.warned_stale {
                local.warned_stale = true;
                connection.send(outgoing::notice(
                    "cleanup",
                    "nothing was heard of this connection for long; it is about to be closed",
                    u64::try_from(stale_in_ms).unwrap_or(0),
                ));
            }
            if connection.stuck_ms(now_ms) >= stuck_ms {
                self.rooms.metrics.dropped_slow.inc();
                connection.close(4508, "too slow; resume where you are");
                continue;
            }
            if silent >= heartbeat_ms && now_ms - local.pinged_ms >= heartbeat_ms {
                local.pinged_ms = now_ms;
                connection.send_raw(websocket::ping(b""));
            }
            let speechless = now_ms - connection.spoke_ms.load(Ordering::Relaxed);
            if speechless >= presence_ms && local.member.joined {
                dropped.push(*id);
            }
            if let Some(expires_at) = local.principal.expires_at {
                let left_ms = (expires_at - now).num_milliseconds();
                if left_ms <= 0 {
                    connection.close(4401, "the token has expired");
                } else if left_ms <= 30_000 && !local.warned {
                    local.warned = true;
                    let in_ms = u64::try_from(left_ms).unwrap_or(0);
                    connection.ask_for_token();
                    connection.send(outgoing::notice(
                        "token_expiring",
                        "send auth with a new token",
                        in_ms,
                    ));
                }
            }
        }
        for id in dropped {
            self.drop_silent(id);
        }
    }

    /// Lets go of the frames that everybody here has had for some beats.
    pub fn settle_ring(&mut self) {
        let old = self.shared.feed.write().ring.beat();
        let Some(old) = old else {
            return;
        };
        let cursors = self.sockets.iter().filter_map(|c| c.ring_cursor());
        let had = cursors.min().map_or(old, |slowest| slowest.min(old));
        self.shared.feed.write().ring.let_go(had);
    }

    /// Somebody silent for too long: the others are told, the socket stays.
    pub fn drop_silent(&mut self, id: ConnectionId) {
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        let member = local.member.clone();
        local.dropped = true;
        local.member.joined = false;
        local.member.status = Status::Away;
        local.connection.dropped.store(true, Ordering::Relaxed);
        local.changed = true;
        let client_id = local.member.client_id.clone();
        self.gone(&client_id, id, Some("stale"));
        self.tells_leave(&member);
        self.visit_ends(&client_id, Some("stale"));
        self.signal_others(Signal::Left {
            client_id,
            connection: id,
            reason: Some("stale".into()),
        });
        self.write_changed();
    }

    /// Writes changed members of this pod to presence. One write at a time: of two at once the older might arrive last,
    /// and stay.
    pub fn write_changed(&mut self) {
        if self.writing_people != PeopleWrite::No {
            self.writing_people = PeopleWrite::Again;
            return;
        }
        let changed: Vec<Member> = self
            .locals
            .values_mut()
            .filter_map(|local| std::mem::take(&mut local.changed).then(|| local.member.clone()))
            .collect();
        if changed.is_empty() {
            return;
        }
        self.writing_people = PeopleWrite::Now;
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let write = async move {
            let presence = &rooms.backends.presence;
            let calls = changed.iter().map(|member| presence.update(&room, member));
            let results = futures::future::join_all(calls).await;
            let mut unwritten = Vec::new();
            for (member, result) in changed.iter().zip(results) {
                if let Err(error) = result {
                    tracing::debug!(room = %room, %error, "presence will be told again");
                    unwritten.push(member.connection);
                }
            }
            Done::PeopleWritten { unwritten }
        };
        self.work.push(write.boxed());
    }

    /// What presence did not take goes with the next beat; what changed meanwhile, and was asked for at once, goes now.
    pub fn people_written(&mut self, unwritten: &[ConnectionId]) {
        self.mark_changed(unwritten);
        let before = std::mem::replace(&mut self.writing_people, PeopleWrite::No);
        if before == PeopleWrite::Again {
            self.write_changed();
        }
    }

    pub fn mark_changed(&mut self, connections: &[ConnectionId]) {
        for id in connections {
            if let Some(local) = self.locals.get_mut(id) {
                local.changed = true;
            }
        }
    }

    /// Reads who is here from presence, to repair what lost signals left out.
    pub fn refresh_people(&mut self) {
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let read = async move {
            let presence = &rooms.backends.presence;
            let people = async {
                let members = presence.members(&room).await?;
                // In this order: what presence had forgotten when it was read, it has forgotten now.
                let complete = presence.steady(rooms.pod).await? >= COMPLETE_AFTER;
                Ok(People { members, complete })
            };
            Done::People(people.await)
        };
        self.work.push(read.boxed());
    }

    pub fn compare_people(&mut self, people: People) {
        let People {
            members: there,
            complete,
        } = people;
        let pod = self.rooms.pod;
        let outdated = self.outdated(&there);
        let forgetful = self.enter_again(&there);
        let mut editors_gone: HashSet<ConnectionId> = HashSet::new();
        let gone: Vec<(ClientId, ConnectionId)> = if forgetful || !complete {
            // What forgot our own people forgot the others' too: they have time to come back.
            Vec::new()
        } else {
            let open: HashSet<ConnectionId> = there.iter().map(|m| m.connection).collect();
            // Came back by another connection: below.
            let back: HashSet<&ClientId> = there
                .iter()
                .filter(|m| m.joined)
                .map(|m| &m.client_id)
                .collect();
            let editors = self.awareness.owners();
            editors_gone.extend(
                editors.filter(|owner| !open.contains(owner) && !self.locals.contains_key(owner)),
            );
            self.members
                .values()
                .filter(|m| m.pod != pod || !self.has_here(m.connection))
                .filter(|m| !open.contains(&m.connection) && !back.contains(&m.client_id))
                .map(|m| (m.client_id.clone(), m.connection))
                .collect()
        };
        for (client_id, connection) in gone {
            self.gone(&client_id, connection, None);
        }
        for connection in editors_gone {
            self.awareness_of_gone(connection);
        }
        for member in there {
            if member.pod != pod && member.joined {
                // A socket of ours that is newer than the place its client has elsewhere: what lost its memory says so.
                let ours = self.locals.values().map(|local| &local.member);
                let mut ours = ours.filter(|ours| ours.client_id == member.client_id);
                if !ours.any(|ours| ours.connection > member.connection) {
                    self.present(member, None);
                }
            } else if member.pod == pod && !self.has_here(member.connection) {
                self.take_out(member);
            }
        }
        self.put_back_ours();
        self.correct(&outdated);
    }

    /// Is this connection of this pod here, or on its way in (presence knows it before the room does)?
    fn has_here(&self, connection: ConnectionId) -> bool {
        self.locals.contains_key(&connection)
            || self.simulated.contains_key(&connection)
            || self.shared.coming.contains(connection)
    }

    /// People of this pod of whom presence has an older word than ours: its store was rolled back to a moment before they had
    /// joined, or were called what they are now. (Or a write is still on its way.)
    fn outdated(&self, there: &[Member]) -> Vec<ConnectionId> {
        let face = |m: &Member| (m.joined, m.role, m.status);
        let differs = |there: &&Member| {
            let ours = self.locals.get(&there.connection).map(|l| &l.member);
            ours.is_some_and(|ours| {
                let named = there.name == ours.name && there.color == ours.color;
                face(there) != face(ours) || !named || there.avatar_url != ours.avatar_url
            })
        };
        let outdated = there.iter().filter(differs);
        outdated.map(|member| member.connection).collect()
    }

    /// Said again, to those too who may have believed it.
    fn correct(&mut self, outdated: &[ConnectionId]) {
        self.mark_changed(outdated);
        self.write_changed();
        for id in outdated {
            let local = self.locals.get(id);
            if let Some(local) = local.filter(|local| local.member.joined) {
                let member = Box::new(local.member.clone());
                self.signal_others(Signal::Present { member });
            }
        }
    }

    /// People of this pod who were reported gone by what a store had forgotten are here all the same.
    fn put_back_ours(&mut self) {
        let ours = self.locals.values().map(|local| &local.member);
        let missing =
            |member: &&Member| member.joined && !self.members.contains_key(&member.client_id);
        let missing: Vec<Member> = ours.filter(missing).cloned().collect();
        for member in missing {
            self.present(member, None);
        }
    }

    /// Connections of this pod whose client ids presence does not know, or knows by an older connection (it lost its
    /// memory), take their places again. True: there were some.
    fn enter_again(&mut self, there: &[Member]) -> bool {
        let known: HashMap<&ClientId, ConnectionId> = there
            .iter()
            .map(|member| (&member.client_id, member.connection))
            .collect();
        let holds_its_place = |member: &Member| {
            let known = known.get(&member.client_id);
            known.is_some_and(|connection| *connection >= member.connection)
        };
        let forgotten: Vec<Member> = self
            .locals
            .values()
            .map(|local| &local.member)
            .chain(self.simulated.values())
            .filter(|member| !holds_its_place(member))
            .cloned()
            .collect();
        if forgotten.is_empty() {
            return false;
        }
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let enter = async move {
            let presence = &rooms.backends.presence;
            let entered = forgotten.iter().map(|member| member.connection).collect();
            for member in forgotten {
                let outcome = match presence.enter(&room, &member, None).await {
                    // The same client came back elsewhere in between: the newer connection keeps the place.
                    Ok(Claim::Replaced(newer)) if newer.connection > member.connection => {
                        let ours = Some(member.connection);
                        presence.enter(&room, &newer, ours).await.map(drop)
                    }
                    other => other.map(drop),
                };
                if let Err(error) = outcome {
                    tracing::debug!(room = %room, %error, "a place will be taken again later");
                }
            }
            Done::PeopleEntered(entered)
        };
        self.work.push(enter.boxed());
        true
    }

    /// Presence holds a connection of this pod that is not open any more (its leave failed).
    pub fn take_out(&mut self, member: Member) {
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let leave = async move {
            if let Err(error) = rooms.take_out(&room, member).await {
                tracing::debug!(room = %room, %error, "a leave will be tried again");
            }
            Done::Nothing
        };
        self.work.push(leave.boxed());
    }
}
