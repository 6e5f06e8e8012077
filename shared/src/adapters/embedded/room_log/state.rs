//! The log's state, under one lock: what is written goes to the journal first, and then counts.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::frame::{Frame, HEADER, PAYLOAD_MAX, Step, Steps};
use super::journal::Journal;
use super::life::Life;
use super::refs::{self, Known, RefHash, Refs, Sealing};
use super::rooms::{Log, Replay, Rooms, Slot};
use crate::domain::entry::RefKey;
use crate::domain::ids::{ConnectionId, Epoch, RoomId, Seq};
use crate::ports::{Appended, Bar, LogHead, PortError, Refusal, Result};

/// How long refs are remembered.
const REF_MEMORY_MS: i64 = 24 * 60 * 60 * 1_000;
/// A journal is written anew when it is so large, and so many times as large as what counts of it.
const COMPACT_BYTES: u64 = 16 << 20;
const COMPACT_TIMES: u64 = 4;
/// What a room's head and a ref take in the journal, about.
const ROOM_BYTES: u64 = 160;
const KNOWN_BYTES: u64 = 40;
/// Of a journal that is written anew, bytes of one frame, about.
const FRAME_BYTES: usize = 1 << 20;

/// A record's JSON, and its ref.
pub struct Writing {
    pub json: Vec<u8>,
    pub reference: Option<RefKey>,
    pub connection: Option<ConnectionId>,
}

pub struct State {
    pub journal: Journal,
    pub rooms: Rooms,
    pub refs: Refs,
    frame: Frame,
    life: Life,
    room_tail_max: u64,
    /// It could not be written anew at this size: not tried again before it is twice as large.
    compact_from: u64,
}

/// What an append came to. `new`: which of the records were written.
pub struct Taken {
    pub answers: Vec<Appended>,
    pub new: Vec<(usize, Seq)>,
    pub newly_dirty: bool,
}

/// What is to be told of a confirmation.
pub struct Confirmed {
    pub clean: bool,
    pub moved: bool,
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> PortError {
    move |error| PortError::retry(doing, error)
}

impl State {
    /// Reads the journal in `folder`, or makes one.
    pub fn open(folder: &Path, life: Life, room_tail_max: u64, now_ms: i64) -> io::Result<Self> {
        let mut refs = Refs::open(folder)?;
        let mut rooms = Rooms::default();
        let mut replay = Replay::default();
        let mut journal = Journal::open(folder, |payload, at| {
            let mut steps = Steps::of(payload);
            while !steps.is_done() {
                let step = steps.read().ok_or("no step of this version")?;
                take_up(&mut replay, &mut rooms, &mut refs, step, at, now_ms)?;
            }
            if let Some(sealing) = refs.seal() {
                refs.sealed(sealing.write());
            }
            Ok(())
        })?;
        let mut frame = Frame::new();
        if replay.life != Some(life) {
            replay.life(&mut rooms, life);
            frame.last_key(rooms.last_key());
            frame.life(life);
            journal.write(&mut frame)?;
            frame.clear();
        }
        Ok(Self {
            journal,
            rooms,
            refs,
            frame,
            life,
            room_tail_max,
            compact_from: COMPACT_BYTES,
        })
    }

    /// The last frame: nothing is written after it.
    pub fn close(&mut self) -> Result<()> {
        self.frame.life(Life {
            is_kept: true,
            ..self.life
        });
        self.write("close the room log").map(drop)
    }

    pub fn seed(
        &mut self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
    ) -> Result<(LogHead, bool)> {
        let present = self.rooms.get(room).map(|log| log.head);
        let role_version = present
            .map_or(0, |head| head.role_version)
            .max(role_version);
        if let Some(head) = present.filter(|head| head.epoch >= epoch) {
            self.set_head(
                room,
                LogHead {
                    role_version,
                    ..head
                },
                "seed a room log",
            )?;
            return Ok((
                LogHead {
                    role_version,
                    ..head
                },
                false,
            ));
        }
        let head = LogHead {
            epoch,
            seq,
            archived: seq,
            trimmed: seq,
            role_version,
            seeded_at_ms: now_ms,
            seeded_seq: seq,
        };
        let key = self.rooms.next_key();
        self.frame.room(key, room, &head);
        self.write("seed a room log")?;
        self.rooms.begin(room.clone(), key, head);
        Ok((head, present.is_some()))
    }

