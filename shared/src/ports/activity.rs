//! The archive's account of who did how much when.

use async_trait::async_trait;

use super::Result;
use crate::domain::activity::ActivityCounts;
use crate::domain::ids::{RoomId, UserId};

/// Slots of one answer; a query that makes more is refused with an error.
pub const ACTIVITY_SLOTS_MAX: usize = 200_000;
/// People, or rooms, that one query may be about.
pub const ACTIVITY_SUBJECTS_MAX: usize = 1_000;

/// Whose activity, from when to when, in how long slots. Minutes are minutes since 1970, UTC.
#[derive(Debug, Clone)]
pub struct ActivityQuery {
    pub users: Vec<UserId>,
    pub from_minute: i64,
    /// Not itself.
    pub to_minute: i64,
    /// Slots begin at multiples of it.
    pub slot_minutes: i64,
}

/// What one person did in one slot, in whatever rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivitySlot {
    pub user_id: UserId,
    pub start_minute: i64,
    pub counts: ActivityCounts,
    /// Minutes in which the person did anything; one in two rooms is one.
    pub active_minutes: u64,
}

/// What one person did in one room in one minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomMinute {
    pub minute: i64,
    pub room: RoomId,
    pub user_id: UserId,
    pub counts: ActivityCounts,
}

/// Promises: what [`super::Archive::append`] wrote is counted, once, from the moment it returns.
#[async_trait]
pub trait ActivityArchive: Send + Sync {
    /// Slots in which somebody did something, by user and slot.
    async fn activity_of(&self, query: &ActivityQuery) -> Result<Vec<ActivitySlot>>;

    /// What was done in these rooms, newest first by (minute, user, room), before `before`. However much was done in them,
    /// about as much is read as is answered, and once for each room.
    async fn activity_in(
        &self,
        rooms: &[RoomId],
        before: Option<(i64, UserId, RoomId)>,
        limit: usize,
    ) -> Result<Vec<RoomMinute>>;
}
