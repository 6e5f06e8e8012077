//! Entries out of the log: folded in `seq` order, each once, and told.

use std::sync::Arc;

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{Epoch, Seq};
use bytes::Bytes;
use tokio::time::Instant;

use super::actor::Actor;
use super::dialect::{Binary, Dialect};
use super::epoch::LastApplied;
use super::json::outgoing;
use super::ring::{Audience, Frame, Latest, LatestKey};
use super::yjs::message;

impl Actor {
    /// An entry, from our own append or another pod's. Applied in `seq` order, each once.
    pub fn receive(&mut self, entry: Entry) {
        if entry.seq <= self.applied {
            return;
        }
        if entry.seq > self.applied.next() {
            if self.ahead.len() < super::epoch::AHEAD_MAX {
                self.ahead.insert(entry.seq, entry);
            }
            self.hole_since.get_or_insert_with(Instant::now);
            return;
        }
        self.apply(entry);
        while let Some(next) = self.ahead.remove(&self.applied.next()) {
            self.apply(next);
        }
        let applied = self.applied;
        self.ahead.retain(|seq, _| *seq > applied);
        if self.ahead.is_empty() {
            self.hole_since = None;
        }
    }

    fn apply(&mut self, entry: Entry) {
        self.applied = entry.seq;
        self.last_applied = Some(LastApplied::of(&entry));
        let void = self.state.chat.is_void(&entry.record.body);
        let clears = matches!(&entry.record.body, Body::Draw(batch) if batch.clear);
        if clears {
            // What was drawn before it is told before it, and what is drawn after it after it, whoever drew.
            self.flush_draws();
        }
        self.state.apply(&entry);
        self.forget_file(&entry.record.body);
        self.known.apply(&entry);
        match &entry.record.body {
            Body::Draw(_) => {
                self.board = None;
                self.hold_draw(entry);
                if clears {
                    self.flush_draws();
                }
                return;
            }
            Body::DocumentUpdate { .. } => self.document_changed(),
            Body::RoleChanged {
                user_id,
                role,
                version,
                kicked,
            } => {
                self.role_changed(*user_id, *role, *version);
                if *kicked {
                    self.close_person(*user_id, "a host sent you out");
                }
            }
            _ => {}
        }
        self.flush_draws();
        let record = &entry.record;
        let audience = match &record.audience {
            // The log deleted its message before: it says nothing to anybody.
            _ if void => Audience::Origin,
            None => Audience::All,
            Some(people) => Audience::People(people.clone()),
        };
        let bytes = match &record.body {
            Body::Reaction {
                message_id, emoji, ..
            } => {
                let users = self.state.chat.users_of(*message_id, emoji);
                outgoing::reaction_update(&entry, users.unwrap_or_default(), &self.rooms.identity)
            }
            _ => outgoing::entry(&entry, &self.rooms.identity),
        };
        let frame = Frame {
            bytes,
            binary: self.in_binary(&record.body),
            seq: Some(entry.seq),
            part_of: None,
            origin: record.author.connection,
            instead: self.receipt_for(&entry),
            audience,
        };
        self.push(frame);
        if matches!(
            record.body,
            Body::RunStarted { .. } | Body::RunFinished { .. }
        ) {
            self.acknowledge_run(&entry);
        }
    }

    /// What its author gets in the place of the entry.
    pub fn receipt_for(&self, entry: &Entry) -> Option<Bytes> {
        let author = entry.record.author.connection;
        let author = author.and_then(|id| self.locals.get(&id));
        if let Some(local) = author
            && local.connection.dialect == Dialect::Hocuspocus
        {
            return Some(local.connection.applied_frame());
        }
        outgoing::ack_of(entry)
    }

    /// The entry for those who speak a binary dialect, if it says anything in one.
    fn in_binary(&self, body: &Body) -> Option<Arc<Binary>> {
        let Body::DocumentUpdate { data } = body else {
            return None;
        };
        let update = || message::update(data);
        self.spoken.binary(&self.room.id, update)
    }

    pub fn archived(&mut self, epoch: Epoch, seq: Seq) {
        if epoch == self.head.epoch && seq > self.head.archived {
            self.head.archived = seq;
            let latest = Latest::json(outgoing::archived(seq), None);
            let key = LatestKey::Room("archived");
            self.shared.feed.write().latest.set(key, latest);
        }
    }
}
