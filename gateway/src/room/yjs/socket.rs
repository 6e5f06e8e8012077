//! A Hocuspocus socket: takes its bytes apart and hands each frame to the document it names.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, Instant};

use super::channel::{Arrived, Channel, WAITING_MAX};
use super::hocuspocus::{self, Frame, PONG_MESSAGE};
use super::message;
use crate::room::admission::Admission;
use crate::room::pace::Refusals;
use crate::room::registry::Rooms;
use crate::room::session::{CLOSE_PATIENCE, read_some};
use crate::room::shared_socket::SharedSocket;
use crate::room::websocket::{self, Message, Reader};
use crate::seats::Seat;

/// Documents of one socket.
const DOCUMENTS_MAX: usize = 100;
/// A socket without a document is closed after this.
const UNUSED: Duration = Duration::from_secs(60);
/// How often a socket without traffic is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Who decides about a token and a document's name: the edge, which knows rooms and people.
pub trait Doorkeeper: Send + Sync {
    fn let_in<'a>(
        &'a self,
        key: &'a str,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Admission, Denied>>;
}

/// Why a document does not open.
#[derive(Debug)]
pub enum Denied {
    /// Not as you are; told as Hocuspocus tells it, and the socket stays.
    No(String),
    /// Come back: the socket is closed with this code.
    Later { code: u16, reason: String },
}

/// The state of the socket's task.
pub struct Socket {
    rooms: Rooms,
    doorkeeper: Arc<dyn Doorkeeper>,
    socket: Arc<SharedSocket>,
    reader: Reader,
    channels: HashMap<Box<str>, Opened>,
    /// Bytes that may wait for all documents of the socket.
    room: Arc<Semaphore>,
    refusals: Refusals,
    unused_since: Option<Instant>,
    /// The gateway's, which this socket takes.
    _seat: Seat,
}

/// A document that was named.
struct Opened {
    arrivals: mpsc::Sender<Arrived>,
    is_in: Arc<AtomicBool>,
}

/// The socket has ended.
struct Ended;

