//! What this process remembers of rooms it has archived, so that moving a few entries costs few reads. None of it has to be
//! right: the archive compares epoch and place, and whatever does not fit is read anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{RoomId, Seq};
use atelier_shared::ports::ArchiveHead;
use parking_lot::Mutex;

use super::weight::Weight;

/// Rooms remembered; beyond it all are forgotten, which costs a few reads each.
const ROOMS_MAX: usize = 20_000;

#[derive(Debug, Default, Clone)]
struct Room {
    /// Where the archive was after our last move, and how far the log was trimmed.
    head: Option<(ArchiveHead, Seq)>,
    /// When it was last looked at for trimming, for unloading, and when it failed for good.
    trimmed: Option<Instant>,
    watched: Option<Instant>,
    failed: Option<Instant>,
    /// What was moved of late.
    weight: Weight,
}

#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<RoomId, Room>>);

impl Known {
    fn get<T>(&self, room: &RoomId, of: impl FnOnce(&Room) -> Option<T>) -> Option<T> {
        self.0.lock().get(room).and_then(of)
    }

    fn set(&self, room: &RoomId, change: impl FnOnce(&mut Room)) {
        let mut rooms = self.0.lock();
        if rooms.len() >= ROOMS_MAX && !rooms.contains_key(room) {
            rooms.clear();
        }
        change(rooms.entry(room.clone()).or_default());
    }

    /// Where the archive was, and how far the log was trimmed.
    pub fn head(&self, room: &RoomId) -> Option<(ArchiveHead, Seq)> {
        self.get(room, |known| known.head)
    }

    pub fn moved(&self, room: &RoomId, head: ArchiveHead, trimmed: Seq) {
        self.set(room, |known| known.head = Some((head, trimmed)));
    }

    /// These were moved, and lie in the log still.
    pub fn weigh(&self, room: &RoomId, entries: &[Entry], keep: u64) {
        self.set(room, |known| known.weight.add(entries, keep));
    }

    /// Up to where the log holds more than `keep` bytes behind.
    pub fn beyond(&self, room: &RoomId, keep: u64) -> Option<Seq> {
        self.get(room, |known| known.weight.beyond(keep))
    }

    /// Log and archive may have moved apart.
    pub fn forget(&self, room: &RoomId) {
        self.0.lock().remove(room);
    }

    /// May it be looked at for trimming? Says so once in `pause`.
    pub fn may_trim(&self, room: &RoomId, pause: Duration) -> bool {
        self.get(room, |known| known.trimmed)
            .is_none_or(|at| at.elapsed() >= pause)
    }

    pub fn trimmed(&self, room: &RoomId) {
        self.set(room, |known| known.trimmed = Some(Instant::now()));
    }

    pub fn is_watched(&self, room: &RoomId, within: Duration) -> bool {
        self.get(room, |known| known.watched)
            .is_some_and(|at| at.elapsed() < within)
    }

    pub fn watched(&self, room: &RoomId) {
        self.set(room, |known| known.watched = Some(Instant::now()));
    }

    /// It can't be moved, and a job of its own says why: the group's leaves it alone for `pause`.
    pub fn is_set_aside(&self, room: &RoomId, pause: Duration) -> bool {
        self.get(room, |known| known.failed)
            .is_some_and(|at| at.elapsed() < pause)
    }

    pub fn set_aside(&self, room: &RoomId) {
        self.set(room, |known| known.failed = Some(Instant::now()));
    }
}
