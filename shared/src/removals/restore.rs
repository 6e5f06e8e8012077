//! A removed room comes back: by one worker at a time, and only with all that was kept of it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{CLAIM, parts, read_part, taken_over};
use crate::Backends;
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::removal::{Removal, RemovalState};
use crate::ports::{PortError, RestoreBegun, Result, StaleEpoch};

const OPERATION: &str = "restore a room";
/// Entries appended at a time.
const APPEND_ENTRIES: usize = 1_000;

/// What came of a wish to bring a room back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It is there again, under this id (its own, if nobody has that meanwhile), with so many entries.
    Done { room: RoomId, entries: u64 },
    /// There is nothing kept under this id, or not any more.
    Missing,
    /// The removal is still under way, or somebody else is bringing it back.
    UnderWay,
}

/// The part of one worker in a restoring under way.
struct Restoring<'a> {
    b: &'a Backends,
    worker: Uuid,
    removal: Removal,
    room: RoomId,
}

/// Brings a room back as it was, as one that is kept: its entries at their places, its files, members and settings.
/// Invitations are not brought back. After a crash it is taken up again by calling it again, a claim's time later.
///
/// # Errors
/// The stores'. Repeat it then.
pub async fn restore(b: &Backends, id: Uuid, now: DateTime<Utc>) -> Result<Restored> {
    let Some(removal) = b.records.removal(id).await? else {
        return Ok(Restored::Missing);
    };
    if matches!(removal.state, RemovalState::Removing | RemovalState::Kept) {
        return Ok(Restored::UnderWay);
    }
    let worker = Uuid::now_v7();
    let mut begun = begin(b, id, worker, &removal.room).await?;
    if begun == RestoreBegun::TargetTaken {
        begun = begin(b, id, worker, &RoomId::generate()).await?;
    }
    let removal = match begun {
        RestoreBegun::Begun(removal) => *removal,
        RestoreBegun::Missing => return Ok(Restored::Missing),
        RestoreBegun::UnderWay | RestoreBegun::TargetTaken => return Ok(Restored::UnderWay),
    };
    let Some(room) = removal.target.clone() else {
        return Err(PortError::fatal(OPERATION, "it comes back under no id"));
    };
    let restoring = Restoring {
        b,
        worker,
        removal,
        room,
    };
    restoring.append_kept().await?;
    if !b.records.finish_restore(id, worker, now).await? {
        // Somebody else took it over.
        return Ok(match b.records.removal(id).await? {
            Some(_) => Restored::UnderWay,
            None => Restored::Missing,
        });
    }
    let Restoring { removal, room, .. } = restoring;
    b.archive
        .forget_room(&removal.kept_under(), Epoch(0))
        .await?;
    Ok(Restored::Done {
        room,
        entries: removal.entries,
    })
}

async fn begin(b: &Backends, id: Uuid, worker: Uuid, target: &RoomId) -> Result<RestoreBegun> {
    let now = Utc::now();
    b.records
        .begin_restore(id, target, worker, now, now + CLAIM)
        .await
}

impl Restoring<'_> {
    /// Before every step that changes the room: nobody else is at work, or the step is not ours.
    async fn renew(&self) -> Result<()> {
        match begin(self.b, self.removal.id, self.worker, &self.room).await? {
            RestoreBegun::Begun(_) => Ok(()),
            _ => Err(taken_over(OPERATION)),
        }
    }

    /// From the beginning, whatever an attempt before this one has left.
    async fn append_kept(&self) -> Result<()> {
        let (archive, room) = (&*self.b.archive, &self.room);
        // Each time read before the claim is renewed: another's epoch comes with another's claim.
        let left = archive.head(room).await?;
        self.renew().await?;
        if !archive.forget_room(room, left.epoch).await? {
            return Err(taken_over(OPERATION));
        }
        let mut head = archive.head(room).await?;
        if head.epoch == Epoch(0) {
            head = archive.raise_epoch(room, head.epoch).await?;
        }
        for part in parts(archive, &self.removal).await? {
            let part = read_part(archive, &self.removal, &part).await?;
            for entries in part.chunks(APPEND_ENTRIES) {
                self.renew().await?;
                match archive.append_again(room, head.epoch, entries).await {
                    Ok(after) => head = after,
                    Err(StaleEpoch::Stale(_)) => {
                        return Err(PortError::retry(OPERATION, "its epoch rose meanwhile"));
                    }
                    Err(StaleEpoch::Port(error)) => return Err(error),
                }
            }
        }
        if head.seq != Seq(self.removal.entries) {
            let reason = format!(
                "{} entries were kept, {} are there",
                self.removal.entries, head.seq
            );
            return Err(PortError::fatal(OPERATION, reason));
        }
        Ok(())
    }
}
