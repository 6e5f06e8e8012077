//! Relational data: rooms that the cleanup removed and what it takes to bring them back.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Page, Result};
use crate::domain::ids::RoomId;
use crate::domain::removal::Removal;

/// Promises: a room has one removal under way at a time; its row goes, its files change hands and its snapshot is kept in
/// one step, and only if nobody has wanted it since; undone, all three are as they were.
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

    /// Takes [`Self::remove_room`] back. False: there is no such removal, or it is not `removing` any more.
    async fn undo_removal(&self, id: Uuid) -> Result<bool>;

    /// Its content, `entries` of them, is kept aside durably: from `removing` on to `kept`. False: it was not `removing`.
    async fn mark_kept(&self, id: Uuid, entries: u64) -> Result<bool>;

    /// All of the room is gone: from `kept` on to `removed`, and the room's id may be given again. False: it was not `kept`.
    async fn finish_removal(&self, id: Uuid) -> Result<bool>;

    async fn removal(&self, id: Uuid) -> Result<Option<Removal>>;

    /// Newest first by id, before `before`.
    async fn removals(&self, before: Option<Uuid>, limit: usize) -> Result<Page<Removal>>;

    /// `removed` ones whose time is over at `now`, the longest first, at most `limit`.
    async fn expired_removals(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<Removal>>;

    /// Reserves `target` for a `removed` room that comes back, or takes up a restoring that is under way (whose target then
    /// stays). `None`: no such removal, it is in another state, or a room has that id.
    async fn begin_restore(
        &self,
        id: Uuid,
        target: &RoomId,
        at: DateTime<Utc>,
    ) -> Result<Option<Removal>>;

    /// In one step: the room is there again under the removal's target, with its members and files, as one that is kept,
    /// last active `at`, and the removal is gone. False: it was not `restoring`.
    async fn finish_restore(&self, id: Uuid, at: DateTime<Utc>) -> Result<bool>;

    /// Forgets a removal, whatever its state. False: there was none.
    async fn delete_removal(&self, id: Uuid) -> Result<bool>;

    /// Reserves the id of a room that is gone and neither being removed nor coming back, so that nobody makes it anew
    /// meanwhile; never shortens a reservation. False: there is such a room, or one under way.
    async fn reserve_room_id(&self, id: &RoomId, at: DateTime<Utc>) -> Result<bool>;
}
