//! Durable messages: into the log in batches, out of it in order, acknowledged at their place.

use std::time::Duration;

use atelier_shared::domain::entry::{Author, Body, Entry, Record};
use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, Ref, Seq, UserId};
use atelier_shared::domain::room::{Access, Role, Room};
use atelier_shared::ports::{Append, Appended, Membership, PortError, Refusal};
use atelier_shared::recovery;
use bytes::{Bytes, BytesMut};
use chrono::Utc;
use futures::FutureExt;
use tokio::time::Instant;

use super::actor::{Actor, Done, Pending};
use super::json::incoming::Durable;
use super::json::outgoing::{self, ErrorFrame};
use super::ring::{Audience, Frame, Latest, LatestKey};

/// Records that wait for the log, in one room of one pod; beyond it senders hear `overloaded`.
const PENDING_MAX: usize = 10_000;
/// Records of one append.
const BATCH_MAX: usize = 256;
/// A record that could not be logged for so long is given back to its sender as `unavailable`.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// What is told of drawing: the first batch at once, then at most once in this window.
const DRAW_WINDOW: Duration = Duration::from_millis(100);

impl Actor {
    /// Checks what only the room knows, and queues the record for the log.
    pub fn submit(&mut self, id: ConnectionId, message: Durable) {
        let Some(local) = self.locals.get(&id) else {
            return;
        };
        let refuse = |error: ErrorFrame| {
            local
                .connection
                .send(error.reference(message.reference.clone()).bytes());
        };
        if local.member.role < message.role() {
            refuse(ErrorFrame::new("forbidden", outgoing::needs(message.role())).field("type"));
            return;
        }
        if let Some(activity) = message.activity()
            && !self.room.allows(activity)
        {
            let text = format!("this room does not allow {}", activity.as_str());
            refuse(ErrorFrame::new("not_allowed", text).field("type"));
            return;
        }
        if self.pending.len() >= PENDING_MAX {
            refuse(
                ErrorFrame::new("overloaded", "the room has too much to store").retry_in_ms(1_000),
            );
            return;
        }
        let member = &local.member;
        let record = Record {
            ts_ms: Utc::now().timestamp_millis(),
            author: Author {
                client_id: member.client_id.clone(),
                user_id: member.user_id,
                connection: Some(id),
                name: member.name.clone(),
                color: Some(member.color.clone()),
                avatar_url: member.avatar_url.clone(),
            },
            audience: message.to.map(|person| vec![member.user_id, person]),
            reference: message.reference,
            body: message.body,
        };
        self.pending.push_back(Pending {
            record,
            since: Instant::now(),
        });
    }

