//! A WebSocket client that remembers every frame it was sent, and can say what came instead of what was expected.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use super::door::{Door, Socket};
use super::fresh;
use super::story::lock;
use super::wait::PATIENCE;

/// Frames that an error shows, and how much of each.
const SHOWN: usize = 12;
const SHOWN_BYTES: usize = 160;
/// Messages on their way that a sender waits for at most.
const SEND_PATIENCE: Duration = Duration::from_secs(60);

/// How a socket ended: the code of the close frame, 1006 where there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

#[derive(Debug, Default)]
struct Seen {
    /// Every frame, in order.
    frames: Vec<Arc<Value>>,
    /// Those that nobody has expected yet.
    waiting: VecDeque<Arc<Value>>,
    pongs: u64,
    closed: Option<Closed>,
}

/// What a client remembers, also after its socket is gone.
#[derive(Debug, Clone)]
struct Memory {
    seen: Arc<Mutex<Seen>>,
    /// Rises with everything that is seen.
    news: watch::Receiver<u64>,
}

/// One connection.
pub struct Client {
    pub client_id: String,
    pub resume_token: String,
    pub connected: Value,
    door: Door,
    memory: Memory,
    sink: tokio::sync::Mutex<SplitSink<Socket, Message>>,
    /// False: nothing is read from the socket.
    reading: watch::Sender<bool>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    /// As a lost network: the socket is just gone.
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    pub(super) async fn start(socket: Socket, door: Door) -> anyhow::Result<Self> {
        let (sink, stream) = socket.split();
        let (tell, news) = watch::channel(0);
        let (reading, may_read) = watch::channel(true);
        let memory = Memory {
            seen: Arc::default(),
            news,
        };
        let reader = tokio::spawn(read(stream, memory.seen.clone(), tell, may_read));
        let mut client = Self {
            client_id: String::new(),
            resume_token: String::new(),
            connected: Value::Null,
            door,
            memory,
            sink: tokio::sync::Mutex::new(sink),
            reading,
            reader,
        };
        let connected = client.expect("connected").await?;
        let text = |name: &str| {
            let value = connected[name].as_str();
            value.map(str::to_owned).with_context(|| {
                format!("`connected` must have the text {name}, but is {connected}")
            })
        };
        client.client_id = text("client_id")?;
        client.resume_token = text("resume_token")?;
        ensure!(
            connected["epoch"].is_u64(),
            "connected has an epoch: {connected}"
        );
        client.connected = connected;
        Ok(client)
    }

    // What is sent.

    pub async fn send(&self, message: Value) -> anyhow::Result<()> {
        self.send_raw(Message::text(message.to_string())).await
    }

    pub async fn send_raw(&self, message: Message) -> anyhow::Result<()> {
        let mut sink = self.sink.lock().await;
        timeout(SEND_PATIENCE, sink.send(message))
            .await
            .context("the server does not read")?
            .map_err(Into::into)
    }

    /// Puts all into one write, as a client that has much to say does.
    pub async fn send_all(&self, messages: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
        let mut sink = self.sink.lock().await;
        let all = async {
            for message in messages {
                sink.feed(Message::text(message.to_string())).await?;
            }
            sink.flush().await
        };
        timeout(SEND_PATIENCE, all)
            .await
            .context("the server does not read")?
            .map_err(Into::into)
    }

    /// Sends a durable message and waits until it is acknowledged; its `seq`.
    pub async fn log(&self, mut message: Value) -> anyhow::Result<u64> {
        let reference = fresh("ref");
        message["ref"] = reference.clone().into();
        self.send(message).await?;
        self.acknowledged(&reference).await
    }

    pub async fn acknowledged(&self, reference: &str) -> anyhow::Result<u64> {
        let ack = self.expect_where("ack", |m| m["ref"] == reference).await?;
        ensure!(ack["durability"] == "logged", "not an ack: {ack}");
        ack["seq"].as_u64().context("an ack has a seq")
    }

    pub async fn chat(&self, content: &str) -> anyhow::Result<u64> {
        self.log(json!({"type": "chat_message", "content": content}))
            .await
    }

    /// Joins, and waits for `users_list`; the users in it.
    pub async fn join(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        self.send(json!({"type": "join", "name": name, "color": "#3B82F6"}))
            .await?;
        let list = self.expect("users_list").await?;
        let users = list["users"].as_array().context("users_list.users")?;
        Ok(users.clone())
    }