impl Socket {
    pub fn new(
        rooms: Rooms,
        doorkeeper: Arc<dyn Doorkeeper>,
        stream: TcpStream,
        seat: Seat,
    ) -> Self {
        // A message of the largest size and as much again.
        let bytes = rooms.config.max_binary_frame() * 2;
        Self {
            room: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))),
            rooms,
            doorkeeper,
            socket: Arc::new(SharedSocket::new(stream)),
            reader: Reader::skipping(),
            channels: HashMap::new(),
            refusals: Refusals::default(),
            unused_since: None,
            _seat: seat,
        }
    }

    /// Runs until the socket ends; its documents then leave their rooms. `early` is what came behind the handshake.
    pub async fn run(mut self, early: Bytes) {
        let mut messages = Vec::new();
        let max = self.rooms.config.max_binary_frame();
        let fed = self.reader.feed(&early, max, &mut messages);
        drop(early);
        let mut outcome = self.take(messages).await;
        self.check(fed);
        while outcome.is_ok() {
            outcome = self.turn().await;
        }
        self.socket.end();
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        let all_written = self.socket.drain().map_err(|_| Ended)?;
        if self.socket.is_closing() {
            return if all_written {
                self.linger().await
            } else {
                self.written().await
            };
        }
        self.look_around();
        let interest = if all_written {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let socket = self.socket.clone();
        tokio::select! {
            ready = socket.stream().ready(interest) => {
                if ready.map_err(|_| Ended)?.is_readable() {
                    return self.read().await;
                }
            }
            () = socket.wake.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        Ok(())
    }

    /// Waits until the socket takes more, or until a peer that takes nothing is given up.
    async fn written(&self) -> Result<(), Ended> {
        let writable = self.socket.stream().writable();
        match tokio::time::timeout(CLOSE_PATIENCE, writable).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended),
        }
    }

    fn look_around(&mut self) {
        self.channels
            .retain(|_, opened| !opened.arrivals.is_closed());
        let in_use = |opened: &Opened| opened.is_in.load(Ordering::Relaxed);
        if self.channels.values().any(in_use) {
            self.unused_since = None;
        } else if self.rooms.is_draining() {
            let reason = "this server is going away; come back to another";
            self.socket.close(4503, reason);
        } else if self.unused_since.get_or_insert_with(Instant::now).elapsed() >= UNUSED {
            self.socket.close(4500, "no document was opened");
        }
    }

    async fn read(&mut self) -> Result<(), Ended> {
        let mut messages = Vec::new();
        let max = self.rooms.config.max_binary_frame();
        let (socket, reader) = (&self.socket, &mut self.reader);
        let fed = match read_some(socket.stream(), |bytes| {
            reader.feed(bytes, max, &mut messages)
        }) {
            Ok(Some(fed)) => fed,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Ok(None) | Err(_) => return Err(Ended),
        };
        self.take(messages).await?;
        self.check(fed);
        Ok(())
    }

    fn check(&mut self, fed: Result<(), websocket::Violation>) {
        if let Err(violation) = fed {
            self.reader = Reader::default();
            self.socket
                .close(violation.close_code(), &violation.to_string());
        }
    }

    async fn take(&mut self, messages: Vec<Message>) -> Result<(), Ended> {
        for message in messages {
            if self.socket.is_closing() {
                return Ok(());
            }
            match message {
                Message::Binary(bytes) => self.route(bytes).await?,
                Message::Text(_) => self.refuse(),
                Message::TooLong(head) => {
                    // Providers come back from any close and send it again: they are told that it is not applied, and stay.
                    if let Some(key) = hocuspocus::key_of(&head)
                        && self.channels.contains_key(key)
                    {
                        let status = hocuspocus::sync_status(key, false);
                        self.answer(message::frame(&status));
                    }
                    self.refuse();
                }
                Message::Ping(payload) => self.answer(websocket::pong(&payload)),
                Message::Pong(_) => {
                    for channel in self.channels.values() {
                        // One that is full has signs of life enough.
                        let _ = channel.arrivals.try_send(Arrived::Sound);
                    }
                }
                Message::Close(code) => self.socket.close(code.unwrap_or(1000), ""),
            }
        }
        Ok(())
    }

    async fn route(&mut self, bytes: Bytes) -> Result<(), Ended> {
        let key = match hocuspocus::parse(&bytes) {
            Ok(Frame::Ping) => {
                self.answer(message::frame(&PONG_MESSAGE));
                return Ok(());
            }
            Ok(Frame::Pong) => return Ok(()),
            Ok(Frame::Of { key, .. }) => key,
            Err(malformed) => {
                tracing::debug!(%malformed, "a message was refused");
                self.refuse();
                return Ok(());
            }
        };
        let known = self.channels.get(key).map(|opened| &opened.arrivals);
        let channel = match known.filter(|arrivals| !arrivals.is_closed()) {
            Some(arrivals) => arrivals.clone(),
            None => match self.open(key) {
                Some(channel) => channel,
                None => return Ok(()),
            },
        };
        // While a document is behind, the others' frames still go out: its room may be made by them.
        let permits = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let room = self.room.clone();
        let handed_over = async move {
            let Ok(permit) = room.acquire_many_owned(permits).await else {
                return;
            };
            // Fails if the document was let go of at this moment: nobody wants the frame.
            let _ = channel.send(Arrived::Frame(bytes, permit)).await;
        };
        tokio::pin!(handed_over);
        loop {
            let all_written = self.socket.drain().map_err(|_| Ended)?;
            tokio::select! {
                () = &mut handed_over => return Ok(()),
                writable = self.socket.stream().writable(), if !all_written => {
                    writable.map_err(|_| Ended)?;
                }
                () = self.socket.wake.notified() => {
                    if self.socket.is_closing() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn open(&mut self, key: &str) -> Option<mpsc::Sender<Arrived>> {
        if self.channels.len() >= DOCUMENTS_MAX {
            // Those that were let go of, or never let in.
            self.channels
                .retain(|_, opened| opened.is_in.load(Ordering::Relaxed));
        }
        if self.channels.len() >= DOCUMENTS_MAX {
            let reason = format!("A connection holds at most {DOCUMENTS_MAX} documents.");
            self.answer(message::frame(&hocuspocus::permission_denied(key, &reason)));
            self.refuse();
            return None;
        }
        let (sender, arrivals) = mpsc::channel(WAITING_MAX);
        let is_in = Arc::new(AtomicBool::new(false));
        let channel = Channel {
            rooms: self.rooms.clone(),
            doorkeeper: self.doorkeeper.clone(),
            socket: self.socket.clone(),
            key: key.into(),
            arrivals,
            is_in: is_in.clone(),
        };
        self.rooms.tasks.spawn(channel.run());
        let opened = Opened {
            arrivals: sender.clone(),
            is_in,
        };
        self.channels.insert(key.into(), opened);
        Some(sender)
    }

    fn answer(&self, frame: Bytes) {
        if !self.socket.send(frame) {
            self.socket.close(4508, "answers are not read");
        }
    }

    fn refuse(&mut self) {
        self.rooms.metrics.messages_refused.inc();
        if self.refusals.add() {
            self.socket.close(4429, "too many refused messages");
        }
    }

    /// Our close frame is out: reads on until the peer's, then the server closes first (RFC 6455, 7.1.1).
    async fn linger(&mut self) -> Result<(), Ended> {
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let max = self.rooms.config.max_binary_frame();
        let mut violated = false;
        loop {
            let readable = self.socket.stream().readable();
            if !matches!(
                tokio::time::timeout_at(deadline, readable).await,
                Ok(Ok(()))
            ) {
                return Err(Ended);
            }
            let (socket, reader) = (&self.socket, &mut self.reader);
            let mut messages = Vec::new();
            let read = read_some(socket.stream(), |bytes| {
                violated = violated || reader.feed(bytes, max, &mut messages).is_err();
            });
            let closed = messages.iter().any(|m| matches!(m, Message::Close(_)));
            match read {
                Ok(Some(())) if !closed => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                _ => return Err(Ended),
            }
        }
    }
}
