//! Rooms that the cleanup removes: what they hold is kept aside first, for a bounded time, and can be brought back.
//!
//! The steps of a removal, each of which can be repeated after a crash: the row goes in one transaction with a snapshot of
//! it ([`RemovalRecords::remove_room`](crate::ports::RemovalRecords::remove_room)); the content is kept aside
//! ([`keep_aside`], [`mark_kept`]); only then what the room itself has of it goes ([`finish`]). A worker may stand still
//! between any two of its steps while another takes the removal over: each step says what it was decided on (a claim, an
//! epoch, ids), and changes nothing where that has changed.

mod restore;

use std::io::{Read, Write};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::Backends;
use crate::domain::backup::{Backup, BackupReason};
use crate::domain::cleanup::{Cleanup, Scope};
use crate::domain::entry::{Entry, Record};
use crate::domain::file;
use crate::domain::ids::{BackupId, Epoch, RoomId, Seq};
use crate::domain::removal::Removal;
use crate::domain::state::RoomState;
use crate::ports::{Archive, BACKUPS_MAX, Enqueue, FileIs, PAGE_MAX, PortError, Result};
use crate::recovery;

pub use self::restore::{Restored, restore};

/// Entries in one part; a read of the archive is bounded in bytes besides.
const PART_ENTRIES: usize = 10_000;
/// A worker that falls silent for so long loses a removal to another.
const CLAIM: chrono::Duration = chrono::Duration::seconds(20);

/// How long a removal waits for the archive, and how often it looks.
const ARCHIVE_LOOKS: u32 = 75;
const ARCHIVE_LOOK_EVERY: Duration = Duration::from_millis(200);
/// Attempts of one job of the cleanup; the next beat makes good what the last one left.
const ATTEMPTS: u32 = 5;

/// A job for the queue `cleanup`.
pub fn job(id: String, job: &Cleanup, delay: Duration) -> Enqueue {
    Enqueue {
        id,
        // Words and ids: serialising them does not fail.
        payload: serde_json::to_string(job).unwrap_or_default(),
        tenant: "installation".into(),
        priority: 0,
        delay,
        max_attempts: ATTEMPTS,
        traceparent: None,
        again_if_running: false,
    }
}

/// The job that removes a room, if nobody wants it by then, or what is left of one that is gone; one at a time for each.
pub fn room_job(room: RoomId, delay: Duration) -> Enqueue {
    let id = room_job_id(&room);
    let work = Cleanup {
        run: None,
        scope: Scope::Room,
        room: Some(room),
        dry_run: false,
    };
    job(id, &work, delay)
}

pub fn room_job_id(room: &RoomId) -> String {
    format!("room:{room}")
}

/// The part of one worker in a removal under way.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    removal: Uuid,
    worker: Uuid,
}

impl Claim {
    /// `None`: another worker has it, or it is not under way.
    ///
    /// # Errors
    /// The records'.
    pub async fn of(b: &Backends, removal: Uuid) -> Result<Option<(Self, Removal)>> {
        let claim = Self {
            removal,
            worker: Uuid::now_v7(),
        };
        Ok(claim.renewed(b).await?.map(|removal| (claim, removal)))
    }

    async fn renewed(&self, b: &Backends) -> Result<Option<Removal>> {
        let now = Utc::now();
        b.records
            .claim_removal(self.removal, self.worker, now, now + CLAIM)
            .await
    }

    /// Before every step that deletes: nobody else is at work, or the step is not ours.
    async fn renew(&self, b: &Backends) -> Result<()> {
        match self.renewed(b).await? {
            Some(_) => Ok(()),
            None => Err(taken_over("remove a room")),
        }
    }
}

fn taken_over(operation: &'static str) -> PortError {
    PortError::retry(operation, "another worker has taken it over")
}

/// Waits until all of the log of a room that nobody enters any more is in the archive.
///
/// # Errors
/// The stores'; retryable, if it takes too long.
pub async fn archive_all(b: &Backends, room: &RoomId) -> Result<()> {
    for _ in 0..ARCHIVE_LOOKS {
        let archived = b.archive.head(room).await?;
        let log = b.log.head(room).await?;
        // A log of another epoch is over: what it holds was lost long ago.
        if log.is_none_or(|log| log.epoch != archived.epoch || log.seq <= archived.seq) {
            return Ok(());
        }
        recovery::wake_archive(&*b.log, &*b.queue, room).await?;
        tokio::time::sleep(ARCHIVE_LOOK_EVERY).await;
    }
    Err(PortError::retry(
        "clean a room",
        "its last entries are not archived yet",
    ))
}

