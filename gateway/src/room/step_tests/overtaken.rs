//! Answers that come when the room has gone on: they say what was so when they were asked for.

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::Epoch;
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{Append, Delivery};

use super::*;
use crate::room::actor::AheadOfUs;
use crate::room::epoch::Looked;
use crate::room::follower::Follower;

impl Stage {
    fn looked(&self, number: u64, seen: u64, head: u64) -> Looked {
        Looked {
            number,
            seen: (self.head.epoch, Seq(seen)),
            head: Ok(Some(LogHead {
                seq: Seq(head),
                ..self.head
            })),
            unbroken: true,
        }
    }
}

#[tokio::test]
async fn a_look_at_the_log_says_nothing_of_what_was_written_since() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    stage.logs(&ana, &words("first")).await;
    let before = stage.looked(1, 0, 0);
    stage.verified(before);
    assert!(!stage.activating, "the log was as long as the room then");
    let lost = stage.looked(2, 1, 0);
    stage.verified(lost);
    assert!(stage.activating, "it is shorter than what was seen");
}

#[tokio::test]
async fn a_room_that_went_on_while_it_was_loaded_anew_has_lost_nothing() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    let head = stage.head;
    stage.logs(&ana, &words("first")).await;
    stage.activate();
    stage.activated(Ok(Box::new((head, RoomState::default(), Seq(0)))));
    assert_eq!(stage.applied, Seq(1));
    let told = ana.reads(&stage).await;
    assert!(!told.contains("reload"), "{told}");
}

#[tokio::test]
async fn what_was_read_back_of_a_log_that_is_over_is_not_applied() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    stage.logs(&ana, &words("first")).await;
    let now_ms = Utc::now().timestamp_millis();
    let Ok(Request::Durable(message)) = incoming::parse(&words("second").to_string(), now_ms)
    else {
        panic!("it is a durable message");
    };
    let record = atelier_shared::domain::entry::Record {
        ts_ms: now_ms,
        author: crate::room::submit::author(&stage.locals[&ana.connection.id].member),
        reference: None,
        audience: None,
        body: message.body,
    };
    assert!(matches!(record.body, Body::ChatMessage { .. }));
    let entry = || Entry {
        seq: Seq(2),
        record: record.clone(),
    };
    let before = Epoch(stage.head.epoch.0 - 1);
    stage.repaired(before, Ok(Some(vec![entry()])));
    assert_eq!(stage.applied, Seq(1));
    let now = stage.head.epoch;
    stage.repaired(now, Ok(Some(vec![entry()])));
    assert_eq!(stage.applied, Seq(2));
}

#[tokio::test]
async fn who_knows_more_than_the_room_is_judged_by_a_later_look() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    let (connection, epoch) = (ana.connection.id, stage.head.epoch);
    stage.looks = 1;
    stage.ahead_of_us.push(AheadOfUs {
        connection,
        epoch,
        seq: Seq(5),
        looks_before: 1,
    });
    let earlier = stage.looked(1, 0, 0);
    stage.verified(earlier);
    assert_eq!(stage.ahead_of_us.len(), 1, "it may have been told since");
    let later = stage.looked(2, 0, 0);
    stage.verified(later);
    assert!(stage.ahead_of_us.is_empty(), "the log never had that");
    // Where the store was started again it may well have had it.
    stage.ahead_of_us.push(AheadOfUs {
        connection,
        epoch,
        seq: Seq(5),
        looks_before: 2,
    });
    let broken = Looked {
        unbroken: false,
        ..stage.looked(3, 0, 0)
    };
    stage.verified(broken);
    assert!(stage.activating && stage.forked, "a new epoch is due");
    assert_eq!(stage.ahead_of_us.len(), 1);
}

#[tokio::test]
async fn a_copy_that_is_refused_is_told_where_the_first_one_is() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    stage.logs(&ana, &words("stored")).await;
    ana.reads(&stage).await;
    // In one append with its first, behind it, and for nothing.
    stage.says(&ana, &words("waits"));
    stage.refuses(&ana, &words("waits"));
    stage.refuses(&ana, &words("stored"));
    stage.refuses(&ana, &words("never"));
    let told = ana.reads(&stage).await;
    assert!(
        !told.contains("not_found"),
        "not before it is known: {told}"
    );
    stage.start_append(Instant::now());
    stage.catch_up().await;
    assert_eq!(stage.applied, Seq(2));
    let told = ana.reads(&stage).await;
    let acks = |name: &str| {
        let named = told
            .split('}')
            .filter(|frame| frame.contains(&format!("\"ref\":\"{name}\"")));
        let kind = |frame: &str| {
            if frame.contains("\"type\":\"ack\"") {
                "ack"
            } else {
                "error"
            }
        };
        named.map(kind).collect::<Vec<_>>()
    };
    assert_eq!(acks("waits"), ["ack", "ack"], "{told}");
    assert_eq!(acks("stored"), ["ack"], "{told}");
    assert_eq!(acks("never"), ["error"], "{told}");
    assert!(stage.pending.is_empty() && !stage.pending.has_many_refused());
}

