//! Holes, lost logs and new epochs: how a live room stays in agreement with the log and the archive.

use std::collections::HashSet;
use std::time::Duration;

use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, Seq};
use atelier_shared::domain::state::RoomState;
use atelier_shared::ports::{LogHead, Result};
use atelier_shared::recovery;
use futures::FutureExt;
use tokio::time::Instant;

use super::actor::{Actor, BoardSnapshot, Done};
use super::loading::load;

/// A hole may close by itself: an answer and a publication race each other.
pub const HOLE_PATIENCE: Duration = Duration::from_millis(30);
/// Entries kept while their predecessors are missing.
pub const AHEAD_MAX: usize = 10_000;
/// A look at the log's head.
#[derive(Debug)]
pub struct Looked {
    /// Which of this room's looks.
    pub number: u64,
    /// How far the room was when it began: what the log lacks of that is lost, what came since is not in this look.
    pub seen: (Epoch, Seq),
    pub head: Result<Option<LogHead>>,
    /// False: the log's store was started again since, so that its last entries may be missing. Asked only where somebody
    /// knows of more than this room.
    pub unbroken: bool,
}

/// The last entry that was applied, as far as it tells its log from another one of the same epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastApplied {
    seq: Seq,
    ts_ms: i64,
    author: (ClientId, Option<ConnectionId>),
}

impl LastApplied {
    pub fn of(entry: &Entry) -> Self {
        let author = &entry.record.author;
        Self {
            seq: entry.seq,
            ts_ms: entry.record.ts_ms,
            author: (author.client_id.clone(), author.connection),
        }
    }
}

/// Entries read back at a time.
const REPAIR_PAGE: usize = 1_000;
/// Beats of housekeeping between two looks at the log's head.
const VERIFY_EVERY: u64 = 3;
/// Beats between two comparisons with presence.
const PEOPLE_EVERY: u64 = 10;

impl Actor {
    pub fn keep_house(&mut self, _now: Instant) {
        self.beats += 1;
        self.look_after_sockets();
        self.part_with_those_who_waited();
        self.look_after_editors();
        self.write_changed();
        self.look_after_document();
        self.settle_ring();
        self.look_who_is_gone();
        self.hold_names();
        if self.locals.is_empty() && self.simulated.is_empty() {
            return;
        }
        self.move_simulated();
        if self.beats.is_multiple_of(VERIFY_EVERY) {
            self.verify();
        }
        if self.beats.is_multiple_of(PEOPLE_EVERY) {
            self.refresh_people();
        }
    }

    /// Compares what was applied with the log's head: finds a lost log, and publications that never came.
    pub fn verify(&mut self) {
        self.looks += 1;
        let number = self.looks;
        let seen = (self.head.epoch, self.applied);
        let doubted = !self.ahead_of_us.is_empty();
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let look = async move {
            let log = &rooms.backends.log;
            let mut head = log.head(&room).await;
            let mut unbroken = true;
            if doubted && matches!(head, Ok(Some(_))) {
                match log.is_unbroken(&room).await {
                    Ok(is) => unbroken = is,
                    Err(error) => head = Err(error),
                }
            }
            Done::Looked(Looked {
                number,
                seen,
                head,
                unbroken,
            })
        };
        self.work.push(look.boxed());
    }