    pub fn append(
        &mut self,
        room: &RoomId,
        (epoch, seen, role_version): (Epoch, Seq, u64),
        now_ms: i64,
        records: &[Writing],
    ) -> Result<Taken, Refusal> {
        const DOING: &str = "append to a room log";
        let log = self.rooms.get(room).ok_or(Refusal::NotSeeded)?;
        log.check(epoch, seen, role_version)?;
        let (key, head) = (log.key, log.head);
        self.refs.sweep(now_ms);
        let mut answers = Vec::with_capacity(records.len());
        let mut new: Vec<(usize, Seq, Option<RefHash>)> = Vec::with_capacity(records.len());
        let mut last = head.seq;
        for (at, record) in records.iter().enumerate() {
            let hash = record.reference.as_ref().map(|name| refs::hash(key, name));
            if let Some(hash) = &hash {
                let here = new.iter().find(|(_, _, of)| of.as_ref() == Some(hash));
                let known = match here {
                    Some((_, seq, _)) => Some(*seq),
                    None => self.refs.get(hash, now_ms).map_err(failed(DOING))?,
                };
                if let Some(seq) = known {
                    answers.push(Appended::Duplicate(seq));
                    continue;
                }
                if self.refs.is_barred(hash, record.connection, now_ms) {
                    answers.push(Appended::Barred);
                    continue;
                }
            }
            last = last.next();
            answers.push(Appended::New(last));
            new.push((at, last, hash));
        }
        if last.0 - head.archived.0 > self.room_tail_max && !new.is_empty() {
            return Err(Refusal::ArchiveBehind);
        }
        let mut newly_dirty = false;
        if !new.is_empty() {
            let until_ms = now_ms + REF_MEMORY_MS;
            let count = u32::try_from(new.len()).unwrap_or(u32::MAX);
            self.frame
                .entries(key, role_version, head.seq.next(), count);
            let mut slots = Vec::with_capacity(new.len());
            for (at, _, hash) in &new {
                let json = &records[*at].json;
                let at = self.frame.entry(json, hash.map(|hash| (hash, until_ms)));
                let len = u32::try_from(json.len()).unwrap_or(u32::MAX);
                slots.push((at as u64, len));
            }
            let frame_at = self.write(DOING)?;
            let slots = slots.into_iter().map(|(at, len)| Slot {
                at: frame_at + at,
                len,
            });
            newly_dirty = self.rooms.append(room, role_version, slots);
            for (_, seq, hash) in &new {
                let known = Known {
                    seq: *seq,
                    until_ms,
                };
                if let Some(hash) = hash {
                    self.refs.insert(*hash, known);
                }
            }
        }
        Ok(Taken {
            answers,
            new: new.into_iter().map(|(at, seq, _)| (at, seq)).collect(),
            newly_dirty,
        })
    }

    /// See [`Bar`].
    pub fn bar(&mut self, bar: &Bar<'_>) -> Result<Vec<Option<Seq>>, Refusal> {
        let log = self.rooms.get(bar.room).ok_or(Refusal::NotSeeded)?;
        log.check(bar.epoch, bar.seen, log.head.role_version)?;
        let key = log.key;
        self.refs.sweep(bar.now_ms);
        let mut seqs = Vec::with_capacity(bar.refs.len());
        for (name, connection) in bar.refs {
            let hash = refs::hash(key, name);
            let seq = self.refs.get(&hash, bar.now_ms);
            let seq = seq.map_err(failed("bar refs of a room log"))?;
            if seq.is_none() {
                let until_ms = bar.now_ms + REF_MEMORY_MS;
                self.refs.bar(hash, *connection, until_ms);
            }
            seqs.push(seq);
        }
        Ok(seqs)
    }

