//! Who is in the room: entering, joining, leaving, what others see of a person, and the signals of other pods.

use std::sync::atomic::Ordering;

use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, Seq};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::signal::{EphemeralKind, Signal};
use chrono::Utc;
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::actor::{Actor, Done, Enter, Local};
use super::connection::Start;
use super::json::incoming::{Ephemeral, Join};
use super::json::outgoing::{self, Connected, ErrorFrame};
use super::ring::{Latest, LatestKey};
use super::websocket;

/// Signals that wait to be published; beyond it the oldest ephemeral ones are dropped.
const SIGNALS_MAX: usize = 10_000;
/// Challenges that wait for an answer; their askers give up after 2 s.
const CHALLENGES_MAX: usize = 256;

impl Actor {
    pub fn enter(&mut self, enter: Enter) {
        let Enter {
            connection,
            mut member,
            principal,
            room,
            resume,
        } = enter;
        self.room_changed(room);
        // Held strokes are in the board that the newcomer gets; they must not come a second time.
        self.flush_draws();
        if let Some(before) = self.members.get(&member.client_id) {
            if !member.joined && before.user_id == member.user_id {
                member = Member {
                    connection: member.connection,
                    pod: member.pod,
                    role: member.role,
                    ..before.clone()
                };
            }
            let same_socket_here = self.locals.get(&before.connection).map(|l| l.connection.id);
            if let Some(old) = same_socket_here {
                self.replaced(old);
            }
        }
        let id = connection.id;
        let local = Local {
            connection: connection.clone(),
            member: member.clone(),
            principal,
            warned: false,
            dropped: false,
            changed: member.joined,
            pinged_ms: 0,
        };
        self.locals.insert(id, local);
        self.sockets.push(connection.clone());
        if member.joined {
            self.present(member, Some(id));
        }
        let start = self.start_of(id, resume);
        connection.begin(start);
    }

    /// What a connection is told first, and where in the feed it goes on.
    fn start_of(&mut self, id: ConnectionId, resume: Option<(Epoch, Seq)>) -> Start {
        let mut first = Vec::new();
        if let Some(local) = self.locals.get(&id) {
            let identity = &self.rooms.identity;
            let resume_token = identity.resume_token(&local.principal, &local.member.client_id);
            let participants = self.members.values().map(outgoing::user).collect();
            first.push(outgoing::connected(&Connected {
                member: &local.member,
                room: &self.room,
                participants,
                epoch: self.head.epoch,
                seq: self.applied,
                archived: self.head.archived,
                resume_token: &resume_token,
                heartbeat_ms: self.rooms.config.heartbeat_ms.into(),
                max_frame: self.rooms.config.max_frame(),
                metadata: &self.state.metadata,
            }));
        }
        let users: Vec<Value> = self.members.values().map(outgoing::user).collect();
        let (cursor, latest_seen) = {
            let feed = self.shared.feed.read();
            (feed.ring.end(), feed.latest.version())
        };
        let mut start = Start {
            first,
            board: None,
            replay: None,
            last: vec![outgoing::users("users", &users)],
            cursor,
            latest_seen,
            delivered: self.applied,
        };
        match resume {
            Some((epoch, seq)) if epoch == self.head.epoch && seq <= self.applied => {
                self.rooms.metrics.reconnects.inc();
                start.first.push(outgoing::resumed(seq, self.applied));
                start.replay = (seq < self.applied).then_some((epoch, seq));
            }
            Some(_) => {
                start
                    .first
                    .push(self.reload_frame("the log was lost or rolled back"));
                start.board = self.board_snapshot();
            }
            None => start.board = self.board_snapshot(),
        }
        start
    }

    pub fn resume(&mut self, id: ConnectionId, epoch: Epoch, seq: Seq) {
        self.flush_draws();
        let start = self.start_of(id, Some((epoch, seq)));
        if let Some(local) = self.locals.get(&id) {
            local.connection.begin(start);
        }
    }

    /// The present state for a connection whose epoch is over.
    pub fn restart(&mut self, id: ConnectionId, reason: &str) {
        let mut start = self.start_of(id, None);
        start.first = vec![self.reload_frame(reason)];
        if let Some(local) = self.locals.get(&id) {
            local.connection.begin(start);
        }
    }

    fn reload_frame(&self, reason: &str) -> bytes::Bytes {
        outgoing::reload(reason, self.head.epoch, self.applied, self.head.archived)
    }

