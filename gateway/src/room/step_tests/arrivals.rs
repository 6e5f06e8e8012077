//! Who comes while others knock or go, and what the room hears of them before they are here.

use std::sync::atomic::Ordering;

use atelier_shared::domain::room::Activity;
use atelier_shared::domain::signal::Signal;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::room::actor::{LINGER, People};
use crate::room::json::incoming::{Ephemeral, Join};
use crate::room::outbound::Phase;
use crate::room::sent_out;

impl Stage {
    async fn there(&self) -> Vec<Member> {
        let presence = &self.rooms.backends.presence;
        presence.members(&self.room.id).await.unwrap()
    }

    /// Agrees with presence, which has remembered for long.
    async fn compares(&mut self) {
        let members = self.there().await;
        let complete = true;
        self.compare_people(People { members, complete });
        self.catch_up().await;
    }

    async fn stores_its_room(&self) {
        let records = &self.rooms.backends.records;
        records.create_room(&self.room).await.unwrap();
    }

    fn knows(&self, member: &Member) -> bool {
        self.members.contains_key(&member.client_id)
    }
}

/// The same client by another connection.
fn again(member: &Member) -> Member {
    Member {
        connection: ConnectionId::generate(),
        ..member.clone()
    }
}

fn somebody_else(member: &Member) -> Member {
    Member {
        user_id: UserId::generate(),
        ..again(member)
    }
}

fn is_closed(who: &Somebody) -> bool {
    who.connection.phase() == Phase::Closing
}

fn named(name: &str) -> Join {
    Join {
        name: Some(name.to_owned()),
        ..Join::default()
    }
}

#[tokio::test]
async fn a_crowd_at_the_door_pushes_nobody_out_and_waits_for_nobody_who_has_left() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    let id = ana.connection.id;
    let mut answers = Vec::new();
    for _ in 0..300 {
        let (reply, answer) = oneshot::channel();
        stage.challenge(id, reply);
        answers.push(answer);
    }
    assert_eq!(answers[0].try_recv(), Err(TryRecvError::Empty));
    assert_eq!(answers[299].try_recv(), Ok(()), "she counts as alive");
    let client_id = ana.connection.client_id.clone();
    stage.signal(Signal::Left {
        client_id,
        connection: id,
        reason: Some("stale".into()),
    });
    let waits = answers[0].try_recv();
    assert_eq!(waits, Err(TryRecvError::Empty), "silent, and still here");
    stage.leave(id);
    assert_eq!(answers[0].try_recv(), Err(TryRecvError::Closed));
}

#[tokio::test]
async fn of_one_clients_two_connections_the_later_stays_whichever_comes_in_first() {
    for (joined, told_early) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut stage = Stage::build().await;
        let first = Member {
            joined,
            ..stage.member("Ana")
        };
        let (earlier, a) = stage.comes(first.clone(), None).await;
        let (later, b) = stage.comes(again(&first), Some(first.connection)).await;
        let connection = first.connection;
        if told_early {
            stage.signal(Signal::Replaced { connection });
            stage.enter(earlier);
            assert!(is_closed(&a), "{joined}");
            stage.enter(later);
        } else {
            stage.enter(later);
            stage.enter(earlier);
            stage.signal(Signal::Replaced { connection });
        }
        assert!(is_closed(&a) && !is_closed(&b), "{joined} {told_early}");
        assert_eq!(stage.locals.len(), 1);
        assert!(stage.shared.coming.is_empty());
    }
}

#[tokio::test]
async fn who_is_asked_for_a_sign_of_life_on_the_way_in_is_asked_once_there() {
    let mut stage = Stage::build().await;
    let (enter, ana) = stage.comes(stage.member("Ana"), None).await;
    let connection = ana.connection.id;
    stage.signal(Signal::Challenge { connection });
    stage.enter(enter);
    assert!(ana.connection.challenged.load(Ordering::Relaxed));
}

#[tokio::test]
async fn what_changed_while_somebody_was_on_the_way_in_counts_for_them() {
    let mut stage = Stage::build().await;
    stage.stores_its_room().await;
    let backends = stage.rooms.backends.clone();
    let id = stage.room.id.clone();
    let (ben, cleo) = (stage.member("Ben"), stage.member("Cleo"));
    let (to_be_less, ben_there) = stage.comes(ben.clone(), None).await;
    let (to_be_out, cleo_there) = stage.comes(cleo.clone(), None).await;
    for role in [Role::Host, Role::Viewer] {
        let changed = backends.records.set_role(&id, ben.user_id, Some(role));
        changed.await.unwrap();
        let keeper = UserId::generate();
        let kept = backends.records.set_role(&id, keeper, Some(Role::Host));
        kept.await.unwrap();
    }
    sent_out::send_out(&backends, &id, cleo.user_id)
        .await
        .unwrap();
    // The room has heard of all that.
    stage.room = backends.records.room(&id).await.unwrap().unwrap();
    stage.lets_in(to_be_less);
    stage.lets_in(to_be_out);
    stage.catch_up().await;
    assert_eq!(stage.locals[&ben.connection].member.role, Role::Viewer);
    assert!(!is_closed(&ben_there) && is_closed(&cleo_there));
}

