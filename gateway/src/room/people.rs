//! Who is in the room: entering, joining, resuming, and what others are told of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, RoomId, Seq, UserId};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::room::Room;
use atelier_shared::domain::signal::Signal;
use futures::FutureExt;

use super::actor::{Actor, AheadOfUs, Done, Enter, Local};
use super::connection::{Connection, Start};
use super::dialect::Dialect;
use super::json::faces::{self, Connected, Users};
use super::json::incoming::Join;
use super::json::outgoing;
use super::leaving::REPLACED;
use super::registry::Rooms;
use super::sent_out;

impl Actor {
    pub fn enter(&mut self, enter: Enter) {
        let Enter {
            connection,
            mut member,
            principal,
            room,
            resume,
            replaces,
            on_the_way,
        } = enter;
        let heard = on_the_way.arrives();
        if let Some(earlier) = replaces {
            self.replaced(earlier);
        }
        if heard.replaced {
            return connection.close(4409, REPLACED);
        }
        self.compare_room(room, &connection);
        // One note for a crowd: while somebody is here the room is safe anyway.
        if self.locals.is_empty() {
            self.touch();
        }
        // Held strokes are in the board that the newcomer gets; they must not come a second time.
        self.flush_draws();
        if let Some(before) = self.members.get(&member.client_id) {
            let (earlier, same_person) = (before.connection, before.user_id == member.user_id);
            if !member.joined && same_person {
                member = Member {
                    connection: member.connection,
                    pod: member.pod,
                    role: member.role,
                    ..(**before).clone()
                };
            }
            // Presence knew nothing of it, where it has lost its memory.
            self.replaced(earlier);
            if !member.joined && !same_person {
                self.gone(&member.client_id, earlier, Some("replaced"));
            }
        }
        let id = connection.id;
        let traffic = &self.rooms.metrics.traffic;
        let came_back = traffic.comes_back(&self.room.id, &member.client_id)
            || replaces.is_some()
            || resume.is_some();
        let local = Box::new(Local {
            connection: connection.clone(),
            member: member.clone(),
            principal,
            warned: false,
            warned_stale: false,
            dropped: false,
            changed: member.joined,
            pinged_ms: 0,
            busy: false,
            held: std::collections::VecDeque::new(),
            parting: None,
            seen: Default::default(),
            came_back: false,
        });
        self.hold_name_of(&local);
        self.locals.insert(id, local);
        if came_back {
            self.came_back(id);
        }
        let first_editor = connection.dialect != Dialect::Json && !self.spoken.is_binary();
        self.spoken.add(connection.dialect);
        if first_editor {
            self.ask_for_awareness();
        }
        self.sockets.push(connection.clone());
        if member.joined {
            self.present(member, Some(id));
        }
        if connection.dialect == Dialect::Json {
            self.begin(id, resume);
        } else {
            let start = self.binary_start(id);
            connection.begin(start);
        }
        if heard.challenged {
            self.challenged(id);
        }
    }

    /// A client is back that was here before: counted once for each connection.
    fn came_back(&mut self, id: ConnectionId) {
        if let Some(local) = self.locals.get_mut(&id)
            && !std::mem::replace(&mut local.came_back, true)
        {
            let metrics = &self.rooms.metrics;
            metrics.reconnects.inc();
            let client = &local.member.client_id;
            metrics.traffic.reconnect(&self.room.id, client);
        }
    }

    /// The row that a newcomer was let in by. Where it is not the one that the room goes by, somebody's rights may have
    /// changed meanwhile: theirs, or others'.
    fn compare_room(&mut self, room: Room, newcomer: &Arc<Connection>) {
        let rights = |room: &Room| (room.role_version, room.access, room.allows.clone());
        let differs = rights(&room) != rights(&self.room);
        self.room_changed(room);
        if differs {
            self.read_roles();
        }
        if differs || self.reading_roles {
            let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
            let look = close_if_sent_out(rooms, room, newcomer.clone());
            self.work.push(look.boxed());
        }
    }

    /// Has a connection told what it is owed, now or as soon as this pod knows as much as it does.
    fn begin(&mut self, id: ConnectionId, resume: Option<(Epoch, Seq)>) {
        self.ahead_of_us.retain(|waiting| waiting.connection != id);
        if let Some((epoch, seq)) = resume
            && (epoch, seq) > (self.head.epoch, self.applied)
        {
            // Either publications are still on their way (and the log has what is missing), or it was lost: the log tells.
            self.ahead_of_us.push(AheadOfUs {
                connection: id,
                epoch,
                seq,
                looks_before: self.looks,
            });
            self.verify();
            return;
        }
        let start = self.start_of(id, resume);
        if let Some(local) = self.locals.get(&id) {
            local.connection.begin(start);
        }
    }

