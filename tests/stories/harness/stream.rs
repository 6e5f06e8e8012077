//! Writers and readers that behave as PROTOCOL.md asks of clients: whatever happens to their sockets they come back, say
//! again what is not safe, and remember all they were told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{Client, Door, PATIENCE, until};

/// Messages that a writer has under way at most.
const WINDOW: usize = 25;
/// A writer or reader that is not done by then gives up.
const GIVE_UP: Duration = Duration::from_secs(90);
/// How long one socket may be silent before its client tries another way in.
const SILENCE: Duration = Duration::from_secs(8);

/// When a message of its own lets a writer rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safe {
    /// Acknowledged: survives any gateway.
    Logged,
    /// At or below the watermark: survives the loss of Redis too. After a `reload` what is above it is said again.
    Archived,
}

/// What is said, by how many, and where one gets in.
#[derive(Debug)]
pub struct Stream {
    pub door: Door,
    pub gateways: Vec<SocketAddr>,
    pub writers: usize,
    pub each: usize,
    pub safe: Safe,
    acknowledged: AtomicUsize,
}

impl Stream {
    pub fn new(door: Door, gateways: Vec<SocketAddr>, writers: usize, each: usize) -> Self {
        Self {
            door,
            gateways,
            writers,
            each,
            safe: Safe::Logged,
            acknowledged: AtomicUsize::new(0),
        }
    }

    pub fn total(&self) -> usize {
        self.writers * self.each
    }

    /// Waits until so many messages were acknowledged: the stream is in full flow.
    pub async fn reaches(&self, count: usize) -> anyhow::Result<()> {
        until("the stream to flow", GIVE_UP, async || {
            let now = self.acknowledged.load(Ordering::Relaxed);
            ensure!(now >= count, "{now} of {count} acknowledged");
            Ok(())
        })
        .await
    }

    /// Comes in by whichever gateway lets it, beginning with the `first`.
    async fn enter(&self, door: &Door, first: usize) -> anyhow::Result<Client> {
        let mut turn = first;
        until("a gateway to let a client in", GIVE_UP, async || {
            let gateway = self.gateways[turn % self.gateways.len()];
            turn += 1;
            let entered = timeout(SILENCE, door.clone().at(gateway).enter()).await;
            entered.context("no answer")?
        })
        .await
    }

    /// Says everything of one writer, until it is safe.
    pub async fn write(&self, who: usize) -> anyhow::Result<()> {
        let reference = |n: usize| format!("{who}-{n}");
        let door = self.door.clone().client_id(&format!("writer-{who}"));
        let mut client = self.enter(&door, who).await?;
        let mut own = Own::default();
        let deadline = Instant::now() + GIVE_UP;
        loop {
            own.learn(&client)?;
            let missing: Vec<usize> = (0..self.each)
                .filter(|n| !own.acks.contains_key(&reference(*n)))
                .take(WINDOW)
                .collect();
            let rests = match self.safe {
                Safe::Logged => missing.is_empty(),
                Safe::Archived => missing.is_empty() && own.all_archived(),
            };
            if rests {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{who}: {} of {} safe",
                own.acks.len(),
                self.each
            );
            let step = async {
                let messages = missing.iter().map(|n| {
                    json!({"type": "chat_message", "content": reference(*n), "ref": reference(*n)})
                });
                client.send_all(messages).await?;
                let before = client.frames().len();
                match missing.last() {
                    Some(last) => {
                        let last = reference(*last);
                        // An error (a store is away) is an answer too: then it is tried again.
                        client
                            .news(|m| answers(m, &last) || m["type"] == "reload")
                            .await?;
                        self.acknowledged
                            .fetch_add(missing.len(), Ordering::Relaxed);
                    }
                    None => {
                        client
                            .news_after(before, |m| {
                                m["type"] == "archived" || m["type"] == "reload"
                            })
                            .await?;
                    }
                }
                anyhow::Ok(())
            };
            let silent = !matches!(timeout(SILENCE, step).await, Ok(Ok(())));
            if silent {
                own.learn(&client)?;
                client = self.enter(&client.way_back(), who + 1).await?;
                own.begin();
            }
        }
    }

    pub async fn write_all(&self) -> anyhow::Result<()> {
        let writers = (0..self.writers).map(|who| self.write(who));
        futures::future::try_join_all(writers).await.map(|_| ())
    }

