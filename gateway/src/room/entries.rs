//! Entries out of the log: folded in `seq` order, each once, and told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{Epoch, Seq, UserId};
use bytes::Bytes;
use futures::FutureExt;
use tokio::time::Instant;

use super::actor::{Actor, Done};
use super::dialect::{Binary, Dialect};
use super::epoch::LastApplied;
use super::json::{outgoing, shown};
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
        self.apply_and_acknowledge(entry);
        while let Some(next) = self.ahead.remove(&self.applied.next()) {
            self.apply_and_acknowledge(next);
        }
        let applied = self.applied;
        self.ahead.retain(|seq, _| *seq > applied);
        if self.ahead.is_empty() {
            self.hole_since = None;
        }
    }

    /// With the entry those are told its place who sent it again and wait for it here: before what comes behind it.
    fn apply_and_acknowledge(&mut self, entry: Entry) {
        self.tried.applied(&entry.record);
        if self.stored_ahead.is_empty() {
            return self.apply(entry);
        }
        let (seq, by) = (entry.seq, entry.record.author.connection);
        let message = entry.record.body.message_id();
        self.apply(entry);
        self.acknowledge_those_at(seq, by, message);
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
        let (profiles, links) = (&self.rooms.profiles, &self.rooms.identity);
        let bytes = match &record.body {
            Body::Reaction {
                message_id, emoji, ..
            } => {
                let users = self.state.chat.users_of(*message_id, emoji);
                let users = profiles.nameless_reactors(users.unwrap_or_default());
                shown::reaction_update(&entry, &users, links)
            }
            _ => shown::entry(&profiles.nameless(&entry), links),
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
        self.acknowledge_run(&entry);
    }

    /// Where somebody may have gone unheard: has those who reacted of late looked up, so that no frame names them.
    pub fn look_who_is_gone(&mut self) {
        let (profiles, looked) = (self.rooms.profiles.clone(), self.known.looked.clone());
        let now = profiles.unheard();
        if looked.swap(now, Ordering::Relaxed) == now {
            return;
        }
        let people: BTreeSet<UserId> = self.state.chat.reactors().collect();
        if people.is_empty() {
            return;
        }
        let look = async move {
            if !profiles.look_up(people).await {
                looked.store(0, Ordering::Relaxed);
            }
            Done::Nothing
        };
        self.work.push(look.boxed());
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
