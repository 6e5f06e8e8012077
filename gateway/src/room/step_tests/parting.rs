//! The last words of who goes, and who is refused too often.

use atelier_shared::domain::room::Role;
use atelier_shared::domain::signal::Signal;

use super::*;
use crate::room::json::incoming::Ephemeral;
use crate::room::outbound::Phase;

fn chat(content: &str) -> Value {
    json!({"type": "chat_message", "content": content})
}

/// To somebody whom only the stores could know.
fn direct() -> Value {
    json!({"type": "direct_message", "to": UserId::generate(), "content": "are you there?"})
}

#[tokio::test]
async fn what_waits_behind_a_look_up_is_said_before_its_sender_leaves() {
    let mut stage = Stage::build().await;
    let (ana, mut ben) = (stage.enters("Ana").await, stage.enters("Ben").await);
    stage.catch_up().await;
    stage.says(&ana, &direct());
    stage.says(&ana, &chat("goodbye"));
    stage.leave(ana.connection.id);
    stage.catch_up().await;
    stage.start_append(Instant::now());
    stage.catch_up().await;
    let told = ben.reads(&stage).await;
    assert!(told.contains("goodbye"), "{told}");
    assert!(told.contains("\"type\":\"user_left\""), "{told}");
    assert!(!stage.locals.contains_key(&ana.connection.id));
    assert_eq!(stage.sockets.len(), 1);
}

#[tokio::test]
async fn nobody_who_went_is_kept_by_a_store_that_does_not_answer() {
    let mut stage = Stage::build().await;
    let (ana, mut ben) = (stage.enters("Ana").await, stage.enters("Ben").await);
    stage.catch_up().await;
    stage.says(&ana, &direct());
    stage.leave(ana.connection.id);
    for _ in 0..3 {
        assert!(stage.locals.contains_key(&ana.connection.id));
        stage.part_with_those_who_waited();
    }
    assert!(!stage.locals.contains_key(&ana.connection.id));
    let told = ben.reads(&stage).await;
    assert_eq!(told.matches("\"type\":\"user_left\"").count(), 1, "{told}");
}

#[tokio::test]
async fn who_is_replaced_is_heard_out_and_said_to_have_left_by_nobody() {
    let mut stage = Stage::build().await;
    let (ana, mut ben) = (stage.enters("Ana").await, stage.enters("Ben").await);
    stage.catch_up().await;
    let id = ana.connection.id;
    stage.says(&ana, &direct());
    stage.says(&ana, &chat("goodbye"));
    stage.signal(Signal::Replaced { connection: id });
    assert_eq!(ana.connection.phase(), Phase::Closing);
    stage.leave(id);
    stage.catch_up().await;
    assert!(!stage.locals.contains_key(&id));
    stage.start_append(Instant::now());
    stage.catch_up().await;
    let told = ben.reads(&stage).await;
    assert!(
        told.contains("goodbye") && !told.contains("user_left"),
        "{told}"
    );
}

#[tokio::test]
async fn what_the_room_refuses_counts_as_what_the_session_refuses_does() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    let id = ana.connection.id;
    stage.catch_up().await;
    stage.locals.get_mut(&id).unwrap().member.role = Role::Viewer;
    for n in 0..10 {
        stage.says(&ana, &chat(&format!("word {n}")));
        stage.ephemeral(id, Ephemeral::Typing(json!({"on": true})));
    }
    assert_eq!(ana.connection.phase(), Phase::Live, "twenty are borne");
    stage.says(&ana, &chat("and one more"));
    assert_eq!(ana.connection.phase(), Phase::Closing);
}
