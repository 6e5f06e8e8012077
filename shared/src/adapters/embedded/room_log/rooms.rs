//! Rooms' logs as they stand in the journal: heads, where the entries of their tails lie, and which wait for the archive.

use std::collections::{HashMap, HashSet, VecDeque};

use rand::seq::IteratorRandom as _;

use super::frame::{Item, RoomKey};
use super::life::Life;
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::{LogHead, Refusal};

/// More keys than a journal can have lost that gave them: files of refs were synced before the journal that they are of.
const LOST_KEYS: RoomKey = 1 << 32;

/// Where an entry's JSON lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub at: u64,
    pub len: u32,
}

/// One room's log. The tail holds the entries after `head.trimmed`.
#[derive(Debug)]
pub struct Log {
    pub key: RoomKey,
    pub head: LogHead,
    pub tail: VecDeque<Slot>,
    /// Written in a life of the machine that is over, so that its last entries may be missing.
    pub is_broken: bool,
}

impl Log {
    /// May this writer append?
    pub fn check(&self, epoch: Epoch, seen: Seq, role_version: u64) -> Result<(), Refusal> {
        if self.head.epoch != epoch {
            return Err(Refusal::Epoch(self.head));
        }
        if self.head.seq < seen {
            return Err(Refusal::Behind(self.head));
        }
        if role_version < self.head.role_version {
            return Err(Refusal::RoleVersion(self.head.role_version));
        }
        Ok(())
    }

    /// Where the entries after `after` lie, at most `limit`, with the first one's seq.
    pub fn after(&self, after: Seq, limit: usize) -> (Seq, Vec<Slot>) {
        let skip = after.0.saturating_sub(self.head.trimmed.0);
        let first = Seq(self.head.trimmed.0 + skip + 1);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let slots = self.tail.iter().skip(skip).take(limit);
        (first, slots.copied().collect())
    }
}

/// Every room that has a log.
#[derive(Debug, Default)]
pub struct Rooms {
    logs: HashMap<RoomId, Log>,
    dirty: HashSet<RoomId>,
    last_key: RoomKey,
    /// Bytes of JSON in all tails.
    live: u64,
}

impl Rooms {
    pub fn get(&self, room: &RoomId) -> Option<&Log> {
        self.logs.get(room)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RoomId, &Log)> {
        self.logs.iter()
    }

    pub fn len(&self) -> usize {
        self.logs.len()
    }

    pub fn live_bytes(&self) -> u64 {
        self.live
    }

    /// A key that no room has or had: refs outlive their room under it.
    pub fn next_key(&self) -> RoomKey {
        self.last_key + 1
    }

    pub fn last_key(&self) -> RoomKey {
        self.last_key
    }

    /// The room's log begins (anew), with nothing in its tail.
    pub fn begin(&mut self, room: RoomId, key: RoomKey, head: LogHead) {
        self.remove(&room);
        self.last_key = self.last_key.max(key);
        self.logs.insert(
            room,
            Log {
                key,
                head,
                tail: VecDeque::new(),
                is_broken: false,
            },
        );
    }

    /// Keys up to here were given.
    pub fn gave(&mut self, key: RoomKey) {
        self.last_key = self.last_key.max(key);
    }

    /// Of every room that is here the last entries may be missing, and the keys of those that are missing with them.
    pub fn break_all(&mut self) {
        for log in self.logs.values_mut() {
            log.is_broken = true;
        }
        self.last_key += LOST_KEYS;
    }

    /// Entries follow the tail's last. True: the room had nothing waiting for the archive.
    pub fn append(
        &mut self,
        room: &RoomId,
        role_version: u64,
        slots: impl Iterator<Item = Slot>,
    ) -> bool {
        let Some(log) = self.logs.get_mut(room) else {
            return false;
        };
        for slot in slots {
            self.live += u64::from(slot.len);
            log.tail.push_back(slot);
        }
        log.head.seq = Seq(log.head.trimmed.0 + log.tail.len() as u64);
        log.head.role_version = role_version;
        log.head.seq > log.head.archived && self.dirty.insert(room.clone())
    }

