//! A client that does what PROTOCOL.md asks of one: it comes back from where it stopped, keeps what is not archived, and
//! after a `reload` says it again with the same ref. What it writes stands in [`super::deeds`], what it makes of what it is
//! told in [`super::told`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::history::History;
use super::plan::{Act, Step};
use super::stage::Stage;
use super::view::View;
use crate::harness::story::lock;
use crate::harness::{Client, Told};

/// How long nothing may come of anything before a member says that it is stuck.
const PATIENCE: Duration = Duration::from_secs(150);
/// What was sent and not answered for so long on an open socket is sent again.
const ANSWER: Duration = Duration::from_secs(12);
/// The least that a kernel takes on a reader's behalf.
const SMALL_BUFFER: u32 = 4_096;
const BEAT: Duration = Duration::from_millis(25);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// To be sent (again).
    Waiting,
    Sent(Instant),
    /// In the log of this epoch; it may still be lost.
    Logged {
        epoch: u64,
        seq: u64,
    },
    /// In the archive: for ever.
    Archived(u64),
    /// Its subject is not there (any more).
    Refused,
}

/// One of its messages with a ref.
#[derive(Debug, Clone)]
pub struct Own {
    pub act: Act,
    pub message: Value,
    pub fate: Fate,
    pub sends: usize,
    /// Of a chat message: how others speak of it.
    pub id: Option<String>,
}

impl Own {
    pub fn seq(&self) -> Option<u64> {
        match self.fate {
            Fate::Logged { seq, .. } | Fate::Archived(seq) => Some(seq),
            _ => None,
        }
    }
}

pub struct Member {
    pub name: String,
    pub user_id: String,
    pub client_id: String,
    pub view: View,
    /// Epoch, and the last place of it up to which it knows everything.
    pub place: (u64, u64),
    /// Where it came in: what lies before it was told as a state.
    pub start: u64,
    pub own: BTreeMap<String, Own>,
    /// Said without a ref.
    pub once: Vec<String>,
    pub(super) archived: u64,
    pub(super) index: i64,
    room: String,
    stage: Arc<Stage>,
    pub(super) history: Arc<History>,
    random: StdRng,
    resume_token: String,
    /// Who else is here, for those who want to tell them something.
    pub(super) people: Arc<Mutex<BTreeMap<String, String>>>,
    pub(super) link: Option<Client>,
    learnt: usize,
    dozing_until: Option<Instant>,
    pub(super) counter: usize,
    /// A `resume` is under way, from here.
    pub(super) resuming: Option<u64>,
    /// What others wrote in a new epoch before this client heard of it is yet to come: its place does not move.
    pub(super) gap: bool,
    /// ... and is yet to be asked for.
    pub(super) asks: bool,
    /// Of the present socket, since the last `resumed`.
    pub(super) last_seq: u64,
    /// The place of the board that it was shown last.
    pub(super) shown: u64,
    /// A `resume` of the last epoch was under way when the present one was told.
    pub(super) asked_before_reload: bool,
    /// It was shown the room's state once: only then it has a place to come back from.
    pub(super) knows: bool,
}

impl Member {
    pub fn new(
        (room, name, index): (&str, String, usize),
        seed: u64,
        stage: &Arc<Stage>,
        history: &Arc<History>,
        people: &Arc<Mutex<BTreeMap<String, String>>>,
    ) -> Self {
        Self {
            name,
            user_id: String::new(),
            client_id: String::new(),
            view: View::new(),
            place: (0, 0),
            start: 0,
            own: BTreeMap::new(),
            once: Vec::new(),
            archived: 0,
            index: i64::try_from(index).unwrap_or(0),
            room: room.to_owned(),
            stage: stage.clone(),
            history: history.clone(),
            random: StdRng::seed_from_u64(seed ^ (index as u64 + 1)),
            resume_token: String::new(),
            people: people.clone(),
            link: None,
            learnt: 0,
            dozing_until: None,
            counter: 0,
            resuming: None,
            gap: false,
            asks: false,
            last_seq: 0,
            shown: 0,
            asked_before_reload: false,
            knows: false,
        }
    }

    pub(super) fn note(&self, what: impl std::fmt::Display) {
        self.history.note(&self.name, what);
    }

