//! Opening a room's log: decides whether it may be written to, and starts it anew where it may not.

use std::time::Duration;

use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::{Archive, ArchiveHead, LogHead, PortError, Result, RoomLog};

/// Looks at log and archive before giving up; each look is one read of each and at most one change.
const TRIES: usize = 12;

/// How long a missing log must stay missing, with the archive's epoch unchanged, before the epoch is raised.
/// Between another pod's raise and its seed the log looks just as missing; raising once more then would drop what
/// that pod has acknowledged meanwhile. The gap is one round trip to the log. A room never opened does not wait.
const SETTLE: Duration = Duration::from_millis(40);

/// What the two heads say about one another. The archive was read first, so the log can only be ahead of it.
enum Verdict {
    Agreed(LogHead),
    /// The epoch was raised, the log doesn't know yet.
    Superseded,
    Missing,
    RolledBack,
    /// The log, or the caller, knows an epoch that the archive does not.
    ArchiveLost(Epoch),
}

fn judge(archive: ArchiveHead, log: Option<LogHead>, seen: Option<(Epoch, Seq)>) -> Verdict {
    if let Some((epoch, _)) = seen.filter(|(epoch, _)| *epoch > archive.epoch) {
        return Verdict::ArchiveLost(epoch);
    }
    let Some(log) = log else {
        return Verdict::Missing;
    };
    if log.epoch > archive.epoch {
        return Verdict::ArchiveLost(log.epoch);
    }
    if log.epoch < archive.epoch {
        return Verdict::Superseded;
    }
    let seen_here = seen
        .filter(|(epoch, _)| *epoch == log.epoch)
        .map_or(Seq(0), |(_, seq)| seq);
    if log.seq < archive.seq.max(seen_here) {
        return Verdict::RolledBack;
    }
    Verdict::Agreed(log)
}

/// Brings log and archive into agreement and returns the log's head: from here on it may be read and written.
///
/// `seen` is how far the caller itself has seen the room (a log that is shorter was rolled back); `role_version` is the
/// room's, as Records says (0 = not known, changes nothing). Many pods may call this for one room at once: they end
/// in the same epoch.
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
    let mut missing_at: Option<Epoch> = None;
    let mut lost: Option<Epoch> = None;
    for _ in 0..TRIES {
        // In this order: both only grow, so a log read second that is shorter than the archive was cut.
        let archived = archive.head(room).await?;
        let head = log.head(room).await?;
        match judge(archived, head, seen) {
            Verdict::Agreed(head) => return fenced(log, room, head, role_version).await,
            Verdict::Superseded => seed(log, room, archived, role_version, now_ms).await?,
            Verdict::RolledBack => {
                tracing::warn!(%room, epoch = %archived.epoch, archived = %archived.seq, "room log was rolled back, raising the epoch");
                let raised = archive.raise_epoch(room, archived.epoch).await?;
                seed(log, room, raised, role_version, now_ms).await?;
            }
            Verdict::Missing => {
                if archived.epoch > Epoch(0) && missing_at != Some(archived.epoch) {
                    missing_at = Some(archived.epoch);
                    tokio::time::sleep(SETTLE).await;
                    continue;
                }
                let raised = archive.raise_epoch(room, archived.epoch).await?;
                seed(log, room, raised, role_version, now_ms).await?;
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

async fn seed(
    log: &dyn RoomLog,
    room: &RoomId,
    at: ArchiveHead,
    role_version: u64,
    now_ms: i64,
) -> Result<()> {
    // What the log says now is not trusted yet: the next look compares it with the archive once more, because our
    // archive head may be old by now and the log may have been emptied again meanwhile.
    log.seed(room, at.epoch, at.seq, role_version, now_ms)
        .await?;
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