    /// The head moved on: what is trimmed leaves the tail.
    pub fn set_head(&mut self, room: &RoomId, archived: Seq, trimmed: Seq, role_version: u64) {
        let Some(log) = self.logs.get_mut(room) else {
            return;
        };
        let gone = trimmed.0.saturating_sub(log.head.trimmed.0);
        for _ in 0..gone {
            self.live -= log.tail.pop_front().map_or(0, |slot| u64::from(slot.len));
        }
        if log.tail.capacity() > 4 * log.tail.len().max(16) {
            log.tail.shrink_to(2 * log.tail.len());
        }
        log.head.archived = archived;
        log.head.trimmed = trimmed;
        log.head.role_version = role_version;
        if log.head.archived == log.head.seq {
            self.dirty.remove(room);
        }
    }

    /// The tail's entries lie elsewhere now.
    pub fn moved(&mut self, room: &RoomId, tail: Vec<Slot>) {
        if let Some(log) = self.logs.get_mut(room) {
            log.tail = tail.into();
        }
    }

    pub fn remove(&mut self, room: &RoomId) {
        if let Some(log) = self.logs.remove(room) {
            self.live -= log.tail.iter().map(|slot| u64::from(slot.len)).sum::<u64>();
            self.dirty.remove(room);
        }
    }

    /// Any `limit` of those that wait for the archive: others each time, so that none waits for ever behind the limit.
    pub fn dirty(&self, limit: usize) -> Vec<RoomId> {
        if self.dirty.len() <= limit {
            return self.dirty.iter().cloned().collect();
        }
        let some = self.dirty.iter().choose_multiple(&mut rand::rng(), limit);
        some.into_iter().cloned().collect()
    }
}

/// The journal is read from its beginning.
#[derive(Default)]
pub struct Replay {
    /// Which room a key stands for.
    keys: HashMap<RoomKey, RoomId>,
    /// In which life of the machine it was written, as far as it is read.
    pub life: Option<Life>,
}

impl Replay {
    /// What follows is written in this life.
    pub fn life(&mut self, rooms: &mut Rooms, life: Life) {
        if life.may_lack(self.life) {
            rooms.break_all();
        }
        self.life = Some(life);
    }

    pub fn room(&mut self, rooms: &mut Rooms, key: RoomKey, room: RoomId, head: LogHead) {
        if let Some(log) = rooms.get(&room) {
            self.keys.remove(&log.key);
        }
        self.keys.insert(key, room.clone());
        rooms.begin(room, key, head);
    }

    /// `payload_at`: where in the file the frame's payload lies.
    pub fn entries(
        &self,
        rooms: &mut Rooms,
        key: RoomKey,
        role_version: u64,
        first: Seq,
        entries: &[Item],
        payload_at: u64,
    ) -> Result<(), String> {
        let (room, log) = self.log(rooms, key)?;
        let next = log.head.trimmed.0 + log.tail.len() as u64 + 1;
        if first.0 != next {
            return Err(format!("entry {first} of room {room} where {next} belongs"));
        }
        let slots = entries.iter().map(|item| Slot {
            at: payload_at + item.at as u64,
            len: item.len,
        });
        rooms.append(room, role_version, slots);
        Ok(())
    }

    pub fn head(
        &self,
        rooms: &mut Rooms,
        key: RoomKey,
        archived: Seq,
        trimmed: Seq,
        role_version: u64,
    ) -> Result<(), String> {
        let (room, log) = self.log(rooms, key)?;
        if trimmed < log.head.trimmed || archived > log.head.seq || trimmed > archived {
            return Err(format!("the head of room {room} does not fit its entries"));
        }
        rooms.set_head(room, archived, trimmed, role_version);
        Ok(())
    }

    pub fn removed(&mut self, rooms: &mut Rooms, key: RoomKey) -> Result<(), String> {
        let room = self.keys.remove(&key);
        rooms.remove(&room.ok_or_else(|| format!("no room has key {key}"))?);
        Ok(())
    }

    fn log<'k, 'r>(
        &'k self,
        rooms: &'r Rooms,
        key: RoomKey,
    ) -> Result<(&'k RoomId, &'r Log), String> {
        let room = self.keys.get(&key);
        let log = room.and_then(|room| Some((room, rooms.get(room)?)));
        log.ok_or_else(|| format!("no room has key {key}"))
    }
}