    /// Reads along, coming back after every loss, until it has everything; what it read, in the order it came.
    pub async fn read(&self, first: usize) -> anyhow::Result<Vec<Value>> {
        // From the beginning, whoever has spoken before it came.
        let newcomer = self.enter(&self.door, first).await?;
        let mut client = self
            .enter(&newcomer.way_back().query("seq", 0), first)
            .await?;
        let mut read: Vec<Value> = Vec::new();
        let deadline = Instant::now() + GIVE_UP;
        loop {
            let enough = self.total() - read.len();
            let all = client.entries_reach(enough, SILENCE).await;
            if all.is_ok() || client.is_closed() {
                let came = client.entries();
                let way_back = client.way_back();
                read.extend(came.iter().map(|entry| (**entry).clone()));
                if read.len() >= self.total() {
                    return Ok(read);
                }
                client = self.enter(&way_back, first + 1).await?;
            }
            if Instant::now() > deadline {
                let seqs = client.seqs();
                let hole = seqs.windows(2).find(|pair| pair[1] != pair[0] + 1);
                bail!(
                    "a reader got {} and {} of {}, from {:?} to {:?}, a hole at {hole:?}",
                    read.len(),
                    seqs.len(),
                    self.total(),
                    seqs.first(),
                    seqs.last(),
                );
            }
        }
    }

    /// All of the room's log, read by somebody new. A pod that was away may know only a part at first, and goes on to
    /// tell the rest.
    pub async fn whole_log(&self) -> anyhow::Result<Vec<Value>> {
        let newcomer = self.enter(&self.door, 0).await?;
        let door = newcomer.way_back().query("seq", 0);
        let reader = self.enter(&door, 0).await?;
        let last = reader.connected["seq"].as_u64().context("seq")?;
        let enough = self.total().max(usize::try_from(last)?);
        reader.entries_reach(enough, PATIENCE).await?;
        reader.answered().await?;
        Ok(reader
            .entries()
            .iter()
            .map(|entry| (**entry).clone())
            .collect())
    }

    /// Is everything there once? `in_order`: as each writer said it.
    pub fn check(&self, log: &[Value], in_order: bool) -> anyhow::Result<()> {
        let seqs: Vec<u64> = log.iter().filter_map(|m| m["seq"].as_u64()).collect();
        let broken = seqs.windows(2).find(|pair| pair[1] != pair[0] + 1);
        ensure!(
            broken.is_none() && seqs.first() == Some(&1),
            "a hole or a repetition in seq: {broken:?}"
        );
        let mut said: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for entry in log {
            let content = entry["content"].as_str().context("content")?;
            let (who, _) = content.split_once('-').context("who-n")?;
            said.entry(who).or_default().push(content);
        }
        for who in 0..self.writers {
            let mut heard = said.remove(who.to_string().as_str()).unwrap_or_default();
            if !in_order {
                let number = |content: &&str| {
                    content
                        .split_once('-')
                        .and_then(|(_, n)| n.parse::<usize>().ok())
                };
                heard.sort_by_key(number);
            }
            let right = (0..self.each).map(|n| format!("{who}-{n}"));
            let right: Vec<String> = right.collect();
            if heard != right {
                let wrong = heard.iter().zip(&right).position(|(h, r)| h != r);
                let at = wrong.unwrap_or(heard.len().min(right.len()));
                let around = &heard[at.saturating_sub(3)..(at + 4).min(heard.len())];
                bail!(
                    "writer {who}: {} of {} heard; first wrong at {at}: {around:?}",
                    heard.len(),
                    right.len()
                );
            }
        }
        Ok(())
    }
}

fn answers(frame: &Value, reference: &str) -> bool {
    frame["ref"] == reference && (frame["type"] == "ack" || frame["type"] == "error")
}

/// What a writer was told of its own messages.
#[derive(Debug, Default)]
struct Own {
    /// Ref to seq.
    acks: BTreeMap<String, u64>,
    archived: u64,
    epoch: Option<u64>,
    /// Frames of the present connection that were taken in.
    learnt: usize,
}

impl Own {
    /// A new connection.
    fn begin(&mut self) {
        self.learnt = 0;
    }

    fn learn(&mut self, client: &Client) -> anyhow::Result<()> {
        let frames = client.frames();
        for frame in &frames[self.learnt..] {
            let number = |name: &str| frame[name].as_u64();
            match frame["type"].as_str().unwrap_or_default() {
                "ack" => {
                    let (reference, seq) = (frame["ref"].as_str(), number("seq"));
                    let (reference, seq) = reference.zip(seq).context("an ack has ref and seq")?;
                    let before = self.acks.insert(reference.to_owned(), seq);
                    ensure!(
                        before.is_none_or(|b| b == seq),
                        "{reference} acknowledged as {before:?}, then {seq}"
                    );
                }
                "reload" => {
                    // By the watermark of the epoch that is over: the new one counts its own.
                    let safe = self.archived;
                    self.acks.retain(|_, seq| *seq <= safe);
                    self.archived = number("archived_seq").unwrap_or(0);
                    self.epoch = number("epoch");
                }
                "connected" => {
                    let epoch = number("epoch");
                    if epoch == self.epoch || self.epoch.is_none() {
                        self.archived = number("archived_seq").unwrap_or(0);
                    }
                    self.epoch = epoch;
                }
                "archived" => self.archived = number("seq").unwrap_or(0),
                _ => {}
            }
        }
        self.learnt = frames.len();
        Ok(())
    }

    fn all_archived(&self) -> bool {
        self.acks.values().all(|seq| *seq <= self.archived)
    }
}