    pub fn seqs_of_refs(
        &self,
        room: &RoomId,
        refs: &[RefKey],
        now_ms: i64,
    ) -> Result<Vec<Option<Seq>>> {
        let Some(log) = self.rooms.get(room) else {
            return Ok(vec![None; refs.len()]);
        };
        let seq_of = |key: &RefKey| self.refs.get(&refs::hash(log.key, key), now_ms);
        let found: io::Result<Vec<_>> = refs.iter().map(seq_of).collect();
        found.map_err(failed("look refs up in a room log"))
    }

    pub fn set_role_version(&mut self, room: &RoomId, role_version: u64) -> Result<()> {
        let head = self.rooms.get(room).map(|log| log.head);
        match head.filter(|head| head.role_version < role_version) {
            Some(head) => {
                let head = LogHead {
                    role_version,
                    ..head
                };
                self.set_head(room, head, "set the role version of a room log")
            }
            None => Ok(()),
        }
    }

    pub fn confirm(
        &mut self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
    ) -> Result<Confirmed> {
        let head = self.rooms.get(room).map(|log| log.head);
        let Some(before) = head.filter(|head| head.epoch == epoch) else {
            return Ok(Confirmed {
                clean: true,
                moved: false,
            });
        };
        // An archive that is ahead of this log means that the log was rolled back; its reader finds out.
        let archived = before.archived.max(seq.min(before.seq));
        let trimmed = before.trimmed.max(trim_to.min(archived));
        let head = LogHead {
            archived,
            trimmed,
            ..before
        };
        self.set_head(room, head, "confirm what is archived of a room log")?;
        Ok(Confirmed {
            clean: archived == before.seq,
            moved: archived > before.archived,
        })
    }