#[tokio::test]
async fn what_presence_remembers_of_before_is_said_again() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    stage.catch_up().await;
    stage.signals.clear();
    let presence = stage.rooms.backends.presence.clone();
    let mut before = stage.locals[&ana.connection.id].member.clone();
    before.joined = false;
    assert!(presence.update(&stage.room.id, &before).await.unwrap());
    stage.refresh_people();
    stage.catch_up().await;
    let there = presence.members(&stage.room.id).await.unwrap();
    assert!(there[0].joined, "{there:?}");
    let told = |signal: &Signal| matches!(signal, Signal::Present { member } if member.joined);
    assert_eq!(stage.signals.iter().filter(|s| told(s)).count(), 1);
}

#[tokio::test]
async fn who_sends_a_draw_again_that_lost_is_shown_the_board_behind_the_acks() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    let ben = stage.enters("Ben").await;
    let stroke = |id: &str, ts: i64| json!({"id": id, "width": 1, "color": "#112233", "points": [1, 2], "ts": ts});
    let erase = json!({"type": "draw", "paths": [], "erase": [{"id": "p", "ts": 20}]});
    stage.logs(&ben, &erase).await;
    let draw = json!({"type": "draw", "paths": [stroke("p", 10), stroke("q", 10)], "ref": "r"});
    stage.logs(&ana, &draw).await;
    stage.flush_draws();
    let told = ana.reads(&stage).await;
    assert!(
        told.contains("\"erase\":[{\"id\":\"p\",\"ts\":20}]"),
        "{told}"
    );
    stage.logs(&ana, &draw).await;
    stage.logs(&ana, &draw).await;
    stage.show_boards(Instant::now());
    let start = ana.connection.take_start().expect("a board");
    let board = start.board.clone().expect("a board");
    assert!(board.frames.get().is_none(), "not made on the room's task");
    let follower = Follower {
        rooms: stage.rooms.clone(),
        handle: stage.handle.clone(),
        connection: ana.connection.clone(),
    };
    follower.begin(*start).await.unwrap();
    let told = ana.reads(&stage).await;
    assert!(
        !told.contains("\"type\":\"draw\""),
        "no seq comes twice: {told}"
    );
    let board = told.find("\"type\":\"board\"").expect("a board");
    let acks: Vec<usize> = told
        .match_indices("\"type\":\"ack\"")
        .map(|m| m.0)
        .collect();
    assert!(acks.len() == 2 && acks[1] < board, "{told}");
    assert!(
        told.contains("\"id\":\"q\"") && !told.contains("\"id\":\"p\""),
        "{told}"
    );
    assert_eq!(told.matches("\"type\":\"board\"").count(), 1);
}

impl Stage {
    /// Logged by another pod: what was told of it is on its way, or lost.
    async fn logged_elsewhere(&self, who: &Somebody, message: &Value) -> Entry {
        let now_ms = Utc::now().timestamp_millis();
        let Ok(Request::Durable(message)) = incoming::parse(&message.to_string(), now_ms) else {
            panic!("it is a durable message");
        };
        let record = atelier_shared::domain::entry::Record {
            ts_ms: now_ms,
            author: crate::room::submit::author(&self.locals[&who.connection.id].member),
            reference: message.reference,
            audience: None,
            body: message.body,
        };
        let append = Append {
            room: &self.room.id,
            epoch: self.head.epoch,
            seen: self.applied,
            role_version: self.head.role_version,
            now_ms,
            records: std::slice::from_ref(&record),
        };
        self.rooms.backends.log.append(append).await.unwrap();
        let seq = self.applied.next();
        Entry { seq, record }
    }
}

#[tokio::test]
async fn a_message_that_was_looked_up_is_known_as_it_is_and_not_as_it_was_read() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    stage.logs(&ana, &words("first")).await;
    let told = ana.reads(&stage).await;
    let id = told.split("\"id\":\"").last().unwrap();
    let id = id.split('"').next().unwrap().to_owned();
    let about = |kind: &str, reference: &str| json!({"type": kind, "message_id": id, "content": "other words", "ref": reference});
    stage.known.forget();
    stage.says(&ana, &about("chat_edit", "overtaken"));
    let found = stage.work.next().await.unwrap();
    let deletion = about("chat_delete", "theirs");
    let deletion = stage.logged_elsewhere(&ana, &deletion).await;
    stage.receive(deletion);
    stage.finish(found);
    stage.says(&ana, &about("chat_edit", "late"));
    stage.start_append(Instant::now());
    stage.catch_up().await;
    let told = ana.reads(&stage).await;
    assert_eq!(told.matches("not_found").count(), 2, "{told}");
    assert_eq!(stage.applied, Seq(2));
}

#[tokio::test]
async fn behind_a_gap_what_the_log_has_beyond_us_is_read_at_once() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    stage.logs(&ana, &words("first")).await;
    stage.logged_elsewhere(&ana, &words("second")).await;
    stage.delivery(Delivery::Gap);
    stage.catch_up().await;
    stage.repair_holes(Instant::now() + crate::room::epoch::HOLE_PATIENCE);
    stage.catch_up().await;
    assert_eq!(stage.applied, Seq(2));
}
