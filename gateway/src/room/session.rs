//! A connection's own task: reads its socket, begins and replays what the room ordered, drains what the fan-out could not
//! write. Between messages it holds no buffer.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{Epoch, Ref, Seq};
use atelier_shared::recovery;
use bytes::Bytes;
use chrono::Utc;
use tokio::io::Interest;
use tokio::time::Instant;

use super::actor::{BoardSnapshot, Command};
use super::admission::leave_presence;
use super::connection::{Connection, Phase, Start};
use super::document::check;
use super::json::incoming::{self, Join, Request};
use super::json::outgoing::{self, ErrorFrame};
use super::past::Past;
use super::registry::{Handle, Rooms};
use super::websocket::{Message, Reader};

/// What one read takes at most; one buffer for each thread, not for each connection.
const READ_BYTES: usize = 64 * 1024;
/// Entries replayed from the log at a time.
const REPLAY_PAGE: usize = 256;
/// After our close frame the peer has so long to answer it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);
/// Refused messages in `REFUSAL_WINDOW` before the connection is closed 4429.
const REFUSALS_MAX: u32 = 20;
const REFUSAL_WINDOW: Duration = Duration::from_secs(10);

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Messages of one connection, by a token bucket: `rate` a second, `burst` at once.
#[derive(Debug)]
struct Rate {
    tokens: f32,
    at: Instant,
}

impl Rate {
    /// Takes one token, or says in how many milliseconds there will be one.
    fn take(&mut self, rate: f32, burst: f32, now: Instant) -> Result<(), u64> {
        let refill = now.duration_since(self.at).as_secs_f32() * rate;
        self.tokens = (self.tokens + refill).min(burst);
        self.at = now;
        if self.tokens < 1.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            return Err(((1.0 - self.tokens) / rate * 1_000.0).ceil() as u64);
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

/// The state of one connection's task.
pub struct Session {
    rooms: Rooms,
    handle: Handle,
    connection: Arc<Connection>,
    reader: Reader,
    /// The peer's close frame is here: nothing more is to be waited for.
    peer_closed: bool,
    /// It broke the protocol: its bytes can't be read as frames any more.
    violated: bool,
    rate: Rate,
    refusals: u32,
    refusals_since: Instant,
}

/// The socket is gone, or the room is; there is nobody to tell.
struct Gone;

impl Session {
    pub fn new(rooms: Rooms, handle: Handle, connection: Arc<Connection>) -> Self {
        let now = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "bounded far below 2^24")]
        let tokens = rooms.config.message_burst as f32;
        Self {
            rooms,
            handle,
            connection,
            reader: Reader::default(),
            peer_closed: false,
            violated: false,
            rate: Rate { tokens, at: now },
            refusals: 0,
            refusals_since: now,
        }
    }

    /// Runs until the socket ends, then leaves the room. `early` is what came behind the handshake.
    pub async fn run(mut self, early: Bytes) {
        self.event("connect", "connected");
        let mut outcome = self.feed(&early).await;
        drop(early);
        while outcome.is_ok() {
            outcome = match self.connection.take_start() {
                // Boxed: rare and large, where the task's size is paid by every idle connection.
                Some(start) => Box::pin(self.begin(*start)).await,
                None => self.turn().await,
            };
        }
        self.event("disconnect", "disconnected");
        let Self {
            rooms,
            handle,
            connection,
            ..
        } = self;
        let id = connection.id;
        rooms.sockets.remove(&id);
        rooms.metrics.connections.dec();
        let leave = Command::Leave { connection: id };
        if handle.mailbox.send(leave).await.is_err() {
            let left = leave_presence(&rooms, &handle, &connection.client_id, id);
            Box::pin(left).await;
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
            Phase::Behind if all_written => return Box::pin(self.catch_up()).await,
            _ => {}
        }
        let congested = connection.is_congested();
        let interest = match (all_written, congested) {
            (true, _) => Interest::READABLE,
            (false, false) => Interest::READABLE | Interest::WRITABLE,
            (false, true) => Interest::WRITABLE,
        };
        let closing = connection.phase() == Phase::Closing;
        tokio::select! {
            // A peer that does not even take our close frame is not waited for.
            () = tokio::time::sleep(CLOSE_PATIENCE), if closing => Err(Gone),
            ready = connection.stream().ready(interest) => {
                if ready.map_err(|_| Gone)?.is_readable() && !congested {
                    return self.read().await;
                }
                Ok(())
            }
            () = connection.wake.notified() => Ok(()),
        }
    }

