//! Durable messages at the room's door: checked against what only the room and the stores know, in the order they were
//! sent, and made records of.

use atelier_shared::domain::entry::{Author, Body, Record};
use atelier_shared::domain::ids::{ConnectionId, Epoch, Ref};
use atelier_shared::domain::message::Message;
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::{Activity, Role};
use atelier_shared::ports::PortError;
use atelier_shared::recovery;
use bytes::Bytes;
use chrono::Utc;
use futures::FutureExt;
use tokio::time::Instant;

use super::actor::{Actor, Done, Submission};
use super::dialect::Dialect;
use super::json::incoming::{About, Durable};
use super::json::outgoing::{self, ErrorFrame};
use super::messages::settle;
use super::pending::Pending;
use crate::traceparent;

/// All metadata of a room, as JSON text: every newcomer is told it.
const METADATA_MAX_BYTES: usize = 64 * 1024;
/// Messages of one connection that wait for one that is being looked into; beyond it they are refused.
const HELD_MAX: usize = 1_000;

impl Submission {
    pub fn reference(&self) -> Option<&Ref> {
        match self {
            Self::Write(message) => message.reference.as_ref(),
            Self::Standing(change) => change.reference.as_ref(),
            Self::Run(run) => run.reference.as_ref(),
        }
    }

    /// The document's update, if it is one.
    fn edit(&self) -> Option<Bytes> {
        match self {
            Self::Write(message) => match &message.body {
                Body::DocumentUpdate { data } => Some(data.clone()),
                _ => None,
            },
            Self::Standing(_) | Self::Run(_) => None,
        }
    }

    fn role(&self) -> Role {
        match self {
            Self::Write(message) => message.role(),
            Self::Standing(_) => Role::Host,
            Self::Run(_) => Role::Editor,
        }
    }

    fn activity(&self) -> Option<Activity> {
        match self {
            Self::Write(message) => message.activity(),
            Self::Standing(_) => None,
            Self::Run(_) => Some(Activity::Code),
        }
    }
}

/// Who writes, as an entry names them.
pub fn author(member: &Member) -> Author {
    Author {
        client_id: member.client_id.clone(),
        user_id: member.user_id,
        connection: Some(member.connection),
        name: member.name.clone(),
        color: Some(member.color.clone()),
        avatar_url: member.avatar_url.clone(),
    }
}

/// A store did not answer, and nothing was done.
pub fn away(error: &PortError) -> ErrorFrame {
    tracing::warn!(%error, "a message could not be looked into");
    ErrorFrame::new("unavailable", "a store is away; send it again").retry_in_ms(1_000)
}

/// What a message speaks about, looked up.
pub struct Found {
    pub connection: ConnectionId,
    pub message: Box<Durable>,
    pub found: Result<Option<Box<Message>>, ErrorFrame>,
    /// Of the log that it was looked up in.
    pub epoch: Epoch,
}

/// The log in which a message was found that another speaks about is over: that message may stand elsewhere now, or nowhere.
pub fn log_lost() -> ErrorFrame {
    let text = "the room's log was lost or rolled back; send it again";
    ErrorFrame::new("unavailable", text).retry_in_ms(1_000)
}

impl Actor {
    /// Takes a durable message, behind those of the same connection that came before.
    pub fn submit(&mut self, id: ConnectionId, submission: Submission) {
        let Some(local) = self.locals.get_mut(&id) else {
            return;
        };
        if !local.busy {
            return self.proceed(id, submission);
        }
        if local.held.len() < HELD_MAX {
            local.held.push_back(submission);
        } else {
            let error = ErrorFrame::new("overloaded", "too many messages wait").retry_in_ms(1_000);
            let error = error.reference(submission.reference().cloned());
            self.tell_error(id, &error);
        }
    }