    pub fn begin_those_we_caught_up_with(&mut self) {
        if !self.ahead_of_us.is_empty() {
            self.begin_ahead_of(|waiting, us| (waiting.epoch, waiting.seq) <= us);
        }
    }

    /// Those who wait for more than the log had at this look: what they know was lost.
    pub fn begin_those_ahead_of_the_log(&mut self, log: (Epoch, Seq), look: u64) {
        self.begin_ahead_of(|waiting, us| {
            let knows = (waiting.epoch, waiting.seq);
            knows <= us || (waiting.looks_before < look && knows > log)
        });
    }

    fn begin_ahead_of(&mut self, which: impl Fn(&AheadOfUs, (Epoch, Seq)) -> bool) {
        let us = (self.head.epoch, self.applied);
        let begins = |waiting: &mut AheadOfUs| which(waiting, us);
        let begun: Vec<AheadOfUs> = self.ahead_of_us.extract_if(.., begins).collect();
        if begun.is_empty() {
            return;
        }
        self.flush_draws();
        for AheadOfUs {
            connection,
            epoch,
            seq,
            ..
        } in begun
        {
            let start = self.start_of(connection, Some((epoch, seq)));
            if let Some(local) = self.locals.get(&connection) {
                local.connection.begin(start);
            }
        }
    }

    /// What a connection is told first, and where in the feed it goes on.
    fn start_of(&mut self, id: ConnectionId, resume: Option<(Epoch, Seq)>) -> Start {
        let mut first = Vec::new();
        let users = Users::of(self.members.values().map(|m| &**m));
        if let Some(local) = self.locals.get(&id) {
            let identity = &self.rooms.identity;
            let resume_token = identity.resume_token(&local.principal, &local.member.client_id);
            first.push(faces::connected(&Connected {
                member: &local.member,
                room: &self.room,
                participants: &users,
                epoch: self.head.epoch,
                seq: self.applied,
                archived: self.head.archived,
                resume_token: &resume_token,
                heartbeat_ms: self.rooms.config.heartbeat_ms.into(),
                max_frame: self.rooms.config.max_frame(),
                metadata: &self.state.metadata,
            }));
        }
        let (cursor, latest_seen) = {
            let feed = self.shared.feed.read();
            (feed.ring.end(), feed.latest.version())
        };
        let mut start = Start {
            first,
            board: None,
            document: None,
            replay: None,
            last: vec![faces::users("users", &users)],
            cursor,
            latest_seen,
            delivered: self.applied,
        };
        match resume {
            Some((epoch, seq)) if epoch == self.head.epoch && seq <= self.applied => {
                start.first.push(outgoing::resumed(seq, self.applied));
                start.replay = (seq < self.applied).then_some((epoch, seq));
            }
            Some(_) => {
                start
                    .first
                    .push(self.reload_frame("the log was lost or rolled back"));
                start.document = self.document_for_newcomer();
                start.board = self.board_snapshot();
            }
            None => {
                start.document = self.document_for_newcomer();
                start.board = self.board_snapshot();
            }
        }
        start
    }

    pub fn resume(&mut self, id: ConnectionId, epoch: Epoch, seq: Seq) {
        self.came_back(id);
        self.flush_draws();
        self.begin(id, Some((epoch, seq)));
    }

    /// The present state for a connection whose epoch is over.
    pub fn restart(&mut self, id: ConnectionId, reason: &str) {
        let dialect = self.locals.get(&id).map(|local| local.connection.dialect);
        let start = if dialect == Some(Dialect::Json) {
            let mut start = self.start_of(id, None);
            start.first = vec![self.reload_frame(reason)];
            start
        } else {
            self.binary_restart(id)
        };
        if let Some(local) = self.locals.get(&id) {
            local.connection.begin(start);
        }
    }

    fn reload_frame(&self, reason: &str) -> bytes::Bytes {
        outgoing::reload(reason, self.head.epoch, self.applied, self.head.archived)
    }

    /// False: others are asked about the name first.
    pub fn join(&mut self, id: ConnectionId, join: Join) -> bool {
        let name = join.name.clone().or_else(|| self.name_to_take_back(id));
        if let Some(name) = name {
            if let Some(bearer) = self.bearer(id, &name) {
                self.ask_bearer(id, join, bearer);
                return false;
            }
            if self.must_claim(id, &name) {
                self.ask_everywhere(id, join, name);
                return false;
            }
        }
        self.joins(id, join);
        true
    }

