//! Relational data: who was in which room, from when until when.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Page, Result};
use crate::domain::ids::{ClientId, RoomId};
use crate::domain::visit::{VisitBatch, VisitEvent, VisitPlace};

/// Visits that are kept of one room; the oldest go.
pub const VISITS_MAX: usize = 1_000;

/// A visit by what tells it from others.
pub type VisitKey = (RoomId, ClientId, DateTime<Utc>);

/// Promises: a visit ends once, and not before it began; of a room the latest [`VISITS_MAX`] are kept; they go with the
/// room, and the name in them with the person.
#[async_trait]
pub trait VisitRecords: Send + Sync {
    /// Notes who came and went: all or nothing, a few statements for a thousand of them. Visits of rooms that are gone are
    /// left out; a departure ends what was open when it happened (an earlier visit that nobody ended is over where the next
    /// began). Repeated after a lost answer it changes nothing.
    async fn note_visits(&self, batch: &VisitBatch) -> Result<()>;

    /// Comings and goings, newest first, before `before`.
    async fn visits(
        &self,
        room: &RoomId,
        before: Option<&VisitPlace>,
        limit: usize,
    ) -> Result<Page<VisitEvent>>;

    /// Visits begun before `before` that nobody has ended, after `after`, by room; at most `limit`.
    async fn open_visits(
        &self,
        before: DateTime<Utc>,
        after: Option<&VisitKey>,
        limit: usize,
    ) -> Result<Vec<VisitKey>>;
}
