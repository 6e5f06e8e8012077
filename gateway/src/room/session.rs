//! A connection's own task: reads its socket, carries out what clients and room ask of it, drains what the fan-out could
//! not write. Between messages it holds no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use atelier_shared::domain::entry::Body;
use atelier_shared::domain::ids::Ref;
use bytes::Bytes;
use chrono::Utc;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::actor::Command;
use super::connection::{Connection, Start};
use super::dialect::Dialect;
use super::follower::{Follower, Gone};
use super::json::incoming::{self, Request, Resume};
use super::json::outgoing::{self, ErrorFrame};
use super::outbound::Phase;
use super::pace::Rate;
use super::registry::{Handle, Rooms};
use super::submit::away;
use super::websocket::{Message, Reader, Violation};
use super::yjs::{Heard, message};
use crate::identity::AuthenticationError;

/// What one read takes at most; one buffer for each thread, not for each connection.
const READ_BYTES: usize = 64 * 1024;
/// After our close frame the peer has so long to answer it.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(3);
/// A peer that has not read what went before the close frame has so long to do so, that it learns why it was closed.
const LATE_READER_PATIENCE: Duration = Duration::from_secs(30);

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Reads once from the socket into the thread's buffer. `None`: the peer has ended it.
pub fn read_some<T>(
    stream: &TcpStream,
    take: impl FnOnce(&[u8]) -> T,
) -> std::io::Result<Option<T>> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let mut read = None;
        let tried = stream.try_io(Interest::READABLE, || {
            let (_, n) = recv(stream, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
            read = Some(n);
            // Less than there was place for is all there was: the runtime learns it here, and not by another read that
            // finds nothing. (What comes, or ends, from now on is told anew.)
            if (1..READ_BYTES).contains(&n) {
                return Err(ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match (read, tried) {
            (Some(0), _) => Ok(None),
            (Some(n), _) => Ok(Some(take(&buffer[..n]))),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(ErrorKind::WouldBlock.into()),
        }
    })
}

/// The state of one connection's task.
pub struct Session {
    follower: Follower,
    reader: Reader,
    /// The peer's close frame is here: nothing more is to be waited for.
    peer_closed: bool,
    /// It broke the protocol: its bytes can't be read as frames any more.
    violated: bool,
    /// The room goes on without it already.
    left: bool,
    rate: Rate,
}

/// What a connection's task goes on for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There is something to read, or the peer's end.
    Readable,
    /// The socket takes more.
    Writable,
    /// The room wants something of the task.
    Woken,
}

/// Waits for whatever comes first. Polls the socket's own two places for wakers: a future that waits for readiness would be
/// a third of an idle connection's task.
async fn next_turn(connection: &Connection, read: bool, write: bool) -> std::io::Result<Turn> {
    let stream = connection.stream();
    let mut woken = pin!(connection.wake.notified());
    poll_fn(|context| {
        if read && let Poll::Ready(ready) = stream.poll_read_ready(context) {
            return Poll::Ready(ready.map(|()| Turn::Readable));
        }
        if write && let Poll::Ready(ready) = stream.poll_write_ready(context) {
            return Poll::Ready(ready.map(|()| Turn::Writable));
        }
        woken.as_mut().poll(context).map(|()| Ok(Turn::Woken))
    })
    .await
}

impl std::ops::Deref for Session {
    type Target = Follower;

    fn deref(&self) -> &Follower {
        &self.follower
    }
}

impl Session {
    pub fn new(rooms: Rooms, handle: Handle, connection: Arc<Connection>) -> Self {
        Self {
            rate: Rate::new(&rooms.config),
            reader: match connection.dialect {
                Dialect::Json => Reader::default(),
                Dialect::Yjs | Dialect::Hocuspocus => Reader::skipping(),
            },
            follower: Follower {
                rooms,
                handle,
                connection,
            },
            peer_closed: false,
            violated: false,
            left: false,
        }
    }

    /// Runs until the socket ends, then leaves the room. `early` is what came behind the handshake.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice, and every idle connection pays for its task's size"
    )]
    pub fn run(mut self, early: Bytes) -> impl Future<Output = ()> + Send {
        async move {
            self.event("connect", "connected");
            // Boxed, here and below: rare and large.
            let mut outcome = match Box::pin(self.begun()).await {
                Some(start) => Box::pin(self.begin(*start)).await,
                None => Ok(()),
            };
            if outcome.is_ok() {
                outcome = Box::pin(self.feed(early)).await;
            }
            while outcome.is_ok() {
                outcome = match self.connection.take_start() {
                    Some(start) => Box::pin(self.begin(*start)).await,
                    None => self.turn().await,
                };
            }
            Box::pin(self.leave()).await;
        }
    }

    /// What the client says is read once the room has begun with it: nothing is answered ahead of `connected`.
    async fn begun(&self) -> Option<Box<Start>> {
        let connection = &self.connection;
        loop {
            if let Some(start) = connection.take_start() {
                return Some(start);
            }
            if connection.phase() == Phase::Closing {
                return None;
            }
            tokio::select! {
                () = connection.wake.notified() => {}
                () = self.handle.mailbox.closed() => return None,
            }
        }
    }

    async fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.event("disconnect", "disconnected");
            self.follower.leave().await;
        }
    }

    /// Writes what can be written, then waits for whatever comes first.
    async fn turn(&mut self) -> Result<(), Gone> {
        let connection = self.connection.clone();
        let all_written = connection
            .drain(&self.handle.shared.feed)
            .map_err(|_| Gone)?;
        match connection.phase() {
            Phase::Closing if all_written => return Box::pin(self.linger()).await,
            Phase::Closing => return Box::pin(self.part()).await,
            Phase::Behind if all_written => return Box::pin(self.catch_up()).await,
            _ => {}
        }
        let reads = all_written || !connection.is_congested();
        let turn = next_turn(&connection, reads, !all_written).await;
        if turn.map_err(|_| Gone)? != Turn::Readable {
            return Ok(());
        }
        let (messages, outcome) = self.read()?;
        if !messages.is_empty() {
            // Boxed: an idle connection pays for every byte of its task, a message hardly for this.
            Box::pin(self.take(messages)).await?;
        }
        self.check(outcome);
        Ok(())
    }

    fn max_frame(&self) -> usize {
        let config = &self.rooms.config;
        match self.connection.dialect {
            Dialect::Json => config.max_frame(),
            Dialect::Yjs | Dialect::Hocuspocus => config.max_binary_frame(),
        }
    }

    fn too_long(&self) -> String {
        let max = self.rooms.config.max_update_bytes();
        format!("this edit is too large: at most {max} bytes at once are taken")
    }

    /// What one read of the socket brings, and whether it keeps to the protocol.
    fn read(&mut self) -> Result<(Vec<Message>, Result<(), Violation>), Gone> {
        let mut messages = Vec::new();
        let max = self.max_frame();
        let (connection, reader) = (&self.follower.connection, &mut self.reader);
        let read = read_some(connection.stream(), |bytes| {
            reader.feed(bytes, max, &mut messages)
        });
        match read {
            Ok(Some(outcome)) => Ok((messages, outcome)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok((messages, Ok(()))),
            Ok(None) | Err(_) => Err(Gone),
        }
    }

    async fn feed(&mut self, bytes: Bytes) -> Result<(), Gone> {
        let mut messages = Vec::new();
        let max = self.max_frame();
        let outcome = self.reader.feed(&bytes, max, &mut messages);
        drop(bytes);
        self.take(messages).await?;
        self.check(outcome);
        Ok(())
    }

    fn check(&mut self, outcome: Result<(), Violation>) {
        let Err(violation) = outcome else { return };
        self.reader = Reader::default();
        self.violated = true;
        match violation.close_code() {
            code @ 4000.. => self.connection.close(code, &violation.to_string()),
            code => self.connection.close_silently(code, &violation.to_string()),
        }
    }

    async fn take(&mut self, messages: Vec<Message>) -> Result<(), Gone> {
        if messages.is_empty() {
            return Ok(());
        }
        self.connection.heard(Utc::now().timestamp_millis());
        if self.connection.challenged.swap(false, Ordering::Relaxed) {
            let connection = self.connection.id;
            self.tell(Command::Alive { connection }).await?;
        }
        for message in messages {
            if self.connection.phase() == Phase::Closing {
                return Ok(());
            }
            match message {
                Message::Text(text) if self.connection.dialect == Dialect::Json => {
                    self.text(&text).await?;
                }
                Message::Binary(bytes) if self.connection.dialect == Dialect::Yjs => {
                    self.binary(&bytes).await?;
                }
                Message::TooLong(_) => {
                    // Providers come back from any close and send it again: they are told, and stay.
                    self.connection.not_applied(&self.too_long());
                    self.count_refusal();
                }
                Message::Text(_) | Message::Binary(_) => {
                    self.refuse(&ErrorFrame::new(
                        "bad_json",
                        "this address speaks JSON text, not binary",
                    ));
                }
                Message::Ping(payload) => {
                    self.connection.send_raw(super::websocket::pong(&payload));
                }
                Message::Pong(_) => {}
                Message::Close(code) => {
                    self.peer_closed = true;
                    self.connection.close_silently(code.unwrap_or(1000), "");
                }
            }
        }
        Ok(())
    }

    async fn binary(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let heard = match message::parse(bytes) {
            Ok(message) => Box::pin(self.hear(message)).await?,
            Err(malformed) => malformed.into(),
        };
        if let Heard::Refused(reason) = heard {
            tracing::debug!(%reason, "a message was refused");
            self.count_refusal();
        }
        Ok(())
    }

    async fn text(&mut self, text: &str) -> Result<(), Gone> {
        let now_ms = Utc::now().timestamp_millis();
        let connection = self.connection.id;
        let parsed = incoming::parse(text, now_ms);
        // A join says itself how it comes back.
        if self.stirs() && !matches!(parsed, Ok(Request::Join(_))) {
            self.comes_back().await?;
        }
        let request = match parsed {
            Ok(request) => request,
            Err(error) => {
                self.refuse(&error);
                return Ok(());
            }
        };
        self.count(request.kind());
        match request {
            Request::Ping { timestamp } => {
                self.connection.send(outgoing::pong(timestamp.as_ref()));
                Ok(())
            }
            Request::Auth { token } => Box::pin(self.renew(&token)).await,
            Request::Join(join) => {
                let join = Box::new(join);
                self.tell(Command::Join { connection, join }).await
            }
            Request::Resume(resume) => Box::pin(self.resume(resume)).await,
            Request::SyncRequest => Box::pin(self.sync()).await,
            Request::Ephemeral(value) => {
                let value = Box::new(value);
                self.tell(Command::Ephemeral { connection, value }).await
            }
            Request::Standing(change) => {
                if self.is_over_rate(change.reference.as_ref()) {
                    return Ok(());
                }
                self.tell(Command::Standing { connection, change }).await
            }
            Request::Run(run) => {
                if self.is_over_rate(run.reference.as_ref()) {
                    return Ok(());
                }
                self.tell(Command::Run { connection, run }).await
            }
            Request::Durable(mut message) => {
                if message.is_rated() && self.is_over_rate(message.reference.as_ref()) {
                    return Ok(());
                }
                if let Body::DocumentUpdate { data } = &message.body
                    && let Err(error) = Box::pin(self.handle.check(data)).await.map_err(|_| Gone)?
                {
                    self.refuse(&error.error().reference(message.reference));
                    return Ok(());
                }
                let (room, person) = (self.handle.shared.id.clone(), self.connection.person());
                // Boxed: rare, where the task's size is paid by every idle connection.
                let attached = Box::pin(self.rooms.attach(&room, person, &mut message.body)).await;
                if let Err(error) = attached {
                    self.refuse(&error.reference(message.reference));
                    return Ok(());
                }
                let message = Box::new(message);
                self.tell(Command::Durable {
                    connection,
                    message,
                })
                .await
            }
        }
    }

    /// The whole document, empty or not; nothing else is taken from this client until it is written.
    async fn sync(&mut self) -> Result<(), Gone> {
        let asked = self.handle.document_with_edits_of(self.connection.id);
        match asked.await.map_err(|_| Gone)? {
            Some(document) => {
                self.connection.send_large(document.sync_frame().await);
                self.flush().await
            }
            None => {
                let text = "this room does not allow document";
                self.refuse(&ErrorFrame::new("not_allowed", text).field("type"));
                Ok(())
            }
        }
    }

    /// Takes a token, or says in how long there will be one.
    fn is_over_rate(&mut self, reference: Option<&Ref>) -> bool {
        let Err(retry_in_ms) = self.rate.take(&self.follower.rooms.config) else {
            return false;
        };
        let error = ErrorFrame::new("rate_limited", "too many messages; slow down")
            .retry_in_ms(retry_in_ms)
            .reference(reference.cloned());
        // Not counted as refused: a burst is a mistake in pace, not in kind.
        self.rooms.metrics.traffic.error();
        self.connection.send(error.bytes());
        true
    }

    fn refuse(&self, error: &ErrorFrame) {
        self.event("error", error.code);
        self.connection.send(error.bytes());
        if error.retry_in_ms.is_none() {
            self.count_refusal();
        }
    }

    fn count_refusal(&self) {
        self.rooms.metrics.messages_refused.inc();
        self.rooms.metrics.traffic.error();
        self.connection.count_refusal();
    }

    /// What it missed, and first who it is, if it shows that only now.
    async fn resume(&self, resume: Resume) -> Result<(), Gone> {
        let token = resume.resume_token.as_deref();
        let shown = match self.who_is_shown(token).await {
            Ok(shown) => shown,
            Err(error) => {
                self.refuse(&error);
                return Ok(());
            }
        };
        self.tell(Command::Resume {
            connection: self.connection.id,
            epoch: resume.epoch,
            seq: resume.seq,
            shown,
        })
        .await
    }

    /// A new token for the same person.
    async fn renew(&mut self, token: &str) -> Result<(), Gone> {
        let principal = match self.rooms.identity.authenticate(token).await {
            Ok(principal) => principal,
            Err(AuthenticationError::Port(error)) => {
                self.refuse(&away(&error));
                return Ok(());
            }
            Err(AuthenticationError::Token(error)) => {
                self.refuse(&ErrorFrame::new("token", error.to_string()).field("token"));
                return Ok(());
            }
        };
        if principal.user_id != self.connection.person() {
            self.refuse(&ErrorFrame::new("token", "this token is somebody else's").field("token"));
            return Ok(());
        }
        let connection = self.connection.id;
        self.rooms.is_of_login(connection, principal.family);
        let principal = Box::new(principal);
        self.connection
            .send(outgoing::notice("token_renewed", "the new token counts", 0));
        self.tell(Command::Renewed {
            connection,
            principal,
        })
        .await
    }

    /// It is closed and has yet to read what went before: the others are told at once, the socket waits for a while.
    async fn part(&mut self) -> Result<(), Gone> {
        self.leave().await;
        let connection = self.connection.clone();
        let patience = if self.rooms.is_draining() {
            CLOSE_PATIENCE
        } else {
            LATE_READER_PATIENCE
        };
        let deadline = Instant::now() + patience;
        while !connection
            .drain(&self.handle.shared.feed)
            .map_err(|_| Gone)?
        {
            match tokio::time::timeout_at(deadline, connection.stream().writable()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Gone),
            }
        }
        self.linger().await
    }

    /// Our close frame is out, and the others are told at once: reads on until the peer's, then the server closes first (RFC 6455, 7.1.1).
    async fn linger(&mut self) -> Result<(), Gone> {
        self.leave().await;
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let max = self.max_frame();
        while !self.peer_closed {
            let readable = self.connection.stream().readable();
            if !matches!(
                tokio::time::timeout_at(deadline, readable).await,
                Ok(Ok(()))
            ) {
                break;
            }
            let (connection, reader) = (&self.follower.connection, &mut self.reader);
            let (mut messages, mut answered) = (Vec::new(), false);
            let read = READ_BUFFER.with_borrow_mut(|buffer| {
                let read = connection.stream().try_read(buffer);
                // What it says now is not carried out any more. Behind a violation there are no frames to be found but
                // the last: the bytes are taken, so that the close frame is not lost to a reset.
                match &read {
                    Ok(n @ 1..) if self.violated => answered = ends_with_close(&buffer[..*n]),
                    Ok(n @ 1..) => {
                        self.violated = reader.feed(&buffer[..*n], max, &mut messages).is_err();
                    }
                    _ => {}
                }
                read
            });
            self.peer_closed = answered || messages.iter().any(|m| matches!(m, Message::Close(_)));
            match read {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        Err(Gone)
    }
}

/// Is a client's close frame the last of these bytes? (Of others that look like one the worst that comes is that we do not
/// wait for theirs.)
fn ends_with_close(bytes: &[u8]) -> bool {
    const HEAD: usize = 2;
    const MASK: usize = 4;
    (0..=125_u8).any(|length| {
        let frame = HEAD + MASK + usize::from(length);
        let start = bytes.len().checked_sub(frame);
        start.is_some_and(|start| bytes[start..].starts_with(&[0x88, 0x80 | length]))
    })
}

#[cfg(test)]
mod tests {
    use super::ends_with_close;

    #[test]
    fn a_close_frame_behind_what_can_t_be_read_is_found() {
        let close = [0x88, 0x82, 1, 2, 3, 4, 0x03, 0xef];
        assert!(ends_with_close(&close));
        assert!(ends_with_close(&[&[7, 0x88, 9][..], &close].concat()));
        assert!(ends_with_close(&[0x88, 0x80, 1, 2, 3, 4]));
        assert!(!ends_with_close(&close[..7]), "not all of it is here");
        assert!(
            !ends_with_close(&[&close[..], &[0]].concat()),
            "more follows"
        );
        assert!(!ends_with_close(&[]));
    }
}
