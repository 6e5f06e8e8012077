//! Relational data: rooms that the cleanup removed and what it takes to bring them back.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Page, Result};
use crate::domain::ids::RoomId;
use crate::domain::removal::Removal;

/// What came of a wish to bring a room back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreBegun {
    /// The caller is at it; its target is reserved.
    Begun(Box<Removal>),
    /// A room has this id, or one is just being removed or comes back under it; nothing changed.
    TargetTaken,
    /// Another is at it, or its removal is not over; nothing changed.
    UnderWay,
    /// There is no such removal.
    Missing,
}

/// Promises: a room has one removal under way at a time; its row goes, its files change hands and its snapshot is kept in
/// one step, and only if nobody has wanted it since; undone, all three are as they were. One worker at a time removes a room
/// or brings one back: whose claim another has taken over is refused by every step that moves it on. Of a restoring and an
/// expiry one wins.
#[async_trait]
pub trait RemovalRecords: Send + Sync {
    /// The removal under way of this room.
    async fn removal_of(&self, room: &RoomId) -> Result<Option<Removal>>;

    /// In one step: the room's row goes if it is ephemeral and was last active at or before `quiet_since`, its id is
    /// reserved, its files are the removal's, and a removal is there that lasts until `expires_at`. `None`: the room is gone
    /// or wanted; nothing changed.
    async fn remove_room(
        &self,
        room: &RoomId,
        quiet_since: DateTime<Utc>,
        at: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    ) -> Result<Option<Removal>>;

    /// Removals under way, the oldest first, at most `limit`.
    async fn unfinished_removals(&self, limit: usize) -> Result<Vec<Removal>>;

    /// One worker at a time goes on with a removal: this one until `until`, if no other's claim lasts at `now`. Renewed by
    /// claiming again. `None`: another has it, or it is not under way.
    async fn claim_removal(
        &self,
        id: Uuid,
        worker: Uuid,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<Removal>>;

    /// Takes [`Self::remove_room`] back; invitations and noted visits went with the row. False: there is no such removal, or it is not `removing` any more.
    async fn undo_removal(&self, id: Uuid) -> Result<bool>;

    /// Its content, `entries` of them, is kept aside durably: from `removing` on to `kept`. False: it was not `removing`, or
    /// another worker has it.
    async fn mark_kept(&self, id: Uuid, worker: Uuid, entries: u64) -> Result<bool>;

    /// All of the room is gone: from `kept` on to `removed`, and the room's id may be given again. False: it was not `kept`.
    async fn finish_removal(&self, id: Uuid) -> Result<bool>;

    async fn removal(&self, id: Uuid) -> Result<Option<Removal>>;

    /// Newest first by id, before `before`.
    async fn removals(&self, before: Option<Uuid>, limit: usize) -> Result<Page<Removal>>;

    /// `removed` ones whose time is over at `now`, the longest first, at most `limit`.
    async fn expired_removals(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<Removal>>;

    /// Reserves `target` for a `removed` room that comes back, or takes up a restoring (whose target then stays) if no
    /// other's claim on it lasts at `now`. It is this worker's until `until`; renewed by beginning again.
    async fn begin_restore(
        &self,
        id: Uuid,
        target: &RoomId,
        worker: Uuid,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<RestoreBegun>;

    /// In one step: the room is there again under the removal's target, with its members and files, as one that is kept,
    /// last active `at`, and the removal is gone. False: it was not `restoring`, or another worker has it.
    async fn finish_restore(&self, id: Uuid, worker: Uuid, at: DateTime<Utc>) -> Result<bool>;

    /// Forgets a `removed` one: from then on nobody brings it back. False: there is none, or it is in another state.
    async fn delete_removal(&self, id: Uuid) -> Result<bool>;

    /// Reserves the id of a room that is gone and neither being removed nor coming back, so that nobody makes it anew
    /// meanwhile; never shortens a reservation. False: there is such a room, or one under way.
    async fn reserve_room_id(&self, id: &RoomId, at: DateTime<Utc>) -> Result<bool>;
}
