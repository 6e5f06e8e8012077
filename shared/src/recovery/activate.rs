//! Opening a room's log: decides whether it may be written to, and starts it anew where it may not.
//!
//! An epoch is raised in the archive, then its log is seeded, then the archive marks it as opened, and only then is it
//! written to. So a log that is missing (or older) in an epoch that was never opened is simply not made yet, by
//! somebody who is on the way or died, and anybody makes it; in an opened one it was lost, and the epoch is over. No
//! clock decides. And a log whose store was started again since is over for whoever has not seen how long it was: all who
//! had may be gone, and what was lost of it must not be written over under the same numbers.
//!
//! A log that lost its end still has its beginning, and some of that may be in no archive yet: it is moved there before the
//! epoch rises, as an archiver would have moved it a moment later. Nobody is told that this epoch's numbers are archived by
//! it: people may hold other entries under them, which they were told are stored and which are gone. The new epoch begins
//! behind all that was moved, so no number is ever given to two entries.

use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::{Archive, ArchiveHead, LogHead, PortError, Result, RoomLog, StaleEpoch};

/// Looks at log and archive before giving up; each look is one read of each and at most two changes.
const TRIES: usize = 12;
/// Entries moved at a time out of a log that is over.
const RESCUE_PAGE: usize = 1_000;
/// Turns in which those who still write there are waited for to leave nothing behind.
const RESCUE_TURNS: usize = 8;

