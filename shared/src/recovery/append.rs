//! Writing to a room from outside its actor, and waking the archive after a write.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::activate;
use crate::domain::entry::{Record, RefKey};
use crate::domain::ids::{RoomId, Seq};
use crate::domain::job::QUEUE_ARCHIVE;
use crate::ports::{
    Append, Archive, Enqueue, Enqueued, LogHead, PortError, Queue, Refusal, Result, RoomLog,
};

/// How long the first unarchived entry of a group of rooms waits for company before the archive moves them: a move costs
/// several commits however much it moves.
pub const ARCHIVE_DELAY: Duration = Duration::from_millis(700);

/// Before its job is due a group counts as not woken any more: clocks run at different speeds.
const WAKE_MARGIN: Duration = Duration::from_millis(100);

/// How long nothing must have happened in a room before it is looked at for unloading.
pub const IDLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// Attempts of one archive job before it is a dead letter: half an hour of an archive that is away. (The sweep queues
/// a room that is still dirty anew even then.)
const ARCHIVE_ATTEMPTS: u32 = 1_000;

/// How long refs are remembered by contract.
const REF_MEMORY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Refused appends before the writer gives up.
const TRIES: usize = 5;

/// The payload of a job in [`QUEUE_ARCHIVE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ArchiveWork {
    /// Move the tails of all rooms of a group ([`RoomLog::archive_group_of`]).
    Group { group: u16 },
    /// What one room needs for itself.
    Room(ArchiveRoom),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRoom {
    pub room: RoomId,
    /// False: move the room's tail to the archive, and bring its checkpoint up to date. True: let it leave the hot store if
    /// nobody needs it there.
    #[serde(default)]
    pub unload: bool,
}

/// May the log have forgotten refs that are still to be remembered? Then [`known_refs`] comes before every append of
/// records with refs.
pub fn refs_need_archive(head: &LogHead, now_ms: i64) -> bool {
    head.seeded_seq > Seq(0) && now_ms.saturating_sub(head.seeded_at_ms) < REF_MEMORY_MS
}

/// The seqs of refs that are stored already, in the order asked: what the log remembers and, where it may have
/// forgotten, what the archive holds.
pub async fn known_refs(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    head: &LogHead,
    refs: &[RefKey],
    now_ms: i64,
) -> Result<Vec<Option<Seq>>> {
    if refs.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = log.seqs_of_refs(room, refs).await?;
    if !refs_need_archive(head, now_ms) {
        return Ok(known);
    }
    let unknown: Vec<usize> = (0..refs.len()).filter(|at| known[*at].is_none()).collect();
    if unknown.is_empty() {
        return Ok(known);
    }
    let asked: Vec<RefKey> = unknown.iter().map(|at| refs[*at].clone()).collect();
    let archived = archive.seqs_of_refs(room, &asked).await?;
    for (at, seq) in unknown.into_iter().zip(archived) {
        known[at] = seq;
    }
    Ok(known)
}

/// Appends one record that the server itself made (a run began or ended) from outside the room's actor, and wakes the
/// archive. Give the record a ref: then a repeated call after a lost answer stores it once. Returns its seq.
///
/// # Errors
/// Retryable where a store is away or the archive is too far behind; the record may have been stored.
pub async fn append(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    queue: &dyn Queue,
    room: &RoomId,
    record: &Record,
    now_ms: i64,
) -> Result<Seq> {
    let records = std::slice::from_ref(record);
    let seqs = append_all(log, archive, queue, room, records, now_ms).await?;
    seqs.first()
        .copied()
        .ok_or_else(|| PortError::fatal("append to room", "the log answered for no record"))
}

/// [`append`] for several records, as many and as large as one append of the log may have: all of them or none. Returns
/// their seqs.
///
/// # Errors
/// As [`append`].
pub async fn append_all(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    queue: &dyn Queue,
    room: &RoomId,
    records: &[Record],
    now_ms: i64,
) -> Result<Vec<Seq>> {
    // Always by way of the archive: this writer has seen nothing of the room, so only the archive can tell it that the
    // log was rolled back.
    let mut head = activate(log, archive, room, None, 0, now_ms).await?;
    for _ in 0..TRIES {
        let mut seqs = vec![None; records.len()];
        let (places, keys): (Vec<usize>, Vec<RefKey>) = records
            .iter()
            .enumerate()
            .filter_map(|(at, record)| Some((at, record.ref_key()?)))
            .unzip();
        let known = known_refs(log, archive, room, &head, &keys, now_ms).await?;
        for (at, seq) in places.into_iter().zip(known) {
            seqs[at] = seq;
        }
        let new: Vec<Record> = records
            .iter()
            .zip(&seqs)
            .filter(|(_, seq)| seq.is_none())
            .map(|(record, _)| record.clone())
            .collect();
        if new.is_empty() {
            return Ok(seqs.into_iter().flatten().collect());
        }
        let append = Append {
            room,
            epoch: head.epoch,
            seen: head.seq,
            role_version: head.role_version,
            now_ms,
            records: &new,
        };
        match log.append(append).await {
            Ok((appended, newly_dirty)) => {
                if newly_dirty {
                    wake(log, queue, room).await;
                }
                let mut appended = appended.into_iter().map(crate::ports::Appended::seq);
                let seqs = seqs
                    .into_iter()
                    .map(|seq| seq.or_else(|| appended.next().flatten()));
                let barred = || PortError::fatal("append to room", "its ref was refused since");
                let seqs: Option<Vec<Seq>> = seqs.collect();
                return seqs.ok_or_else(barred);
            }
            Err(Refusal::NotSeeded | Refusal::Epoch(_)) => {
                head = activate(log, archive, room, None, 0, now_ms).await?;
            }
            Err(Refusal::Behind(_)) => {
                let seen = Some((head.epoch, head.seq));
                head = activate(log, archive, room, seen, 0, now_ms).await?;
            }
            // The server's own entries are nobody's right: whatever the version is.
            Err(Refusal::RoleVersion(version)) => head.role_version = version,
            Err(refusal @ Refusal::ArchiveBehind) => {
                return Err(PortError::retry("append to room", refusal.to_string()));
            }
            Err(Refusal::Port(error)) => return Err(error),
        }
    }
    Err(PortError::retry(
        "append to room",
        format!("room {room}: refused {TRIES} times in a row"),
    ))
}