    /// One append is under way at a time; what comes meanwhile makes the next batch.
    pub fn start_append(&mut self, now: Instant) {
        let waits = self.append_after.is_some_and(|after| now < after);
        let held = self.appending || self.activating || self.reading_roles || waits;
        if held || self.pending.is_empty() {
            return;
        }
        self.append_after = None;
        let count = self.pending.len().min(BATCH_MAX);
        let batch: Vec<Pending> = self.pending.drain(..count).collect();
        let (batch, barred): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|pending| self.may_write(&pending.record));
        for pending in barred {
            let error = ErrorFrame::new("forbidden", outgoing::needs(Role::Editor)).field("type");
            self.give_back(&pending.record, error);
        }
        if batch.is_empty() {
            return;
        }
        self.appending = true;
        let (rooms, room, head, seen) = (
            self.rooms.clone(),
            self.room.id.clone(),
            self.head,
            self.applied,
        );
        let append = async move {
            let started = Instant::now();
            let result = append(&rooms.backends, &room, &head, seen, &batch).await;
            let took = started.elapsed().as_secs_f64();
            rooms.metrics.log_append_seconds.observe(took);
            Done::Appended { batch, result }
        };
        self.work.push(append.boxed());
    }

    /// Roles may have changed while it waited. Somebody who has left meanwhile had the right when they wrote.
    fn may_write(&self, record: &Record) -> bool {
        let local = record.author.connection.and_then(|id| self.locals.get(&id));
        local.is_none_or(|local| local.member.role >= Role::Editor)
    }

    pub fn appended(
        &mut self,
        batch: Vec<Pending>,
        result: Result<(Vec<Appended>, bool), Refusal>,
    ) {
        self.appending = false;
        match result {
            Ok((places, newly_dirty)) => {
                if newly_dirty {
                    self.wake_archive();
                }
                for (pending, place) in batch.into_iter().zip(places) {
                    match place {
                        Appended::New(seq) => self.receive(Entry {
                            seq,
                            record: pending.record,
                        }),
                        Appended::Duplicate(seq) => self.acknowledge_again(&pending.record, seq),
                    }
                }
            }
            Err(Refusal::NotSeeded | Refusal::Epoch(_) | Refusal::Behind(_)) => {
                self.put_back(batch);
                self.activate();
            }
            Err(Refusal::RoleVersion(version)) => {
                self.put_back(batch);
                self.head.role_version = version;
                self.read_roles();
            }
            Err(Refusal::ArchiveBehind) => {
                for pending in batch {
                    let text = "the archive is behind; nothing was stored";
                    let error = ErrorFrame::new("archive_behind", text).retry_in_ms(1_000);
                    self.give_back(&pending.record, error);
                }
            }
            Err(Refusal::Port(error)) => self.append_failed(batch, &error),
        }
    }

    /// Gives back what has waited too long for a log that is away.
    pub fn give_up_waiting(&mut self) {
        let now = Instant::now();
        while let Some(pending) = self.pending.pop_front_if(|p| now >= p.since + PATIENCE) {
            let text = "the room's log is away; send it again";
            let error = ErrorFrame::new("unavailable", text).retry_in_ms(1_000);
            self.give_back(&pending.record, error);
        }
    }

    fn put_back(&mut self, batch: Vec<Pending>) {
        for pending in batch.into_iter().rev() {
            self.pending.push_front(pending);
        }
    }

    /// It may or may not have been stored. What has a ref can safely be sent again; the rest is given back.
    fn append_failed(&mut self, batch: Vec<Pending>, error: &PortError) {
        tracing::warn!(room = %self.room.id, %error, records = batch.len(), "append failed");
        let now = Instant::now();
        let mut again = Vec::new();
        for pending in batch {
            let patient = now < pending.since + PATIENCE;
            if error.is_retryable() && patient && pending.record.reference.is_some() {
                again.push(pending);
            } else {
                let text = "the room's log is away; send it again";
                let error = ErrorFrame::new("unavailable", text).retry_in_ms(1_000);
                self.give_back(&pending.record, error);
            }
        }
        self.put_back(again);
        self.append_after = Some(now + RETRY_AFTER);
    }

    fn give_back(&self, record: &Record, error: ErrorFrame) {
        let local = record.author.connection.and_then(|id| self.locals.get(&id));
        if let Some(local) = local {
            local
                .connection
                .send(error.reference(record.reference.clone()).bytes());
        }
    }

    /// A resend: told the place of the first.
    fn acknowledge_again(&mut self, record: &Record, seq: Seq) {
        if let (Some(reference), Some(id)) = (&record.reference, record.author.connection) {
            let ack = outgoing::ack(reference, seq);
            self.push(Frame::to_origin(ack, id));
        }
    }

    fn wake_archive(&self) {
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        self.rooms.tasks.spawn(async move {
            if let Err(error) = recovery::wake_archive(&*rooms.backends.queue, &room).await {
                tracing::warn!(room = %room, %error, "the archive sweep will find this room");
            }
        });
    }

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
        self.state.apply(&entry);
        match &entry.record.body {
            Body::Draw(_) => {
                self.board = None;
                self.hold_draw(entry);
                return;
            }
            Body::RoleChanged { .. } => self.read_roles(),
            _ => {}
        }
        self.flush_draws();
        let record = &entry.record;
        let ack = record
            .reference
            .as_ref()
            .map(|r| outgoing::ack(r, entry.seq));
        let audience = match &record.audience {
            None => Audience::All,
            Some(people) => Audience::People(people.clone()),
        };
        let frame = Frame {
            bytes: outgoing::entry(&entry),
            seq: Some(entry.seq),
            origin: record.author.connection,
            instead: ack,
            audience,
        };
        self.push(frame);
    }

    /// Reads the room's row and roles again; nothing is appended before they are known.
    pub fn read_roles(&mut self) {
        if self.reading_roles {
            return;
        }
        self.reading_roles = true;
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let read = async move {
            let records = &rooms.backends.records;
            let read = tokio::try_join!(records.room(&room), records.members(&room));
            if read.is_err() {
                // The records are away: not in a tight circle.
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Done::Roles(read)
        };
        self.work.push(read.boxed());
    }

    pub fn roles_read(&mut self, read: Result<(Option<Room>, Vec<Membership>), PortError>) {
        self.reading_roles = false;
        let (room, members) = match read {
            Ok((Some(room), members)) => (room, members),
            Ok((None, _)) => return self.close_all(4404, "this room is gone"),
            Err(error) => {
                tracing::debug!(room = %self.room.id, %error, "roles will be read again");
                self.give_up_waiting();
                return self.read_roles();
            }
        };
        self.room_changed(room);
        let open = self.room.access == Access::Open;
        let role_of = |user: UserId| {
            let given = members.iter().find(|m| m.user_id == user).map(|m| m.role);
            given.or(open.then_some(Role::Editor))
        };
        let mut changed = Vec::new();
        for local in self.locals.values_mut() {
            match role_of(local.member.user_id) {
                _ if local.principal.is_admin => {}
                Some(role) if role == local.member.role => {}
                Some(role) => {
                    local.member.role = role;
                    local.changed = true;
                    changed.push((local.member.client_id.clone(), role));
                }
                None => local
                    .connection
                    .close(4403, "you are no longer a member of this room"),
            }
        }
        for (client_id, role) in changed {
            if let Some(member) = self.members.get_mut(&client_id) {
                member.role = role;
            }
        }
    }

    /// Draws wait for the end of their window, unless none is open. An `ack` need not wait as long as nobody else's draw
    /// is held before it: the sender then has everything up to its seq.
    fn hold_draw(&mut self, entry: Entry) {
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
                .filter_map(|(_, e)| Some(ack_of(e.record.reference.as_ref()?, e.seq)))
                .collect();
            let frame = Frame {
                bytes: outgoing::draw(&batches, client_id),
                seq: batches.last().map(|(seq, ..)| *seq),
                origin: connection,
                instead: (!acks.is_empty()).then(|| joined(&acks)),
                audience: Audience::All,
            };
            self.push(frame);
        }
    }

    pub fn archived(&mut self, epoch: Epoch, seq: Seq) {
        if epoch == self.head.epoch && seq > self.head.archived {
            self.head.archived = seq;
            let latest = Latest {
                bytes: outgoing::archived(seq),
                origin: None,
            };
            let key = LatestKey::Room("archived");
            self.shared.feed.write().latest.set(key, latest);
        }
    }
}