    pub fn leave(&mut self, id: ConnectionId) {
        let Some(local) = self.forget_local(id) else {
            return;
        };
        let client_id = local.member.client_id;
        self.gone(&client_id, id, None);
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        // Presence decides who tells the others, so that nobody is told twice.
        let leave = async move {
            let left = rooms.backends.presence.leave(&room, &client_id, id).await;
            let published = match left {
                Ok(true) => {
                    let signal = Signal::Left {
                        client_id,
                        connection: id,
                        reason: None,
                    };
                    rooms.backends.log.publish(&room, &signal).await
                }
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = published {
                tracing::warn!(room = %room, %error, "a leave is left to the lease");
            }
        };
        self.rooms.tasks.spawn(leave);
    }

    fn forget_local(&mut self, id: ConnectionId) -> Option<Local> {
        let local = self.locals.remove(&id)?;
        self.sockets.retain(|socket| socket.id != id);
        Some(local)
    }

    /// Its own principal came again: the old socket goes, the person stays.
    fn replaced(&mut self, id: ConnectionId) {
        if let Some(local) = self.forget_local(id) {
            local
                .connection
                .close(4409, "replaced by a newer connection of the same client");
        }
    }

    pub fn join(&mut self, id: ConnectionId, join: Join) {
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        local.dropped = false;
        local.connection.dropped.store(false, Ordering::Relaxed);
        let member = &mut local.member;
        member.name = join.name.unwrap_or_else(|| member.name.clone());
        member.color = join.color.unwrap_or_else(|| member.color.clone());
        if join.avatar_url.is_some() {
            member.avatar_url = join.avatar_url;
        }
        member.joined = true;
        local.changed = true;
        let (member, connection) = (member.clone(), local.connection.clone());
        let others: Vec<Value> = self
            .members
            .values()
            .filter(|m| m.client_id != member.client_id)
            .map(outgoing::user)
            .collect();
        self.present(member, Some(id));
        connection.send(outgoing::users("users_list", &others));
    }

    /// Somebody here, or on another pod, has joined or looks different: told once, and only if it is news.
    fn present(&mut self, member: Member, origin: Option<ConnectionId>) {
        let before = self.members.get(&member.client_id);
        let kind = match before {
            None => Some("user_joined"),
            Some(old) if old.user_id != member.user_id => {
                let left = outgoing::user_left(&member.client_id, Some("replaced"));
                self.tell_others(left, origin);
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
            self.tell_others(outgoing::user_event(kind, &member), origin);
        }
        if origin.is_some() {
            self.announce(&member);
        }
        self.members.insert(member.client_id.clone(), member);
    }

    /// Writes what others see of a member of this pod to presence, and tells the other pods.
    fn announce(&mut self, member: &Member) {
        if let Some(local) = self.locals.get_mut(&member.connection) {
            local.changed = true;
        }
        self.write_changed();
        self.signal_others(Signal::Present {
            member: Box::new(member.clone()),
        });
    }

    /// A member is gone, if it is still this connection's; the others here are told.
    fn gone(&mut self, client_id: &ClientId, connection: ConnectionId, reason: Option<&str>) {
        let held = self
            .members
            .get(client_id)
            .is_some_and(|m| m.connection == connection);
        if held {
            self.members.remove(client_id);
            self.shared.feed.write().latest.forget(client_id);
            self.tell_others(outgoing::user_left(client_id, reason), Some(connection));
        }
    }

    pub fn send_users(&mut self, id: ConnectionId) {
        if let Some(local) = self.locals.get(&id) {
            let users: Vec<Value> = self.members.values().map(outgoing::user).collect();
            local.connection.send(outgoing::users("users", &users));
        }
    }

    /// The latest value of one kind: shown here at once, and to the other pods.
    pub fn ephemeral(&mut self, id: ConnectionId, value: Ephemeral) {
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        if local.member.role < value.role() {
            let refusal = ErrorFrame::new("forbidden", outgoing::needs(value.role()));
            local.connection.send(refusal.field("type").bytes());
            return;
        }
        let kind = value.kind();
        let message = show(&mut local.member, value);
        local.changed = local.member.joined;
        let client_id = local.member.client_id.clone();
        if let Some(seen) = self.members.get_mut(&client_id) {
            seen.clone_from(&local.member);
        }
        self.show_latest(&client_id, kind, &message, Some(id));
        self.signal_others(Signal::Ephemeral {
            pod: self.rooms.pod,
            client_id,
            kind,
            frame: message,
        });
    }

    fn show_latest(
        &mut self,
        client_id: &ClientId,
        kind: EphemeralKind,
        message: &str,
        origin: Option<ConnectionId>,
    ) {
        let latest = Latest {
            bytes: websocket::text(message.as_bytes()),
            origin,
        };
        let key = LatestKey::Client(client_id.clone(), kind.as_str());
        self.shared.feed.write().latest.set(key, latest);
    }

    pub fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Ephemeral { pod, .. } if pod == self.rooms.pod => {}
            Signal::Ephemeral {
                client_id,
                kind,
                frame,
                ..
            } => {
                if let Some(member) = self.members.get_mut(&client_id) {
                    remember(member, kind, &frame);
                }
                self.show_latest(&client_id, kind, &frame, None);
            }
            Signal::Present { member } => {
                if member.pod != self.rooms.pod {
                    self.present(*member, None);
                }
            }
            Signal::Left {
                client_id,
                connection,
                reason,
            } => self.gone(&client_id, connection, reason.as_deref()),
            Signal::Archived { epoch, seq } => self.archived(epoch, seq),
            Signal::EpochRaised { epoch } => {
                if epoch > self.head.epoch {
                    self.activate();
                }
            }
            Signal::Replaced { connection } => self.replaced(connection),
            Signal::Challenge { connection } => {
                if let Some(local) = self.locals.get(&connection) {
                    local.connection.challenged.store(true, Ordering::Relaxed);
                    local.connection.send(websocket::ping(b"there?"));
                }
            }
            Signal::Alive { connection } => {
                let (answered, waiting) = std::mem::take(&mut self.challenges)
                    .into_iter()
                    .partition(|(asked, _)| *asked == connection);
                self.challenges = waiting;
                for (_, reply) in answered {
                    let _ = reply.send(());
                }
            }
            Signal::Removed { user_id, reason } => {
                for local in self.locals.values() {
                    if local.member.user_id == user_id {
                        local.connection.close(4403, &reason);
                    }
                }
            }
            Signal::RunOutput {
                run_id,
                stream,
                chunk,
                offset,
            } => {
                let output = json!({
                    "type": "run_output", "run_id": run_id, "stream": stream,
                    "chunk": chunk, "offset": offset,
                });
                self.tell_others(outgoing::frame(&output), None);
            }
            Signal::Closed { reason } => self.close_all(4404, &reason),
        }
    }

