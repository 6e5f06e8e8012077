//! Who has just left, and who is said to be here and is not.

use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{Delivery, Subscription};

use super::*;

fn departures(subscription: &mut Subscription) -> Vec<ConnectionId> {
    let mut all = Vec::new();
    while let Ok(delivery) = subscription.receiver.try_recv() {
        if let Delivery::Signal(signal) = delivery
            && let Signal::Left { connection, .. } = *signal
        {
            all.push(connection);
        }
    }
    all
}

/// A row of this pod's, of a connection that it has not.
async fn ghost_of(stage: &Stage, of: &Somebody, room: &RoomId) -> Member {
    let ghost = Member {
        client_id: ClientId::generate(),
        connection: ConnectionId::generate(),
        user_id: UserId::generate(),
        name: "Ghost".to_owned(),
        ..stage.locals[&of.connection.id].member.clone()
    };
    let presence = &stage.rooms.backends.presence;
    presence.enter(room, &ghost, None).await.unwrap();
    ghost
}

#[tokio::test]
async fn whoever_has_just_left_can_be_written_to() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    let ben = stage.enters("Ben").await;
    stage.catch_up().await;
    stage.leave(ben.connection.id);
    let presence = stage.rooms.backends.presence.clone();
    while presence.members(&stage.room.id).await.unwrap().len() > 1 {
        tokio::task::yield_now().await;
    }
    let to = |person: UserId, name: &str| json!({"type": "direct_message", "to": person.to_string(), "content": "psst", "ref": name});
    for (person, name) in [
        (ben.connection.person(), "known"),
        (UserId::generate(), "not"),
    ] {
        stage.says(&ana, &to(person, name));
    }
    stage.catch_up().await;
    stage.start_append(Instant::now());
    stage.catch_up().await;
    let told = ana.reads(&stage).await;
    let frames = frames(&told);
    let answered = |kind: &str, name: &str| {
        let mut frames = frames.iter();
        frames.any(|frame| frame["type"] == kind && frame["ref"] == name)
    };
    assert!(
        answered("ack", "known") && answered("error", "not"),
        "{told}"
    );
    let read = stage
        .rooms
        .backends
        .log
        .read(&stage.room.id, stage.head.epoch, Seq(0), 10);
    let logged = read.await.unwrap().unwrap();
    assert!(logged.len() == 1 && logged[0].visible_to(ben.connection.person()));
}

#[tokio::test]
async fn a_ghost_in_a_live_room_is_taken_out_and_said_to_have_left_once() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    stage.catch_up().await;
    let room = stage.room.id.clone();
    let ghost = ghost_of(&stage, &ana, &room).await;
    stage.present(ghost.clone(), None);
    let mut heard = stage.rooms.backends.log.subscribe(&room).await.unwrap();
    for _ in 0..2 {
        stage.refresh_people();
        stage.catch_up().await;
    }
    assert_eq!(departures(&mut heard), [ghost.connection]);
    while let Ok(Delivery::Signal(signal)) = stage.subscription.receiver.try_recv() {
        stage.signal(*signal);
    }
    let told = ana.reads(&stage).await;
    assert_eq!(told.matches("\"type\":\"user_left\"").count(), 1, "{told}");
    let there = stage.rooms.backends.presence.members(&room).await.unwrap();
    assert_eq!(there.len(), 1, "{there:?}");
}

#[tokio::test]
async fn a_ghost_in_a_room_that_is_not_live_is_found_by_its_pod() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    let room = RoomId::generate();
    let ghost = ghost_of(&stage, &ana, &room).await;
    let mut heard = stage.rooms.backends.log.subscribe(&room).await.unwrap();
    let found = stage.rooms.ghosts().await.unwrap();
    let in_room = found.into_iter().filter(|(of, _)| *of == room);
    let found: Vec<Member> = in_room.map(|(_, member)| member).collect();
    assert_eq!(found, std::slice::from_ref(&ghost));
    for _ in 0..2 {
        stage.rooms.take_out(&room, ghost.clone()).await.unwrap();
    }
    assert_eq!(departures(&mut heard), [ghost.connection]);
    assert!(
        stage
            .rooms
            .ghosts()
            .await
            .unwrap()
            .iter()
            .all(|(of, _)| *of != room)
    );
}