    /// False: it is not wholly archived, or not where it is thought to be.
    pub fn unload(&mut self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<bool> {
        let is_done = |log: &&Log| {
            let head = &log.head;
            head.epoch == epoch && head.seq == seq && head.archived == seq
        };
        let Some(log) = self.rooms.get(room).filter(is_done) else {
            return Ok(false);
        };
        self.frame.removed(log.key);
        self.write("unload a room log")?;
        self.rooms.remove(room);
        Ok(true)
    }

    /// Refs to be written to a file of their own, if they have become many.
    pub fn seal(&mut self) -> Option<Sealing> {
        self.refs.seal()
    }

    fn set_head(&mut self, room: &RoomId, head: LogHead, doing: &'static str) -> Result<()> {
        let Some(log) = self.rooms.get(room) else {
            return Ok(());
        };
        if log.head == head {
            return Ok(());
        }
        self.frame.head(log.key, &head);
        self.write(doing)?;
        self.rooms
            .set_head(room, head.archived, head.trimmed, head.role_version);
        Ok(())
    }

    /// Writes what was put into the frame; returns where the frame begins.
    fn write(&mut self, doing: &'static str) -> Result<u64> {
        // Before and not behind: what is written now still stands where it is said to.
        self.compact();
        let written = self.journal.write(&mut self.frame);
        self.frame.clear();
        written.map_err(failed(doing))
    }

    pub fn write_anew(&mut self) -> io::Result<()> {
        write_anew(&mut self.journal, &mut self.rooms, &self.refs, self.life)
    }

    fn compact(&mut self) {
        let counts = self.rooms.live_bytes()
            + self.rooms.len() as u64 * ROOM_BYTES
            + self.refs.in_memory_count() as u64 * KNOWN_BYTES;
        let length = self.journal.len();
        if length < self.compact_from.max(COMPACT_TIMES * counts) || self.journal.is_broken() {
            return;
        }
        match self.write_anew() {
            Ok(()) => self.compact_from = COMPACT_BYTES,
            Err(error) => {
                tracing::error!(%error, length, "the room log's journal could not be written anew");
                self.compact_from = 2 * length;
            }
        }
    }
}

fn take_up(
    replay: &mut Replay,
    rooms: &mut Rooms,
    refs: &mut Refs,
    step: Step<'_>,
    at: u64,
    now_ms: i64,
) -> Result<(), String> {
    match step {
        Step::Room { key, room, head } => {
            let room = room.parse().map_err(|e| format!("room {room:?}: {e}"))?;
            replay.room(rooms, key, room, head);
            Ok(())
        }
        Step::Entries {
            key,
            role_version,
            first,
            entries,
        } => {
            replay.entries(rooms, key, role_version, first, &entries, at)?;
            for (n, item) in entries.iter().enumerate() {
                if let Some((hash, until_ms)) = item.reference.filter(|r| r.1 > now_ms) {
                    let seq = Seq(first.0 + n as u64);
                    refs.insert(hash, Known { seq, until_ms });
                }
            }
            Ok(())
        }
        Step::Head {
            key,
            archived,
            trimmed,
            role_version,
        } => replay.head(rooms, key, archived, trimmed, role_version),
        Step::Removed { key } => replay.removed(rooms, key),
        Step::Life(life) => {
            replay.life(rooms, life);
            Ok(())
        }
        Step::LastKey { key } => {
            rooms.gave(key);
            Ok(())
        }
        Step::Ref { hash, known } => {
            if known.until_ms > now_ms {
                refs.insert(hash, known);
            }
            Ok(())
        }
    }
}

/// Writes a journal of what counts, puts it in the old one's place, and has the tails lie there.
fn write_anew(journal: &mut Journal, rooms: &mut Rooms, refs: &Refs, life: Life) -> io::Result<()> {
    let mut new = journal.anew()?;
    let mut frame = Frame::new();
    let mut moved: Vec<(RoomId, Vec<Slot>)> = Vec::with_capacity(rooms.len());
    // Rooms that are gone are not written, and the files of refs know them still.
    frame.last_key(rooms.last_key());
    // Those that may lack something stand before the present life, as they did.
    let (broken, whole): (Vec<_>, Vec<_>) = rooms.iter().partition(|(_, log)| log.is_broken);
    for (room, log) in broken {
        moved.push((
            room.clone(),
            copy(journal, &mut new, &mut frame, room, log)?,
        ));
    }
    frame.life(life);
    for (room, log) in whole {
        moved.push((
            room.clone(),
            copy(journal, &mut new, &mut frame, room, log)?,
        ));
    }
    for (hash, known) in refs.in_memory() {
        frame.reference(hash, *known);
        flush_large(&mut new, &mut frame)?;
    }
    flush(&mut new, &mut frame)?;
    journal.replace(new)?;
    for (room, slots) in moved {
        rooms.moved(&room, slots);
    }
    Ok(())
}

/// Writes one room into a new journal; where its tail lies there.
fn copy(
    journal: &Journal,
    new: &mut Journal,
    frame: &mut Frame,
    room: &RoomId,
    log: &Log,
) -> io::Result<Vec<Slot>> {
    let mut json = Vec::new();
    frame.room(log.key, room, &log.head);
    let mut slots = Vec::with_capacity(log.tail.len());
    let mut waiting = log.tail.iter().copied().peekable();
    while waiting.peek().is_some() {
        // As many as come to a frame; one is never larger than a frame may be.
        let mut bytes = 0;
        let mut some = Vec::new();
        while let Some(slot) =
            waiting.next_if(|slot| bytes == 0 || bytes + slot.len as usize <= FRAME_BYTES)
        {
            bytes += slot.len as usize;
            some.push(slot);
        }
        if frame.len() + bytes > PAYLOAD_MAX {
            flush(new, frame)?;
        }
        let first = Seq(log.head.trimmed.0 + slots.len() as u64 + 1);
        let count = u32::try_from(some.len()).unwrap_or(u32::MAX);
        frame.entries(log.key, log.head.role_version, first, count);
        let frame_at = new.len();
        for slot in some {
            json.resize(slot.len as usize, 0);
            journal.file().read_exact_at(&mut json, slot.at)?;
            let at = frame_at + frame.entry(&json, None) as u64;
            slots.push(Slot { at, ..slot });
        }
        flush_large(new, frame)?;
    }
    flush_large(new, frame)?;
    Ok(slots)
}

fn flush_large(journal: &mut Journal, frame: &mut Frame) -> io::Result<()> {
    if frame.len() < FRAME_BYTES {
        return Ok(());
    }
    flush(journal, frame)
}

fn flush(journal: &mut Journal, frame: &mut Frame) -> io::Result<()> {
    if frame.len() > HEADER {
        journal.write(frame)?;
        frame.clear();
    }
    Ok(())
}