    /// The name, if there is one in it, is theirs to bear.
    pub fn joins(&mut self, id: ConnectionId, join: Join) {
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut local.dropped) {
            local.member.status = Status::Active;
        }
        local.connection.dropped.store(false, Ordering::Relaxed);
        let member = &mut local.member;
        let before = join.name.as_ref().map(|_| member.clone());
        member.name = join.name.unwrap_or_else(|| member.name.clone());
        member.color = join.color.unwrap_or_else(|| member.color.clone());
        if join.avatar_url.is_some() {
            member.avatar_url = join.avatar_url;
        }
        member.joined = true;
        local.changed = true;
        let (member, connection) = (member.clone(), local.connection.clone());
        if let Some(local) = self.locals.get(&id) {
            self.hold_name_of(local);
        }
        if let Some(before) = before {
            self.renamed(before, &member.name);
        }
        let others = self.members.values().map(|m| &**m);
        let others = Users::of(others.filter(|m| m.client_id != member.client_id));
        self.present(member, Some(id));
        let list = faces::users("users_list", &others);
        connection.send_in_turn(list, &self.shared.feed.read());
    }

    /// Somebody here, or on another pod, has joined or looks different: told once, and only if it is news.
    pub fn present(&mut self, member: Member, origin: Option<ConnectionId>) {
        let before = self.members.get(&member.client_id);
        let kind = match before {
            None => Some("user_joined"),
            Some(old) if old.user_id != member.user_id => {
                let left = outgoing::user_left(&member.client_id, Some("replaced"));
                self.tell_of_people(left, origin);
                if origin.is_some() {
                    self.visit_ends(&member.client_id, Some("replaced"));
                }
                Some("user_joined")
            }
            Some(old) => {
                let face = |m: &Member| {
                    (
                        m.name.clone(),
                        m.color.clone(),
                        m.avatar_url.clone(),
                        m.role,
                    )
                };
                (face(old) != face(&member)).then_some("user_updated")
            }
        };
        if let Some(kind) = kind {
            self.tell_of_people(faces::user_event(kind, &member), origin);
            if origin.is_some() && kind == "user_joined" {
                self.visit_begins(&member);
                let details = format!("User {} joined", member.name);
                let traffic = &self.rooms.metrics.traffic;
                traffic.event("join", &self.room.id, &member.client_id, details);
            }
        }
        if origin.is_some() {
            self.announce(&member);
        }
        self.members
            .insert(member.client_id.clone(), Box::new(member));
    }

    /// Writes what others see of a member of this pod to presence, and tells the other pods.
    pub fn announce(&mut self, member: &Member) {
        if let Some(local) = self.locals.get_mut(&member.connection) {
            local.changed = true;
        }
        self.write_changed();
        self.signal_others(Signal::Present {
            member: Box::new(member.clone()),
        });
    }

    /// A member is gone, if it is still this connection's; the others here are told.
    pub fn gone(&mut self, client_id: &ClientId, connection: ConnectionId, reason: Option<&str>) {
        self.simulated.remove(&connection);
        // A socket that is only silent is still here: its editor's state has a clock of its own.
        if !self.locals.contains_key(&connection) {
            self.awareness_of_gone(connection);
        }
        let is_member = match self.members.get(client_id) {
            Some(member) if member.connection != connection => return,
            member => member.is_some(),
        };
        self.members.remove(client_id);
        // Who never joined was not announced, but a cursor of theirs may stand on everybody's screen. (A client that is
        // back here already goes on showing it.)
        let has_shown = self.shared.feed.read().latest.has_of(client_id);
        if !is_member && (!has_shown || self.is_connected_here(client_id)) {
            return;
        }
        self.shared.feed.write().latest.forget(client_id);
        self.tell_of_people(outgoing::user_left(client_id, reason), Some(connection));
    }

    fn is_connected_here(&self, client_id: &ClientId) -> bool {
        let mut locals = self.locals.values();
        locals.any(|local| local.member.client_id == *client_id)
    }

    /// Is a connection of this person known here, joined or not?
    pub fn is_here(&self, person: UserId) -> bool {
        let mut joined = self.members.values();
        let mut locals = self.locals.values();
        joined.any(|member| member.user_id == person)
            || locals.any(|local| local.member.user_id == person)
    }

    pub fn send_users(&mut self, id: ConnectionId) {
        if let Some(local) = self.locals.get(&id) {
            let users = Users::of(self.members.values().map(|m| &**m));
            let list = faces::users("users", &users);
            local
                .connection
                .send_in_turn(list, &self.shared.feed.read());
        }
    }

    /// The room's row as the edge or the records have it now: roles and what is allowed take effect at once.
    pub fn room_changed(&mut self, room: Room) {
        if room.role_version >= self.room.role_version {
            self.head.role_version = self.head.role_version.max(room.role_version);
            self.room = room;
        }
    }
}

/// They may have been sent out between their look at the door and here; their role alone does not say so in an open room.
async fn close_if_sent_out(rooms: Rooms, room: RoomId, newcomer: Arc<Connection>) -> Done {
    match sent_out::is_sent_out(&rooms.backends, &room, newcomer.person()).await {
        Ok(true) => newcomer.close(4403, "a host sent you out"),
        Ok(false) => {}
        Err(error) => tracing::debug!(%room, %error, "who was just sent out may stay"),
    }
    Done::Nothing
}
