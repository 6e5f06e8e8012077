//! What is told but not logged: the latest cursors, selections and states, and the signals between pods.

use std::sync::atomic::Ordering;

use atelier_shared::domain::ids::{ClientId, ConnectionId};
use atelier_shared::domain::presence::{Member, Viewing};
use atelier_shared::domain::signal::{EphemeralKind, Signal};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::actor::{Actor, Done};
use super::json::incoming::Ephemeral;
use super::json::outgoing::{self, ErrorFrame};
use super::ring::{Latest, LatestKey};
use super::websocket;
use super::yjs::awareness::Entry;

/// Signals that wait to be published; beyond it the oldest ephemeral ones are dropped.
const SIGNALS_MAX: usize = 10_000;
/// Challenges that wait for an answer; their askers give up after 2 s.
const CHALLENGES_MAX: usize = 256;

impl Actor {
    /// The latest value of one kind: shown here at once, and to the other pods.
    pub fn ephemeral(&mut self, id: ConnectionId, value: Ephemeral) {
        if let Some(waiting) = self.joining.get_mut(&id) {
            waiting.retain(|earlier| earlier.kind() != value.kind());
            return waiting.push(value);
        }
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        if local.member.role < value.role() {
            let refusal = ErrorFrame::new("forbidden", outgoing::needs(value.role()));
            return self.tell_error(id, &refusal.field("type"));
        }
        let kind = value.kind();
        let before = local.member.viewing.as_ref().map(|v| v.file.clone());
        let message = show(&mut local.member, value);
        local.changed |= local.member.joined;
        // Who views a file is asked of presence: told at once, where cursors wait for the next beat.
        let moved = local.member.viewing.as_ref().map(|v| &v.file) != before.as_ref();
        let member = local.member.clone();
        if moved {
            self.write_changed();
        }
        self.tell_latest(&member, kind, message, Some(id));
    }

    /// The latest value of a member of this pod: remembered, shown here at once, and to the other pods.
    pub fn tell_latest(
        &mut self,
        member: &Member,
        kind: EphemeralKind,
        message: String,
        origin: Option<ConnectionId>,
    ) {
        let client_id = member.client_id.clone();
        if let Some(seen) = self.members.get_mut(&client_id) {
            (**seen).clone_from(member);
        }
        self.show_latest(&client_id, kind, &message, origin);
        self.signal_others(Signal::Ephemeral {
            pod: self.rooms.pod,
            client_id,
            kind,
            frame: message,
        });
    }