    /// Comes in if it is out, by whichever gateway lets it.
    pub async fn be_in(&mut self) -> Told {
        self.learn().await?;
        let deadline = Instant::now() + PATIENCE;
        while self.link.is_none() {
            let mut door = self
                .stage
                .door(&self.room, self.random.random::<u32>() as usize);
            if self.index == 0 {
                door = door.receive_buffer(SMALL_BUFFER);
            }
            if !self.client_id.is_empty() {
                door = door
                    .client_id(&self.client_id)
                    .query("resume_token", &self.resume_token);
            }
            if self.knows {
                door = door.query("epoch", self.place.0).query("seq", self.place.1);
            }
            match timeout(Duration::from_secs(8), door.enter()).await {
                Ok(Ok(client)) => self.entered(client).await?,
                failed => {
                    if Instant::now() > deadline {
                        let last = failed.map(Result::err);
                        bail!("{} can't get in: {last:?}", self.name);
                    }
                    tokio::time::sleep(BEAT * 2).await;
                }
            }
        }
        Ok(())
    }

    async fn entered(&mut self, client: Client) -> Told {
        if !self.client_id.is_empty() {
            ensure!(
                client.client_id == self.client_id,
                "{} came back as {}",
                self.name,
                client.client_id
            );
        }
        if self.knows {
            self.resuming = Some(self.place.1);
            self.asks = false;
        } else {
            self.begin_anew(&client)?;
        }
        self.client_id.clone_from(&client.client_id);
        self.resume_token.clone_from(&client.resume_token);
        self.note(format_args!(
            "in as {} at {:?}, server at {}.{}",
            self.client_id, self.place, client.connected["epoch"], client.connected["seq"]
        ));
        self.view.new_socket();
        self.asked_before_reload = false;
        (self.learnt, self.dozing_until) = (0, None);
        // What was on its way may be lost.
        for own in self.own.values_mut() {
            if matches!(own.fate, Fate::Sent(_)) {
                own.fate = Fate::Waiting;
            }
        }
        self.link = Some(client);
        self.rename(0).await;
        self.learn().await
    }

    /// It comes without a place: it is shown what there is, and knows what comes from here on.
    fn begin_anew(&mut self, client: &Client) -> Told {
        let number = |name: &str| client.connected[name].as_u64().context(name.to_owned());
        self.place = (number("epoch")?, number("seq")?);
        self.start = self.place.1;
        (self.last_seq, self.shown) = (self.place.1, self.place.1);
        (self.gap, self.asks, self.resuming) = (false, false, None);
        self.view.board.clear();
        self.view.cleared = 0;
        self.archived = number("archived_seq")?;
        let present = self.place.0;
        for own in self.own.values_mut() {
            if matches!(own.fate, Fate::Logged { epoch, .. } if epoch < present) {
                own.fate = Fate::Waiting;
            }
        }
        let user = client.connected["user"]["user_id"].as_str();
        self.user_id = user.context("user.user_id")?.to_owned();
        lock(&self.people).insert(self.name.clone(), self.user_id.clone());
        Ok(())
    }

    async fn rename(&mut self, number: u32) {
        let name = format!("{}-{}", self.name.replace('.', "-"), number % 3);
        self.say(json!({"type": "join", "name": name, "color": "#3B82F6"}))
            .await;
    }

    /// Sends, if it can: what has a ref is sent again later, the rest is lost.
    pub(super) async fn say(&mut self, message: Value) {
        if let Some(link) = &self.link {
            // A socket that has ended is noticed with the next look at it.
            let _ = link.send(message).await;
        }
    }

    /// Takes in what came since the last time; a socket that ended is given up.
    pub async fn learn(&mut self) -> Told {
        let Some(link) = &self.link else {
            return Ok(());
        };
        // In this order: nothing comes after the end.
        let ended = link.is_closed();
        let frames = link.frames();
        for frame in &frames[self.learnt..] {
            self.take(frame).with_context(|| {
                let text: String = frame.to_string().chars().take(300).collect();
                format!("{} at {:?} is told {text}", self.name, self.place)
            })?;
        }
        self.learnt = frames.len();
        if ended {
            self.note("its socket ended");
            self.link = None;
        } else if std::mem::take(&mut self.asks) {
            self.resume(self.place.1).await;
        }
        Ok(())
    }

    async fn resume(&mut self, from: u64) {
        self.resuming = Some(from);
        self.note(format_args!("resumes from {from}"));
        self.say(json!({"type": "resume", "epoch": self.place.0, "seq": from}))
            .await;
    }

    fn wake(&mut self) {
        if self
            .dozing_until
            .is_some_and(|until| Instant::now() >= until)
        {
            self.dozing_until = None;
            if let Some(link) = &self.link {
                link.read_on(true);
            }
        }
    }

