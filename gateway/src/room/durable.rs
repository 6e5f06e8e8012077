//! Records on their way into the log: batched, tried again, given back.

use std::time::Duration;

use atelier_shared::domain::entry::{Body, Entry, Record};
use atelier_shared::domain::ids::Epoch;
use atelier_shared::domain::room::Role;
use atelier_shared::ports::{PortError, Refusal};
use futures::FutureExt;
use tokio::time::Instant;

use super::actor::{Actor, Done};
use super::appending;
use super::json::outgoing::{self, ErrorFrame};
use super::pending::{Pending, Place, cut_to_news};

/// A record that could not be logged for so long is given back to its sender as `unavailable`.
const PATIENCE: Duration = Duration::from_secs(10);
pub const RETRY_AFTER: Duration = Duration::from_millis(250);

impl Actor {
    /// One append is under way at a time; what comes meanwhile makes the next batch.
    pub fn start_append(&mut self, now: Instant) {
        let waits = self.append_after.is_some_and(|after| now < after);
        let held = self.appending || self.activating || self.reading_roles || waits;
        if held || self.pending.is_empty() {
            return;
        }
        self.append_after = None;
        let batch = self.pending.take_batch();
        let epoch = self.head.epoch;
        let (batch, overtaken): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|pending| pending.is_judged_for(epoch));
        for pending in overtaken {
            self.give_back(&pending.record, super::submit::log_lost());
        }
        let batch = self.without_right_refused(batch);
        if batch.is_empty() {
            self.pending.settle();
            return;
        }
        self.appending = true;
        self.batches += 1;
        let (rooms, room, head, seen) = (
            self.rooms.clone(),
            self.room.id.clone(),
            self.head,
            self.applied,
        );
        // No other append is under way here, so all that this room logged is folded in.
        let held = self.state.document.held();
        let limit = self.rooms.config.document_max_bytes();
        let left = limit.saturating_sub(self.state.document.bytes());
        let append = async move {
            let batch = cut_to_news(batch, held, left).await;
            let started = Instant::now();
            let result = appending::append(&rooms.backends, &room, &head, seen, &batch).await;
            let took = started.elapsed().as_secs_f64();
            rooms.metrics.log_append_seconds.observe(took);
            Done::Appended {
                epoch,
                batch,
                result,
            }
        };
        self.work.push(append.boxed());
    }

    /// Whoever has lost the right while it waited is refused; with a ref it may have been stored all the same, and then that
    /// is what they are told.
    fn without_right_refused(&mut self, batch: Vec<Pending>) -> Vec<Pending> {
        let mut allowed = Vec::with_capacity(batch.len());
        for pending in batch {
            if pending.refusal.is_some() || self.may_write(&pending.record) {
                allowed.push(pending);
                continue;
            }
            let error = ErrorFrame::new("forbidden", outgoing::needs(Role::Editor)).field("type");
            if pending.record.reference.is_some() {
                allowed.push(pending.refused(error, self.head.epoch));
            } else {
                self.give_back(&pending.record, error);
            }
        }
        allowed
    }

    /// Roles may have changed while it waited. Somebody who has left meanwhile had the right when they wrote.
    fn may_write(&self, record: &Record) -> bool {
        let local = record.author.connection.and_then(|id| self.locals.get(&id));
        local.is_none_or(|local| local.member.role >= Role::Editor)
    }

    pub fn appended(
        &mut self,
        epoch: Epoch,
        batch: Vec<Pending>,
        result: Result<(Vec<Place>, bool), Refusal>,
    ) {
        self.appending = false;
        self.pending.settle();
        match result {
            Ok(_) if epoch != self.head.epoch => {
                let error = PortError::retry("append to a room log", "its epoch ended");
                self.append_failed(batch, &error);
            }
            Ok((places, newly_dirty)) => {
                if newly_dirty {
                    self.wake_archive();
                }
                for (pending, place) in batch.into_iter().zip(places) {
                    self.rooms.metrics.traffic.latency(pending.since.elapsed());
                    let told = self.tried.settle(&pending.record);
                    match place {
                        Place::New(seq) => {
                            pending.span.record("seq", seq.0);
                            self.receive(Entry {
                                seq,
                                record: pending.record,
                            });
                        }
                        // At its place, when it came out of the log; what came since has been told.
                        Place::Known(_) if told => {}
                        Place::Known(seq) => self.acknowledge_again(pending.record, seq),
                        Place::Held => self.acknowledge_again(pending.record, self.applied),
                        Place::Nowhere => {
                            let refusal = pending.refusal.as_deref();
                            let error = refusal.cloned().unwrap_or_else(super::submit::log_lost);
                            self.give_back(&pending.record, error);
                        }
                        Place::Full => self.refuse_full(&pending.record),
                        Place::Barred => {
                            let text = "a later copy of this message was refused";
                            let error = ErrorFrame::new("conflict", text).field("ref");
                            self.give_back(&pending.record, error);
                        }
                    }
                }
            }
            Err(Refusal::NotSeeded | Refusal::Epoch(_) | Refusal::Behind(_)) => {
                self.pending.put_back(batch);
                self.activate();
            }
            Err(Refusal::RoleVersion(version)) => {
                self.pending.put_back(batch);
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
        while let Some(pending) = self.pending.pop_waiting(now, PATIENCE) {
            let text = "the room's log is away; send it again";
            let error = ErrorFrame::new("unavailable", text).retry_in_ms(1_000);
            self.give_back(&pending.record, error);
        }
    }

    /// It may or may not have been stored. What has a ref can safely be sent again; the rest is given back.
    fn append_failed(&mut self, batch: Vec<Pending>, error: &PortError) {
        tracing::warn!(room = %self.room.id, %error, records = batch.len(), "append failed");
        let now = Instant::now();
        let mut again = Vec::new();
        for pending in batch {
            let patient = now < pending.since + PATIENCE;
            // What is in the document already is not logged twice, ref or not.
            let repeatable = pending.record.reference.is_some()
                || matches!(pending.record.body, Body::DocumentUpdate { .. });
            // Nothing is to be stored: its sender need not wait.
            let repeatable = repeatable && pending.refusal.is_none();
            if error.is_retryable() && patient && repeatable {
                self.tried.note(&pending.record);
                again.push(pending);
            } else {
                let text = "the room's log is away; send it again";
                let error = ErrorFrame::new("unavailable", text).retry_in_ms(1_000);
                self.give_back(&pending.record, error);
            }
        }
        self.pending.put_back(again);
        self.append_after = Some(now + RETRY_AFTER);
    }

    pub fn give_back(&mut self, record: &Record, error: ErrorFrame) {
        self.tried.settle(record);
        if let Some(id) = record.author.connection {
            self.tell_error(id, &error.reference(record.reference.clone()));
        }
    }

    /// The document is as large as it may be. It may be smaller where the archive compacts it.
    fn refuse_full(&mut self, record: &Record) {
        let limit = self.rooms.config.document_max_bytes();
        let text =
            format!("data: the room's document may have {limit} bytes, and has no place for this");
        self.give_back(record, ErrorFrame::new("document_full", text).field("data"));
        self.renew_document();
    }

    fn wake_archive(&self) {
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        self.rooms.tasks.spawn(async move {
            let b = &rooms.backends;
            if let Err(error) = rooms.wakes.wake(&*b.log, &*b.queue, &room).await {
                tracing::warn!(room = %room, %error, "the archive sweep will find this room");
            }
        });
    }
}
