//! The load generator: a crowd of WebSocket clients in one thread, which sends at a pace and counts every delivery.

mod connect;
mod dialect;
mod member;
mod message;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::histogram::Histogram;
use crate::yjs::{self, Typist};
pub use connect::shake_hands;
pub use dialect::Dialect;
use member::Member;
pub use message::Message;
use message::{From, Mark};

const EVENTS_AT_ONCE: usize = 1024;
const READ_BYTES: usize = 256 * 1024;
/// Pieces of text in one update.
const PIECES_AT_ONCE: usize = 10;
/// After the last message was sent, deliveries may take so long before they count as lost.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// A crowd is settled when nothing came for so long.
const QUIET: Duration = Duration::from_millis(300);
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// Who is where: `rooms` times `people`, the first `senders` of each room send.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub rooms: usize,
    pub people: usize,
    pub senders: usize,
}

/// When a room's next message is sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// So many a second in each room, the rooms one after the other; senders take turns.
    Steady(u32),
    /// One of each sender is always under way: the next goes when the room's last member has received the one before.
    InFlight,
}

/// What one run saw.
#[derive(Debug, Default)]
pub struct Run {
    pub sent: u64,
    pub delivered: u64,
    /// What should have been delivered and was not: overwritten by something newer, or lost.
    pub missing: u64,
    /// From just before the send to just after the read; only receivers on another server than the sender, where there
    /// are several.
    pub latency: Histogram,
}

/// All clients of one or several servers.
pub struct Crowd {
    shape: Shape,
    servers: usize,
    dialect: Dialect,
    /// The first part of its rooms' names.
    group: &'static str,
    epoll: OwnedFd,
    /// Room by room.
    members: Vec<Member>,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
    began: Instant,
    run: u32,
    scratch: Vec<u8>,
    /// Messages so far, without those that only keep a connection alive.
    heard: u64,
    /// Payload of the last delivery, bytes.
    pub delivery_bytes: usize,
    /// Asks for what is there without ever sleeping. A write to a sleeping reader on the same machine pays for waking it,
    /// so that a server that writes slowly would be charged for more wake-ups than one that writes fast; to a reader
    /// elsewhere no write does.
    pub sleepless: bool,
}

/// One run under way.
struct Running {
    number: u32,
    message: Message,
    pace: Pace,
    until: Instant,
    sent_by: Vec<u64>,
    report: Run,
    /// Senders (by index into members) whose next message is due.
    due: Vec<usize>,
}

impl Crowd {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Sends for `seconds`, then waits for what is under way.
    pub fn run(&mut self, message: Message, pace: Pace, duration: Duration) -> Result<Run> {
        self.run += 1;
        for member in &mut self.members {
            member.received = 0;
        }
        let start = Instant::now();
        let mut running = Running {
            number: self.run,
            message,
            pace,
            until: start + duration,
            sent_by: vec![0; self.members.len()],
            report: Run::default(),
            due: Vec::new(),
        };
        match pace {
            Pace::Steady(hz) => self.run_steadily(&mut running, start, hz)?,
            Pace::InFlight => self.run_in_flight(&mut running)?,
        }
        self.drain(&mut running)?;
        Ok(running.report)
    }

    fn run_steadily(&mut self, running: &mut Running, start: Instant, hz: u32) -> Result<()> {
        let rooms = self.shape.rooms as u32;
        let gap = Duration::from_secs(1) / (hz * rooms);
        for number in 0.. {
            let due = start + gap * number;
            if due >= running.until {
                return Ok(());
            }
            loop {
                let now = Instant::now();
                if now >= due {
                    break;
                }
                // Waiting is to the millisecond; the rest is spent asking.
                let ms = (due - now).as_millis() as u64;
                self.turn(running, Duration::from_millis(ms))?;
            }
            let room = (number % rooms) as usize;
            let sender = (number / rooms) as usize % self.shape.senders;
            self.send(running, room * self.shape.people + sender)?;
        }
        Ok(())
    }

    fn run_in_flight(&mut self, running: &mut Running) -> Result<()> {
        for room in 0..self.shape.rooms {
            for sender in 0..self.shape.senders {
                self.send(running, room * self.shape.people + sender)?;
            }
        }
        let mut last_progress = (Instant::now(), 0);
        while Instant::now() < running.until {
            self.turn(running, Duration::from_millis(20))?;
            for sender in std::mem::take(&mut running.due) {
                self.send(running, sender)?;
            }
            let (since, delivered) = last_progress;
            if running.report.delivered > delivered {
                last_progress = (Instant::now(), running.report.delivered);
            } else if since.elapsed() > DRAIN_PATIENCE {
                bail!("nothing was delivered for {DRAIN_PATIENCE:?}");
            }
        }
        Ok(())
    }

    fn drain(&mut self, running: &mut Running) -> Result<()> {
        let everybody = self.shape.people as u64;
        let expected = running.report.sent * (everybody - 1);
        let deadline = Instant::now() + DRAIN_PATIENCE;
        let mut quiet_since = Instant::now();
        while running.report.delivered < expected {
            let before = running.report.delivered;
            self.turn(running, Duration::from_millis(10))?;
            if running.report.delivered > before {
                quiet_since = Instant::now();
            }
            // What is only the latest value may be overwritten, and then never comes.
            let over = running.message.is_ephemeral() && quiet_since.elapsed() > QUIET;
            if over || Instant::now() > deadline {
                break;
            }
        }
        running.report.missing = expected.saturating_sub(running.report.delivered);
        self.check(running)
    }