    pub fn verified(&mut self, looked: Looked) {
        let Looked {
            number,
            seen,
            head,
            unbroken,
        } = looked;
        if seen.0 != self.head.epoch {
            // Of an epoch that is over here.
            return;
        }
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => return self.activate(),
            Err(error) => {
                tracing::debug!(room = %self.room.id, %error, "the log is away");
                return;
            }
        };
        if head.epoch != self.head.epoch || head.seq < seen.1 {
            return self.activate();
        }
        self.archived(head.epoch, head.archived);
        let log = (head.epoch, head.seq);
        let lacks = |waiting: &super::actor::AheadOfUs| {
            waiting.looks_before < number && (waiting.epoch, waiting.seq) > log
        };
        if !unbroken && self.ahead_of_us.iter().any(lacks) {
            // A client's word alone is no proof; that the store was started again since is.
            tracing::warn!(room = %self.room.id, seq = %head.seq, "the log lacks what a client was told");
            self.forked = true;
            return self.activate();
        }
        self.begin_those_ahead_of_the_log(log, number);
        if head.role_version > self.head.role_version {
            // Nobody's signal came through.
            self.read_roles();
        }
        if head.seq <= self.applied {
            self.head_behind = false;
            return;
        }
        // Normal once, while a publication is on its way; twice in a row it was lost.
        if self.head_behind || self.hole_since.is_some() || !self.ahead_of_us.is_empty() {
            self.hole_since.get_or_insert_with(Instant::now);
        }
        self.head_behind = !self.head_behind;
    }

    /// Publications went by unheard: the store may have been away, and have come back with less. If others have written since
    /// it may be as long as before again, so what stands at the last place is looked at.
    pub fn look_at_last(&mut self) {
        let Some(last) = self.last_applied.clone() else {
            return;
        };
        let (rooms, room, epoch) = (self.rooms.clone(), self.room.id.clone(), self.head.epoch);
        let read = async move {
            let b = &rooms.backends;
            let before = Seq(last.seq.0.saturating_sub(1));
            let read = recovery::read_after(&*b.log, &*b.archive, &room, epoch, before, 1).await;
            let there = read.ok().flatten().and_then(|page| page.into_iter().next());
            let there = there.map(Box::new);
            Done::LastRead { epoch, last, there }
        };
        self.work.push(read.boxed());
    }

    pub fn last_read(&mut self, epoch: Epoch, last: &LastApplied, there: Option<&Entry>) {
        let forked = there.is_some_and(|there| LastApplied::of(there) != *last);
        if forked && epoch == self.head.epoch {
            tracing::warn!(room = %self.room.id, seq = %last.seq, "the log was rolled back and written to since");
            self.forked = true;
            self.activate();
        }
    }

    /// Reads back what is missing, once it has been missing for a moment.
    pub fn repair_holes(&mut self, now: Instant) {
        let due = self
            .hole_since
            .is_some_and(|since| now >= since + HOLE_PATIENCE);
        if !due || self.repairing || self.activating {
            return;
        }
        self.repairing = true;
        self.rooms.metrics.gaps.inc();
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let (epoch, after) = (self.head.epoch, self.applied);
        let read = async move {
            let b = &rooms.backends;
            let read =
                recovery::read_after(&*b.log, &*b.archive, &room, epoch, after, REPAIR_PAGE).await;
            Done::Repaired { epoch, read }
        };
        self.work.push(read.boxed());
    }

    pub fn repaired(&mut self, epoch: Epoch, read: Result<Option<Vec<Entry>>>) {
        self.repairing = false;
        if epoch != self.head.epoch {
            // Of a log that is over: what stands at these places now is something else.
            return;
        }
        match read {
            Ok(Some(entries)) => {
                let full = entries.len() >= REPAIR_PAGE;
                for entry in entries {
                    self.receive(entry);
                }
                let still = full || !self.ahead.is_empty();
                self.hole_since = still.then(Instant::now);
            }
            Ok(None) => self.activate(),
            Err(error) => {
                tracing::warn!(room = %self.room.id, %error, "a hole will be read back later");
                self.hole_since = Some(Instant::now() + Duration::from_millis(500));
            }
        }
    }

    /// The log is not what this room was loaded from: loads it anew, by the epoch rule.
    pub fn activate(&mut self) {
        if self.activating {
            return;
        }
        self.activating = true;
        let (rooms, room) = (self.rooms.clone(), self.room.clone());
        // Of a log that went another way no length is right.
        let length = if self.forked {
            Seq(u64::MAX)
        } else {
            self.applied
        };
        let seen = (self.head.epoch, length);
        let load = async move {
            let loaded = load(&rooms, &room, Some(seen)).await;
            if loaded.is_err() {
                // The store is away: not in a tight circle.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Done::Activated(loaded.map(Box::new))
        };
        self.work.push(load.boxed());
    }

    pub fn activated(&mut self, result: Result<Box<(LogHead, RoomState, Seq)>>) {
        self.activating = false;
        let (head, state, applied) = match result {
            Ok(loaded) => *loaded,
            Err(error) => {
                tracing::warn!(room = %self.room.id, %error, "the room could not be loaded anew yet");
                self.give_up_waiting();
                return self.activate();
            }
        };
        if head.epoch == self.head.epoch && self.forked {
            return self.activate();
        }
        self.forked = false;
        if head.epoch == self.head.epoch {
            // Nothing was lost after all; what was missed comes as a repair. (This room may know more than was loaded: it
            // went on meanwhile.)
            self.archived(head.epoch, head.archived);
            self.head = LogHead {
                archived: self.head.archived,
                role_version: self.head.role_version.max(head.role_version),
                ..head
            };
            if applied > self.applied {
                self.hole_since.get_or_insert_with(Instant::now);
            }
            return;
        }
        tracing::warn!(
            room = %self.room.id,
            from = %self.head.epoch,
            to = %head.epoch,
            seq = %applied,
            "the room's log was lost or rolled back: new epoch"
        );
        self.rooms.metrics.reloads.inc();
        self.head = head;
        self.state = state;
        self.applied = applied;
        self.last_applied = None;
        self.board = None;
        self.document_loaded();
        self.known.forget();
        self.draws.clear();
        self.draws_acked = 0;
        self.boards_owed.clear();
        self.ahead.clear();
        // Those who wait are told to reload, and say it again.
        self.stored_ahead.clear();
        self.tried.forget();
        // What others wrote since it was loaded went by unheard.
        self.hole_since = Some(Instant::now());
        {
            let mut feed = self.shared.feed.write();
            feed.ring.reset(applied);
            self.shared.set_epoch(head.epoch);
            self.told = (feed.ring.end(), feed.latest.version());
        }
        let everybody: Vec<ConnectionId> = self.locals.keys().copied().collect();
        let waiting: HashSet<ConnectionId> = self
            .ahead_of_us
            .iter()
            .map(|waiting| waiting.connection)
            .collect();
        for id in everybody {
            if !waiting.contains(&id) {
                self.restart(id, "the log was lost or rolled back");
            }
        }
        self.begin_those_we_caught_up_with();
        if !self.ahead_of_us.is_empty() {
            // They know this epoch already.
            self.verify();
        }
        // What lost the log may have lost who is here.
        self.refresh_people();
    }

    /// The drawing as it is now; made once for all who join before the next stroke.
    pub fn board_snapshot(&mut self) -> Option<std::sync::Arc<BoardSnapshot>> {
        if self.state.board.is_empty() {
            return None;
        }
        let (board, seq) = (&self.state.board, self.applied);
        let snapshot = self.board.get_or_insert_with(|| {
            std::sync::Arc::new(BoardSnapshot {
                seq,
                drawing: board.drawing(),
                frames: tokio::sync::OnceCell::new(),
            })
        });
        Some(snapshot.clone())
    }
}
