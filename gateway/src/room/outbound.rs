//! What one connection is owed and not yet written: how far it is in the feed, the frames that wait, and where they go.

use std::collections::VecDeque;
use std::sync::Arc;

use atelier_shared::domain::ids::{Seq, UserId};
use bytes::Bytes;
use tokio::net::TcpStream;

use super::dialect::Reader;
use super::pace::Refusals;
use super::ring::{Feed, Frame};
use super::shared_socket::SharedSocket;
use super::writing::{Written, write_from};
use crate::seats::Seat;

/// What the fan-out may do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its own task is putting the first frames together, or replaying; the fan-out leaves it alone.
    Loading,
    Live,
    /// It fell off the ring: its own task replays from the log.
    Behind,
    /// A close frame is on its way; nothing else follows.
    Closing,
}

/// How far a connection is, and what it was promised but is not written yet.
#[derive(Debug)]
pub struct Outbound {
    pub unsent: VecDeque<Bytes>,
    pub unsent_bytes: usize,
    /// Of these, what it is owed however large it is: the room's news, and what it asked for. The rest are answers.
    pub owed_bytes: usize,
    pub phase: Phase,
    /// The socket would block (or the phase is not `Live`): the connection's own task writes.
    pub blocked: bool,
    /// The next frame of the ring.
    pub cursor: u64,
    /// The version of the latest values that were delivered.
    pub latest_seen: u64,
    /// The last entry that was delivered.
    pub delivered: Seq,
    /// When the socket last took something, milliseconds since 1970; 0 while nothing waits.
    pub stuck_since_ms: i64,
    /// Whose connection it is.
    pub person: UserId,
    /// What it said that could not be taken.
    pub refusals: Refusals,
}

/// Where a connection's bytes go.
#[derive(Debug)]
pub enum Transport {
    /// With the gateway's seat that it takes.
    Own(TcpStream, Option<Seat>),
    Shared(Arc<SharedSocket>),
}

impl Outbound {
    /// Of a connection whose first frames are still to be put together.
    pub fn loading(person: UserId) -> Self {
        Self {
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            owed_bytes: 0,
            phase: Phase::Loading,
            blocked: true,
            // Nowhere yet.
            cursor: u64::MAX,
            latest_seen: 0,
            delivered: Seq(0),
            stuck_since_ms: 0,
            person,
            refusals: Refusals::default(),
        }
    }

    pub fn push(&mut self, frame: Bytes) {
        self.unsent_bytes += frame.len();
        self.unsent.push_back(frame);
    }

    pub fn owe(&mut self, frame: Bytes) {
        self.owed_bytes += frame.len();
        self.push(frame);
    }

    pub fn block(&mut self) {
        self.blocked = true;
    }

    /// Takes what the ring and the latest values have for this reader, about `limit` bytes of it. False: fell off the ring.
    pub fn pull(&mut self, feed: &Feed, reader: &Reader<'_>, limit: usize) -> bool {
        let Some(frames) = feed.ring.from(self.cursor) else {
            return false;
        };
        for frame in frames {
            if self.unsent_bytes >= limit {
                return true;
            }
            self.cursor += 1;
            self.take(frame, reader);
        }
        for latest in feed.latest.since(self.latest_seen) {
            if let Some(bytes) = latest.for_reader(reader) {
                self.owe(bytes);
            }
        }
        self.latest_seen = feed.latest.version();
        true
    }

    fn take(&mut self, frame: &Frame, reader: &Reader<'_>) {
        if let Some(seq) = frame.seq {
            // Replayed from the log already.
            if seq <= self.delivered {
                return;
            }
            self.delivered = seq;
        }
        if frame.part_of.is_some_and(|seq| seq <= self.delivered) {
            return;
        }
        if let Some(bytes) = frame.for_reader(reader, false) {
            self.owe(bytes);
        }
    }

    /// Writes until nothing is left or the socket would block.
    pub fn flush(&mut self, transport: &Transport) -> Written {
        let (written, outcome) = match transport {
            Transport::Own(stream, _) => write_from(&mut self.unsent, stream),
            Transport::Shared(socket) => socket.take(&mut self.unsent),
        };
        if written > 0 {
            self.stuck_since_ms = 0;
            self.unsent_bytes -= written;
            self.owed_bytes = self.owed_bytes.min(self.unsent_bytes);
        }
        outcome
    }
}