    pub fn challenge(&mut self, connection: ConnectionId, reply: oneshot::Sender<()>) {
        self.challenges.retain(|(_, waiting)| !waiting.is_closed());
        if self.challenges.len() < CHALLENGES_MAX {
            self.challenges.push((connection, reply));
            self.signal_others(Signal::Challenge { connection });
        }
    }

    fn signal_others(&mut self, signal: Signal) {
        let key = |signal: &Signal| match signal {
            Signal::Ephemeral {
                client_id, kind, ..
            } => Some((client_id.clone(), *kind)),
            _ => None,
        };
        if let Some(wanted) = key(&signal) {
            self.signals
                .retain(|waiting| key(waiting).as_ref() != Some(&wanted));
            if self.signals.len() >= SIGNALS_MAX {
                return;
            }
        }
        self.signals.push_back(signal);
    }

    /// Publishes what waits, in order, one round at a time: while it is under way later values overwrite earlier ones.
    pub fn start_publishing(&mut self) {
        if self.publishing || self.signals.is_empty() {
            return;
        }
        self.publishing = true;
        let signals: Vec<Signal> = self.signals.drain(..).collect();
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let publish = async move {
            let log = &rooms.backends.log;
            let calls = signals.iter().map(|signal| log.publish(&room, signal));
            for result in futures::future::join_all(calls).await {
                if let Err(error) = result {
                    tracing::debug!(room = %room, %error, "a signal was lost; presence repairs it");
                    break;
                }
            }
            Done::Published
        };
        self.work.push(publish.boxed());
    }

    /// Reads who is here from presence, to repair what lost signals left out.
    pub fn refresh_people(&mut self) {
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let read = async move { Done::People(rooms.backends.presence.members(&room).await) };
        self.work.push(read.boxed());
    }

    pub fn compare_people(&mut self, there: Vec<Member>) {
        let pod = self.rooms.pod;
        let gone: Vec<(ClientId, ConnectionId)> = self
            .members
            .values()
            .filter(|m| m.pod != pod && !there.iter().any(|t| t.connection == m.connection))
            .map(|m| (m.client_id.clone(), m.connection))
            .collect();
        for (client_id, connection) in gone {
            self.gone(&client_id, connection, None);
        }
        for member in there {
            if member.pod != pod && member.joined {
                self.present(member, None);
            } else if member.pod == pod && !self.locals.contains_key(&member.connection) {
                self.take_out(member);
            }
        }
    }

    /// Presence holds a connection of this pod that is not open any more (its leave failed).
    fn take_out(&mut self, member: Member) {
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let leave = async move {
            let presence = &rooms.backends.presence;
            let left = presence
                .leave(&room, &member.client_id, member.connection)
                .await;
            if let Err(error) = left {
                tracing::debug!(room = %room, %error, "a leave will be tried again");
            }
            Done::Nothing
        };
        // One that is just being admitted is in presence before its socket is here: give it time.
        if self.beats.is_multiple_of(2) {
            self.work.push(leave.boxed());
        }
    }