#[tokio::test]
async fn an_older_row_of_a_newcomer_does_not_undo_what_the_room_allows() {
    let mut stage = Stage::build().await;
    stage.room.allows.retain(|one| *one != Activity::Chat);
    stage.stores_its_room().await;
    let (mut enter, _ana) = stage.comes(stage.member("Ana"), None).await;
    enter.room.allows.push(Activity::Chat);
    stage.lets_in(enter);
    stage.catch_up().await;
    assert!(!stage.room.allows(Activity::Chat));
}

#[tokio::test]
async fn a_silent_newcomer_in_a_dead_ones_place_shows_that_the_other_is_gone() {
    let mut stage = Stage::build().await;
    let mut ben = stage.enters("Ben").await;
    let ana = stage.member("Ana");
    let (enter, _gone) = stage.comes(ana.clone(), None).await;
    stage.lets_in(enter);
    stage.catch_up().await;
    ben.reads(&stage).await;
    let stranger = Member {
        joined: false,
        ..somebody_else(&ana)
    };
    let (enter, _stranger) = stage.comes(stranger, Some(ana.connection)).await;
    stage.lets_in(enter);
    assert!(!stage.knows(&ana));
    let told = ben.reads(&stage).await;
    assert_eq!(told.matches("user_left").count(), 1, "{told}");
}

#[tokio::test]
async fn people_of_this_pod_who_are_nowhere_are_gone_and_those_on_the_way_in_are_not() {
    let mut stage = Stage::build().await;
    let mut ben = stage.enters("Ben").await;
    let (ana, cleo) = (stage.member("Ana"), stage.member("Cleo"));
    let (enter, _gone) = stage.comes(ana.clone(), None).await;
    stage.lets_in(enter);
    stage.catch_up().await;
    ben.reads(&stage).await;
    // Her next connection took her place, and came to nothing.
    stage.replaced(ana.connection);
    let presence = stage.rooms.backends.presence.clone();
    let left = presence.leave(&stage.room.id, &ana.client_id, ana.connection);
    assert!(left.await.unwrap());
    let (enter, _coming) = stage.comes(cleo.clone(), None).await;
    stage.compares().await;
    assert!(!stage.knows(&ana));
    let told = ben.reads(&stage).await;
    assert!(told.contains("user_left"), "{told}");
    let there = |members: Vec<Member>| members.iter().any(|m| m.connection == cleo.connection);
    assert!(there(stage.there().await), "she is on her way in");
    drop(enter);
    stage.compares().await;
    assert!(!there(stage.there().await), "she did not come");
}

#[tokio::test]
async fn a_room_that_somebody_is_on_the_way_into_is_not_put_away() {
    let mut stage = Stage::build().await;
    let (enter, _ana) = stage.comes(stage.member("Ana"), None).await;
    let late = Instant::now() + LINGER * 2;
    assert!(!stage.is_over(late));
    drop(enter);
    assert!(stage.is_over(late));
}

#[tokio::test]
async fn who_comes_back_from_silence_does_not_take_a_name_that_is_anothers_by_now() {
    let mut stage = Stage::build().await;
    let first = Member {
        name_is_exclusive: true,
        ..stage.member("Ana")
    };
    let (enter, mut ana) = stage.comes(first, None).await;
    stage.lets_in(enter);
    stage.catch_up().await;
    let id = ana.connection.id;
    stage.drop_silent(id);
    let second = Member {
        name_is_exclusive: true,
        ..stage.member("ANA")
    };
    let connection = second.connection;
    let (enter, _other) = stage.comes(second, None).await;
    stage.lets_in(enter);
    ana.reads(&stage).await;
    assert!(!stage.join(id, Join::default()), "the other one is asked");
    stage.signal(Signal::Alive { connection });
    stage.catch_up().await;
    let told = ana.reads(&stage).await;
    assert!(told.contains("conflict"), "{told}");
    assert!(!stage.locals[&id].member.joined);
    // What it says next asks again.
    assert!(ana.connection.dropped.load(Ordering::Relaxed));
    stage.leave(connection);
    stage.join(id, Join::default());
    stage.catch_up().await;
    assert!(stage.locals[&id].member.joined);
}

#[tokio::test]
async fn what_is_shown_behind_a_join_is_seen_behind_it() {
    let mut stage = Stage::build().await;
    let mut ben = stage.enters("Ben").await;
    let newcomer = Member {
        joined: false,
        name_is_exclusive: true,
        ..stage.member("User1")
    };
    let (enter, ana) = stage.comes(newcomer, None).await;
    stage.lets_in(enter);
    let id = ana.connection.id;
    assert!(!stage.join(id, named("Ana")), "it is asked for everywhere");
    for position in [1, 2] {
        let cursor = Ephemeral::Cursor {
            position: json!(position),
            name: None,
            color: None,
        };
        stage.ephemeral(id, cursor);
    }
    let told = ben.reads(&stage).await;
    assert!(!told.contains("cursor"), "{told}");
    stage.catch_up().await;
    let told = ben.reads(&stage).await;
    let joined = told.find("\"user_joined\"").expect("a join");
    let cursor = told.find("\"type\":\"cursor\"").expect("a cursor");
    assert!(joined < cursor && told.contains("\"position\":2"), "{told}");
    assert!(stage.joining.is_empty());
}
