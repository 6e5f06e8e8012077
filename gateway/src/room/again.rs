//! Messages that were sent before: whatever has become possible or impossible meanwhile, a ref that is stored is acknowledged
//! with its first place.

use atelier_shared::domain::entry::{Body, Entry, Record};
use atelier_shared::domain::ids::{ConnectionId, Epoch, MessageId, Seq};
use atelier_shared::recovery;
use bytes::Bytes;
use chrono::Utc;
use futures::FutureExt;
use tokio::time::Instant;

use super::actor::{Actor, Done};
use super::epoch::AHEAD_MAX;
use super::json::incoming::Durable;
use super::json::outgoing::{self, ErrorFrame};
use super::pending::Pending;
use super::ring::Frame;
use super::submit::author;

impl Actor {
    /// A message can't be taken. If it has a ref it may have been, and its ack was lost: then that is what is told. What is to
    /// be tried again anyway is told so at once.
    pub fn refuse(&mut self, id: ConnectionId, message: Durable, error: ErrorFrame) {
        let Some(local) = self.locals.get(&id) else {
            return;
        };
        let error = error.reference(message.reference.clone());
        if message.reference.is_none() || error.retry_in_ms.is_some() {
            return self.tell_error(id, &error);
        }
        if self.pending.is_full() || self.pending.has_many_refused() {
            let busy = ErrorFrame::new("overloaded", "too many messages wait").retry_in_ms(1_000);
            return self.tell_error(id, &busy.reference(message.reference));
        }
        let record = Record {
            ts_ms: Utc::now().timestamp_millis(),
            author: author(&local.member),
            audience: None,
            reference: message.reference,
            body: message.body,
        };
        let pending = Pending::new(record, Instant::now());
        self.pending.push(pending.refused(error, self.head.epoch));
    }

    /// A resend, or what changes nothing: told the place of the first, or where all of it is in; and, of a message, its id.
    /// Whoever has an ack has all before it, so one that lies further on than this pod has read waits.
    pub fn acknowledge_again(&mut self, record: Record, seq: Seq) {
        if seq > self.applied {
            self.hole_since.get_or_insert_with(Instant::now);
            // Beyond it senders hear nothing, and say it again.
            if self.stored_ahead.len() < AHEAD_MAX {
                self.stored_ahead.push((seq, record));
            }
            return;
        }
        let Some(id) = record.author.connection else {
            return;
        };
        self.flush_draws();
        if matches!(record.body, Body::DocumentUpdate { .. }) {
            if let Some(receipt) = self.receipt_for(&Entry { seq, record }) {
                self.push(Frame::to_origin(receipt, id));
            }
            return;
        }
        if matches!(record.body, Body::Draw(_)) {
            return self.acknowledge_draw_again(&record, seq, id);
        }
        let Some(reference) = record.reference.clone() else {
            return;
        };
        if record.body.message_id().is_none() {
            self.push(Frame::to_origin(outgoing::ack(&reference, seq, None), id));
            return;
        }
        let (rooms, room, epoch) = (self.rooms.clone(), self.room.id.clone(), self.head.epoch);
        let read = async move {
            let b = &rooms.backends;
            let after = Seq(seq.0.saturating_sub(1));
            let read = recovery::read_after(&*b.log, &*b.archive, &room, epoch, after, 1).await;
            let first = read
                .ok()
                .flatten()
                .and_then(|entries| entries.into_iter().next());
            let message = first.and_then(|entry| entry.record.body.message_id());
            let ack = outgoing::ack(&reference, seq, message);
            Done::Again {
                connection: id,
                epoch,
                ack,
            }
        };
        self.work.push(read.boxed());
    }

    pub fn found_again(&mut self, id: ConnectionId, epoch: Epoch, ack: Bytes) {
        // In a log that is over: whoever sent it is told to reload, and says it again.
        if epoch == self.head.epoch {
            self.push(Frame::to_origin(ack, id));
        }
    }

    /// The entry at this place, of this connection, was just told here.
    pub fn acknowledge_those_at(
        &mut self,
        seq: Seq,
        by: Option<ConnectionId>,
        message: Option<MessageId>,
    ) {
        let here = self.stored_ahead.extract_if(.., |(at, _)| *at == seq);
        let here: Vec<Record> = here.map(|(_, record)| record).collect();
        for record in here {
            let id = record.author.connection;
            if by.is_some() && id == by {
                // The entry itself comes to them as their ack.
                continue;
            }
            match (id, &record.reference, message) {
                (Some(id), Some(reference), Some(_)) => {
                    let ack = outgoing::ack(reference, seq, message);
                    self.push(Frame::to_origin(ack, id));
                }
                _ => self.acknowledge_again(record, seq),
            }
        }
    }

    pub fn acknowledge_those_we_caught_up_with(&mut self) {
        if self.stored_ahead.is_empty() {
            return;
        }
        let applied = self.applied;
        let caught_up = |(seq, _): &mut (Seq, Record)| *seq <= applied;
        let these: Vec<(Seq, Record)> = self.stored_ahead.extract_if(.., caught_up).collect();
        for (seq, record) in these {
            self.acknowledge_again(record, seq);
        }
    }
}
