//! Code run in the room: a job as `POST /jobs` makes it, acknowledged by the place of its `run_started`.

use atelier_shared::Backends;
use atelier_shared::domain::entry::{Author, Body, Entry, RefKey};
use atelier_shared::domain::ids::{ConnectionId, Ref, RoomId};
use atelier_shared::domain::job::AskedBy;
use atelier_shared::ports::{LogHead, PortError, Throttle};
use atelier_shared::recovery;
use bytes::Bytes;
use chrono::Utc;
use futures::FutureExt;
use tracing::Instrument;

use super::actor::{Actor, Done};
use super::json::incoming::Run;
use super::json::outgoing::{self, ErrorFrame};
use super::ring::Frame;
use super::submit::{author, away};
use crate::runs::{self, Accepted};
use crate::traceparent;

/// The ack of a message that was logged under this ref before; what else is done about it happens once.
pub async fn known(
    b: &Backends,
    room: &RoomId,
    head: &LogHead,
    by: &Author,
    reference: Option<&Ref>,
) -> Result<Option<Bytes>, PortError> {
    let Some(reference) = reference else {
        return Ok(None);
    };
    let key = RefKey {
        user_id: by.user_id,
        client_id: by.client_id.clone(),
        reference: reference.clone(),
    };
    let now_ms = Utc::now().timestamp_millis();
    let seqs = recovery::known_refs(&*b.log, &*b.archive, room, head, &[key], now_ms).await?;
    let seq = seqs.first().copied().flatten();
    Ok(seq.map(|seq| outgoing::ack(reference, seq, None)))
}

impl Actor {
    pub fn run_code(&mut self, id: ConnectionId, run: Run) {
        let Some(local) = self.locals.get(&id) else {
            return;
        };
        if local.principal.is_anonymous() {
            let text = "running code needs a token: come in with one";
            let error = ErrorFrame::new("forbidden", text).field("type");
            return self.tell_error(id, &error.reference(run.reference));
        }
        let by = author(&local.member);
        let (rooms, room, head) = (self.rooms.clone(), self.room.id.clone(), self.head);
        self.hold(id);
        let span = traceparent::begun("run", run.traceparent.as_deref());
        let traceparent = Some(traceparent::for_job(&span, run.traceparent.as_deref()));
        let work = async move {
            let b = &rooms.backends;
            let reference = run.reference;
            let taken = async {
                let known = known(b, &room, &head, &by, reference.as_ref()).await;
                if let Some(ack) = known.map_err(|error| away(&error))? {
                    return Ok(Some(ack));
                }
                let per_minute = rooms.config.jobs_per_minute;
                let allowed = runs::throttle(b, by.user_id, per_minute).await;
                if let Throttle::Wait(wait) = allowed.map_err(|error| away(&error))? {
                    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    let error = ErrorFrame::new("rate_limited", "too many runs; wait a while");
                    return Err(error.retry_in_ms(wait_ms));
                }
                let accepted = Accepted {
                    owner: by.user_id,
                    owner_name: by.name.clone(),
                    room_id: Some(room),
                    project_id: None,
                    spec: run.spec,
                    priority: 0,
                    traceparent,
                    asked_by: Some(AskedBy {
                        client_id: by.client_id.clone(),
                        reference: reference.clone(),
                    }),
                    key: None,
                };
                // Sent before and not started yet: the first is the one that runs, and its start is the ack.
                runs::accept(b, accepted)
                    .await
                    .map_err(|error| away(&error))?;
                Ok::<Option<Bytes>, ErrorFrame>(None)
            };
            let told = taken.await;
            Done::Submitted {
                connection: id,
                reference,
                epoch: head.epoch,
                told,
            }
        };
        self.work.push(work.instrument(span).boxed());
    }

    /// A run that was asked for under a ref has started, or ended before it did: whoever asked is told its place.
    pub fn acknowledge_run(&mut self, entry: &Entry) {
        if !matches!(
            entry.record.body,
            Body::RunStarted { .. } | Body::RunFinished { .. }
        ) {
            return;
        }
        let (Some(ack), by) = (outgoing::ack_of(entry), &entry.record.author) else {
            return;
        };
        let asked = self.locals.values().find(|local| {
            local.member.client_id == by.client_id && local.member.user_id == by.user_id
        });
        if let Some(id) = asked.map(|local| local.connection.id) {
            self.push(Frame::to_origin(ack, id));
        }
    }
}