    fn proceed(&mut self, id: ConnectionId, submission: Submission) {
        if let Err(error) = self.check(id, &submission) {
            let Some(local) = self.locals.get(&id) else {
                return;
            };
            if let Some(update) = submission.edit()
                && error.code == "forbidden"
                && local.connection.dialect != Dialect::Json
            {
                return self.compare_for_reader(local.connection.clone(), update);
            }
            return match submission {
                Submission::Write(message) => self.refuse(id, *message, error),
                other => {
                    let error = error.reference(other.reference().cloned());
                    self.tell_error(id, &error);
                }
            };
        }
        match submission {
            Submission::Write(message) => self.look_up(id, message),
            Submission::Standing(change) => self.change_standing(id, change),
            Submission::Run(run) => self.run_code(id, *run),
        }
    }

    fn check(&self, id: ConnectionId, submission: &Submission) -> Result<(), ErrorFrame> {
        let role = self.locals.get(&id).map(|local| local.member.role);
        if role.is_some_and(|role| role < submission.role()) {
            let text = outgoing::needs(submission.role());
            return Err(ErrorFrame::new("forbidden", text).field("type"));
        }
        if let Some(activity) = submission.activity()
            && !self.room.allows(activity)
        {
            let text = format!("this room does not allow {}", activity.as_str());
            return Err(ErrorFrame::new("not_allowed", text).field("type"));
        }
        if let Submission::Write(message) = submission
            && let Body::SessionUpdate { data } = &message.body
        {
            let mut merged = self.state.metadata.clone();
            merged.extend(data.clone());
            let length = serde_json::to_vec(&merged).map_or(usize::MAX, |text| text.len());
            if length > METADATA_MAX_BYTES {
                let text = format!("data: the room's metadata may have {METADATA_MAX_BYTES} bytes");
                return Err(ErrorFrame::new("invalid", text).field("data"));
            }
        }
        if self.pending.is_full() {
            let error = ErrorFrame::new("overloaded", "the room has too much to store");
            return Err(error.retry_in_ms(1_000));
        }
        Ok(())
    }

    pub fn answer(&self, id: ConnectionId, frame: Bytes) {
        if let Some(local) = self.locals.get(&id) {
            local.connection.send(frame);
        }
    }

    /// Says no to a client, and counts it.
    pub fn tell_error(&self, id: ConnectionId, error: &ErrorFrame) {
        if let Some(local) = self.locals.get(&id) {
            let traffic = &self.rooms.metrics.traffic;
            traffic.error();
            traffic.event("error", &self.room.id, &local.member.client_id, error.code);
            local.connection.refuse(error);
        }
    }

    /// Looks up what the message speaks about, unless it is known here.
    fn look_up(&mut self, id: ConnectionId, message: Box<Durable>) {
        let (rooms, room, epoch) = (self.rooms.clone(), self.room.id.clone(), self.head.epoch);
        match message.about {
            None => self.queue(id, *message),
            Some(About::Message { id: about, .. }) => {
                if let Some(found) = self.known.get(about).cloned() {
                    return self.settle(id, *message, Ok(Some(Box::new(found))));
                }
                self.hold(id);
                self.known.look(about);
                let look = async move {
                    let b = &rooms.backends;
                    let ids = [about];
                    let found = async {
                        let (log, archive) = (&*b.log, &*b.archive);
                        let mut found = recovery::messages_by_id(log, archive, &room, &ids).await?;
                        // A reaction tells the log who reacted before.
                        let messages = found.values_mut();
                        rooms.profiles.anonymise_messages(messages).await?;
                        Ok(found.remove(&about).map(Box::new))
                    };
                    Done::Found(Found {
                        connection: id,
                        message,
                        found: found.await.map_err(|error| away(&error)),
                        epoch,
                    })
                };
                self.work.push(look.boxed());
            }
            Some(About::Person(person)) => {
                if self.is_here(person) || self.known.has_of(person) {
                    return self.queue(id, *message);
                }
                self.hold(id);
                let look = async move {
                    let found = super::standing::exists(&rooms.backends, &room, person).await;
                    let found = match found {
                        Ok(true) => Ok(None),
                        Ok(false) => {
                            let text = "to: there is no such person";
                            Err(ErrorFrame::new("not_found", text).field("to"))
                        }
                        Err(error) => Err(away(&error)),
                    };
                    Done::Found(Found {
                        connection: id,
                        message,
                        found,
                        epoch,
                    })
                };
                self.work.push(look.boxed());
            }
        }
    }

