//! A room's task taken step by step: what only the order of its steps can break, without anybody's clock.

mod arrivals;
mod copies;
mod missed;
mod overtaken;
mod parting;
mod people;

use std::sync::Arc;

use atelier_shared::Backends;
use atelier_shared::config::StoreConfig;
use atelier_shared::domain::ids::{ClientId, ConnectionId, RoomId, Seq, UserId};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::room::{Role, Room, RoomChoice};
use atelier_shared::domain::state::RoomState;
use atelier_shared::ports::{Delivery, LogHead};
use bytes::Bytes;
use chrono::Utc;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::actor::{Actor, Command, Done, Enter, PeopleWrite, Submission};
use super::coming::OnTheWay;
use super::connection::{Connection, Speaks};
use super::json::incoming::{self, Request};
use super::json::outgoing::ErrorFrame;
use super::outbound::Transport;
use super::registry::{Handle, Rooms};
use super::ring::Frame;
use super::session::Session;
use crate::config::tests::parse;
use crate::identity::{Identity, Principal, Profiles};
use crate::metrics::Metrics;

/// A room over embedded stores whose task is not running: the test takes its steps.
struct Stage {
    actor: Actor,
    handle: Handle,
    /// `None`: another's.
    _folder: Option<tempfile::TempDir>,
}

impl std::ops::Deref for Stage {
    type Target = Actor;

    fn deref(&self) -> &Actor {
        &self.actor
    }
}

impl std::ops::DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Actor {
        &mut self.actor
    }
}

/// Somebody in it, and the other end of their socket.
struct Somebody {
    connection: Arc<Connection>,
    peer: TcpStream,
}

impl Stage {
    async fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stores = StoreConfig {
            data_dir: folder.path().to_owned(),
            ..StoreConfig::default()
        };
        let backends = Backends::open(&stores).await.unwrap();
        let mut config = parse(&[]).unwrap();
        config.prepare(backends.mode, folder.path()).unwrap();
        let identity = Identity::open(&config, backends.vault.clone()).unwrap();
        let profiles = Profiles::new(backends.records.clone(), backends.vault.clone());
        let metrics = Metrics::new();
        let rooms = Rooms::start(backends, config, identity, profiles, metrics);
        let rooms = rooms.await.unwrap();
        let room = Room::new(
            RoomId::generate(),
            RoomChoice::default(),
            None,
            None,
            Utc::now(),
        );
        let (actor, handle) = Actor::load(rooms, room, 16).await.unwrap();
        Self {
            actor,
            handle,
            _folder: Some(folder),
        }
    }

    /// The same room on another pod.
    async fn elsewhere(&self) -> Self {
        let (rooms, room) = (self.rooms.clone(), self.room.clone());
        let (actor, handle) = Actor::load(rooms, room, 16).await.unwrap();
        Self {
            actor,
            handle,
            _folder: None,
        }
    }

    fn member(&self, name: &str) -> Member {
        Member {
            client_id: ClientId::generate(),
            connection: ConnectionId::generate(),
            pod: self.rooms.pod,
            user_id: UserId::generate(),
            name: name.to_owned(),
            color: "#112233".to_owned(),
            avatar_url: None,
            role: Role::Editor,
            status: Status::Active,
            simulated: false,
            joined: true,
            cursor_position: None,
            selection: None,
            viewing: None,
            name_is_exclusive: false,
        }
    }

    /// On the way in, and in presence already.
    async fn comes(&self, member: Member, replaces: Option<ConnectionId>) -> (Enter, Somebody) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let presence = self.rooms.backends.presence.clone();
        let entered = presence.enter(&self.room.id, &member, replaces).await;
        entered.unwrap();
        let transport = Transport::Own(accepted.unwrap().0, None);
        let (id, client_id) = (member.connection, member.client_id.clone());
        let connection = Connection::new(
            id,
            client_id,
            member.user_id,
            Speaks::Json,
            transport,
            Utc::now().timestamp_millis(),
        );
        let enter = Enter {
            connection: connection.clone(),
            principal: Principal::anonymous(member.user_id),
            member,
            room: self.room.clone(),
            resume: None,
            replaces,
            on_the_way: OnTheWay::new(self.shared.clone(), id),
        };
        let peer = peer.unwrap();
        (enter, Somebody { connection, peer })
    }

    async fn enters(&mut self, name: &str) -> Somebody {
        self.enters_as(name, ClientId::generate(), UserId::generate())
            .await
    }

    async fn enters_as(&mut self, name: &str, client_id: ClientId, user_id: UserId) -> Somebody {
        let member = Member {
            client_id,
            user_id,
            ..self.member(name)
        };
        let (enter, somebody) = self.comes(member, None).await;
        self.lets_in(enter);
        somebody
    }

    fn lets_in(&mut self, enter: Enter) {
        let connection = enter.connection.clone();
        self.enter(enter);
        // From here on it reads the ring, from where that ends.
        drop(connection.take_start());
        let cursor = self.shared.feed.read().ring.end();
        connection.follow(cursor, None, Seq(0));
    }

    fn says(&mut self, who: &Somebody, message: &Value) {
        let now_ms = Utc::now().timestamp_millis();
        let Ok(Request::Durable(message)) = incoming::parse(&message.to_string(), now_ms) else {
            panic!("it is a durable message");
        };
        let submission = Submission::Write(Box::new(message));
        self.submit(who.connection.id, submission);
    }

    async fn logs(&mut self, who: &Somebody, message: &Value) {
        self.says(who, message);
        self.start_append(Instant::now());
        self.catch_up().await;
    }

    fn refuses(&mut self, who: &Somebody, message: &Value) {
        let now_ms = Utc::now().timestamp_millis();
        let Ok(Request::Durable(message)) = incoming::parse(&message.to_string(), now_ms) else {
            panic!("it is a durable message");
        };
        let error = ErrorFrame::new("not_found", "to: there is no such person");
        self.refuse(who.connection.id, message, error);
    }

    /// Carries out what is under way.
    async fn catch_up(&mut self) {
        while let Some(done) = self.work.next().await {
            self.finish(done);
        }
    }
}

