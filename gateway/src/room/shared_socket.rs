//! One socket that several rooms write to (Hocuspocus: a document in each frame). Each room's connection hands over what
//! it has as long as the socket keeps up, and waits when it does not; nobody's frames are cut by somebody else's.

use std::collections::VecDeque;
use std::io::ErrorKind;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::websocket;
use super::writing::{Written, write_from};

/// Bytes that wait for the socket before its rooms have to.
const CONGESTED_BYTES: usize = 64 * 1024;

/// The socket, and what waits for it.
#[derive(Debug)]
pub struct SharedSocket {
    stream: TcpStream,
    out: Mutex<Out>,
    /// Wakes the task that owns the socket: there is something to write, or to close.
    pub wake: Notify,
    /// Wakes the rooms' connections: there is room again.
    room: Notify,
}

#[derive(Debug, Default)]
struct Out {
    unsent: VecDeque<Bytes>,
    bytes: usize,
    /// Of these, answers of the socket's own, at most.
    answers: usize,
    /// The socket would block: its own task writes.
    blocked: bool,
    closing: bool,
    /// Nobody owns it any more.
    ended: bool,
}

impl SharedSocket {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            out: Mutex::default(),
            wake: Notify::new(),
            room: Notify::new(),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Takes what a connection has, while there is room; what is left stays with it.
    pub fn take(&self, unsent: &mut VecDeque<Bytes>) -> (usize, Written) {
        let mut out = self.out.lock();
        if out.ended {
            return (0, Written::Broken);
        }
        if out.closing {
            // Nothing is written any more; the connection is about to be told.
            let taken = unsent.drain(..).map(|frame| frame.len()).sum();
            return (taken, Written::All);
        }
        let mut taken = 0;
        while out.bytes < CONGESTED_BYTES
            && let Some(frame) = unsent.pop_front()
        {
            taken += frame.len();
            out.push(frame);
        }
        let written = self.write(&mut out);
        match written {
            Written::Broken => (taken, Written::Broken),
            _ if unsent.is_empty() => (taken, Written::All),
            _ => (taken, Written::Blocked),
        }
    }

    /// A frame of the socket's own (an answer to somebody not let in, a pong). False: it does not read its answers.
    pub fn send(&self, frame: Bytes) -> bool {
        let mut out = self.out.lock();
        if out.closing {
            return true;
        }
        // What rooms handed over may be as large as a document, and says nothing of who reads.
        if out.answers > CONGESTED_BYTES * 2 {
            return false;
        }
        out.answers += frame.len();
        out.push(frame);
        self.write(&mut out);
        true
    }

    fn write(&self, out: &mut Out) -> Written {
        if out.blocked {
            return Written::Blocked;
        }
        let written = out.write(&self.stream);
        if written != Written::All {
            out.blocked = true;
            self.wake.notify_one();
        }
        written
    }

    /// A close frame behind what waits already; nothing follows.
    pub fn close(&self, code: u16, reason: &str) {
        let mut out = self.out.lock();
        if !out.closing {
            out.push(websocket::close_frame(code, reason));
            out.closing = true;
            out.blocked = true;
            drop(out);
            self.wake.notify_one();
        }
    }

    /// Resolves when there is room again; what happens after this call is not missed.
    pub fn has_room(&self) -> std::pin::Pin<Box<tokio::sync::futures::Notified<'_>>> {
        let mut room = Box::pin(self.room.notified());
        room.as_mut().enable();
        room
    }

    /// The socket's own task has ended: nothing can be written any more.
    pub fn end(&self) {
        self.out.lock().ended = true;
        self.room.notify_waiters();
    }

    pub fn is_closing(&self) -> bool {
        self.out.lock().closing
    }

    /// The own task's write. `Ok(true)`: nothing is left.
    pub fn drain(&self) -> std::io::Result<bool> {
        let mut out = self.out.lock();
        let written = out.write(&self.stream);
        out.blocked = written != Written::All || out.closing;
        let has_room = out.bytes < CONGESTED_BYTES;
        drop(out);
        if has_room {
            self.room.notify_waiters();
        }
        match written {
            Written::All | Written::Nothing => Ok(true),
            Written::Blocked => Ok(false),
            Written::Broken => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Out {
    fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.unsent.push_back(frame);
    }

    fn write(&mut self, stream: &TcpStream) -> Written {
        let (written, outcome) = write_from(&mut self.unsent, stream);
        self.bytes -= written;
        self.answers = self.answers.min(self.bytes);
        outcome
    }
}