    async fn read(&mut self) -> Result<(), Gone> {
        let mut messages = Vec::new();
        let max = self.rooms.config.max_frame();
        let (connection, reader) = (&self.connection, &mut self.reader);
        let outcome =
            READ_BUFFER.with_borrow_mut(|buffer| match connection.stream().try_read(buffer) {
                Ok(0) => Err(Gone),
                Ok(n) => Ok(reader.feed(&buffer[..n], max, &mut messages)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Ok(())),
                Err(_) => Err(Gone),
            })?;
        self.take(messages).await?;
        self.check(outcome);
        Ok(())
    }

    async fn feed(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let mut messages = Vec::new();
        let outcome = self
            .reader
            .feed(bytes, self.rooms.config.max_frame(), &mut messages);
        self.take(messages).await?;
        self.check(outcome);
        Ok(())
    }

    fn check(&mut self, outcome: Result<(), super::websocket::Violation>) {
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
                Message::Text(text) => self.text(&text).await?,
                Message::Binary(_) => {
                    self.refuse(&ErrorFrame::new(
                        "bad_json",
                        "this address speaks JSON text, not binary",
                    ));
                }
                Message::Ping(payload) => self.connection.send(super::websocket::pong(&payload)),
                Message::Pong(_) => {}
                Message::Close(code) => {
                    self.peer_closed = true;
                    self.connection.close_silently(code.unwrap_or(1000), "");
                }
            }
        }
        Ok(())
    }

    async fn tell(&self, command: Command) -> Result<(), Gone> {
        self.handle.mailbox.send(command).await.map_err(|_| Gone)
    }

    async fn text(&mut self, text: &str) -> Result<(), Gone> {
        let now_ms = Utc::now().timestamp_millis();
        self.connection.spoke_ms.store(now_ms, Ordering::Relaxed);
        let connection = self.connection.id;
        if self.connection.dropped.load(Ordering::Relaxed) {
            let join = Join::default();
            self.tell(Command::Join { connection, join }).await?;
        }
        let request = match incoming::parse(text, now_ms) {
            Ok(request) => request,
            Err(error) => {
                self.refuse(&error);
                return Ok(());
            }
        };
        self.rooms
            .metrics
            .messages_received
            .get_or_create(&crate::metrics::MessageLabels {
                kind: request.kind(),
            })
            .inc();
        self.rooms.metrics.traffic.message();
        match request {
            Request::Ping { timestamp } => {
                self.connection.send(outgoing::pong(timestamp.as_ref()));
                Ok(())
            }
            Request::Auth { token } => Box::pin(self.renew(&token)).await,
            Request::Join(join) => self.tell(Command::Join { connection, join }).await,
            Request::Resume { epoch, seq } => {
                let resume = Command::Resume {
                    connection,
                    epoch,
                    seq,
                };
                self.tell(resume).await
            }
            Request::SyncRequest => Box::pin(self.sync()).await,
            Request::Ephemeral(value) => self.tell(Command::Ephemeral { connection, value }).await,
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
                    && let Err(error) = check(data).await
                {
                    let error = ErrorFrame::new("invalid", format!("data: {error}")).field("data");
                    self.refuse(&error.reference(message.reference));
                    return Ok(());
                }
                let (room, person) = (self.handle.shared.id.clone(), self.connection.user_id);
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
        match self.handle.document().await.map_err(|_| Gone)? {
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
        let Err(retry_in_ms) = self.take_token() else {
            return false;
        };
        let error = ErrorFrame::new("rate_limited", "too many messages; slow down")
            .retry_in_ms(retry_in_ms)
            .reference(reference.cloned());
        // Not counted as refused: a burst is a mistake in pace, not in kind.
        self.connection.send(error.bytes());
        true
    }

    #[expect(clippy::cast_precision_loss, reason = "bounded far below 2^24")]
    fn take_token(&mut self) -> Result<(), u64> {
        let config = &self.rooms.config;
        let (rate, burst) = (config.message_rate as f32, config.message_burst as f32);
        self.rate.take(rate, burst, Instant::now())
    }

    fn event(&self, kind: &str, details: &str) {
        let (room, who) = (&self.handle.shared.id, &self.connection.client_id);
        self.rooms.metrics.traffic.event(kind, room, who, details);
    }

    fn refuse(&mut self, error: &ErrorFrame) {
        self.rooms.metrics.messages_refused.inc();
        self.rooms.metrics.traffic.error();
        self.event("error", error.code);
        let now = Instant::now();
        if now >= self.refusals_since + REFUSAL_WINDOW {
            self.refusals = 0;
            self.refusals_since = now;
        }
        self.refusals += 1;
        self.connection.send(error.bytes());
        if self.refusals > REFUSALS_MAX {
            self.connection.close(4429, "too many refused messages");
        }
    }

    /// A new token for the same person.
    async fn renew(&mut self, token: &str) -> Result<(), Gone> {
        let principal = match self.rooms.identity.authenticate(token).await {
            Ok(principal) => principal,
            Err(error) => {
                self.refuse(&ErrorFrame::new("token", error.to_string()).field("token"));
                return Ok(());
            }
        };
        if principal.user_id != self.connection.user_id {
            self.refuse(&ErrorFrame::new("token", "this token is somebody else's").field("token"));
            return Ok(());
        }
        if let Some(mut socket) = self.rooms.sockets.get_mut(&self.connection.id) {
            socket.family = principal.family;
        }
        let principal = Box::new(principal);
        let connection = self.connection.id;
        self.connection
            .send(outgoing::notice("token_renewed", "the new token counts", 0));
        self.tell(Command::Renewed {
            connection,
            principal,
        })
        .await
    }

    /// Carries out what the room ordered: first frames, board, replay, last frames; then the ring has it.
    async fn begin(&mut self, start: Start) -> Result<(), Gone> {
        self.connection.push(start.first);
        if let Some(document) = start.document {
            self.connection.send_large(document.sync_frame().await);
            self.flush().await?;
        }
        if let Some(board) = start.board {
            for frame in board_frames(&board).await {
                self.connection.push([frame]);
                self.flush().await?;
            }
        }
        if let Some((epoch, after)) = start.replay
            && !self.replay(epoch, after, start.delivered, true).await?
        {
            // The epoch ended under it: the room is about to order a restart.
            return Ok(());
        }
        self.connection.push(start.last);
        self.connection
            .follow(start.cursor, Some(start.latest_seen), start.delivered);
        Ok(())
    }

    /// Fell off the ring: entries come from the log until the ring has the next one.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        loop {
            let delivered = self.connection.delivered();
            let (position, last) = {
                let feed = self.handle.shared.feed.read();
                (feed.ring.position_after(delivered), feed.ring.last_seq())
            };
            if let Some(cursor) = position {
                // What was not in the log (who came and went) was missed: the room tells it whole.
                let connection = self.connection.id;
                self.tell(Command::Users { connection }).await?;
                self.connection.follow(cursor, None, delivered);
                return Ok(());
            }
            let epoch = self.handle.shared.epoch();
            if !self.replay(epoch, delivered, last, false).await? {
                return Ok(());
            }
        }
    }

    /// Entries after `after` up to `to`, from log or archive, page by page. `own`: also those this very socket wrote, as
    /// entries; else they come as the acks they are owed. False: interrupted by a close, a new order or a new epoch.
    async fn replay(&mut self, epoch: Epoch, after: Seq, to: Seq, own: bool) -> Result<bool, Gone> {
        let b = self.rooms.backends.clone();
        let room = self.handle.shared.id.clone();
        let mut at = after;
        while at < to {
            let page =
                recovery::read_after(&*b.log, &*b.archive, &room, epoch, at, REPLAY_PAGE).await;
            let page = match page {
                Ok(Some(mut page)) => {
                    let nameless = self.rooms.profiles.anonymise_entries(&mut page).await;
                    nameless.map(|()| Some(page))
                }
                other => other,
            };
            let page = match page {
                Ok(Some(page)) if !page.is_empty() => page,
                Ok(Some(_)) | Err(_) => {
                    // The stores are away or not there yet: the reader waits, it does not lose its place.
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    if self.connection.phase() == Phase::Closing {
                        return Ok(false);
                    }
                    continue;
                }
                Ok(None) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    return Ok(false);
                }
            };
            let Some(past) = Past::of(&self.rooms, &self.handle, &page).await else {
                // As above.
                tokio::time::sleep(Duration::from_millis(250)).await;
                continue;
            };
            let frames: Vec<Bytes> = page
                .iter()
                .take_while(|entry| entry.seq <= to)
                .filter_map(|entry| self.shown(entry, &past, own))
                .collect();
            at = page.last().map_or(to, |entry| entry.seq).min(to);
            self.connection.push(frames);
            self.connection.replayed(at);
            self.flush().await?;
            if self.connection.phase() == Phase::Closing {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn shown(&self, entry: &Entry, past: &Past, own: bool) -> Option<Bytes> {
        if !entry.visible_to(self.connection.user_id) {
            return None;
        }
        if entry.record.author.connection == Some(self.connection.id) && !own {
            return outgoing::ack_of(entry);
        }
        past.shown(entry, &self.rooms.identity)
    }

    /// Waits until everything pushed so far is in the kernel, while the room watches for progress.
    async fn flush(&self) -> Result<(), Gone> {
        loop {
            let all = self
                .connection
                .drain(&self.handle.shared.feed)
                .map_err(|_| Gone)?;
            if all || self.connection.phase() == Phase::Closing {
                return Ok(());
            }
            tokio::select! {
                writable = self.connection.stream().writable() => writable.map_err(|_| Gone)?,
                // Given up on, perhaps.
                () = tokio::time::sleep(CLOSE_PATIENCE) => {}
            }
        }
    }

    /// Our close frame is out: reads on until the peer's, then the server closes first (RFC 6455, 7.1.1).
    async fn linger(&mut self) -> Result<(), Gone> {
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let max = self.rooms.config.max_frame();
        while !self.peer_closed {
            let readable = self.connection.stream().readable();
            if !matches!(
                tokio::time::timeout_at(deadline, readable).await,
                Ok(Ok(()))
            ) {
                break;
            }
            let (connection, reader) = (&self.connection, &mut self.reader);
            let mut messages = Vec::new();
            let read = READ_BUFFER.with_borrow_mut(|buffer| {
                let read = connection.stream().try_read(buffer);
                // What it says now is not carried out any more. Behind a violation there are no frames to be found: the
                // bytes are only taken, so that the close frame is not lost to a reset.
                if let (Ok(n @ 1..), false) = (&read, self.violated) {
                    self.violated = reader.feed(&buffer[..*n], max, &mut messages).is_err();
                }
                read
            });
            self.peer_closed = messages.iter().any(|m| matches!(m, Message::Close(_)));
            match read {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        Err(Gone)
    }
}

/// Encoded once, off the async threads, however many wait for it.
async fn board_frames(board: &Arc<BoardSnapshot>) -> Vec<Bytes> {
    let frames = board
        .frames
        .get_or_init(|| async {
            let snapshot = board.clone();
            let encode = move || outgoing::board(&snapshot.strokes, snapshot.seq);
            tokio::task::spawn_blocking(encode)
                .await
                .unwrap_or_default()
        })
        .await;
    frames.clone()
}
