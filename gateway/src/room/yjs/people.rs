//! What a room's task does for those who speak a binary dialect: how they begin, what they show of themselves, edits.

use std::sync::Arc;

use atelier_shared::domain::ids::ConnectionId;
use atelier_shared::domain::names;
use atelier_shared::domain::room::Role;
use atelier_shared::domain::signal::Signal;
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Duration, Instant};

use super::awareness::{Entry, Outcome};
use super::{hocuspocus, message};
use crate::room::actor::Actor;
use crate::room::connection::{Connection, Start};
use crate::room::dialect::Dialect;
use crate::room::document::walk;
use crate::room::json::incoming::Join;
use crate::room::json::outgoing;
use crate::room::ring::{Latest, LatestKey};

/// Stock clients reconnect after 30 s without a message, pings not counted.
const KEEP_CONTENT: Duration = Duration::from_secs(20);

/// What a binary connection has shown of itself.
#[derive(Debug)]
pub struct Seen {
    /// The client id of its own editor: the one its first awareness message was about, if that was no echo.
    own: Option<u64>,
    heard_awareness: bool,
    /// When something was last sent only to keep it content.
    content_at: Instant,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            own: None,
            heard_awareness: false,
            content_at: Instant::now(),
        }
    }
}

/// What editors by convention show of themselves.
#[derive(Deserialize)]
struct State {
    user: Option<User>,
}

#[derive(Deserialize)]
struct User {
    name: Option<serde_json::Value>,
    color: Option<serde_json::Value>,
}

impl Actor {
    /// How a binary connection begins: the server's state vector and who is here, from the present place in the feed.
    pub fn binary_start(&mut self, id: ConnectionId) -> Start {
        let mut first = Vec::new();
        if let Some(local) = self.locals.get(&id) {
            let connection = &local.connection;
            let mut say = |message: &[u8]| first.push(connection.binary_frame(message));
            match connection.dialect {
                // Hocuspocus asks for what the client has when the client asks for what the server has.
                Dialect::Hocuspocus => {
                    let may_write = local.member.role >= Role::Editor;
                    first.push(message::frame(&hocuspocus::authenticated(
                        connection.key(),
                        may_write,
                    )));
                }
                _ => say(&message::step_1(
                    &self.state.document.snapshot().state_vector(),
                )),
            }
            let present = self.awareness.present();
            if !present.is_empty() {
                let all = message::awareness(present.into_iter());
                first.push(connection.binary_frame(&all));
            }
        }
        let feed = self.shared.feed.read();
        Start {
            first,
            document: None,
            board: None,
            replay: None,
            last: Vec::new(),
            cursor: feed.ring.end(),
            latest_seen: feed.latest.version(),
            delivered: self.applied,
        }
    }

    /// The log was lost or rolled back: asks what the client has that the server now lacks, and says all it has itself.
    pub fn binary_restart(&mut self, id: ConnectionId) -> Start {
        let mut start = self.binary_start(id);
        if let Some(local) = self.locals.get(&id) {
            let connection = &local.connection;
            let ours = self.state.document.snapshot().state_vector();
            start.first = vec![connection.binary_frame(&message::step_1(&ours))];
        }
        start.document = self.document_for_newcomer();
        start
    }

    /// What an editor says of itself, and passes on of others.
    ///
    /// An editor shows itself first, before it has read anything. One that only looks on has nothing to show, and the first
    /// that is heard from it is what it was told of others, said again: that makes nobody else's client id its own.
    pub fn awareness(&mut self, id: ConnectionId, entries: Vec<Entry>, may_echo: bool) {
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        let seen = &mut local.seen;
        if let ([entry], None) = (&entries[..], seen.own)
            && entry.state.is_some()
            && match may_echo {
                false => !seen.heard_awareness,
                true => !self.awareness.has_heard(entry, id),
            }
        {
            seen.own = Some(entry.client);
        }
        seen.heard_awareness = true;
        let own = seen.own;
        let connection = local.connection.clone();
        let now = Instant::now();
        for entry in entries {
            let is_own = own == Some(entry.client);
            match self.awareness.apply(&entry, id, is_own, now) {
                Outcome::New => {
                    if is_own && entry.state.is_some() {
                        self.shows_itself(id, entry.state.as_deref());
                    }
                    self.signal_awareness(&entry, id);
                    self.show_awareness(&entry, Some(id));
                }
                Outcome::Owned => {
                    self.shows_itself(id, entry.state.as_deref());
                    self.signal_awareness(&entry, id);
                }
                Outcome::Outdone(gone) => {
                    let answer = message::awareness([&gone].into_iter());
                    connection.send_raw(connection.binary_frame(&answer));
                    if is_own {
                        self.shows_itself(id, entry.state.as_deref());
                        self.comes_back(id, &gone, entry.state, now);
                    }
                }
                Outcome::Old | Outcome::Full => {}
            }
        }
    }

    fn comes_back(&mut self, id: ConnectionId, gone: &Entry, state: Option<Bytes>, now: Instant) {
        if let Some(back) = self.awareness.come_back(gone, state, id, now) {
            self.signal_awareness(&back, id);
            self.show_awareness(&back, Some(id));
        }
    }

    /// The same from another pod, whose connection `owner` is.
    pub fn awareness_from_afar(&mut self, entry: &Entry, owner: ConnectionId) {
        let outcome = self.awareness.apply(entry, owner, true, Instant::now());
        if outcome == Outcome::New {
            self.show_awareness(entry, None);
        }
    }