    /// Everybody got exactly what the others of the room sent.
    fn check(&self, running: &Running) -> Result<()> {
        for (room, members) in self.members.chunks(self.shape.people).enumerate() {
            let first = room * self.shape.people;
            let sent: u64 = running.sent_by[first..first + self.shape.people]
                .iter()
                .sum();
            for (place, member) in members.iter().enumerate() {
                let owed = sent - running.sent_by[first + place];
                let wrong = if running.message.is_ephemeral() {
                    member.received > owed
                } else {
                    member.received != owed
                };
                if wrong {
                    bail!(
                        "member {place} of room {room} received {} of {owed} messages",
                        member.received
                    );
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, running: &mut Running, sender: usize) -> Result<()> {
        running.sent_by[sender] += 1;
        let mark = Mark {
            run: running.number,
            sender,
            number: running.sent_by[sender],
            sent_ns: self.began.elapsed().as_nanos() as u64,
        };
        self.scratch.clear();
        let member = &mut self.members[sender];
        let from = From {
            dialect: self.dialect,
            group: self.group,
            room: sender / self.shape.people,
            typist: &mut member.typist,
        };
        running.message.push_frame(&mark, from, &mut self.scratch);
        member.send(&self.scratch)?;
        running.report.sent += 1;
        Ok(())
    }

    /// Waits at most so long for something to come, and takes it all.
    fn turn(&mut self, running: &mut Running, wait: Duration) -> Result<()> {
        self.wait(if self.sleepless { Duration::ZERO } else { wait })?;
        self.take_events(running)
    }

    fn take_events(&mut self, running: &mut Running) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let data = event.data;
            self.take(running, data.u64() as usize)?;
        }
        self.events = events;
        Ok(())
    }

    fn wait(&mut self, wait: Duration) -> Result<()> {
        let wait = Timespec::try_from(wait).context("the wait is too long")?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&mut self, running: &mut Running, index: usize) -> Result<()> {
        let people = self.shape.people;
        let member = &mut self.members[index];
        let bytes = match member.read(&mut self.buffer) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e).with_context(|| format!("client {index}")),
        };
        let now_ns = self.began.elapsed().as_nanos() as u64;
        let is_last = index % people == people - 1;
        let servers = self.servers;
        let (mut received, mut heard) = (0, 0);
        let mut length = 0;
        member.take(bytes, |payload| {
            let mut known = false;
            for mark in Mark::all(payload) {
                known = true;
                // One's own may come back: that is an answer, and no delivery.
                if mark.run != running.number || mark.sender == index {
                    continue;
                }
                length = payload.len();
                received += 1;
                // Clients take turns at the servers, so the same remainder is the same server.
                if servers == 1 || mark.sender % people % servers != index % people % servers {
                    running
                        .report
                        .latency
                        .record(now_ns.saturating_sub(mark.sent_ns));
                }
                if is_last && matches!(running.pace, Pace::InFlight) {
                    running.due.push(mark.sender);
                }
            }
            heard += u64::from(payload != yjs::NO_AWARENESS);
            known
        })?;
        self.heard += heard;
        member.received += received;
        running.report.delivered += received;
        if received > 0 {
            self.delivery_bytes = length;
        }
        Ok(())
    }

    /// Everybody types so many pieces of text into the room's document.
    pub fn write_documents(&mut self, pieces: usize, piece: &str) -> Result<()> {
        for index in 0..self.members.len() {
            let room = index / self.shape.people;
            for _ in 0..pieces.div_ceil(PIECES_AT_ONCE) {
                let member = &mut self.members[index];
                let typed = std::iter::repeat_n(piece, PIECES_AT_ONCE);
                let update = member.typist.write(typed);
                self.scratch.clear();
                self.dialect
                    .push_update(self.group, room, &update, &mut self.scratch);
                member.send(&self.scratch)?;
                self.read_what_waits(Duration::ZERO)?;
            }
        }
        self.settle()
    }

    /// From now on members type as two people who take turns.
    pub fn type_in_turns(&mut self) {
        for (index, member) in self.members.iter_mut().enumerate() {
            let second = index as u32;
            member.typist = Typist::new(&[3_000_000_000 + second, 2_000_000_000 + second]);
        }
    }

    /// Reads until nothing comes any more but pings.
    pub fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        let mut quiet_since = Instant::now();
        while let Some(rest) = QUIET.checked_sub(quiet_since.elapsed()) {
            let before = self.heard;
            self.read_what_waits(rest)?;
            if self.heard > before {
                quiet_since = Instant::now();
            }
            if Instant::now() > deadline {
                bail!("the server did not fall silent within {SETTLE_PATIENCE:?}");
            }
        }
        Ok(())
    }

    /// Reads what comes outside of a run.
    fn read_what_waits(&mut self, wait: Duration) -> Result<()> {
        let mut nobody = Running {
            number: 0,
            message: Message::Raw(0),
            pace: Pace::Steady(1),
            until: Instant::now(),
            sent_by: Vec::new(),
            report: Run::default(),
            due: Vec::new(),
        };
        self.wait(wait)?;
        self.take_events(&mut nobody)
    }
}
