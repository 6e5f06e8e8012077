//! Making, reading and thinning out a room's backups, for the job that does it by the clock and for people who ask.

use std::io::{Read, Write};

use chrono::{SubsecRound, Utc};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::domain::backup::{Backup, BackupReason, Keep};
use crate::domain::ids::{BackupId, Epoch, RoomId, Seq};
use crate::domain::state::RoomState;
use crate::ports::{Archive, BACKUPS_MAX, PortError, Result};
use crate::recovery;

/// Makes a backup of `state` (read while the room was in `epoch`), and removes what is surplus then.
///
/// # Errors
/// The archive's. The backup may have been made; it was not, if the epoch is over.
pub async fn take(
    archive: &dyn Archive,
    room: &RoomId,
    epoch: Epoch,
    (state, seq): (RoomState, Seq),
    reason: BackupReason,
    keep: Keep,
) -> Result<Backup> {
    let (backup, packed) = pack(state, seq, reason).await?;
    put(archive, room, epoch, &backup, &packed, keep).await?;
    Ok(backup)
}

/// Backs the archived part of a room up, unless the latest backup holds the same. (How far that was says nothing: a log that
/// was rolled back comes to the same place by another way.) `None`: nothing was to be done.
///
/// # Errors
/// The archive's; the room then stays among the changed.
pub async fn take_if_changed(
    archive: &dyn Archive,
    room: &RoomId,
    keep: Keep,
) -> Result<Option<Backup>> {
    let latest = archive.backups(room, None, 1).await?.into_iter().next();
    let head = archive.head(room).await?;
    let (state, seq) = recovery::archived(archive, room, head).await?;
    let (backup, packed) = pack(state, seq, BackupReason::Scheduled).await?;
    // Much that happens in a room (messages, runs) is not in its state.
    let same = latest.is_some_and(|latest| latest.hash == backup.hash);
    if !same {
        put(archive, room, head.epoch, &backup, &packed, keep).await?;
    }
    archive.mark_backed_up(room, head.epoch, seq).await?;
    Ok((!same).then_some(backup))
}

/// A backup and the state it holds.
///
/// # Errors
/// The archive's; final, if it can't be unpacked.
pub async fn read(
    archive: &dyn Archive,
    room: &RoomId,
    id: BackupId,
) -> Result<Option<(Backup, RoomState)>> {
    let Some((backup, packed)) = archive.backup(room, id).await? else {
        return Ok(None);
    };
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut json = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut json)?;
        serde_json::from_slice(&json).map_err(std::io::Error::from)
    });
    let state = unpacked
        .await
        .map_err(|e| PortError::fatal("unpack backup", e))?
        .map_err(|e| PortError::fatal("unpack backup", e))?;
    Ok(Some((backup, state)))
}

async fn put(
    archive: &dyn Archive,
    room: &RoomId,
    epoch: Epoch,
    backup: &Backup,
    packed: &[u8],
    keep: Keep,
) -> Result<()> {
    if !archive.put_backup(room, epoch, backup, packed).await? {
        return Err(PortError::retry(
            "put backup",
            "the room's epoch rose meanwhile",
        ));
    }
    let all = archive.backups(room, None, BACKUPS_MAX).await?;
    let surplus = keep.surplus(&all);
    if !surplus.is_empty()
        && let Err(error) = archive.remove_backups(room, &surplus).await
    {
        // The backup is made; the next one tries again.
        tracing::warn!(%room, %error, "surplus backups were not removed");
    }
    Ok(())
}

/// Off the async threads: a state may have many megabytes.
async fn pack(state: RoomState, seq: Seq, reason: BackupReason) -> Result<(Backup, Vec<u8>)> {
    let packed = tokio::task::spawn_blocking(move || {
        let json = serde_json::to_vec(&state)?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&json)?;
        let packed = gzip.finish()?;
        let backup = Backup {
            id: BackupId::generate(),
            seq,
            made_at: Utc::now().trunc_subsecs(3),
            reason,
            strokes: state.board.ids().count() as u64,
            document_bytes: state.document.bytes() as u64,
            bytes: packed.len() as u64,
            hash: hex::encode(Sha256::digest(&json)),
        };
        Ok::<_, std::io::Error>((backup, packed))
    });
    packed
        .await
        .map_err(|e| PortError::fatal("pack backup", e))?
        .map_err(|e| PortError::fatal("pack backup", e))
}