impl Somebody {
    /// What it is told, as far as it was put out until now.
    async fn reads(&mut self, stage: &Stage) -> String {
        let drained = self.connection.drain(&stage.shared.feed);
        assert!(drained.is_ok_and(|all| all), "it keeps up");
        // Behind all that was written before.
        self.connection.send(super::json::outgoing::frame(&"mark"));
        let mut text = Vec::new();
        while !text.ends_with(b"\"mark\"") {
            assert_ne!(self.peer.read_buf(&mut text).await.unwrap(), 0);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The JSON in what somebody was told; what stands between is the frames' own.
fn frames(told: &str) -> Vec<Value> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(next) = told[at..].find('{') {
        at += next;
        let mut values = serde_json::Deserializer::from_str(&told[at..]).into_iter::<Value>();
        if let Some(Ok(frame)) = values.next() {
            at += values.byte_offset();
            frames.push(frame);
        } else {
            // A byte of a frame's length.
            at += 1;
        }
    }
    frames
}

fn words(reference: &str) -> Value {
    json!({"type": "chat_message", "content": "words", "ref": reference})
}

#[tokio::test]
async fn what_was_judged_by_a_log_that_is_lost_is_given_back_and_the_rest_goes_on() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    stage.says(
        &ana,
        &json!({"type": "chat_message", "content": "words", "ref": "first"}),
    );
    stage.start_append(Instant::now());
    stage.catch_up().await;
    assert_eq!(stage.applied, Seq(1));
    let told = ana.reads(&stage).await;
    let id = told.split("\"id\":\"").last().unwrap();
    let id = id.split('"').next().unwrap().to_owned();
    // Both wait: one speaks of a message that stands in this log, the other of none.
    stage.says(
        &ana,
        &json!({"type": "reaction", "data": {"message_id": id, "emoji": "👍", "action": "add"}, "ref": "about"}),
    );
    stage.says(
        &ana,
        &json!({"type": "chat_message", "content": "more", "ref": "alone"}),
    );
    assert!(!stage.pending.is_empty(), "not appended yet");
    let head = LogHead {
        epoch: stage.head.epoch.next(),
        seq: Seq(0),
        archived: Seq(0),
        ..stage.head
    };
    stage.activated(Ok(Box::new((head, RoomState::default(), Seq(0)))));
    drop(ana.connection.take_start());
    ana.connection
        .follow(stage.shared.feed.read().ring.end(), None, Seq(0));
    stage.start_append(Instant::now());
    assert!(stage.appending, "what speaks of nothing is on its way");
    let told = ana.reads(&stage).await;
    assert!(
        told.contains("unavailable") && told.contains("\"ref\":\"about\""),
        "{told}"
    );
    assert!(!told.contains("\"ref\":\"alone\""), "{told}");
    let reported = crate::figures::State {
        connections: 1,
        started_at: Utc::now(),
        documents: Vec::new(),
    };
    let (_, counted) = stage.rooms.metrics.traffic.told(reported);
    assert!(counted.contains(&("errors", 1)), "{counted:?}");
}

#[tokio::test]
async fn of_one_rooms_people_one_write_is_under_way_and_the_last_word_stays() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("first").await;
    stage.catch_up().await;
    let id = ana.connection.id;
    let rename = |stage: &mut Stage, name: &str| {
        let local = stage.locals.get_mut(&id).unwrap();
        local.member.name = name.to_owned();
        local.changed = true;
        stage.write_changed();
    };
    rename(&mut stage, "second");
    assert!(stage.writing_people == PeopleWrite::Now);
    rename(&mut stage, "third");
    rename(&mut stage, "fourth");
    assert_eq!(stage.work.len(), 1, "no second write beside the first");
    assert!(stage.writing_people == PeopleWrite::Again);
    let done = stage.work.next().await.unwrap();
    assert!(matches!(&done, Done::PeopleWritten { unwritten } if unwritten.is_empty()));
    stage.finish(done);
    assert_eq!(stage.work.len(), 1, "what changed meanwhile goes at once");
    stage.catch_up().await;
    assert!(stage.writing_people == PeopleWrite::No);
    let presence = stage.rooms.backends.presence.clone();
    let there = presence.members(&stage.room.id).await.unwrap();
    assert_eq!(there[0].name, "fourth");
}

