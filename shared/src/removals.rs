//! Rooms that the cleanup removes: what they hold is kept aside first, for a bounded time, and can be brought back.
//!
//! The steps of a removal, each of which can be repeated after a crash: the row goes in one transaction with a snapshot of
//! it ([`RemovalRecords::remove_room`](crate::ports::RemovalRecords::remove_room)); the content is kept aside
//! ([`keep_aside`]); only then what the room itself has of it goes ([`finish`]).

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
use crate::domain::removal::{Removal, RemovalState};
use crate::domain::state::RoomState;
use crate::ports::{Archive, BACKUPS_MAX, Enqueue, PAGE_MAX, PortError, Result, StaleEpoch};
use crate::recovery;

/// Entries in one part; a read of the archive is bounded in bytes besides.
const PART_ENTRIES: usize = 10_000;
/// Entries appended at a time when a room comes back.
const APPEND_ENTRIES: usize = 1_000;
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

/// What came of a wish to bring a room back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It is there again, under this id (its own, if nobody has that meanwhile), with so many entries.
    Done { room: RoomId, entries: u64 },
    /// There is nothing kept under this id, or not any more.
    Missing,
    /// The removal is still under way.
    UnderWay,
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
            None => Err(PortError::retry(
                "remove a room",
                "another worker has taken it over",
            )),
        }
    }
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

/// Keeps all that is archived of a removed room aside, in parts, and says so. Parts of an attempt that died are replaced.
///
/// # Errors
/// The stores'; final, if the archive has a hole. Repeat it then.
pub async fn keep_aside(b: &Backends, claim: &Claim, removal: &Removal) -> Result<u64> {
    const OPERATION: &str = "keep a room aside";
    let (archive, under) = (&*b.archive, removal.kept_under());
    claim.renew(b).await?;
    archive.forget_room(&under).await?;
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
        archive.put_backup(&under, &about, &packed).await?;
    }
    claim.renew(b).await?;
    b.records.mark_kept(removal.id, end.0).await?;
    Ok(end.0)
}

/// After [`keep_aside`]: the room's own content goes, and its name is anybody's again. What was kept of a room that held
/// nothing goes with it.
///
/// # Errors
/// The stores'. Repeat it then.
pub async fn finish(b: &Backends, claim: &Claim, removal: &Removal, entries: u64) -> Result<()> {
    claim.renew(b).await?;
    unload(b, &removal.room).await?;
    b.archive.forget_room(&removal.room).await?;
    b.records.finish_removal(removal.id).await?;
    if entries == 0 && removal.files == 0 {
        b.records.delete_removal(removal.id).await?;
    }
    Ok(())
}

/// Brings a room back as it was, as one that is kept: its entries at their places, its files, members and settings.
/// Invitations are not brought back. Taken up again after a crash by calling it again.
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
    let own = b.records.begin_restore(id, &removal.room, now).await?;
    let begun = match own {
        Some(begun) => Some(begun),
        None => {
            let other = RoomId::generate();
            b.records.begin_restore(id, &other, now).await?
        }
    };
    let Some((begun, room)) = begun.and_then(|begun| {
        let room = begun.target.clone()?;
        Some((begun, room))
    }) else {
        return Ok(Restored::Missing);
    };
    append_kept(&*b.archive, &begun, &room).await?;
    if !b.records.finish_restore(id, now).await? {
        // Somebody else brought it back at the same time.
        return Ok(match b.records.removal(id).await? {
            Some(_) => Restored::UnderWay,
            None => Restored::Missing,
        });
    }
    b.archive.forget_room(&begun.kept_under()).await?;
    Ok(Restored::Done {
        room,
        entries: begun.entries,
    })
}

/// From the beginning, whatever an attempt before this one has left.
async fn append_kept(archive: &dyn Archive, removal: &Removal, room: &RoomId) -> Result<()> {
    archive.forget_room(room).await?;
    let mut head = archive.head(room).await?;
    if head.epoch == Epoch(0) {
        head = archive.raise_epoch(room, head.epoch).await?;
    }
    for part in parts(archive, removal).await? {
        for entries in read_part(archive, removal, &part)
            .await?
            .chunks(APPEND_ENTRIES)
        {
            match archive.append_again(room, head.epoch, entries).await {
                Ok(_) => {}
                Err(StaleEpoch::Stale(_)) => {
                    return Err(PortError::retry(
                        "restore a room",
                        "its epoch rose meanwhile",
                    ));
                }
                Err(StaleEpoch::Port(error)) => return Err(error),
            }
        }
    }
    Ok(())
}

/// What the kept entries add up to.
///
/// # Errors
/// The archive's.
pub async fn state(archive: &dyn Archive, removal: &Removal) -> Result<RoomState> {
    let mut state = RoomState::default();
    for part in parts(archive, removal).await? {
        for entry in read_part(archive, removal, &part).await? {
            state.apply(&entry);
        }
        tokio::task::yield_now().await;
    }
    Ok(state)
}

/// The time of a removal is over: its files, its content and itself go.
///
/// # Errors
/// The stores'. Repeat it then.
pub async fn purge(b: &Backends, removal: &Removal) -> Result<u64> {
    let under = removal.kept_under();
    let files = delete_files(b, &under).await?;
    b.archive.forget_room(&under).await?;
    b.records.delete_removal(removal.id).await?;
    Ok(files)
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
    let content = b.archive.head(room).await?.seq > Seq(0);
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
    b.archive.forget_room(room).await?;
    Ok(Some(files))
}

/// Rows first: bytes without a row are found by the cleanup of orphaned files.
async fn delete_files(b: &Backends, room: &RoomId) -> Result<u64> {
    let mut deleted = 0;
    loop {
        let files = b.records.files_of_room(room, None, PAGE_MAX).await?;
        for file in &files.items {
            if b.records.delete_file(file.id, false).await? {
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