    /// A connection is gone, here or on any pod: so is what its editor showed.
    pub fn awareness_of_gone(&mut self, connection: ConnectionId) {
        for entry in self.awareness.leave(connection, Instant::now()) {
            self.show_awareness(&entry, None);
        }
    }

    /// Drops what nobody renewed, and keeps silent clients content.
    pub fn look_after_editors(&mut self) {
        let now = Instant::now();
        for entry in self.awareness.outdated(now) {
            self.show_awareness(&entry, None);
        }
        for client in self.awareness.forget(now) {
            let key = LatestKey::Awareness(client);
            self.shared.feed.write().latest.drop_value(&key);
        }
        if !self.spoken.is_binary() {
            return;
        }
        let nothing = message::awareness([].iter());
        for local in self.locals.values_mut() {
            if local.connection.dialect == Dialect::Json
                || now < local.seen.content_at + KEEP_CONTENT
            {
                continue;
            }
            local.seen.content_at = now;
            if !local.connection.is_congested() {
                let connection = &local.connection;
                connection.send_raw(connection.binary_frame(&nothing));
            }
        }
    }

    pub fn tell_awareness(&self, id: ConnectionId) {
        if let Some(local) = self.locals.get(&id) {
            let all = message::awareness(self.awareness.present().into_iter());
            local
                .connection
                .send_raw(local.connection.binary_frame(&all));
        }
    }

    /// Somebody who may only read sent what they have, as every client does when it is asked: that is refused only if it
    /// would change something.
    pub fn compare_for_reader(&self, connection: Arc<Connection>, update: Bytes) {
        let held = self.state.document.held();
        self.rooms.tasks.spawn(async move {
            let bytes = update.len();
            let known = walk(bytes, move || held.news(&update).is_none()).await;
            if known == Some(true) {
                connection.applied();
            } else {
                connection.not_applied(&outgoing::needs(Role::Editor));
            }
        });
    }

    /// Tells a Hocuspocus connection what it may do.
    pub fn tell_scope(&self, id: ConnectionId) {
        if let Some(local) = self.locals.get(&id)
            && local.connection.dialect == Dialect::Hocuspocus
        {
            let may_write = local.member.role >= Role::Editor;
            let scope = hocuspocus::authenticated(local.connection.key(), may_write);
            local.connection.send_raw(message::frame(&scope));
        }
    }

    /// What other pods' editors showed before this pod listened, or while it missed something.
    pub fn ask_for_awareness(&mut self) {
        if !self.spoken.is_binary() {
            return;
        }
        let pod = self.rooms.pod;
        self.signal_others(Signal::AwarenessQuery { pod });
    }

    /// Tells a pod that has just loaded the room what this pod's editors show.
    pub fn answer_awareness_query(&mut self) {
        let locals = &self.locals;
        let own: Vec<(ConnectionId, Entry)> = self
            .awareness
            .owned_by(|owner| locals.contains_key(owner))
            .map(|(owner, entry)| (owner, entry.clone()))
            .collect();
        for (owner, entry) in own {
            self.signal_awareness(&entry, owner);
        }
    }

    /// Any text for everybody in the document (Hocuspocus).
    pub fn stateless(&mut self, from: Option<ConnectionId>, payload: &str) {
        for local in self.locals.values() {
            let connection = &local.connection;
            if connection.dialect == Dialect::Hocuspocus && from != Some(connection.id) {
                let message = hocuspocus::stateless(connection.key(), payload);
                connection.send_raw(message::frame(&message));
            }
        }
    }

    fn signal_awareness(&mut self, entry: &Entry, connection: ConnectionId) {
        let state = entry.state.as_ref();
        self.signal_others(Signal::Awareness {
            pod: self.rooms.pod,
            connection,
            client: entry.client,
            clock: entry.clock,
            state: state.map(|text| String::from_utf8_lossy(text).into_owned()),
        });
    }

    /// Tells every binary connection here but the origin; a later state overwrites one that was not sent yet.
    fn show_awareness(&mut self, entry: &Entry, origin: Option<ConnectionId>) {
        let one = || message::awareness([entry].into_iter());
        let binary = self.spoken.binary(&self.room.id, one);
        let key = LatestKey::Awareness(entry.client);
        let mut feed = self.shared.feed.write();
        match binary {
            Some(binary) => feed.latest.set(
                key,
                Latest {
                    bytes: Bytes::new(),
                    binary: Some(binary),
                    origin,
                },
            ),
            None => feed.latest.drop_value(&key),
        }
    }

    /// Somebody who shows a state is here: the others see them by the name of their token, or by the one they show.
    fn shows_itself(&mut self, id: ConnectionId, state: Option<&[u8]>) {
        let Some(local) = self.locals.get(&id) else {
            return;
        };
        let shown = state.and_then(|text| serde_json::from_slice::<State>(text).ok());
        let user = shown.and_then(|state| state.user);
        let text = |value: Option<serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        };
        let (name, color) = user.map_or((None, None), |u| (text(u.name), text(u.color)));
        let name = name.filter(|_| local.principal.name.is_none());
        let join = Join {
            name: name.and_then(|name| names::name("user.name", &name).ok()),
            color: color.filter(|color| names::color("user.color", color).is_ok()),
            avatar_url: None,
        };
        let member = &local.member;
        let news = !member.joined
            || join.name.as_ref().is_some_and(|name| *name != member.name)
            || join
                .color
                .as_ref()
                .is_some_and(|color| *color != member.color);
        if news {
            self.join(id, join);
        }
    }
}