    pub fn show_latest(
        &mut self,
        client_id: &ClientId,
        kind: EphemeralKind,
        message: &str,
        origin: Option<ConnectionId>,
    ) {
        let latest = Latest::json(websocket::text(message.as_bytes()), origin);
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
            } => {
                if reason.as_deref() != Some("stale") {
                    self.drop_challenges(connection);
                }
                self.gone(&client_id, connection, reason.as_deref());
            }
            Signal::Awareness { pod, .. }
            | Signal::AwarenessQuery { pod }
            | Signal::Stateless { pod, .. }
                if pod == self.rooms.pod => {}
            Signal::Awareness {
                connection,
                client,
                clock,
                state,
                ..
            } => {
                let entry = Entry {
                    client,
                    clock,
                    state: state.map(Into::into),
                };
                self.awareness_from_afar(&entry, connection);
            }
            Signal::AwarenessQuery { .. } => self.answer_awareness_query(),
            Signal::Stateless { payload, .. } => self.stateless(None, &payload),
            Signal::Archived { epoch, seq } => self.archived(epoch, seq),
            Signal::EpochRaised { epoch } => {
                if epoch > self.head.epoch {
                    self.activate();
                }
            }
            Signal::Replaced { connection } => self.replaced(connection),
            Signal::Challenge { connection } => self.challenged(connection),
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
                self.close_person(user_id, &reason);
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
            Signal::Changed => self.read_roles(),
            Signal::Notice {
                code,
                message,
                in_ms,
            } => {
                let notice = outgoing::notice(&code, &message, in_ms);
                for local in self.locals.values() {
                    local.connection.send(notice.clone());
                }
            }
            Signal::Closed { reason } => self.close_all(4404, &reason),
        }
    }

    pub fn challenge(&mut self, connection: ConnectionId, reply: oneshot::Sender<()>) {
        self.challenges.retain(|(_, waiting)| !waiting.is_closed());
        if self.challenges.len() < CHALLENGES_MAX {
            self.challenges.push((connection, reply));
            self.signal_others(Signal::Challenge { connection });
        } else {
            // Whoever opens so many doors at once pushes nobody out: the holder counts as alive.
            let _ = reply.send(());
        }
    }

    /// Somebody wants to know whether this connection is alive.
    pub fn challenged(&mut self, connection: ConnectionId) {
        match self.locals.get(&connection) {
            Some(local) => {
                local.connection.challenged.store(true, Ordering::Relaxed);
                local.connection.send_raw(websocket::ping(b"there?"));
            }
            // Perhaps it is still on its way in.
            None => self.shared.coming.challenged(connection),
        }
    }

    /// It is gone: who waits for its sign of life need not.
    pub fn drop_challenges(&mut self, connection: ConnectionId) {
        self.challenges.retain(|(asked, _)| *asked != connection);
    }

    pub fn signal_others(&mut self, signal: Signal) {
        let overwrites = |waiting: &Signal| match (waiting, &signal) {
            (
                Signal::Ephemeral {
                    client_id, kind, ..
                },
                Signal::Ephemeral {
                    client_id: same_client,
                    kind: same_kind,
                    ..
                },
            ) => client_id == same_client && kind == same_kind,
            (Signal::Awareness { client, .. }, Signal::Awareness { client: same, .. }) => {
                client == same
            }
            _ => false,
        };
        let is_latest =
            |signal: &Signal| matches!(signal, Signal::Ephemeral { .. } | Signal::Awareness { .. });
        if is_latest(&signal) {
            self.signals.retain(|waiting| !overwrites(waiting));
            if self.signals.len() >= SIGNALS_MAX {
                let mut waiting = self.signals.iter();
                if let Some(oldest) = waiting.position(is_latest) {
                    self.signals.remove(oldest);
                }
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
}

/// Keeps what a late joiner is shown of it, and gives the message the others get.
pub fn show(member: &mut Member, value: Ephemeral) -> String {
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
            member.cursor_position = Some(position.into());
            message
        }
        Ephemeral::Selection(selection) => {
            let message = json!({"type": "selection", "userId": id, "selection": selection});
            member.selection = Some(selection.into());
            message
        }
        Ephemeral::CursorUpdate(data) => {
            let message = json!({"type": "cursor_update", "userId": id, "data": data});
            view(member, &data);
            message
        }
        Ephemeral::ViewportUpdate(data) => {
            let message = json!({"type": "viewport_update", "userId": id, "data": data});
            view(member, &data);
            message
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
        EphemeralKind::Cursor => {
            member.cursor_position = Some(message["position"].take().into());
        }
        EphemeralKind::Selection => member.selection = Some(message["selection"].take().into()),
        EphemeralKind::PresenceUpdate => {
            let status = message["data"]["status"]
                .as_str()
                .and_then(|s| s.parse().ok());
            member.status = status.unwrap_or(member.status);
        }
        EphemeralKind::CursorUpdate | EphemeralKind::ViewportUpdate => {
            view(member, &message["data"]);
        }
        EphemeralKind::Typing | EphemeralKind::Receipt => {}
    }
}

/// Which file somebody is in: the last that a cursor or viewport named; what it does not say of the same file stays.
fn view(member: &mut Member, data: &Value) {
    let Some(file) = data["file"].as_str() else {
        return;
    };
    let mut viewing = member
        .viewing
        .take()
        .filter(|viewing| viewing.file == file)
        .unwrap_or_else(|| {
            Box::new(Viewing {
                file: file.to_owned(),
                line: None,
                column: None,
                start_line: None,
                end_line: None,
            })
        });
    let number = |name: &str, before: Option<u64>| data[name].as_u64().or(before);
    viewing.line = number("line", viewing.line);
    viewing.column = number("column", viewing.column);
    viewing.start_line = number("start_line", viewing.start_line);
    viewing.end_line = number("end_line", viewing.end_line);
    member.viewing = Some(viewing);
}
