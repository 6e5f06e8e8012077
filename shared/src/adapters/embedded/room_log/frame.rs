//! What the journal says, as bytes: frames of steps. A frame is written and believed as a whole.
//!
//! A frame is the payload's length (u32), its checksum (XXH64, u64) and the payload: one step after another, each a byte that
//! says which and its fields. Numbers are little-endian.

use twox_hash::XxHash64;

use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::{APPEND_MAX, APPEND_MAX_BYTES, LogHead};

use super::life::{BOOT_BYTES, Life};
use super::refs::{Known, REF_BYTES, RefHash};

/// Length and checksum.
pub const HEADER: usize = 12;
/// What an entry takes besides its JSON: two lengths, its ref and until when that counts.
const ENTRY_EXTRA: usize = 4 + 1 + REF_BYTES + 8;
/// A payload, at most: the largest append, and a step's own fields.
pub const PAYLOAD_MAX: usize = APPEND_MAX_BYTES + APPEND_MAX * ENTRY_EXTRA + 1024;

/// Which room a step is about. Each time that a room is seeded it gets a new one.
pub type RoomKey = u64;

const ROOM: u8 = 1;
const ENTRIES: u8 = 2;
const HEAD: u8 = 3;
const REMOVED: u8 = 4;
const REF: u8 = 5;
const LIFE: u8 = 6;
const LAST_KEY: u8 = 7;

/// One step, as it is read back.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A room's log begins (anew); its tail is empty.
    Room {
        key: RoomKey,
        room: &'a str,
        head: LogHead,
    },
    /// Entries from `first` on.
    Entries {
        key: RoomKey,
        role_version: u64,
        first: Seq,
        entries: Vec<Item>,
    },
    Head {
        key: RoomKey,
        archived: Seq,
        trimmed: Seq,
        role_version: u64,
    },
    Removed {
        key: RoomKey,
    },
    Ref {
        hash: RefHash,
        known: Known,
    },
    /// What follows is written in this life of the machine.
    Life(Life),
    /// Keys up to here were given to rooms, some of which are gone.
    LastKey {
        key: RoomKey,
    },
}

/// One entry: where its JSON lies in the payload, and its ref.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    pub at: usize,
    pub len: u32,
    pub reference: Option<(RefHash, i64)>,
}

/// A frame as it is put together.
#[derive(Debug)]
pub struct Frame(Vec<u8>);

impl Frame {
    pub fn new() -> Self {
        Self(vec![0; HEADER])
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn clear(&mut self) {
        self.0.truncate(HEADER);
        // One large append must not hold its room for ever.
        self.0.shrink_to(64 * 1024);
    }

    /// The bytes to write: the header fits what was put in.
    pub fn seal(&mut self) -> &[u8] {
        let payload = &self.0[HEADER..];
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let sum = XxHash64::oneshot(0, payload);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0[4..HEADER].copy_from_slice(&sum.to_le_bytes());
        &self.0
    }

    pub fn room(&mut self, key: RoomKey, room: &RoomId, head: &LogHead) {
        self.step(ROOM, key);
        let name = room.as_str().as_bytes();
        // An id is short: `RoomId` says how short.
        self.0.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(name);
        for number in [
            head.epoch.0,
            head.seq.0,
            head.archived.0,
            head.trimmed.0,
            head.role_version,
            head.seeded_at_ms.cast_unsigned(),
            head.seeded_seq.0,
        ] {
            self.number(number);
        }
    }

    /// `count` calls of [`Self::entry`] follow.
    pub fn entries(&mut self, key: RoomKey, role_version: u64, first: Seq, count: u32) {
        self.step(ENTRIES, key);
        self.number(role_version);
        self.number(first.0);
        self.0.extend_from_slice(&count.to_le_bytes());
    }

    /// Where in the frame the JSON lies.
    pub fn entry(&mut self, json: &[u8], reference: Option<(RefHash, i64)>) -> usize {
        match reference {
            Some((hash, until_ms)) => {
                self.0.push(1);
                self.0.extend_from_slice(&hash);
                self.number(until_ms.cast_unsigned());
            }
            None => self.0.push(0),
        }
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_le_bytes());
        let at = self.0.len();
        self.0.extend_from_slice(json);
        at
    }

    pub fn head(&mut self, key: RoomKey, head: &LogHead) {
        self.step(HEAD, key);
        self.number(head.archived.0);
        self.number(head.trimmed.0);
        self.number(head.role_version);
    }

    pub fn removed(&mut self, key: RoomKey) {
        self.step(REMOVED, key);
    }

    pub fn reference(&mut self, hash: &RefHash, known: Known) {
        self.0.push(REF);
        self.0.extend_from_slice(hash);
        self.number(known.seq.0);
        self.number(known.until_ms.cast_unsigned());
    }

    pub fn life(&mut self, life: Life) {
        self.0.push(LIFE);
        self.0.extend_from_slice(&life.boot);
        self.0.push(u8::from(life.is_kept));
    }

    pub fn last_key(&mut self, key: RoomKey) {
        self.step(LAST_KEY, key);
    }

    fn step(&mut self, which: u8, key: RoomKey) {
        self.0.push(which);
        self.number(key);
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }
}

