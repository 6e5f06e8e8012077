//! The feed of a room: recent frames in a ring bounded by bytes, and the latest ephemeral value of each kind.
//!
//! A connection is a cursor into the ring. Whoever falls off is replayed from the log. What everybody here has had for some
//! seconds is let go: somebody who comes back later is served by the log, and a quiet room costs next to nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use std::sync::Arc;

use atelier_shared::domain::ids::{ClientId, ConnectionId, Seq, UserId};
use atelier_shared::domain::signal::EphemeralKind;
use bytes::Bytes;

use super::dialect::{Binary, Dialect, Reader};

/// What one frame is, and who gets it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// For those who speak JSON.
    pub bytes: Bytes,
    /// For those who speak a binary dialect; `None`: nothing.
    pub binary: Option<Arc<Binary>>,
    /// The last entry this frame brings its reader up to; `None` for what is not in the log.
    pub seq: Option<Seq>,
    /// It brings part of what its reader lacks up to this entry; the frame that brings the rest follows, with that `seq`.
    pub part_of: Option<Seq>,
    /// The connection that caused it: it gets `instead` (its `ack`), or nothing. One that speaks Yjs gets the frame itself:
    /// its own edit coming back is how it knows that it is stored.
    pub origin: Option<ConnectionId>,
    pub instead: Option<Bytes>,
    pub audience: Audience,
}

/// Whom a frame is for.
#[derive(Debug, Clone)]
pub enum Audience {
    All,
    /// Nobody but the origin, which gets `instead`.
    Origin,
    People(Vec<UserId>),
}

impl Frame {
    /// A frame for everybody but `origin`.
    pub fn to_others(bytes: Bytes, origin: Option<ConnectionId>) -> Self {
        Self {
            bytes,
            binary: None,
            seq: None,
            part_of: None,
            origin,
            instead: None,
            audience: Audience::All,
        }
    }

    /// A frame that only `origin` gets, at its place between the others.
    pub fn to_origin(bytes: Bytes, origin: ConnectionId) -> Self {
        Self {
            bytes: Bytes::new(),
            binary: None,
            seq: None,
            part_of: None,
            origin: Some(origin),
            instead: Some(bytes),
            audience: Audience::Origin,
        }
    }

    /// What this reader gets of it, if anything. `own`: what it caused itself is to be delivered as to anybody (it was
    /// missed, and asked for by `resume`).
    pub fn for_reader(&self, reader: &Reader<'_>, own: bool) -> Option<Bytes> {
        if self.origin == Some(reader.connection) && !own && reader.dialect != Dialect::Yjs {
            return self.instead.clone();
        }
        let visible = match &self.audience {
            Audience::All => true,
            Audience::Origin => false,
            Audience::People(people) => people.contains(&reader.person),
        };
        if !visible {
            return None;
        }
        match reader.dialect {
            Dialect::Json => (!self.bytes.is_empty()).then(|| self.bytes.clone()),
            Dialect::Yjs | Dialect::Hocuspocus => self.binary.as_ref()?.of(reader),
        }
    }

    /// Short, for its origin alone, and nothing that a replay of the log brings: an ack of what was logged before.
    fn is_of_the_ring_alone(&self) -> bool {
        let short = |bytes: &Bytes| bytes.len() <= KEPT_BYTES_MAX;
        matches!(self.audience, Audience::Origin)
            && self.seq.or(self.part_of).is_none()
            && self.instead.as_ref().is_some_and(short)
    }

    /// About the bytes that it holds in memory.
    fn size(&self) -> usize {
        let binary = self.binary.as_ref();
        let binary = binary.map_or(0, |b| {
            size_of::<Binary>() + b.yjs.len() + b.hocuspocus.len()
        });
        let instead = self.instead.as_ref().map_or(0, Bytes::len);
        size_of::<Self>() + self.bytes.len() + instead + binary
    }
}

/// Beats for which a frame is held that everybody has had.
const BEATS: usize = 5;
/// Places for frames that may be spare.
const MANY_SPARE: usize = 16;
/// Frames that stay for whoever fell off, as nothing else brings them; beyond it the oldest go. And their bytes, each.
const KEPT_MAX: usize = 1_024;
const KEPT_BYTES_MAX: usize = 1_024;

/// Frames by a running index. `start..end` is what is held.
#[derive(Debug)]
pub struct Ring {
    frames: VecDeque<Frame>,
    start: u64,
    /// Of the frames before `start`: those that a replay of the log does not bring, with their places.
    kept: VecDeque<(u64, Frame)>,
    /// Where the ring ended at the last beats.
    ends: [u64; BEATS],
    bytes: usize,
    limit: usize,
    /// The seq of the last entry that is no longer held (or that the room was loaded with).
    before: Seq,
    /// The seq of the last entry that was pushed.
    last: Seq,
}

