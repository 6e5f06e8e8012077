//! Backups of rooms: a part of the archive.

use async_trait::async_trait;

use super::Result;
use crate::domain::backup::Backup;
use crate::domain::ids::{BackupId, Epoch, RoomId, Seq};

/// Most backups that one call lists.
pub const BACKUPS_MAX: usize = 10_000;

/// Promises: a backup that is listed can be read whole; what was put is durable before the call returns. A room is among
/// the changed from the append that archived something until a backup covers it. What is late, of an epoch that is over, is
/// refused: a room's next life never has a backup of the one before.
#[async_trait]
pub trait Backups: Send + Sync {
    /// Rooms with archived entries after the `seq` they were last [`Backups::mark_backed_up`] at; any order, at most `limit`.
    async fn changed_rooms(&self, limit: usize) -> Result<Vec<RoomId>>;

    /// All archived up to `seq` is in a backup, or need not be. Changes nothing where more is archived, or the epoch is not
    /// `epoch`.
    async fn mark_backed_up(&self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<()>;

    /// Keeps a backup and its packed state, of any size, if the room's epoch is still `epoch` (0: it was never opened), as it
    /// was before the state was read. False: it is not; nothing was kept.
    async fn put_backup(
        &self,
        room: &RoomId,
        epoch: Epoch,
        backup: &Backup,
        state: &[u8],
    ) -> Result<bool>;

    /// Newest first, at most `limit` (and [`BACKUPS_MAX`]), only those older than `before`.
    async fn backups(
        &self,
        room: &RoomId,
        before: Option<BackupId>,
        limit: usize,
    ) -> Result<Vec<Backup>>;

    /// One backup with its packed state.
    async fn backup(&self, room: &RoomId, id: BackupId) -> Result<Option<(Backup, Vec<u8>)>>;

    /// Names under which there are backups, each once, in an order of the store's own, after `after`; at most `limit`.
    async fn rooms_with_backups(&self, after: Option<&RoomId>, limit: usize)
    -> Result<Vec<RoomId>>;

    /// Forgets these; what is not there is no error.
    async fn remove_backups(&self, room: &RoomId, ids: &[BackupId]) -> Result<()>;
}