/// The payload's length, if a frame may be so long, and its checksum.
pub fn header(bytes: &[u8; HEADER]) -> Option<(usize, u64)> {
    let (length, sum) = bytes.split_at(4);
    let length = u32::from_le_bytes(length.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    let sum = u64::from_le_bytes(sum.try_into().ok()?);
    (1..=PAYLOAD_MAX).contains(&length).then_some((length, sum))
}

pub fn is_whole(payload: &[u8], sum: u64) -> bool {
    XxHash64::oneshot(0, payload) == sum
}

/// Reads steps; `None` for what is not one (of this version).
pub struct Steps<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Steps<'a> {
    pub fn of(payload: &'a [u8]) -> Self {
        Self { payload, at: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.at == self.payload.len()
    }

    pub fn read(&mut self) -> Option<Step<'a>> {
        let step = match self.byte()? {
            ROOM => {
                let key = self.number()?;
                let length = usize::from(self.byte()?);
                let room = std::str::from_utf8(self.take(length)?).ok()?;
                let head = LogHead {
                    epoch: Epoch(self.number()?),
                    seq: Seq(self.number()?),
                    archived: Seq(self.number()?),
                    trimmed: Seq(self.number()?),
                    role_version: self.number()?,
                    seeded_at_ms: self.number()?.cast_signed(),
                    seeded_seq: Seq(self.number()?),
                };
                Step::Room { key, room, head }
            }
            ENTRIES => {
                let (key, role_version) = (self.number()?, self.number()?);
                let first = Seq(self.number()?);
                let count = self.short()?;
                let entries = (0..count).map(|_| self.item());
                let entries = entries.collect::<Option<Vec<_>>>()?;
                Step::Entries {
                    key,
                    role_version,
                    first,
                    entries,
                }
            }
            HEAD => Step::Head {
                key: self.number()?,
                archived: Seq(self.number()?),
                trimmed: Seq(self.number()?),
                role_version: self.number()?,
            },
            REMOVED => Step::Removed {
                key: self.number()?,
            },
            REF => Step::Ref {
                hash: self.hash()?,
                known: Known {
                    seq: Seq(self.number()?),
                    until_ms: self.number()?.cast_signed(),
                },
            },
            LIFE => Step::Life(Life {
                boot: self.take(BOOT_BYTES)?.try_into().ok()?,
                is_kept: self.byte()? != 0,
            }),
            LAST_KEY => Step::LastKey {
                key: self.number()?,
            },
            _ => return None,
        };
        Some(step)
    }

    fn item(&mut self) -> Option<Item> {
        let reference = match self.byte()? {
            0 => None,
            _ => Some((self.hash()?, self.number()?.cast_signed())),
        };
        let len = self.short()?;
        let at = self.at;
        self.take(usize::try_from(len).ok()?)?;
        Some(Item { at, len, reference })
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let bytes = self.payload.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn hash(&mut self) -> Option<RefHash> {
        self.take(REF_BYTES)?.try_into().ok()
    }

    fn short(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> LogHead {
        LogHead {
            epoch: Epoch(2),
            seq: Seq(9),
            archived: Seq(8),
            trimmed: Seq(7),
            role_version: 6,
            seeded_at_ms: -5,
            seeded_seq: Seq(4),
        }
    }

    #[test]
    fn steps_are_read_as_they_were_written() {
        let room = RoomId::generate();
        let known = Known {
            seq: Seq(3),
            until_ms: 4,
        };
        let mut frame = Frame::new();
        frame.room(1, &room, &head());
        frame.entries(1, 5, Seq(8), 2);
        let first = frame.entry(b"{}", Some(([7; REF_BYTES], 11)));
        let second = frame.entry(b"[1]", None);
        frame.head(1, &head());
        frame.reference(&[8; REF_BYTES], known);
        frame.removed(1);
        let life = Life {
            boot: [9; BOOT_BYTES],
            is_kept: true,
        };
        frame.life(life);
        frame.last_key(12);
        let bytes = frame.seal().to_vec();
        let (length, sum) = header(bytes[..HEADER].try_into().unwrap()).unwrap();
        let payload = &bytes[HEADER..];
        assert_eq!(payload.len(), length);
        assert!(is_whole(payload, sum));
        let mut steps = Steps::of(payload);
        let mut read = Vec::new();
        while !steps.is_done() {
            read.push(steps.read().expect("a step"));
        }
        let item = |at: usize, len, reference| Item {
            at: at - HEADER,
            len,
            reference,
        };
        let expected = [
            Step::Room {
                key: 1,
                room: room.as_str(),
                head: head(),
            },
            Step::Entries {
                key: 1,
                role_version: 5,
                first: Seq(8),
                entries: vec![
                    item(first, 2, Some(([7; REF_BYTES], 11))),
                    item(second, 3, None),
                ],
            },
            Step::Head {
                key: 1,
                archived: Seq(8),
                trimmed: Seq(7),
                role_version: 6,
            },
            Step::Ref {
                hash: [8; REF_BYTES],
                known,
            },
            Step::Removed { key: 1 },
            Step::Life(life),
            Step::LastKey { key: 12 },
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn no_cut_and_no_flipped_bit_is_a_frame() {
        let mut frame = Frame::new();
        frame.entries(1, 0, Seq(1), 1);
        frame.entry(b"{\"a\":1}", Some(([7; REF_BYTES], 11)));
        let bytes = frame.seal().to_vec();
        let payload = &bytes[HEADER..];
        let (_, sum) = header(bytes[..HEADER].try_into().unwrap()).unwrap();
        for cut in 0..payload.len() {
            assert!(!is_whole(&payload[..cut], sum), "cut at {cut}");
            assert!(Steps::of(&payload[..cut]).read().is_none(), "cut at {cut}");
        }
        for bit in 0..payload.len() * 8 {
            let mut flipped = payload.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_whole(&flipped, sum), "bit {bit}");
        }
        assert_eq!(header(&[0; HEADER]), None, "a file grown by zeros");
        assert_eq!(header(&[0xff; HEADER]), None);
    }
}