    /// From here on the connection's messages wait, until [`Actor::submitted`].
    pub fn hold(&mut self, id: ConnectionId) {
        if let Some(local) = self.locals.get_mut(&id) {
            local.busy = true;
        }
    }

    pub fn found(&mut self, found: Found) {
        let of_this_log = found.epoch == self.head.epoch;
        let there = match (found.found, found.message.about) {
            _ if !of_this_log => Err(log_lost()),
            (Ok(found), Some(About::Message { id, .. })) => Ok(self.known.looked(id, found)),
            (Err(error), Some(About::Message { id, .. })) => {
                self.known.looked(id, None);
                Err(error)
            }
            (found, _) => found,
        };
        self.settle(found.connection, *found.message, there);
        self.submitted(found.connection, None);
    }

    /// Queues the message, or says why not.
    fn settle(
        &mut self,
        id: ConnectionId,
        mut message: Durable,
        found: Result<Option<Box<Message>>, ErrorFrame>,
    ) {
        let Some(local) = self.locals.get(&id) else {
            return;
        };
        let settled = found.and_then(|found| settle(&mut message, found.as_deref(), &local.member));
        if let Err(error) = settled {
            return self.refuse(id, message, error);
        }
        if let Body::Reaction {
            message_id,
            emoji,
            base,
            ..
        } = &mut message.body
        {
            if self.state.chat.users_of(*message_id, emoji).is_some() {
                base.clear();
            } else {
                *base = self.rooms.profiles.nameless_reactors(base).into_owned();
            }
        }
        self.queue(id, message);
    }

    /// A submission was carried out elsewhere. An ack of a log that is over is none: what it names may be lost.
    pub fn carried_out(
        &mut self,
        id: ConnectionId,
        reference: Option<Ref>,
        epoch: Epoch,
        told: Result<Option<Bytes>, ErrorFrame>,
    ) {
        let told = match told {
            Ok(Some(_)) if epoch != self.head.epoch => Err(log_lost()),
            told => told,
        };
        let answer = told.unwrap_or_else(|error| {
            self.tell_error(id, &error.reference(reference));
            None
        });
        self.submitted(id, answer);
    }

    /// A submission is through: its answer, if it has one, and then those that waited behind it. Whoever has gone meanwhile
    /// leaves behind the last of them.
    pub fn submitted(&mut self, id: ConnectionId, answer: Option<Bytes>) {
        if let Some(answer) = answer {
            self.answer(id, answer);
        }
        if let Some(local) = self.locals.get_mut(&id) {
            local.busy = false;
        }
        while let Some(local) = self.locals.get_mut(&id)
            && !local.busy
            && let Some(next) = local.held.pop_front()
        {
            self.proceed(id, next);
        }
        let parting = self.locals.get(&id).filter(|local| !local.busy);
        if let Some(parting) = parting.and_then(|local| local.parting) {
            self.part(id, parting);
        }
    }

    /// Makes a record of it, for the next append.
    fn queue(&mut self, id: ConnectionId, message: Durable) {
        let Some(local) = self.locals.get(&id) else {
            return;
        };
        let member = &local.member;
        let span = traceparent::span(message.body.kind(), message.traceparent.as_deref());
        let to = message.to.map(|person| vec![member.user_id, person]);
        let record = Record {
            ts_ms: Utc::now().timestamp_millis(),
            author: author(member),
            audience: message.audience.or(to),
            reference: message.reference,
            body: message.body,
        };
        let pending = Pending::new(record, Instant::now()).traced(span);
        self.pending.push(pending.judged_in(self.head.epoch));
    }
}