fn ack_of(reference: &Ref, seq: Seq) -> Bytes {
    outgoing::ack(reference, seq)
}

fn joined(frames: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    for frame in frames {
        all.extend_from_slice(frame);
    }
    all.freeze()
}

/// Appends a batch; refs that the log may have forgotten are looked up in the archive first.
async fn append(
    b: &atelier_shared::Backends,
    room: &atelier_shared::domain::ids::RoomId,
    head: &atelier_shared::ports::LogHead,
    seen: Seq,
    batch: &[Pending],
) -> Result<(Vec<Appended>, bool), Refusal> {
    let now_ms = Utc::now().timestamp_millis();
    let mut known: Vec<Option<Seq>> = vec![None; batch.len()];
    if recovery::refs_need_archive(head, now_ms) {
        let (places, refs): (Vec<usize>, Vec<_>) = batch
            .iter()
            .enumerate()
            .filter_map(|(i, p)| Some((i, p.record.ref_key()?)))
            .unzip();
        let found = recovery::known_refs(&*b.log, &*b.archive, room, head, &refs, now_ms).await?;
        for (place, seq) in places.into_iter().zip(found) {
            known[place] = seq;
        }
    }
    let records: Vec<Record> = batch
        .iter()
        .zip(&known)
        .filter(|(_, seq)| seq.is_none())
        .map(|(p, _)| p.record.clone())
        .collect();
    let (new, newly_dirty) = if records.is_empty() {
        (Vec::new(), false)
    } else {
        b.log
            .append(Append {
                room,
                epoch: head.epoch,
                seen,
                role_version: head.role_version,
                now_ms,
                records: &records,
            })
            .await?
    };
    let mut new = new.into_iter();
    let places = known
        .into_iter()
        .filter_map(|seq| seq.map(Appended::Duplicate).or_else(|| new.next()))
        .collect();
    Ok((places, newly_dirty))
}
