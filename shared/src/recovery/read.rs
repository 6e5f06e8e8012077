//! Reading a room across the log and the archive as if they were one.

use super::merge_if_due;
use crate::domain::entry::Entry;
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::state::RoomState;
use crate::ports::{Archive, ArchiveHead, LogHead, PortError, Result, RoomLog};

/// Entries read at a time while a room is loaded.
const LOAD_PAGE: usize = 256;

/// Turns between log and archive before a hole is believed: the log may be trimmed, or the archive not have arrived,
/// between two reads.
const TRIES: usize = 4;

/// Up to `limit` consecutive entries, the first at `after + 1`: from the log where it reaches back so far, else from
/// the archive. Empty: there is nothing after `after`. Fewer than `limit` does not mean the end. `None`: the log is in
/// another epoch, or not loaded.
///
/// # Errors
/// Final, if an entry is in neither; never a hole in the answer.
pub async fn read_after(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    epoch: Epoch,
    after: Seq,
    limit: usize,
) -> Result<Option<Vec<Entry>>> {
    for _ in 0..TRIES {
        let Some(entries) = log.read(room, epoch, after, limit).await? else {
            return Ok(None);
        };
        if starts_at(&entries, after) {
            return Ok(Some(consecutive(entries, after)));
        }
        if entries.is_empty() {
            match log.head(room).await? {
                Some(head) if head.epoch == epoch => {
                    if head.seq <= after {
                        return Ok(Some(Vec::new()));
                    }
                }
                _ => return Ok(None),
            }
        }
        let entries = archive.read(room, after, limit).await?;
        // What a later epoch archived may not continue what the caller saw in this one. Entries of a later epoch
        // reach the archive only after the log was seeded with it, so this look, after the read, is enough.
        match log.head(room).await? {
            Some(head) if head.epoch == epoch => {}
            _ => return Ok(None),
        }
        if starts_at(&entries, after) {
            return Ok(Some(consecutive(entries, after)));
        }
    }
    Err(PortError::fatal(
        "read room",
        format!(
            "room {room}: entry {} is neither in the log nor in the archive",
            after.next()
        ),
    ))
}

fn starts_at(entries: &[Entry], after: Seq) -> bool {
    entries
        .first()
        .is_some_and(|entry| entry.seq == after.next())
}

/// The part before the first hole.
fn consecutive(mut entries: Vec<Entry>, after: Seq) -> Vec<Entry> {
    let whole = (after.0 + 1..)
        .zip(&entries)
        .take_while(|(seq, entry)| entry.seq.0 == *seq)
        .count();
    entries.truncate(whole);
    entries
}

/// The folded state of a room and the seq it stands at (at least `head.seq`): its checkpoint, and every entry after
/// that. Whoever subscribed before `head` was read misses nothing.
///
/// # Errors
/// Retryable, if the epoch changed or the log was cut meanwhile: activate again.
pub async fn load(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    head: &LogHead,
) -> Result<(RoomState, Seq)> {
    let checkpoint = archive.checkpoint(room).await?.unwrap_or_default();
    let (mut state, mut seq) = (checkpoint.state, checkpoint.seq);
    while seq < head.seq {
        let page = read_after(log, archive, room, head.epoch, seq, LOAD_PAGE)
            .await?
            .filter(|page| !page.is_empty())
            .ok_or_else(|| {
                PortError::retry(
                    "load room",
                    format!(
                        "room {room}: the log changed its epoch or was cut while it was loaded"
                    ),
                )
            })?;
        for entry in &page {
            state.apply(entry);
            seq = entry.seq;
        }
        merge_if_due(&mut state.document).await;
    }
    Ok((state, seq))
}

/// What a room adds up to now, for a reader who brings nothing to life by it: a room that left the hot store stays out
/// of it, and its archive answers alone. Returns the state and the seq it stands at.
///
/// # Errors
/// Retryable, if the epoch changed or the log was cut meanwhile.
pub async fn present(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
) -> Result<(RoomState, Seq)> {
    // In this order: a log read second can only be ahead of the archive, unless it was lost.
    let archived = archive.head(room).await?;
    match log.head(room).await? {
        Some(head) if head.epoch == archived.epoch && head.seq >= archived.seq => {
            load(log, archive, room, &head).await
        }
        _ => self::archived(archive, room, archived).await,
    }
}

/// What the archived part of a room adds up to, up to `head` at least, and the seq it stands at.
///
/// # Errors
/// The archive's; final, if an entry is missing.
pub async fn archived(
    archive: &dyn Archive,
    room: &RoomId,
    head: ArchiveHead,
) -> Result<(RoomState, Seq)> {
    let checkpoint = archive.checkpoint(room).await?.unwrap_or_default();
    let (mut state, mut seq) = (checkpoint.state, checkpoint.seq);
    while seq < head.seq {
        let page = archive.read(room, seq, LOAD_PAGE).await?;
        if !starts_at(&page, seq) {
            let reason = format!("room {room}: entry {} is not in the archive", seq.next());
            return Err(PortError::fatal("read room", reason));
        }
        for entry in &page {
            state.apply(entry);
            seq = entry.seq;
        }
        // Folding is pure work; others on this thread want their turn.
        tokio::task::yield_now().await;
    }
    Ok((state, seq))
}
