//! Moving a room's tail: from the log, after what is archived, into the archive; then the log hears of it.

use std::time::Instant;

use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{Epoch, RoomId, Seq};
use atelier_shared::ports::{ArchiveHead, PortError, Result, StaleEpoch};

use super::Archiver;

const OPERATION: &str = "archive room";

/// What became of a room's tail.
#[derive(Debug, PartialEq)]
pub enum Tail {
    /// All of it is archived, and the log knows.
    Clean(ArchiveHead),
    /// There is more: it came meanwhile, or the time is over.
    More(ArchiveHead),
    /// No log here, or log and archive are not of one mind: that is for [`atelier_shared::recovery`], which whoever
    /// opens the room next runs.
    NotOurs,
}

/// A tail as it was read.
pub enum Read {
    NotOurs,
    Tail(Unmoved),
}

/// Entries on their way; none, where the archive has them and the log only has to hear of it.
pub struct Unmoved {
    from: ArchiveHead,
    entries: Vec<Entry>,
    /// How far the log is trimmed.
    trimmed: Seq,
}

/// Entries that the archive has.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    head: ArchiveHead,
    trimmed: Seq,
    /// As many as are moved at a time: there are likely to be more.
    pub full: bool,
}

impl Archiver {
    /// Moves until nothing waits or the time is over.
    pub(super) async fn move_tail(&self, room: &RoomId, until: Instant) -> Result<Tail> {
        loop {
            let Read::Tail(tail) = self.read_tail(room).await? else {
                return Ok(Tail::NotOurs);
            };
            let Some(moved) = self.write_tail(room, tail).await? else {
                return Ok(Tail::NotOurs);
            };
            match self.confirm(room, moved).await? {
                Tail::More(_) if moved.full && Instant::now() < until => {}
                tail => return Ok(tail),
            }
        }
    }

    /// What is to be moved next. Where the last move of this process left both, one read tells.
    pub(super) async fn read_tail(&self, room: &RoomId) -> Result<Read> {
        if let Some((from, trimmed)) = self.known.head(room) {
            let read = self.read_after(room, from).await?;
            if let Some(entries) = read
                && entries
                    .first()
                    .is_some_and(|first| first.seq == from.seq.next())
            {
                return Ok(Read::Tail(Unmoved {
                    from,
                    entries,
                    trimmed,
                }));
            }
            self.known.forget(room);
        }
        // The archive first, as everywhere: the log can then only be ahead of it.
        let from = self.archive.head(room).await?;
        let Some(head) = self.log.head(room).await? else {
            return Ok(Read::NotOurs);
        };
        if head.epoch != from.epoch || head.seq < from.seq {
            tracing::info!(%room, log_epoch = %head.epoch, epoch = %from.epoch, "log and archive differ, not archiving");
            return Ok(Read::NotOurs);
        }
        let mut entries = Vec::new();
        if head.seq > from.seq {
            let Some(read) = self.read_after(room, from).await? else {
                return Ok(Read::NotOurs);
            };
            match read.first() {
                Some(first) if first.seq == from.seq.next() => entries = read,
                Some(first) => {
                    let reason = format!(
                        "room {room}: the log begins at {} but the archive ends at {}: the archive has lost entries",
                        first.seq, from.seq
                    );
                    return Err(PortError::fatal(OPERATION, reason));
                }
                // Cut between our two looks.
                None => return Ok(Read::NotOurs),
            }
        }
        Ok(Read::Tail(Unmoved {
            from,
            entries,
            trimmed: head.trimmed,
        }))
    }

    async fn read_after(&self, room: &RoomId, from: ArchiveHead) -> Result<Option<Vec<Entry>>> {
        self.log
            .read(room, from.epoch, from.seq, self.policy.batch)
            .await
    }

    /// `None`: the epoch is over.
    pub(super) async fn write_tail(&self, room: &RoomId, tail: Unmoved) -> Result<Option<Moved>> {
        let Unmoved {
            from,
            entries,
            trimmed,
        } = tail;
        if entries.is_empty() {
            return Ok(Some(Moved {
                head: from,
                trimmed,
                full: false,
            }));
        }
        match self.archive.append(room, from.epoch, &entries).await {
            Ok(head) => {
                self.known
                    .weigh(room, &entries, self.policy.trim_keep_bytes);
                Ok(Some(Moved {
                    head,
                    trimmed,
                    full: entries.len() >= self.policy.batch,
                }))
            }
            Err(StaleEpoch::Stale(_)) => {
                self.known.forget(room);
                Ok(None)
            }
            Err(StaleEpoch::Port(error)) => Err(error),
        }
    }

    /// Tells the log, and what it may forget.
    pub(super) async fn confirm(&self, room: &RoomId, moved: Moved) -> Result<Tail> {
        let Moved { head, trimmed, .. } = moved;
        let trim_to = self.trim_to(room, head.epoch, trimmed, head.seq).await?;
        // However young, and however few.
        let beyond = self.known.beyond(room, self.policy.trim_keep_bytes);
        let trim_to = trim_to.max(beyond.unwrap_or_default().min(head.seq));
        let clean = self
            .log
            .confirm_archived(room, head.epoch, head.seq, trim_to)
            .await?;
        self.known.moved(room, head, trim_to);
        Ok(if clean {
            Tail::Clean(head)
        } else {
            Tail::More(head)
        })
    }

    /// Up to where the log may forget whatever it weighs: archived, older than the grace, and not among the last.
    async fn trim_to(
        &self,
        room: &RoomId,
        epoch: Epoch,
        trimmed: Seq,
        archived: Seq,
    ) -> Result<Seq> {
        let policy = &self.policy;
        let (mut forgotten, newest) = (trimmed.0, archived.0.saturating_sub(policy.trim_keep));
        if newest < forgotten + policy.trim_step || !self.known.may_trim(room, policy.trim_pause) {
            return Ok(trimmed);
        }
        self.known.trimmed(room);
        let grace_ms = i64::try_from(policy.trim_grace.as_millis()).unwrap_or(i64::MAX);
        let old_before_ms = chrono::Utc::now()
            .timestamp_millis()
            .saturating_sub(grace_ms);
        // Entries lie in order of time (but for the pods' clocks), so halving finds the youngest that is old enough:
        // a dozen reads of one entry, once in `trim_step` entries. All of it, if the newest is old already.
        let mut young = newest + 1;
        let mut probe = newest;
        while young > forgotten + policy.trim_step {
            let read = self.log.read(room, epoch, Seq(probe - 1), 1).await?;
            let old = match read.as_deref() {
                Some([entry]) if entry.seq.0 == probe => entry.record.ts_ms <= old_before_ms,
                // Trimmed or gone meanwhile: nothing to decide.
                _ => return Ok(trimmed),
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