/// The room leaves the hot store; where its last entries are not confirmed yet, it leaves when it is idle.
async fn unload(b: &Backends, room: &RoomId) -> Result<()> {
    if let Some(log) = b.log.head(room).await? {
        b.log.unload(room, log.epoch, log.seq).await?;
    }
    Ok(())
}

/// Keeps all that is archived of a removed room aside, in parts; how many entries. Parts of an attempt that died are replaced.
///
/// # Errors
/// The stores'; final, if the archive has a hole. Repeat it then.
pub async fn keep_aside(b: &Backends, claim: &Claim, removal: &Removal) -> Result<u64> {
    const OPERATION: &str = "keep a room aside";
    let (archive, under) = (&*b.archive, removal.kept_under());
    let earlier = archive.backups(&under, None, BACKUPS_MAX).await?;
    let earlier: Vec<BackupId> = earlier.into_iter().map(|part| part.id).collect();
    claim.renew(b).await?;
    // These, and not what another may be putting there by now.
    archive.remove_backups(&under, &earlier).await?;
    let end = archive.head(&removal.room).await?.seq;
    let mut at = Seq(0);
    while at < end {
        let mut part = archive.read(&removal.room, at, PART_ENTRIES).await?;
        part.retain(|entry| entry.seq <= end);
        let (Some(first), Some(last)) = (part.first(), part.last()) else {
            return Err(PortError::retry(OPERATION, "the archive changed meanwhile"));
        };
        if first.seq != at.next() {
            let reason = format!("room {}: entry {} is missing", removal.room, at.next());
            return Err(PortError::fatal(OPERATION, reason));
        }
        at = last.seq;
        claim.renew(b).await?;
        let (about, packed) = pack(part).await?;
        if !archive
            .put_backup(&under, Epoch(0), &about, &packed)
            .await?
        {
            return Err(PortError::fatal(OPERATION, "a room has the removal's id"));
        }
    }
    Ok(end.0)
}

/// After [`keep_aside`], with what it said: from now on the removal can't be undone.
///
/// # Errors
/// The records'; retryable, if another worker has taken the removal over.
pub async fn mark_kept(b: &Backends, claim: &Claim, entries: u64) -> Result<()> {
    let marked = b
        .records
        .mark_kept(claim.removal, claim.worker, entries)
        .await?;
    if !marked {
        return Err(taken_over("keep a room aside"));
    }
    Ok(())
}

/// Takes a removal back while it can be; what is kept aside already goes. False: it can't be any more.
///
/// # Errors
/// The stores'. The room may be back.
pub async fn undo(b: &Backends, removal: &Removal) -> Result<bool> {
    let undone = b.records.undo_removal(removal.id).await?;
    if undone {
        b.archive
            .forget_room(&removal.kept_under(), Epoch(0))
            .await?;
    }
    Ok(undone)
}

/// After [`mark_kept`]: the room's own content goes, and its name is anybody's again. What was kept of a room that held
/// nothing goes with it.
///
/// # Errors
/// The stores'. Repeat it then.
pub async fn finish(b: &Backends, claim: &Claim, removal: &Removal, entries: u64) -> Result<()> {
    // Read before the claim is renewed: where that holds, this is no later life's.
    let epoch = b.archive.head(&removal.room).await?.epoch;
    claim.renew(b).await?;
    unload(b, &removal.room).await?;
    if !b.archive.forget_room(&removal.room, epoch).await? {
        return Err(PortError::retry(
            "remove a room",
            "its epoch rose meanwhile",
        ));
    }
    b.records.finish_removal(removal.id).await?;
    if entries == 0 && removal.files == 0 {
        b.records.delete_removal(removal.id).await?;
    }
    Ok(())
}

