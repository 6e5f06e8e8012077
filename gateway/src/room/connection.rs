//! One socket and what it is owed: the write side that the room's fan-out and the connection's own task share.
//!
//! The fan-out writes straight into sockets that keep up. A socket that would block is marked, drops out of the fan-out,
//! and its own task drains it when it becomes writable. Whoever holds the `Outbound` lock may write; nobody holds it
//! over an await.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, Seq, UserId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::actor::BoardSnapshot;
use super::dialect::{DIALECTS, Dialect, Reader};
use super::document::DocumentSnapshot;
use super::json::outgoing::ErrorFrame;
use super::outbound::{Outbound, Phase, Transport};
use super::ring::Feed;
use super::shared_socket::SharedSocket;
use super::websocket;
use super::writing::{Written, write_at_once};
use super::yjs::hocuspocus;

/// Bytes that a connection's own task takes from the ring for one write.
const DRAIN_BYTES: usize = 64 * 1024;
/// Answers that may wait for a client that does not read, before its connection is given up. The first frames of a room
/// (its board) may be larger: they are put in by the connection's own task, one write at a time.
const UNREAD_ANSWERS_MAX: usize = 1024 * 1024;

/// A connection, as the room and its own task know it.
#[derive(Debug)]
pub struct Connection {
    pub id: ConnectionId,
    pub client_id: ClientId,
    pub dialect: Dialect,
    /// Hocuspocus: the key under which it knows the room, and whether that is another than the room's id.
    key: Option<(Box<str>, bool)>,
    transport: Transport,
    out: Mutex<Outbound>,
    /// What the connection's own task is to begin (again) with.
    start: Mutex<Option<Box<Start>>>,
    /// Wakes the connection's own task: there is something to begin, to drain or to close.
    pub wake: Notify,
    /// Somebody wants to know whether this socket is alive: its next sign of life is to be told.
    pub challenged: AtomicBool,
    /// Its person was dropped from presence for silence; the next message brings them back.
    pub dropped: AtomicBool,
    /// A provider has answered the first question it was asked: what it shows from now on may be what it was told.
    pub answered: AtomicBool,
    /// Last message of any kind, pongs included, milliseconds since 1970.
    pub heard_ms: AtomicI64,
    /// Last application message: what keeps its person present.
    pub spoke_ms: AtomicI64,
}

/// What a connection speaks, and what it needs for that.
#[derive(Debug)]
pub enum Speaks {
    Json,
    Yjs,
    Hocuspocus {
        /// The name that stands in each of its frames.
        key: Box<str>,
        /// It is another than the room's id.
        readdressed: bool,
    },
}

impl Speaks {
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Json => Dialect::Json,
            Self::Yjs => Dialect::Yjs,
            Self::Hocuspocus { .. } => Dialect::Hocuspocus,
        }
    }
}

/// Where a connection begins in the feed, and what it is told before: put together by the room, carried out by the
/// connection's own task.
#[derive(Debug)]
pub struct Start {
    pub first: Vec<Bytes>,
    pub document: Option<Arc<DocumentSnapshot>>,
    pub board: Option<Arc<BoardSnapshot>>,
    /// Entries of this epoch after `.1` come from the log, up to `delivered`.
    pub replay: Option<(Epoch, Seq)>,
    pub last: Vec<Bytes>,
    pub cursor: u64,
    pub latest_seen: u64,
    pub delivered: Seq,
}

/// What the fan-out computed once for all who are exactly one tick behind.
#[derive(Debug, Default)]
pub struct Tick {
    /// The ring's end before this tick's frames, and after.
    pub from: u64,
    pub to: u64,
    pub latest_from: u64,
    pub latest_to: u64,
    pub last_seq: Seq,
    /// All of the tick's bytes joined, for each dialect; `None` when not everybody gets the same.
    pub joined: [Option<Bytes>; DIALECTS],
    /// Those who caused something in this tick and so get something else.
    pub origins: Vec<ConnectionId>,
    /// Frames in `joined`.
    pub frames: u64,
}