/// What the two heads say about one another. The archive was read first, so the log can only be ahead of it.
enum Verdict {
    Agreed(LogHead),
    /// The log stands and nobody wrote to it yet.
    Unopened(LogHead),
    /// The epoch was raised and its log is yet to be made.
    Unmade,
    /// The epoch is over, or the room's first is yet to come.
    Over(&'static str),
    /// The epoch is over, and what its log still holds beyond the archive was stored.
    Shortened(LogHead),
    /// The log, or the caller, knows an epoch that the archive does not.
    ArchiveLost(Epoch),
}

const ROLLED_BACK: &str = "its log was rolled back";

fn judge(archive: ArchiveHead, log: Option<LogHead>, seen: Option<(Epoch, Seq)>) -> Verdict {
    if let Some((epoch, _)) = seen.filter(|(epoch, _)| *epoch > archive.epoch) {
        return Verdict::ArchiveLost(epoch);
    }
    if archive.epoch == Epoch(0) {
        return match log {
            None => Verdict::Over("the room was never opened"),
            Some(log) => Verdict::ArchiveLost(log.epoch),
        };
    }
    match log {
        Some(log) if log.epoch > archive.epoch => Verdict::ArchiveLost(log.epoch),
        Some(log) if log.epoch == archive.epoch => {
            let seen_here = seen
                .filter(|(epoch, _)| *epoch == log.epoch)
                .map_or(Seq(0), |(_, seq)| seq);
            if log.seq < archive.seq {
                Verdict::Over(ROLLED_BACK)
            } else if log.seq < seen_here {
                Verdict::Shortened(log)
            } else if archive.opened {
                Verdict::Agreed(log)
            } else {
                Verdict::Unopened(log)
            }
        }
        _ if !archive.opened => Verdict::Unmade,
        None => Verdict::Over("its log is gone"),
        Some(_) => Verdict::Over("its log is gone, and one of an older epoch is there"),
    }
}

/// Brings log and archive into agreement and returns the log's head: from here on it may be read and written.
///
/// `seen` is how far the caller itself has seen the room (a log that is shorter was rolled back); `role_version` is the
/// room's, as Records says (0 = not known, changes nothing). Many pods may call this for one room at once: they end
/// in the same epoch, and none undoes what another was told.
///
/// # Errors
/// Final, if the log or the caller knows an epoch that the archive does not: the archive was restored from an older
/// state, and which of the two is right is for a person to decide. Retryable, if the two would not agree in time.
pub async fn activate(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    seen: Option<(Epoch, Seq)>,
    role_version: u64,
    now_ms: i64,
) -> Result<LogHead> {
    let mut lost: Option<Epoch> = None;
    for _ in 0..TRIES {
        // In this order: both only grow, so a log read second that is shorter than the archive was cut.
        let archived = archive.head(room).await?;
        let head = log.head(room).await?;
        match judge(archived, head, seen) {
            Verdict::Agreed(head) => {
                let has_seen = seen.is_some_and(|(epoch, _)| epoch == head.epoch);
                if has_seen || log.is_unbroken(room).await? {
                    return fenced(log, room, head, role_version).await;
                }
                let kept = rescue(log, archive, room, archived, head.seq).await?;
                tracing::info!(%room, epoch = %head.epoch, archived = %kept, why = "its store was started again", "raising the epoch");
                raise(log, archive, room, archived.epoch, role_version, now_ms).await?;
            }
            Verdict::Shortened(head) => {
                let kept = rescue(log, archive, room, archived, head.seq).await?;
                tracing::info!(%room, epoch = %head.epoch, archived = %kept, why = ROLLED_BACK, "raising the epoch");
                raise(log, archive, room, archived.epoch, role_version, now_ms).await?;
            }
            Verdict::Unopened(head) => {
                let opened = archive.open_epoch(room, head.epoch).await?;
                if opened.epoch == head.epoch {
                    return fenced(log, room, head, role_version).await;
                }
            }
            Verdict::Unmade => {
                // Does nothing if others made it since. (Had they also opened, used and lost it since, this would
                // make it twice: three steps and a loss, all between our look and this call.)
                log.seed(room, archived.epoch, archived.seq, role_version, now_ms)
                    .await?;
            }
            Verdict::Over(why) => {
                if archived.epoch > Epoch(0) {
                    tracing::info!(%room, epoch = %archived.epoch, archived = %archived.seq, why, "raising the epoch");
                }
                raise(log, archive, room, archived.epoch, role_version, now_ms).await?;
            }
            Verdict::ArchiveLost(known) => {
                // Raised and seeded between our two reads? Then the next look agrees.
                if lost.replace(known) == Some(known) {
                    return Err(archive_lost(room, known, archived.epoch));
                }
            }
        }
    }
    Err(PortError::retry(
        "activate room",
        format!("room {room}: log and archive did not agree in {TRIES} tries"),
    ))
}

/// Moves what the log of the archive's own epoch holds beyond the archive, before that epoch ends; returns how far the
/// archive is then. What can't be moved for good is given up, as if it had been lost with the rest: it must not keep the
/// room shut.
async fn rescue(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    from: ArchiveHead,
    upto: Seq,
) -> Result<Seq> {
    let (mut at, mut turns) = (from, 0);
    while at.seq < upto || turns < RESCUE_TURNS {
        turns += usize::from(at.seq >= upto);
        let page = log.read(room, from.epoch, at.seq, RESCUE_PAGE).await?;
        let page = page.unwrap_or_default();
        // Trimmed beyond the archive: what follows belongs to nothing.
        if page.first().is_none_or(|first| first.seq != at.seq.next()) {
            return Ok(at.seq);
        }
        match archive.append(room, from.epoch, &page).await {
            Ok(head) => at = head,
            // Others raised it meanwhile, or an archiver is at work: the next look tells.
            Err(StaleEpoch::Stale(_)) => return Ok(at.seq),
            Err(StaleEpoch::Port(error)) if error.is_retryable() => return Err(error),
            Err(StaleEpoch::Port(error)) => {
                tracing::error!(%room, %error, after = %at.seq, "the rest of a log that is over can't be archived");
                return Ok(at.seq);
            }
        }
    }
    Ok(at.seq)
}

async fn raise(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    from: Epoch,
    role_version: u64,
    now_ms: i64,
) -> Result<()> {
    let raised = archive.raise_epoch(room, from).await?;
    // Opened already: others were quicker, and their log stands (or is lost again: the next look tells).
    if !raised.opened {
        log.seed(room, raised.epoch, raised.seq, role_version, now_ms)
            .await?;
    }
    Ok(())
}

async fn fenced(
    log: &dyn RoomLog,
    room: &RoomId,
    mut head: LogHead,
    role_version: u64,
) -> Result<LogHead> {
    if head.role_version < role_version {
        log.set_role_version(room, role_version).await?;
        head.role_version = role_version;
    }
    Ok(head)
}

fn archive_lost(room: &RoomId, known: Epoch, archived: Epoch) -> PortError {
    PortError::fatal(
        "activate room",
        format!(
            "room {room}: epoch {known} was seen but the archive is at epoch {archived}: the archive has lost data"
        ),
    )
}