    pub async fn live(&mut self, steps: &[Step]) -> Told {
        for step in steps {
            self.wake();
            self.be_in().await?;
            self.move_or_write(step).await?;
            self.send_waiting().await;
            tokio::time::sleep(step.pause).await;
        }
        Ok(())
    }

    async fn move_or_write(&mut self, step: &Step) -> Told {
        let number = step.numbers[0];
        match step.act {
            Act::Resume if !self.gap && self.resuming.is_none() => {
                let from = self.place.1.saturating_sub(u64::from(number % 12));
                self.resume(from.max(self.start)).await;
            }
            Act::Resume => {}
            Act::Rename => self.rename(number).await,
            Act::Doze => {
                if let Some(link) = &self.link {
                    link.read_on(false);
                    let doze = Duration::from_millis(u64::from(number % 900));
                    self.dozing_until = Some(Instant::now() + doze);
                }
            }
            Act::Vanish => {
                self.note("vanishes");
                self.link = None;
            }
            Act::Leave => {
                if let Some(link) = self.link.take() {
                    self.note("leaves");
                    // Its server may be gone.
                    let _ = timeout(Duration::from_secs(2), link.close()).await;
                    tokio::time::sleep(Duration::from_millis(u64::from(number % 700))).await;
                }
            }
            Act::Replace => {
                // The old socket is kept until the new one is there.
                let old = self.link.take();
                self.be_in().await?;
                drop(old);
            }
            _ => self.write(step).await,
        }
        Ok(())
    }

    /// Sends what was not sent yet, or is to be sent again, in the order it was written.
    pub(super) async fn send_waiting(&mut self) {
        let now = Instant::now();
        let due = |own: &Own| match own.fate {
            Fate::Waiting => true,
            Fate::Sent(at) => now >= at + ANSWER,
            _ => false,
        };
        let Some(link) = &self.link else { return };
        let mut waiting: Vec<(&String, &mut Own)> =
            self.own.iter_mut().filter(|(_, own)| due(own)).collect();
        if waiting.is_empty() {
            return;
        }
        waiting.sort_by_key(|(reference, _)| number_of(reference));
        let messages: Vec<Value> = waiting.iter().map(|(_, own)| own.message.clone()).collect();
        // A socket that has ended is noticed with the next look at it.
        let _ = link.send_all(messages).await;
        for (_, own) in waiting {
            own.sends += 1;
            own.fate = Fate::Sent(now);
        }
    }

    /// Goes on until `done`, coming back after every loss and sending what is to be sent.
    pub async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Told {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.dozing_until = self.dozing_until.map(|_| Instant::now());
            self.wake();
            self.be_in().await?;
            if done(self) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let restless: Vec<String> = self
                    .own
                    .iter()
                    .filter(|(_, own)| !matches!(own.fate, Fate::Archived(_) | Fate::Refused))
                    .map(|(reference, own)| format!("{reference} {:?}", own.fate))
                    .collect();
                bail!(
                    "{} waited for {what}: at {:?}, archived {}, people {:?}, not safe: {restless:?}",
                    self.name,
                    self.place,
                    self.archived,
                    self.view.people
                );
            }
            self.send_waiting().await;
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Everything it wrote is archived, or was refused.
    pub fn is_safe(&self) -> bool {
        let rests = |own: &Own| matches!(own.fate, Fate::Archived(_) | Fate::Refused);
        !self.gap && self.own.values().all(rests)
    }

    /// The place of the last that it wrote.
    pub fn last_of_own(&self) -> Option<u64> {
        self.own.values().filter_map(Own::seq).max()
    }

    /// Says goodbye, for good.
    pub async fn leave(&mut self) -> Told {
        self.learn().await?;
        match self.link.take() {
            Some(link) => link.close().await,
            None => Ok(()),
        }
    }

    /// Comes in once more, from the beginning of the log: every entry that it may see, in order.
    pub async fn whole_log(&mut self) -> anyhow::Result<Vec<Value>> {
        self.link = None;
        let door = self
            .stage
            .door(&self.room, 0)
            .client_id(&self.client_id)
            .query("resume_token", &self.resume_token)
            .query("epoch", self.place.0)
            .query("seq", 0);
        let reader = door.enter().await?;
        reader.expect("resumed").await?;
        // Behind all that was missed.
        reader.expect("users").await?;
        let entries = reader.entries();
        Ok(entries.iter().map(|entry| (**entry).clone()).collect())
    }
}

fn number_of(reference: &str) -> usize {
    let number = reference.rsplit('~').next().unwrap_or_default();
    number.parse().unwrap_or(0)
}
