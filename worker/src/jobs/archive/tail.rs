//! Moving a room's tail: from the log, after what is archived, into the archive; then the log hears of it.

use std::time::Instant;

use atelier_shared::domain::ids::{RoomId, Seq};
use atelier_shared::ports::{ArchiveHead, LogHead, PortError, Result, StaleEpoch};

use super::Archiver;

/// What became of a room's tail.
#[derive(Debug, PartialEq)]
pub enum Tail {
    /// All of it is archived, and the log knows.
    Clean(ArchiveHead),
    /// The time is over and there is more.
    More(ArchiveHead),
    /// No log here, or log and archive are not of one mind: that is for [`atelier_shared::recovery`], which whoever
    /// opens the room next runs.
    NotOurs,
}

impl Archiver {
    pub(super) async fn move_tail(&self, room: &RoomId, until: Instant) -> Result<Tail> {
        loop {
            // The archive first, as everywhere: the log can then only be ahead of it.
            let archived = self.archive.head(room).await?;
            let Some(head) = self.log.head(room).await? else {
                return Ok(Tail::NotOurs);
            };
            if head.epoch != archived.epoch || head.seq < archived.seq {
                tracing::info!(%room, log_epoch = %head.epoch, epoch = %archived.epoch, "log and archive differ, not archiving");
                return Ok(Tail::NotOurs);
            }
            let archived = if head.seq > archived.seq {
                match self.move_batch(room, archived).await? {
                    Some(archived) => archived,
                    None => return Ok(Tail::NotOurs),
                }
            } else {
                archived
            };
            let trim_to = self.trim_to(room, &head, archived.seq).await?;
            let clean = self
                .log
                .confirm_archived(room, archived.epoch, archived.seq, trim_to)
                .await?;
            if clean {
                return Ok(Tail::Clean(archived));
            }
            if Instant::now() >= until {
                return Ok(Tail::More(archived));
            }
        }
    }

    /// `None`: the epoch is over.
    async fn move_batch(&self, room: &RoomId, from: ArchiveHead) -> Result<Option<ArchiveHead>> {
        const OPERATION: &str = "archive room";
        let read = self
            .log
            .read(room, from.epoch, from.seq, self.policy.batch)
            .await?;
        let Some(entries) = read else {
            return Ok(None);
        };
        match entries.first() {
            Some(first) if first.seq == from.seq.next() => {}
            Some(first) => {
                let reason = format!(
                    "room {room}: the log begins at {} but the archive ends at {}: the archive has lost entries",
                    first.seq, from.seq
                );
                return Err(PortError::fatal(OPERATION, reason));
            }
            // Cut between our two looks.
            None => return Ok(None),
        }
        match self.archive.append(room, from.epoch, &entries).await {
            Ok(head) => Ok(Some(head)),
            Err(StaleEpoch::Stale(_)) => Ok(None),
            Err(StaleEpoch::Port(error)) => Err(error),
        }
    }

    /// Up to where the log may forget: archived, older than the grace, and not among the last.
    async fn trim_to(&self, room: &RoomId, head: &LogHead, archived: Seq) -> Result<Seq> {
        let policy = &self.policy;
        let (mut forgotten, newest) = (head.trimmed.0, archived.0.saturating_sub(policy.trim_keep));
        if newest < forgotten + policy.trim_step {
            return Ok(head.trimmed);
        }
        let grace_ms = i64::try_from(policy.trim_grace.as_millis()).unwrap_or(i64::MAX);
        let old_before_ms = chrono::Utc::now()
            .timestamp_millis()
            .saturating_sub(grace_ms);
        // Entries lie in order of time (but for the pods' clocks), so halving finds the youngest that is old enough:
        // a dozen reads of one entry, once in `trim_step` entries. All of it, if the newest is old already.
        let mut young = newest + 1;
        let mut probe = newest;
        while young > forgotten + policy.trim_step {
            let read = self.log.read(room, head.epoch, Seq(probe - 1), 1).await?;
            let old = match read.as_deref() {
                Some([entry]) if entry.seq.0 == probe => entry.record.ts_ms <= old_before_ms,
                // Trimmed or gone meanwhile: nothing to decide.
                _ => return Ok(head.trimmed),
            };
            if old {
                forgotten = probe;
            } else {
                young = probe;
            }
            probe = forgotten + (young - forgotten) / 2;
        }
        Ok(Seq(forgotten))
    }
}