#[tokio::test]
async fn frames_are_held_for_whoever_has_not_had_them_and_then_let_go() {
    const ENOUGH: usize = 10;
    let mut stage = Stage::build().await;
    let mut quick = stage.enters("Quick").await;
    let mut slow = stage.enters("Slow").await;
    let from = stage.shared.feed.read().ring.end();
    quick.reads(&stage).await;
    slow.reads(&stage).await;
    for text in ["one", "two", "three"] {
        stage.push(Frame::to_others(super::json::outgoing::frame(&text), None));
    }
    quick.reads(&stage).await;
    let holds = |stage: &Stage| stage.shared.feed.read().ring.from(from).is_some();
    (0..ENOUGH).for_each(|_| stage.settle_ring());
    assert!(holds(&stage), "one of them has read nothing");
    let told = slow.reads(&stage).await;
    assert!(told.contains("one") && told.contains("three"), "{told}");
    (0..ENOUGH).for_each(|_| stage.settle_ring());
    assert!(!holds(&stage), "nobody needs them any more");
    stage.push(Frame::to_others(Bytes::from_static(b"x"), None));
    let position = stage.shared.feed.read().ring.end();
    assert_eq!(position, from + 4, "places go on rising");
}

#[tokio::test]
async fn an_idle_connection_and_an_idle_room_take_little() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    let (mailbox, _) = tokio::sync::mpsc::channel(1);
    let shared = stage.shared.clone();
    let handle = Handle { mailbox, shared };
    let session = Session::new(stage.rooms.clone(), handle, ana.connection.clone());
    let its_task = size_of_val(&session.run(Bytes::new()));
    assert!(its_task <= 448, "a connection's task: {its_task} bytes");
    let state = size_of::<Actor>();
    let its_task = size_of_val(&stage.actor.run());
    let besides = its_task - state;
    assert!(besides <= 512, "a room's task: {besides} bytes and {state}");
    // Queues have 32 places from the start.
    let (command, delivery) = (size_of::<Command>(), size_of::<Delivery>());
    assert!(command <= 64, "{command} bytes");
    assert!(delivery <= 32, "{delivery} bytes");
}