impl Ring {
    pub fn new(limit: usize, seq: Seq) -> Self {
        Self {
            frames: VecDeque::new(),
            start: 0,
            kept: VecDeque::new(),
            ends: [0; BEATS],
            bytes: 0,
            limit,
            before: seq,
            last: seq,
        }
    }

    pub fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    pub fn last_seq(&self) -> Seq {
        self.last
    }

    pub fn push(&mut self, frame: Frame) {
        if let Some(seq) = frame.seq {
            self.last = seq;
        }
        self.bytes += frame.size();
        self.frames.push_back(frame);
        while self.bytes > self.limit && self.frames.len() > 1 {
            let at = self.start;
            if let Some(frame) = self.drop_first()
                && frame.is_of_the_ring_alone()
            {
                if self.kept.len() == KEPT_MAX {
                    self.kept.pop_front();
                }
                self.kept.push_back((at, frame));
            }
        }
    }

    /// Once a beat. Some: so far the frames are older than [`BEATS`] beats; who has had them need not find them here.
    pub fn beat(&mut self) -> Option<u64> {
        let old = self.ends[0];
        self.ends.rotate_left(1);
        self.ends[BEATS - 1] = self.end();
        (old > self.start || !self.kept.is_empty()).then_some(old)
    }

    /// Lets go of the frames before `index`, and of the room that they took.
    pub fn let_go(&mut self, index: u64) {
        while self.start < index && !self.frames.is_empty() {
            self.drop_first();
        }
        while self.kept.pop_front_if(|(at, _)| *at < index).is_some() {}
        if self.frames.capacity() > 4 * self.frames.len().max(MANY_SPARE) {
            self.frames.shrink_to(2 * self.frames.len());
        }
    }

    fn drop_first(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.start += 1;
        self.bytes -= frame.size();
        // Whoever lacks a part lacks the whole, also where its last frame is still held.
        if let Some(seq) = frame.seq.or(frame.part_of) {
            self.before = seq;
        }
        Some(frame)
    }

    /// Starts over at `seq` (a new epoch): indexes go on rising, so cursors stay comparable.
    pub fn reset(&mut self, seq: Seq) {
        self.start = self.end();
        self.frames.clear();
        self.kept.clear();
        self.bytes = 0;
        self.before = seq;
        self.last = seq;
    }

    /// The frames from `index` on; `None` if some of them are gone.
    pub fn from(&self, index: u64) -> Option<impl Iterator<Item = &Frame>> {
        let skip = usize::try_from(index.checked_sub(self.start)?).ok()?;
        Some(self.frames.iter().skip(skip))
    }

    /// What this reader goes past, and no replay brings it, if it goes on at `to` instead of at `from`.
    pub fn passed_over(&self, reader: &Reader<'_>, from: u64, to: u64) -> Vec<Bytes> {
        let first = from.clamp(self.start, self.end());
        let skip = usize::try_from(first - self.start).unwrap_or(usize::MAX);
        let held = (first..).zip(self.frames.iter().skip(skip));
        let kept = self.kept.iter().map(|(at, frame)| (*at, frame));
        kept.filter(|(at, _)| *at >= from)
            .chain(held)
            .take_while(|(at, _)| *at < to)
            .filter(|(_, frame)| frame.is_of_the_ring_alone())
            .filter_map(|(_, frame)| frame.for_reader(reader, false))
            .collect()
    }

    /// Where a reader that has all entries up to `seq` goes on; `None` if it has fallen off.
    pub fn position_after(&self, seq: Seq) -> Option<u64> {
        if seq < self.before {
            return None;
        }
        let is_behind = |f: &Frame| f.seq.or(f.part_of).is_some_and(|s| s > seq);
        let behind = self.frames.iter().position(is_behind);
        Some(behind.map_or(self.end(), |behind| self.start + behind as u64))
    }
}

/// One latest value.
#[derive(Debug, Clone)]
pub struct Latest {
    /// For those who speak JSON; empty: nothing.
    pub bytes: Bytes,
    pub binary: Option<Arc<Binary>>,
    pub origin: Option<ConnectionId>,
}

impl Latest {
    pub fn json(bytes: Bytes, origin: Option<ConnectionId>) -> Self {
        Self {
            bytes,
            binary: None,
            origin,
        }
    }

    pub fn for_reader(&self, reader: &Reader<'_>) -> Option<Bytes> {
        if self.origin == Some(reader.connection) {
            return None;
        }
        match reader.dialect {
            Dialect::Json => (!self.bytes.is_empty()).then(|| self.bytes.clone()),
            Dialect::Yjs | Dialect::Hocuspocus => self.binary.as_ref()?.of(reader),
        }
    }
}