/// The entry is stored whether or not the archive hears of it; the sweep finds the room within its beat.
async fn wake(log: &dyn RoomLog, queue: &dyn Queue, room: &RoomId) {
    if let Err(error) = wake_archive(log, queue, room).await {
        tracing::warn!(%room, %error, "could not wake the archive; the sweep will");
    }
}

/// Queues the job that moves the tails of this room and of those that are archived with it; one at a time for each group.
/// Called after an append that made the room dirty.
pub async fn wake_archive(log: &dyn RoomLog, queue: &dyn Queue, room: &RoomId) -> Result<Enqueued> {
    wake_archive_group(queue, log.archive_group_of(room), ARCHIVE_DELAY).await
}

/// [`wake_archive`] for a group, in so long.
pub async fn wake_archive_group(
    queue: &dyn Queue,
    group: u16,
    delay: Duration,
) -> Result<Enqueued> {
    let id = format!("archive-group:{group}");
    let tenant = format!("archive-group-{group}");
    let work = ArchiveWork::Group { group };
    enqueue(queue, id, tenant, &work, delay).await
}

/// Spares a process waking the archive again while the job it queued for the same group can't have begun.
#[derive(Debug, Default)]
pub struct ArchiveWakes {
    /// When each group's job was queued by this process, at the earliest.
    queued: Mutex<HashMap<u16, Instant>>,
}

impl ArchiveWakes {
    /// [`wake_archive`], unless the job waits already.
    pub async fn wake(&self, log: &dyn RoomLog, queue: &dyn Queue, room: &RoomId) -> Result<()> {
        let group = log.archive_group_of(room);
        let now = Instant::now();
        let waits = |queued: &Instant| now.duration_since(*queued) < ARCHIVE_DELAY - WAKE_MARGIN;
        if self.queued.lock().get(&group).is_some_and(waits) {
            return Ok(());
        }
        if wake_archive_group(queue, group, ARCHIVE_DELAY).await? == Enqueued::Added {
            self.queued.lock().insert(group, now);
        }
        Ok(())
    }
}

/// Queues what a room needs for itself: its checkpoint, or another look at a tail that could not be moved with the others.
pub async fn archive_room(queue: &dyn Queue, room: &RoomId) -> Result<Enqueued> {
    let work = ArchiveWork::Room(ArchiveRoom {
        room: room.clone(),
        unload: false,
    });
    let id = format!("archive:{room}");
    enqueue(queue, id, room.to_string(), &work, Duration::ZERO).await
}

/// Queues the job that unloads this room if it is idle by then (with [`IDLE_AFTER`]: at the earliest); it queues itself
/// again while the room is in use. Called when a room was opened, or emptied.
pub async fn watch_idle(queue: &dyn Queue, room: &RoomId, after: Duration) -> Result<Enqueued> {
    let work = ArchiveWork::Room(ArchiveRoom {
        room: room.clone(),
        unload: true,
    });
    let id = format!("unload:{room}");
    enqueue(queue, id, room.to_string(), &work, after).await
}

async fn enqueue(
    queue: &dyn Queue,
    id: String,
    tenant: String,
    work: &ArchiveWork,
    delay: Duration,
) -> Result<Enqueued> {
    let job = Enqueue {
        id,
        payload: serde_json::to_string(work)
            .map_err(|e| PortError::fatal("encode archive job", e))?,
        tenant,
        priority: 0,
        delay,
        max_attempts: ARCHIVE_ATTEMPTS,
        traceparent: None,
        again_if_running: true,
    };
    queue.enqueue(QUEUE_ARCHIVE, &job).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Epoch;

    #[test]
    fn only_a_log_seeded_lately_over_something_may_have_forgotten_refs() {
        let head = |seeded_seq, seeded_at_ms| LogHead {
            epoch: Epoch(2),
            seq: Seq(9),
            archived: Seq(0),
            trimmed: Seq(0),
            role_version: 0,
            seeded_at_ms,
            seeded_seq: Seq(seeded_seq),
        };
        let now = 2 * REF_MEMORY_MS;
        assert!(refs_need_archive(&head(5, now - 1_000), now));
        assert!(!refs_need_archive(&head(0, now - 1_000), now));
        assert!(!refs_need_archive(&head(5, now - REF_MEMORY_MS), now));
    }
}