impl Connection {
    pub fn new(
        id: ConnectionId,
        client_id: ClientId,
        user_id: UserId,
        speaks: Speaks,
        transport: Transport,
        now_ms: i64,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            client_id,
            dialect: speaks.dialect(),
            key: match speaks {
                Speaks::Json | Speaks::Yjs => None,
                Speaks::Hocuspocus { key, readdressed } => Some((key, readdressed)),
            },
            transport,
            out: Mutex::new(Outbound::loading(user_id)),
            start: Mutex::new(None),
            wake: Notify::new(),
            challenged: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            heard_ms: AtomicI64::new(now_ms),
            spoke_ms: AtomicI64::new(now_ms),
        })
    }

    pub fn stream(&self) -> &TcpStream {
        match &self.transport {
            Transport::Own(stream, _) => stream,
            Transport::Shared(socket) => socket.stream(),
        }
    }

    /// The socket it shares with others, if it does.
    pub fn shared_socket(&self) -> Option<&SharedSocket> {
        match &self.transport {
            Transport::Own(..) => None,
            Transport::Shared(socket) => Some(socket),
        }
    }

    fn reader(&self, person: UserId) -> Reader<'_> {
        Reader {
            connection: self.id,
            person,
            dialect: self.dialect,
            key: self.own_key(),
        }
    }

    /// Hocuspocus: the key of its frames, where that is another than everybody's.
    pub fn own_key(&self) -> Option<&str> {
        self.key.as_ref().filter(|key| key.1).map(|key| &*key.0)
    }

    pub fn person(&self) -> UserId {
        self.out.lock().person
    }

    /// It has shown to be this person's.
    pub fn is_of(&self, person: UserId) {
        self.out.lock().person = person;
    }

    /// A message of y-websocket's as a frame in this connection's dialect.
    pub fn binary_frame(&self, message: &[u8]) -> Bytes {
        match &self.key {
            None => websocket::binary(message),
            Some((key, _)) => websocket::binary(&hocuspocus::wrap(key, message)),
        }
    }

    /// The key of its frames (Hocuspocus; else empty).
    pub fn key(&self) -> &str {
        self.key.as_ref().map_or("", |key| &*key.0)
    }

    pub fn phase(&self) -> Phase {
        self.out.lock().phase
    }

    /// Takes the connection out of the fan-out and has its own task begin anew.
    pub fn begin(&self, start: Start) {
        {
            let mut out = self.out.lock();
            if out.phase == Phase::Closing {
                return;
            }
            out.phase = Phase::Loading;
            out.blocked = true;
        }
        *self.start.lock() = Some(Box::new(start));
        self.wake.notify_one();
    }

    /// As [`Self::begin`], behind all that the room has told until now. False: it is not following the room now, and was not
    /// told to begin.
    pub fn begin_in_turn(&self, start: Start, feed: &Feed) -> bool {
        {
            let mut out = self.out.lock();
            let reader = self.reader(out.person);
            if out.phase != Phase::Live || !out.pull(feed, &reader, usize::MAX) {
                return false;
            }
        }
        // The room alone adds to the feed: nothing came meanwhile.
        self.begin(start);
        true
    }

    pub fn take_start(&self) -> Option<Box<Start>> {
        let start = self.start.lock().take()?;
        // An earlier order may just have been finished and have gone live.
        let mut out = self.out.lock();
        if out.phase != Phase::Closing {
            out.phase = Phase::Loading;
        }
        out.blocked = true;
        Some(start)
    }

    /// The own task has put the first frames together, or replayed up to `delivered`: from `cursor` on it is the ring's.
    pub fn follow(&self, cursor: u64, latest_seen: Option<u64>, delivered: Seq) {
        let mut out = self.out.lock();
        if matches!(out.phase, Phase::Loading | Phase::Behind) {
            out.phase = Phase::Live;
            out.cursor = cursor;
            out.latest_seen = latest_seen.unwrap_or(out.latest_seen);
            out.delivered = delivered;
        }
    }

    /// What only the ring would have told it, where it is to go on at `to` without having read so far.
    pub fn passes_over(&self, feed: &Feed, to: u64) -> Vec<Bytes> {
        let out = self.out.lock();
        feed.ring
            .passed_over(&self.reader(out.person), out.cursor, to)
    }

    /// The entries up to here were replayed.
    pub fn replayed(&self, delivered: Seq) {
        self.out.lock().delivered = delivered;
    }

    /// Sends a JSON message to this connection alone, behind what it is owed already; nothing to those who don't speak it.
    pub fn send(&self, frame: Bytes) {
        if self.dialect == Dialect::Json {
            self.send_raw(frame);
        }
    }

    /// Tells the client that something it said is not taken. What it may say again later is a mistake in pace, not in kind,
    /// and does not count. (Nor does an editor's typing: stock providers know no reason not to come back.)
    pub fn refuse(&self, error: &ErrorFrame) {
        match self.dialect {
            Dialect::Json => {
                self.send(error.bytes());
                if error.retry_in_ms.is_none() {
                    self.count_refusal();
                }
            }
            // These clients do not send an edit again, except by coming back and comparing: at another time it can be taken.
            Dialect::Yjs | Dialect::Hocuspocus if error.retry_in_ms.is_some() => {
                self.close(1013, &error.message);
            }
            Dialect::Yjs | Dialect::Hocuspocus => self.not_applied(&error.message),
        }
    }

    /// One more of its messages was refused: after too many in too short a time it is closed.
    pub fn count_refusal(&self) {
        let too_many = self.out.lock().refusals.add();
        if too_many {
            self.close(4429, "too many refused messages");
        }
    }

    /// Sends any frame of its dialect, or a control frame.
    pub fn send_raw(&self, frame: Bytes) {
        let mut out = self.out.lock();
        if out.phase == Phase::Closing {
            return;
        }
        if out.unsent_bytes > UNREAD_ANSWERS_MAX + out.owed_bytes {
            drop(out);
            self.close(4508, "answers are not read");
            return;
        }
        out.push(frame);
        if !out.blocked && out.flush(&self.transport) != Written::All {
            out.block();
            self.wake.notify_one();
        }
    }

    /// As [`Self::send`], behind everything that the room has to tell by now: what the frame knows of is not told once more
    /// after it.
    pub fn send_in_turn(&self, frame: Bytes, feed: &Feed) {
        if self.dialect != Dialect::Json {
            return;
        }
        {
            let mut out = self.out.lock();
            let reader = self.reader(out.person);
            if out.phase == Phase::Live && !out.blocked && !out.pull(feed, &reader, usize::MAX) {
                out.phase = Phase::Behind;
                out.block();
                self.wake.notify_one();
            }
        }
        self.send(frame);
    }

    /// As [`Self::send`], for what is large because the room is (its document): it does not count as unread answers. The
    /// connection's own task sends it, and takes no other request before it is written.
    pub fn send_large(&self, frame: Bytes) {
        let mut out = self.out.lock();
        if out.phase == Phase::Closing {
            return;
        }
        out.owe(frame);
        if !out.blocked && out.flush(&self.transport) != Written::All {
            out.block();
            self.wake.notify_one();
        }
    }

    /// Ends the connection: a `notice` goes ahead, then the close frame, then nothing.
    pub fn close(&self, code: u16, reason: &str) {
        let mut out = self.out.lock();
        if out.phase == Phase::Closing {
            return;
        }
        // A frame that is partly written must be finished; whole frames behind it are given up only if they are many.
        if out.unsent_bytes > UNREAD_ANSWERS_MAX {
            out.unsent.truncate(1);
        }
        match (&self.transport, self.dialect) {
            (Transport::Shared(socket), _) if ends_the_socket(code) => socket.close(code, reason),
            // Not again as you are, in this one document: the others on the socket go on.
            (Transport::Shared(_), _) => {
                let denied = hocuspocus::permission_denied(self.key(), reason);
                out.push(websocket::binary(&denied));
            }
            (Transport::Own(..), dialect) => {
                if dialect == Dialect::Json {
                    out.push(super::json::outgoing::notice_of_close(code, reason));
                }
                out.push(websocket::close_frame(code, reason));
            }
        }
        out.phase = Phase::Closing;
        out.blocked = true;
        drop(out);
        self.wake.notify_one();
    }

    /// Answers the peer's close frame, or ends after a violation, without a notice.
    pub fn close_silently(&self, code: u16, reason: &str) {
        let mut out = self.out.lock();
        if out.phase != Phase::Closing {
            out.push(websocket::close_frame(code, reason));
            out.phase = Phase::Closing;
            out.blocked = true;
        }
        drop(out);
        self.wake.notify_one();
    }

    /// The client does not read what it asked for: stop taking more from it.
    pub fn is_congested(&self) -> bool {
        self.out.lock().unsent_bytes > DRAIN_BYTES
    }

    /// The fan-out's write: everything that is new since this connection's cursor, in one call.
    pub fn deliver(&self, feed: &Feed, tick: &Tick) -> Written {
        let mut out = self.out.lock();
        if out.blocked {
            return Written::Blocked;
        }
        let in_step = out.cursor == tick.from
            && out.latest_seen == tick.latest_from
            && out.unsent.is_empty()
            && self.own_key().is_none()
            && !tick.origins.contains(&self.id);
        let joined = tick.joined[self.dialect as usize].as_ref();
        if let (true, Some(joined)) = (in_step, joined) {
            out.cursor = tick.to;
            out.latest_seen = tick.latest_to;
            out.delivered = out.delivered.max(tick.last_seq);
            if joined.is_empty() {
                return Written::Nothing;
            }
            let written = match &self.transport {
                Transport::Own(stream, _) => write_at_once(joined, stream),
                Transport::Shared(_) => 0,
            };
            // Nearly always all of it: nothing has to be kept.
            if written == joined.len() {
                return Written::All;
            }
            out.owe(joined.slice(written..));
        } else {
            let reader = self.reader(out.person);
            if !out.pull(feed, &reader, usize::MAX) {
                out.phase = Phase::Behind;
                out.block();
                drop(out);
                self.wake.notify_one();
                return Written::Blocked;
            }
        }
        if out.unsent.is_empty() {
            return Written::Nothing;
        }
        let written = out.flush(&self.transport);
        if written != Written::All {
            out.block();
            drop(out);
            self.wake.notify_one();
        }
        written
    }

    /// The own task's write: what waits, then what the ring has, up to 64 KiB. `Ok(true)`: nothing is left and the fan-out
    /// has it again.
    pub fn drain(&self, feed: &RwLock<Feed>) -> std::io::Result<bool> {
        let mut out = self.out.lock();
        loop {
            if out.unsent.is_empty() && out.phase == Phase::Live {
                let (feed, reader) = (feed.read(), self.reader(out.person));
                if !out.pull(&feed, &reader, DRAIN_BYTES) {
                    out.phase = Phase::Behind;
                }
            }
            if out.unsent.is_empty() {
                out.blocked = out.phase != Phase::Live;
                out.stuck_since_ms = 0;
                return Ok(true);
            }
            match out.flush(&self.transport) {
                Written::All | Written::Nothing => {}
                Written::Blocked => return Ok(false),
                Written::Broken => return Err(ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// How long the socket has taken nothing although something waits, in milliseconds.
    pub fn stuck_ms(&self, now_ms: i64) -> i64 {
        let mut out = self.out.lock();
        if out.unsent.is_empty() {
            out.stuck_since_ms = 0;
        } else if out.stuck_since_ms == 0 {
            out.stuck_since_ms = now_ms;
        }
        match out.stuck_since_ms {
            0 => 0,
            since => now_ms - since,
        }
    }

    /// The first frame of the ring that it may need; `None`: it needs no more.
    pub fn ring_cursor(&self) -> Option<u64> {
        let out = self.out.lock();
        match out.phase {
            Phase::Live => Some(out.cursor),
            // Where it will go on stands with its own task.
            Phase::Loading | Phase::Behind => Some(0),
            Phase::Closing => None,
        }
    }

    pub fn heard(&self, now_ms: i64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Pushes frames while the own task is loading or replaying.
    pub fn push(&self, frames: impl IntoIterator<Item = Bytes>) {
        let mut out = self.out.lock();
        if out.phase != Phase::Closing {
            for frame in frames {
                out.owe(frame);
            }
        }
    }

    pub fn delivered(&self) -> Seq {
        self.out.lock().delivered
    }
}

/// Does this end of one room's connection end the shared socket under it? Those that a reconnect can mend do: 45xx, and a
/// token that ran out, which the client renews when it comes back.
fn ends_the_socket(code: u16) -> bool {
    !(4400..4500).contains(&code) || matches!(code, 4401 | 4413 | 4429)
}