    /// The server has read and answered all that was sent before.
    pub async fn answered(&self) -> anyhow::Result<()> {
        let mark = fresh("ping");
        self.send(json!({"type": "ping", "timestamp": mark}))
            .await?;
        self.expect_where("pong", |m| m["timestamp"] == mark)
            .await
            .map(|_| ())
    }

    /// Says goodbye, as a page that is closed does.
    pub async fn close(self) -> anyhow::Result<()> {
        self.send_raw(Message::Close(None)).await?;
        self.closed().await.map(|_| ())
    }

    /// Stops reading its socket, or goes on.
    pub fn read_on(&self, on: bool) {
        self.reading.send_replace(on);
    }

    // What is seen.

    /// The first frame of this type that was not expected before.
    pub async fn expect(&self, kind: &str) -> anyhow::Result<Value> {
        self.expect_where(kind, |_| true).await
    }

    pub async fn expect_where(
        &self,
        kind: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.expect_within(kind, PATIENCE, wanted).await
    }

    pub async fn expect_within(
        &self,
        kind: &str,
        patience: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.wait(&format!("`{kind}`"), patience, |seen| {
            let fits = |m: &Arc<Value>| m["type"] == kind && wanted(m);
            let place = seen.waiting.iter().position(fits)?;
            seen.waiting.remove(place)
        })
        .await
        .map(Arc::unwrap_or_clone)
    }

    /// Waits until all that was seen satisfies the story.
    pub async fn until(
        &self,
        what: &str,
        patience: Duration,
        enough: impl Fn(&[Arc<Value>]) -> bool,
    ) -> anyhow::Result<()> {
        self.wait(what, patience, |seen| enough(&seen.frames).then_some(()))
            .await
    }

    /// Waits for a frame like this, seen already or not; nobody's expectation loses it.
    pub async fn news(&self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        self.news_after(0, wanted).await
    }

    /// [`Client::news`] among the frames after the first so many.
    pub async fn news_after(
        &self,
        skipped: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let looked_at = std::cell::Cell::new(skipped);
        self.wait("news", PATIENCE, |seen| {
            let new = &seen.frames[looked_at.replace(seen.frames.len())..];
            new.iter().any(|m| wanted(m)).then_some(())
        })
        .await
    }

