//! Who comes into sessions and goes: noted by the pod that tells the others of it, a crowd in a few statements.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::ids::{ClientId, RoomId};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::RoomKind;
use atelier_shared::domain::visit::{Departure, Left, Visit, VisitBatch};
use atelier_shared::ports::{PortError, Records, Result};
use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::actor::Actor;
use super::registry::Rooms;

/// What comes within this is written together.
const TOGETHER: Duration = Duration::from_millis(200);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(2);

/// What is to be written yet.
pub struct Visits {
    records: Arc<dyn Records>,
    waiting: Mutex<VisitBatch>,
    /// One write at a time: of two at once the later might be noted first.
    writing: tokio::sync::Mutex<()>,
    news: Notify,
}

impl Visits {
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self {
            records,
            waiting: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            news: Notify::new(),
        }
    }

    pub fn begin(&self, room: &RoomId, member: &Member) {
        let visit = Visit {
            room: room.clone(),
            client_id: member.client_id.clone(),
            user_id: member.user_id,
            name: member.name.clone(),
            color: member.color.clone(),
            simulated: member.simulated,
            joined_at: Utc::now(),
            left: None,
        };
        let kept = self.waiting.lock().begin(visit);
        self.noticed(kept, room);
    }

    /// Where no visit is open this changes nothing: whoever does not know the room's kind may say it of any.
    pub fn end(&self, room: &RoomId, client_id: &ClientId, reason: Option<&str>) {
        let departure = Departure {
            room: room.clone(),
            client_id: client_id.clone(),
            left: Left {
                at: Utc::now(),
                reason: reason.map(str::to_owned),
            },
        };
        let kept = self.waiting.lock().end(departure);
        self.noticed(kept, room);
    }

    fn noticed(&self, kept: bool, room: &RoomId) {
        if !kept {
            tracing::debug!(%room, "too many visits wait for the records: one is not noted");
        }
        self.news.notify_one();
    }

    /// Not to be given up halfway: what was taken out to be written would be lost.
    pub(super) async fn write(&self) -> Result<()> {
        let _alone = self.writing.lock().await;
        let mut batch = std::mem::take(&mut *self.waiting.lock());
        let noted = self.records.note_visits(&batch).await;
        if noted.is_err() {
            let mut waiting = self.waiting.lock();
            let newer = std::mem::take(&mut *waiting);
            let lost = batch.follow(newer);
            if lost > 0 {
                tracing::warn!(lost, "too many visits wait for the records");
            }
            *waiting = batch;
        }
        noted
    }
}

impl Rooms {
    /// Everything that this pod has to say of visits is in the records, now.
    pub async fn note_visits(&self) -> Result<()> {
        if self.visits.waiting.lock().is_empty() && self.visits.writing.try_lock().is_ok() {
            return Ok(());
        }
        // A task of its own: callers give up.
        let rooms = self.clone();
        let written = self.tasks.spawn(async move { rooms.visits.write().await });
        written
            .await
            .unwrap_or_else(|error| Err(PortError::retry("note visits", error)))
    }

    pub(super) async fn keep_noting_visits(self) {
        loop {
            self.visits.news.notified().await;
            tokio::time::sleep(TOGETHER).await;
            let mut failing = false;
            while let Err(error) = self.note_visits().await {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "visits wait for the records");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

impl Actor {
    /// Of sessions alone it is kept who came and went.
    pub fn notes_visits(&self) -> bool {
        self.room.kind == RoomKind::Session
    }

    pub fn visit_begins(&self, member: &Member) {
        if self.notes_visits() {
            self.rooms.visits.begin(&self.room.id, member);
        }
    }

    pub fn visit_ends(&self, client_id: &ClientId, reason: Option<&str>) {
        if self.notes_visits() {
            self.rooms.visits.end(&self.room.id, client_id, reason);
        }
    }
}
