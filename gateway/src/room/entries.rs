//! Entries out of the log: folded in `seq` order, each once, and told; drawing in windows.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::board::DrawBatch;
use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, Seq};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::actor::Actor;
use super::dialect::{Binary, Dialect};
use super::json::outgoing;
use super::ring::{Audience, Frame, Latest, LatestKey};
use super::yjs::message;

/// What is told of drawing: the first batch at once, then at most once in this window.
const DRAW_WINDOW: Duration = Duration::from_millis(100);

/// Draws of one author and window are joined up to about so many bytes: common clients take no more than 1 MiB at once.
const DRAW_FRAME_BYTES: usize = 640 * 1024;

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
        let void = self.state.chat.is_void(&entry.record.body);
        self.state.apply(&entry);
        self.forget_file(&entry.record.body);
        self.known.apply(&entry);
        match &entry.record.body {
            Body::Draw(_) => {
                self.board = None;
                self.hold_draw(entry);
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
            origin: record.author.connection,
            instead: self.receipt_for(&entry),
            audience,
        };
        self.push(frame);
        if matches!(record.body, Body::RunStarted { .. }) {
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

    /// Draws wait for the end of their window, unless none is open. An `ack` need not wait as long as nobody else's draw
    /// is held before it: the sender then has everything up to its seq.
    pub fn hold_draw(&mut self, entry: Entry) {
        let author = entry.record.author.connection;
        self.draws.push(entry);
        if Instant::now() >= self.draw_window_until {
            self.flush_draws();
            return;
        }
        let alone = self
            .draws
            .iter()
            .all(|d| d.record.author.connection == author);
        if let (true, Some(id)) = (alone, author) {
            if let Some(entry) = self.draws.last()
                && let Some(reference) = &entry.record.reference
            {
                let ack = outgoing::ack(reference, entry.seq);
                self.push(Frame::to_origin(ack, id));
            }
            self.draws_acked = self.draws.len();
        }
    }

    pub fn release_draws(&mut self, now: Instant) {
        if !self.draws.is_empty() && now >= self.draw_window_until {
            self.flush_draws();
        }
    }

    /// One frame for each author, ordered by their last seq; called before anything else goes out, so that `seq` rises.
    pub fn flush_draws(&mut self) {
        if self.draws.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.draws);
        let acked = std::mem::take(&mut self.draws_acked);
        self.draw_window_until = Instant::now() + DRAW_WINDOW;
        let mut authors: Vec<(&ClientId, Option<ConnectionId>)> = Vec::new();
        // By last seq: walked from behind, the first sight of an author is their last draw.
        for entry in held.iter().rev() {
            let author = (
                &entry.record.author.client_id,
                entry.record.author.connection,
            );
            if !authors.contains(&author) {
                authors.push(author);
            }
        }
        for (client_id, connection) in authors.into_iter().rev() {
            let theirs = || {
                held.iter().enumerate().filter(move |(_, e)| {
                    e.record.author.connection == connection
                        && e.record.author.client_id == *client_id
                })
            };
            let batches: Vec<_> = theirs()
                .filter_map(|(_, e)| match &e.record.body {
                    Body::Draw(batch) => Some((e.seq, e.record.ts_ms, batch)),
                    _ => None,
                })
                .collect();
            let acks: Vec<Bytes> = theirs()
                .filter(|(i, _)| *i >= acked)
                .filter_map(|(_, e)| Some(outgoing::ack(e.record.reference.as_ref()?, e.seq)))
                .collect();
            // One frame, unless it would be larger than clients take. Only the last brings its reader to a place in the log:
            // other authors' draws stand between.
            let cut = runs(&batches);
            for (i, run) in cut.iter().enumerate() {
                let last = i + 1 == cut.len();
                let frame = Frame {
                    bytes: outgoing::draw(run, client_id),
                    binary: None,
                    seq: run.last().map(|(seq, ..)| *seq).filter(|_| last),
                    origin: connection,
                    instead: (last && !acks.is_empty()).then(|| joined(&acks)),
                    audience: Audience::All,
                };
                self.push(frame);
            }
        }
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

type Batch<'a> = (Seq, i64, &'a DrawBatch);

/// Batches as frames join them, each run below [`DRAW_FRAME_BYTES`] or of one batch.
fn runs<'a, 'b>(batches: &'b [Batch<'a>]) -> Vec<&'b [Batch<'a>]> {
    let mut runs = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, (_, _, batch)) in batches.iter().enumerate() {
        let more = outgoing::weight(batch);
        if at > from && bytes + more > DRAW_FRAME_BYTES {
            runs.push(&batches[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    runs.push(&batches[from..]);
    runs
}

fn joined(frames: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    for frame in frames {
        all.extend_from_slice(frame);
    }
    all.freeze()
}