    /// Waits until it was sent so many entries.
    pub async fn entries_reach(&self, count: usize, patience: Duration) -> anyhow::Result<()> {
        let (looked_at, found) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        self.wait(&format!("{count} entries"), patience, |seen| {
            let new = &seen.frames[looked_at.replace(seen.frames.len())..];
            found.set(found.get() + new.iter().filter(|m| is_entry(m)).count());
            (found.get() >= count).then_some(())
        })
        .await
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.memory.seen).closed.is_some()
    }

    /// Waits for the end of the socket.
    pub async fn closed(&self) -> anyhow::Result<Closed> {
        self.wait("the end of the socket", PATIENCE, |seen| {
            seen.closed.clone()
        })
        .await
    }

    /// Waits for the close frame with this code, and for the `notice` that stands ahead of codes 44xx and 45xx.
    pub async fn closed_with(&self, code: u16) -> anyhow::Result<Closed> {
        let closed = self.closed().await?;
        ensure!(
            closed.code == code,
            "closed with {closed:?} instead of {code}; {}",
            self.shown()
        );
        let frames = self.frames();
        let last = frames.last();
        ensure!(
            code < 4000 || last.is_some_and(|m| m["type"] == "notice"),
            "no notice ahead of {closed:?}, but {last:?}"
        );
        Ok(closed)
    }

    async fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        look: impl Fn(&mut Seen) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + patience;
        let mut news = self.memory.news.clone();
        loop {
            news.borrow_and_update();
            let ended = {
                let mut seen = lock(&self.memory.seen);
                if let Some(found) = look(&mut seen) {
                    return Ok(found);
                }
                seen.closed.clone()
            };
            if let Some(closed) = ended {
                bail!(
                    "{} waited for {what}, but its socket ended: {closed:?}; {}",
                    self.client_id,
                    self.shown()
                );
            }
            if !matches!(timeout_at(deadline, news.changed()).await, Ok(Ok(()))) {
                bail!(
                    "{} waited {patience:?} for {what}; {}",
                    self.client_id,
                    self.shown()
                );
            }
        }
    }

    fn shown(&self) -> String {
        let seen = lock(&self.memory.seen);
        let waiting = &seen.waiting;
        let mut text = format!(
            "instead, of {} frames that nobody expected, the last were:",
            waiting.len()
        );
        for frame in waiting.iter().skip(waiting.len().saturating_sub(SHOWN)) {
            let frame: String = frame.to_string().chars().take(SHOWN_BYTES).collect();
            // Writing to a string does not fail.
            let _ = write!(text, "\n    {frame}");
        }
        text
    }

    /// Every frame so far.
    pub fn frames(&self) -> Vec<Arc<Value>> {
        lock(&self.memory.seen).frames.clone()
    }

    pub fn count(&self, kind: &str) -> usize {
        let is = |m: &&Arc<Value>| m["type"] == kind;
        lock(&self.memory.seen).frames.iter().filter(is).count()
    }

    /// Fails if there was a frame of this type.
    pub fn saw_no(&self, kind: &str) -> anyhow::Result<()> {
        let frames = self.frames();
        match frames.iter().find(|m| m["type"] == kind) {
            None => Ok(()),
            Some(frame) => bail!("{} should not see {frame}", self.client_id),
        }
    }

    /// The entries of the log that it was sent, in the order they came.
    pub fn entries(&self) -> Vec<Arc<Value>> {
        let mut frames = self.frames();
        frames.retain(|m| is_entry(m));
        frames
    }

    pub fn seqs(&self) -> Vec<u64> {
        let entries = self.entries();
        entries.iter().filter_map(|m| m["seq"].as_u64()).collect()
    }

    /// The epoch it was told last, and the last place of it that it knows all before.
    pub fn position(&self) -> (u64, u64) {
        let frames = self.frames();
        let begins = |m: &Arc<Value>| m["type"] == "connected" || m["type"] == "reload";
        let from = frames.iter().rposition(begins).unwrap_or(0);
        let epoch = frames[from]["epoch"].as_u64().unwrap_or(0);
        let places = |m: &Arc<Value>| match m["type"].as_str()? {
            // Not its own places: somebody's read marker, and how far the archive is.
            "receipt" | "archived" => None,
            // With missed entries still to come, these speak of where the room is.
            "connected" if self.door.resumes() => None,
            _ => m["seq"].as_u64(),
        };
        let seq = frames[from..].iter().filter_map(places).max();
        (epoch, seq.unwrap_or_else(|| self.door.resumed_from()))
    }

    /// The door to come in again: as the same client, from where it stopped.
    pub fn way_back(&self) -> Door {
        let (epoch, seq) = self.position();
        self.door
            .clone()
            .query("client_id", &self.client_id)
            .query("resume_token", &self.resume_token)
            .query("epoch", epoch)
            .query("seq", seq)
    }
}

/// Only an entry says when it was logged.
fn is_entry(frame: &Value) -> bool {
    frame["seq"].is_u64() && frame["ts"].is_i64()
}

async fn read(
    mut stream: SplitStream<Socket>,
    seen: Arc<Mutex<Seen>>,
    tell: watch::Sender<u64>,
    mut may_read: watch::Receiver<bool>,
) {
    let mut closed = Closed {
        code: 1006,
        reason: "no close frame".into(),
    };
    loop {
        if may_read.wait_for(|on| *on).await.is_err() {
            break;
        }
        match stream.next().await {
            Some(Ok(Message::Text(text))) => {
                let frame = serde_json::from_str(&text).unwrap_or_else(|error| {
                    json!({"type": "not JSON", "error": error.to_string(), "text": text.as_str()})
                });
                let frame = Arc::new(frame);
                let mut seen = lock(&seen);
                seen.frames.push(frame.clone());
                seen.waiting.push_back(frame);
            }
            Some(Ok(Message::Close(frame))) => {
                closed = frame.map_or(
                    Closed {
                        code: 1005,
                        reason: String::new(),
                    },
                    |frame| Closed {
                        code: frame.code.into(),
                        reason: frame.reason.to_string(),
                    },
                );
            }
            Some(Ok(Message::Pong(_))) => lock(&seen).pongs += 1,
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
        tell.send_modify(|n| *n += 1);
    }
    lock(&seen).closed = Some(closed);
    tell.send_modify(|n| *n += 1);
}
