//! What somebody is told who did not read while it was said.

use tokio::sync::mpsc;

use super::*;
use crate::room::follower::Follower;
use crate::room::outbound::Phase;
use crate::room::registry::Handle;
use crate::room::ring::Ring;

#[tokio::test]
async fn an_ack_that_only_the_ring_had_reaches_whoever_fell_off() {
    let mut stage = Stage::build().await;
    stage.shared.feed.write().ring = Ring::new(40_000, Seq(0));
    let (mut ana, ben) = (stage.enters("Ana").await, stage.enters("Ben").await);
    let said = json!({"type": "chat_message", "content": "once", "ref": "first"});
    stage.logs(&ana, &said).await;
    ana.reads(&stage).await;
    stage.logs(&ana, &said).await;
    assert_eq!(stage.applied, Seq(1), "it was known");
    let much = json!({"type": "session_update", "data": {"words": "w".repeat(15_000)}});
    for _ in 0..6 {
        stage.logs(&ben, &much).await;
    }
    let drained = ana.connection.drain(&stage.shared.feed);
    assert!(drained.unwrap() && ana.connection.phase() == Phase::Behind);
    let (mailbox, _room) = mpsc::channel(8);
    let shared = stage.shared.clone();
    let follower = Follower {
        rooms: stage.rooms.clone(),
        handle: Handle { mailbox, shared },
        connection: ana.connection.clone(),
    };
    follower.catch_up().await.unwrap();
    let told = ana.reads(&stage).await;
    assert_eq!(told.matches("\"type\":\"ack\"").count(), 1, "one ack");
    assert_eq!(told.matches("\"type\":\"session_update\"").count(), 6);
}