/// Whose and what: the key under which a later value overwrites an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LatestKey {
    Client(ClientId, &'static str),
    /// What an editor shows of itself, by its Yjs client id.
    Awareness(u64),
    /// Of the room itself (`archived`): not urgent.
    Room(&'static str),
}

/// The latest values, in the order they were written; a reader remembers the version it has seen.
#[derive(Debug, Default)]
pub struct LatestValues {
    by_version: BTreeMap<u64, (LatestKey, Latest)>,
    versions: HashMap<LatestKey, u64>,
    next: u64,
    /// The version of the newest value that sockets are to be written for.
    urgent: u64,
}

impl LatestValues {
    /// The version of the newest value; a reader that has seen it has seen all.
    pub fn version(&self) -> u64 {
        self.next
    }

    pub fn set(&mut self, key: LatestKey, latest: Latest) {
        self.next += 1;
        if let Some(old) = self.versions.insert(key.clone(), self.next) {
            self.by_version.remove(&old);
        }
        if !matches!(key, LatestKey::Room(_)) {
            self.urgent = self.next;
        }
        self.by_version.insert(self.next, (key, latest));
    }

    /// The version up to which values must not wait. What a room says of itself (how far it is archived) is worth no write
    /// of its own to every socket: it goes with the next one, or when [`Self::hasten`] says so.
    pub fn urgent(&self) -> u64 {
        self.urgent
    }

    /// Everything has waited long enough.
    pub fn hasten(&mut self) {
        self.urgent = self.next;
    }

    pub fn since(&self, version: u64) -> impl Iterator<Item = &Latest> {
        self.by_version
            .range(version + 1..)
            .map(|(_, (_, latest))| latest)
    }

    /// Forgets one value: nobody needs to be told of it any more.
    pub fn drop_value(&mut self, key: &LatestKey) {
        if let Some(version) = self.versions.remove(key) {
            self.by_version.remove(&version);
        }
    }

    pub fn get(&self, key: &LatestKey) -> Option<&Latest> {
        let version = self.versions.get(key)?;
        self.by_version.get(version).map(|(_, latest)| latest)
    }

    /// Is anything of this client remembered?
    pub fn has_of(&self, client: &ClientId) -> bool {
        keys_of(client).any(|key| self.versions.contains_key(&key))
    }

    /// Forgets everything of a client that left.
    pub fn forget(&mut self, client: &ClientId) {
        keys_of(client).for_each(|key| self.drop_value(&key));
    }
}

fn keys_of(client: &ClientId) -> impl Iterator<Item = LatestKey> {
    let kinds = EphemeralKind::WORDS.iter().copied();
    kinds.map(|kind| LatestKey::Client(client.clone(), kind))
}

/// Ring and latest values under one lock; the room's task writes, connections read.
#[derive(Debug)]
pub struct Feed {
    pub ring: Ring,
    pub latest: LatestValues,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, size: usize) -> Frame {
        Frame {
            seq: Some(Seq(seq)),
            ..Frame::to_others(Bytes::from(vec![0; size]), None)
        }
    }

    #[test]
    fn a_reader_that_fell_off_is_told_so() {
        let mut ring = Ring::new(100 + 2 * size_of::<Frame>(), Seq(5));
        for seq in 6..=10 {
            ring.push(entry(seq, 40));
        }
        assert_eq!(ring.end(), 5);
        assert!(ring.from(0).is_none(), "index 0 was dropped");
        assert_eq!(ring.position_after(Seq(5)), None);
        assert_eq!(ring.position_after(Seq(8)), Some(3));
        assert_eq!(ring.position_after(Seq(10)), Some(5));
        assert_eq!(ring.from(3).unwrap().count(), 2);
    }

    #[test]
    fn what_only_the_ring_tells_somebody_is_kept_for_who_fell_off() {
        let (ana, person) = (ConnectionId::generate(), UserId::generate());
        let reader = |connection| Reader {
            connection,
            person,
            dialect: Dialect::Json,
            key: None,
        };
        let ack = |text: &'static str| Frame::to_origin(Bytes::from_static(text.as_bytes()), ana);
        let mut ring = Ring::new(100 + 2 * size_of::<Frame>(), Seq(0));
        ring.push(ack("had"));
        ring.push(ack("first"));
        ring.push(entry(1, 90));
        ring.push(entry(2, 90));
        ring.push(ack("second"));
        ring.push(entry(3, 40));
        assert!(ring.from(1).is_none(), "it fell off");
        let to = ring.position_after(Seq(2)).unwrap();
        assert_eq!(ring.passed_over(&reader(ana), 1, to), ["first", "second"]);
        let ben = ConnectionId::generate();
        assert!(ring.passed_over(&reader(ben), 0, to).is_empty());
        ring.let_go(2);
        assert_eq!(ring.passed_over(&reader(ana), 0, to), ["second"]);
        assert!(ring.kept.is_empty(), "everybody has had it");
        for _ in 0..2 * KEPT_MAX {
            ring.push(ack("many"));
        }
        assert_eq!(ring.kept.len(), KEPT_MAX);
    }

    #[test]
    fn joined_entries_are_not_cut() {
        let mut ring = Ring::new(1_000, Seq(0));
        ring.push(entry(3, 1));
        ring.push(Frame::to_others(Bytes::from_static(b"x"), None));
        ring.push(entry(4, 1));
        assert_eq!(ring.position_after(Seq(2)), Some(0));
        assert_eq!(ring.position_after(Seq(3)), Some(2));
    }

    #[test]
    fn of_an_entry_in_parts_all_are_had_or_none() {
        let part = |of: u64| Frame {
            part_of: Some(Seq(of)),
            ..Frame::to_others(Bytes::from(vec![0; 40]), None)
        };
        let mut ring = Ring::new(150 + 3 * size_of::<Frame>(), Seq(4));
        ring.push(part(9));
        ring.push(part(9));
        ring.push(entry(9, 40));
        assert_eq!(ring.position_after(Seq(4)), Some(0), "from the first part");
        assert_eq!(ring.position_after(Seq(9)), Some(3));
        ring.push(entry(10, 40));
        assert_eq!(ring.position_after(Seq(4)), None, "a part fell off");
        assert_eq!(ring.position_after(Seq(9)), Some(3));
    }

    #[test]
    fn what_everybody_has_had_for_some_beats_is_let_go() {
        let mut ring = Ring::new(1 << 20, Seq(0));
        for seq in 1..=100 {
            ring.push(entry(seq, 40));
        }
        for beat in 0..BEATS {
            assert_eq!(ring.beat(), None, "beat {beat}");
        }
        ring.push(entry(101, 40));
        let old = ring.beat();
        assert_eq!(old, Some(100));
        // Somebody has not had the last three of them.
        ring.let_go(97);
        assert_eq!(ring.position_after(Seq(96)), None);
        assert_eq!(ring.position_after(Seq(97)), Some(97));
        assert!(ring.bytes < 5 * (40 + size_of::<Frame>()), "{}", ring.bytes);
        assert!(ring.frames.capacity() <= 4 * MANY_SPARE);
        ring.let_go(1_000);
        assert_eq!((ring.end(), ring.bytes), (101, 0));
        assert_eq!(ring.position_after(Seq(101)), Some(101));
        assert_eq!(ring.beat(), None, "nothing is held");
    }

    #[test]
    fn a_reset_keeps_indexes_rising() {
        let mut ring = Ring::new(1_000, Seq(0));
        ring.push(entry(1, 1));
        ring.reset(Seq(0));
        assert_eq!((ring.end(), ring.position_after(Seq(0))), (1, Some(1)));
        assert!(ring.from(0).is_none());
    }

    #[test]
    fn only_the_latest_value_of_a_kind_is_kept() {
        let client: ClientId = "a".parse().unwrap();
        let mut values = LatestValues::default();
        let set = |values: &mut LatestValues, kind, text: &'static [u8]| {
            let latest = Latest::json(Bytes::from_static(text), None);
            values.set(LatestKey::Client(client.clone(), kind), latest);
        };
        set(&mut values, "cursor", b"1");
        set(&mut values, "typing", b"t");
        set(&mut values, "cursor", b"2");
        let seen: Vec<_> = values.since(0).map(|l| l.bytes.clone()).collect();
        assert_eq!(seen, [&b"t"[..], &b"2"[..]]);
        assert_eq!(values.since(3).count(), 0);
        assert!(values.has_of(&client) && !values.has_of(&"b".parse().unwrap()));
        values.forget(&client);
        assert!(values.since(0).count() == 0 && !values.has_of(&client));
    }

    #[test]
    fn what_a_room_says_of_itself_waits_for_company() {
        let mut values = LatestValues::default();
        let latest = || Latest::json(Bytes::from_static(b"x"), None);
        values.set(LatestKey::Room("archived"), latest());
        assert_eq!((values.urgent(), values.version()), (0, 1));
        values.set(LatestKey::Client("a".parse().unwrap(), "cursor"), latest());
        assert_eq!(values.urgent(), 2, "both go now");
        values.set(LatestKey::Room("archived"), latest());
        values.hasten();
        assert_eq!(values.urgent(), 3);
    }
}