/// What the kept entries add up to.
///
/// # Errors
/// The archive's.
pub async fn state(archive: &dyn Archive, removal: &Removal) -> Result<RoomState> {
    let (mut state, mut at) = (RoomState::default(), Seq(0));
    for part in parts(archive, removal).await? {
        for entry in read_part(archive, removal, &part).await? {
            // Two workers may both have kept it.
            if entry.seq > at {
                state.apply(&entry);
                at = entry.seq;
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(state)
}

/// The time of a removal is over: itself, its files and its content go. `None`: somebody brings it back.
///
/// # Errors
/// The stores'. What it leaves then is found by the cleanup of orphaned files and [`forget_remains`].
pub async fn purge(b: &Backends, removal: &Removal) -> Result<Option<u64>> {
    // First: of this and a restoring one wins.
    if !b.records.delete_removal(removal.id).await? {
        return Ok(None);
    }
    let under = removal.kept_under();
    let files = delete_files(b, &under).await?;
    b.archive.forget_room(&under, Epoch(0)).await?;
    Ok(Some(files))
}

/// Forgets what is left of a room whose row somebody deleted. `None`: nothing is, or there is such a room, or it is being
/// removed, or comes back; nothing changed. Otherwise how many files went.
///
/// # Errors
/// The stores'. Repeat it then.
pub async fn forget_remains(
    b: &Backends,
    room: &RoomId,
    now: DateTime<Utc>,
) -> Result<Option<u64>> {
    if let Ok(removal) = room.as_str().parse()
        && b.records.removal(removal).await?.is_some()
    {
        // What is kept of a removed room lies here.
        return Ok(None);
    }
    let content = b.archive.head(room).await?.seq > Seq(0)
        || !b.archive.backups(room, None, 1).await?.is_empty();
    if !content
        && b.records
            .files_of_room(room, None, 1)
            .await?
            .items
            .is_empty()
    {
        // Nothing is left; the name is whoever's it is.
        return Ok(None);
    }
    if !b.records.reserve_room_id(room, now).await? {
        return Ok(None);
    }
    archive_all(b, room).await?;
    let files = delete_files(b, room).await?;
    unload(b, room).await?;
    // Its id stays reserved: whoever raises the epoch now was late, and it is looked at again.
    let epoch = b.archive.head(room).await?.epoch;
    if !b.archive.forget_room(room, epoch).await? {
        return Err(PortError::retry(
            "forget a room",
            "its epoch rose meanwhile",
        ));
    }
    Ok(Some(files))
}

/// Rows first: bytes without a row are found by the cleanup of orphaned files.
async fn delete_files(b: &Backends, room: &RoomId) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let files = b.records.files_of_room(room, None, PAGE_MAX).await?;
        for file in &files.items {
            if b.records.delete_file(file.id, FileIs::In(room)).await? {
                b.files.delete(&file::key(file.id)).await?;
                deleted += 1;
            }
        }
        if !files.more {
            return Ok(deleted);
        }
    }
}

/// In the order of their entries.
async fn parts(archive: &dyn Archive, removal: &Removal) -> Result<Vec<Backup>> {
    let under = removal.kept_under();
    let mut parts = archive.backups(&under, None, BACKUPS_MAX).await?;
    parts.sort_by_key(|part| part.seq);
    Ok(parts)
}

async fn read_part(archive: &dyn Archive, removal: &Removal, part: &Backup) -> Result<Vec<Entry>> {
    const OPERATION: &str = "read what is kept of a room";
    let packed = archive.backup(&removal.kept_under(), part.id).await?;
    let (_, packed) = packed.ok_or_else(|| PortError::fatal(OPERATION, "a part is missing"))?;
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut json = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut json)?;
        let rows: Vec<(Seq, Record)> = serde_json::from_slice(&json)?;
        let entries = rows.into_iter();
        Ok::<_, std::io::Error>(entries.map(|(seq, record)| Entry { seq, record }).collect())
    });
    unpacked
        .await
        .map_err(|e| PortError::fatal(OPERATION, e))?
        .map_err(|e| PortError::fatal(OPERATION, e))
}

/// Off the async threads: a part may have many megabytes.
async fn pack(entries: Vec<Entry>) -> Result<(Backup, Vec<u8>)> {
    const OPERATION: &str = "pack what is kept of a room";
    let packed = tokio::task::spawn_blocking(move || {
        let seq = entries.last().map_or(Seq(0), |entry| entry.seq);
        let rows: Vec<(Seq, &Record)> = entries
            .iter()
            .map(|entry| (entry.seq, &entry.record))
            .collect();
        let json = serde_json::to_vec(&rows)?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&json)?;
        let packed = gzip.finish()?;
        let about = Backup {
            id: BackupId::generate(),
            seq,
            made_at: Utc::now().trunc_subsecs(3),
            reason: BackupReason::Removal,
            strokes: 0,
            document_bytes: 0,
            bytes: packed.len() as u64,
            hash: hex::encode(Sha256::digest(&json)),
        };
        Ok::<_, std::io::Error>((about, packed))
    });
    packed
        .await
        .map_err(|e| PortError::fatal(OPERATION, e))?
        .map_err(|e| PortError::fatal(OPERATION, e))
}