    /// Writes changed members of this pod to presence.
    pub fn write_changed(&mut self) {
        let changed: Vec<Member> = self
            .locals
            .values_mut()
            .filter(|local| !local.dropped)
            .filter_map(|local| std::mem::take(&mut local.changed).then(|| local.member.clone()))
            .collect();
        if changed.is_empty() {
            return;
        }
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let write = async move {
            let presence = &rooms.backends.presence;
            let calls = changed.iter().map(|member| presence.update(&room, member));
            for result in futures::future::join_all(calls).await {
                if let Err(error) = result {
                    tracing::debug!(room = %room, %error, "presence will be told again");
                }
            }
            Done::Nothing
        };
        self.work.push(write.boxed());
    }

    /// Somebody silent for too long: the others are told, the socket stays.
    pub fn drop_silent(&mut self, id: ConnectionId) {
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        local.dropped = true;
        local.member.joined = false;
        local.member.status = Status::Away;
        local.connection.dropped.store(true, Ordering::Relaxed);
        let member = local.member.clone();
        self.gone(&member.client_id, id, Some("stale"));
        self.signal_others(Signal::Left {
            client_id: member.client_id.clone(),
            connection: id,
            reason: Some("stale".into()),
        });
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let update = async move {
            if let Err(error) = rooms.backends.presence.update(&room, &member).await {
                tracing::debug!(room = %room, %error, "presence will be told again");
            }
            Done::Nothing
        };
        self.work.push(update.boxed());
    }

    /// The room's row as the edge or the records have it now: roles and what is allowed take effect at once.
    pub fn room_changed(&mut self, room: atelier_shared::domain::room::Room) {
        if room.role_version >= self.room.role_version {
            self.head.role_version = self.head.role_version.max(room.role_version);
            self.room = room;
        }
    }

    /// Sends pings, ends what is stale, stuck or out of token.
    pub fn look_after_sockets(&mut self) {
        let now = Utc::now();
        let now_ms = now.timestamp_millis();
        let config = &self.rooms.config;
        let silent_ms = i64::from(config.websocket_connection_timeout_ms);
        let heartbeat_ms = i64::from(config.heartbeat_ms);
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
            if connection.stuck_ms(now_ms) >= stuck_ms {
                self.rooms.metrics.dropped_slow.inc();
                connection.close(4508, "too slow; resume where you are");
                continue;
            }
            if silent >= heartbeat_ms && now_ms - local.pinged_ms >= heartbeat_ms {
                local.pinged_ms = now_ms;
                connection.send(websocket::ping(b""));
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
}

/// Keeps what a late joiner is shown of it, and gives the message the others get.
fn show(member: &mut Member, value: Ephemeral) -> String {
    let id = &member.client_id;
    let message = match value {
        Ephemeral::Cursor {
            position,
            name,
            color,
        } => {
            // Before it has joined a client may tell its name here; afterwards the server's own identity wins.
            let (name, color) = if member.joined {
                (member.name.clone(), member.color.clone())
            } else {
                (
                    name.unwrap_or_else(|| member.name.clone()),
                    color.unwrap_or_else(|| member.color.clone()),
                )
            };
            let message = json!({
                "type": "cursor", "userId": id, "name": name, "color": color, "position": position,
            });
            member.cursor_position = Some(position);
            message
        }
        Ephemeral::Selection(selection) => {
            let message = json!({"type": "selection", "userId": id, "selection": selection});
            member.selection = Some(selection);
            message
        }
        Ephemeral::CursorUpdate(data) => {
            json!({"type": "cursor_update", "userId": id, "data": data})
        }
        Ephemeral::ViewportUpdate(data) => {
            json!({"type": "viewport_update", "userId": id, "data": data})
        }
        Ephemeral::PresenceUpdate(status, data) => {
            let message = json!({"type": "presence_update", "userId": id, "data": data});
            member.status = status;
            message
        }
        Ephemeral::Typing(data) => json!({"type": "typing", "userId": id, "data": data}),
        Ephemeral::Receipt(seq) => json!({"type": "receipt", "userId": id, "seq": seq}),
    };
    message.to_string()
}

/// The same for a member of another pod, from the message its pod sent.
fn remember(member: &mut Member, kind: EphemeralKind, frame: &str) {
    let Ok(mut message) = serde_json::from_str::<Value>(frame) else {
        return;
    };
    match kind {
        EphemeralKind::Cursor => member.cursor_position = Some(message["position"].take()),
        EphemeralKind::Selection => member.selection = Some(message["selection"].take()),
        EphemeralKind::PresenceUpdate => {
            let status = message["data"]["status"]
                .as_str()
                .and_then(|s| s.parse().ok());
            member.status = status.unwrap_or(member.status);
        }
        EphemeralKind::CursorUpdate
        | EphemeralKind::ViewportUpdate
        | EphemeralKind::Typing
        | EphemeralKind::Receipt => {}
    }
}
