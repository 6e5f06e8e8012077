//! Copies of one message: through two pods, tried again, sent again. Each is stored once or not at all, and its sender is told
//! which, in the order of the log.

use atelier_shared::domain::entry::Entry;
use atelier_shared::ports::{PortError, Refusal};

use super::*;

impl Stage {
    async fn read_back(&self) -> Vec<Entry> {
        let (log, epoch) = (&self.rooms.backends.log, self.head.epoch);
        let read = log.read(&self.room.id, epoch, self.applied, 100).await;
        read.unwrap().unwrap()
    }

    /// What others logged, or what nobody answered for, comes by the log.
    async fn hears_the_log(&mut self) {
        for entry in self.read_back().await {
            self.receive(entry);
        }
        self.acknowledge_those_we_caught_up_with();
        self.catch_up().await;
    }

    async fn appends(&mut self) {
        self.start_append(Instant::now() + std::time::Duration::from_secs(1));
        self.catch_up().await;
    }

    async fn logged(&self) -> u64 {
        let head = self.rooms.backends.log.head(&self.room.id).await;
        head.unwrap().unwrap().seq.0
    }
}

/// The refs and seqs of the acks in what somebody was told.
fn acks(told: &str) -> Vec<(String, u64)> {
    let acks = frames(told).into_iter().filter(|f| f["type"] == "ack");
    let ack = |frame: Value| Some((frame["ref"].as_str()?.to_owned(), frame["seq"].as_u64()?));
    acks.filter_map(ack).collect()
}

#[tokio::test]
async fn what_one_pod_refused_is_not_stored_by_a_copy_on_another() {
    let mut slow = Stage::build().await;
    let mut ana = slow.enters("Ana").await;
    let mut quick = slow.elsewhere().await;
    slow.says(&ana, &words("r"));
    let (client, person) = (ana.connection.client_id.clone(), ana.connection.person());
    let mut back = quick.enters_as("Ana", client, person).await;
    quick.refuses(&back, &words("r"));
    quick.appends().await;
    let told = back.reads(&quick).await;
    assert!(told.contains("not_found"), "{told}");
    // Now the first pod comes to it.
    slow.appends().await;
    assert_eq!(slow.logged().await, 0, "it was refused");
    let told = ana.reads(&slow).await;
    assert!(told.contains("\"code\":\"conflict\""), "{told}");
    // It can be taken later all the same.
    quick.logs(&back, &words("r")).await;
    assert_eq!(acks(&back.reads(&quick).await), [("r".to_owned(), 1)]);
    slow.says(&ana, &words("r"));
    slow.appends().await;
    assert_eq!(slow.logged().await, 1);
}

#[tokio::test]
async fn whoever_lost_the_right_meanwhile_is_told_what_was_stored_before() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    let mut other = stage.elsewhere().await;
    let (client, person) = (ana.connection.client_id.clone(), ana.connection.person());
    let before = other.enters_as("Ana", client, person).await;
    other.logs(&before, &words("stored")).await;
    stage.says(&ana, &words("stored"));
    stage.says(&ana, &words("not"));
    let id = ana.connection.id;
    stage.locals.get_mut(&id).unwrap().member.role = Role::Viewer;
    stage.appends().await;
    stage.hears_the_log().await;
    let told = ana.reads(&stage).await;
    assert_eq!(acks(&told), [("stored".to_owned(), 1)], "{told}");
    let refused = told.matches("\"code\":\"forbidden\"").count();
    assert!(refused == 1 && told.contains("\"ref\":\"not\""), "{told}");
    assert_eq!(stage.logged().await, 1);
}

#[tokio::test]
async fn what_is_tried_again_is_acknowledged_once_and_at_its_place() {
    for heard_before in [true, false] {
        let mut stage = Stage::build().await;
        let mut ana = stage.enters("Ana").await;
        stage.catch_up().await;
        stage.says(&ana, &words("first"));
        stage.start_append(Instant::now());
        let Some(Done::Appended { epoch, batch, .. }) = stage.work.next().await else {
            panic!("an append is under way");
        };
        // It is stored, and nobody says so.
        let error = PortError::retry("append to a room log", "no answer");
        let result = Err(Refusal::Port(error));
        stage.finish(Done::Appended {
            epoch,
            batch,
            result,
        });
        if heard_before {
            stage.hears_the_log().await;
        }
        stage.says(&ana, &words("second"));
        stage.appends().await;
        stage.hears_the_log().await;
        let told = ana.reads(&stage).await;
        let wanted = [("first".to_owned(), 1), ("second".to_owned(), 2)];
        assert_eq!(acks(&told), wanted, "{heard_before}: {told}");
        // Sent again by their client they are told their places again.
        stage.logs(&ana, &words("first")).await;
        let told = ana.reads(&stage).await;
        assert_eq!(acks(&told), wanted[..1], "{told}");
    }
}

#[tokio::test]
async fn whoever_sent_again_by_another_connection_hears_of_it_before_what_came_after() {
    let mut stage = Stage::build().await;
    let ana = stage.enters("Ana").await;
    let mut other = stage.elsewhere().await;
    other.logs(&ana, &words("nobody's")).await;
    let (client, person) = (ana.connection.client_id.clone(), ana.connection.person());
    let before = other.enters_as("Ana", client.clone(), person).await;
    other.logs(&before, &words("first")).await;
    let mut back = stage.enters_as("Ana", client, person).await;
    stage.says(&back, &words("first"));
    stage.says(&back, &words("second"));
    stage.appends().await;
    stage.hears_the_log().await;
    let told = back.reads(&stage).await;
    let wanted = [("first".to_owned(), 1), ("second".to_owned(), 2)];
    assert_eq!(acks(&told), wanted, "{told}");
}

#[tokio::test]
async fn what_brings_nothing_new_is_acknowledged_behind_what_came_before_it() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    // A letter in a text, as Yjs writes it.
    let edit = |reference: &str| json!({"type": "update", "data": "01010100040101740161 00".replace(' ', ""), "ref": reference});
    stage.logs(&ana, &edit("a")).await;
    stage.says(&ana, &words("b"));
    stage.says(&ana, &edit("c"));
    stage.appends().await;
    let told = ana.reads(&stage).await;
    let wanted = [("a", 1), ("b", 2), ("c", 2)].map(|(name, seq)| (name.to_owned(), seq));
    assert_eq!(acks(&told), wanted, "{told}");
}

#[tokio::test]
async fn a_draw_that_lost_whole_is_told_to_its_author_alone() {
    let mut stage = Stage::build().await;
    let mut ana = stage.enters("Ana").await;
    let ben = stage.enters("Ben").await;
    let mut cleo = stage.enters("Cleo").await;
    let erase = json!({"type": "draw", "paths": [], "erase": [{"id": "p", "ts": 20}]});
    stage.logs(&ben, &erase).await;
    stage.flush_draws();
    cleo.reads(&stage).await;
    ana.reads(&stage).await;
    let path = json!({"id": "p", "width": 1, "color": "#112233", "points": [1, 2], "ts": 10});
    stage
        .logs(&ana, &json!({"type": "draw", "paths": [path], "ref": "r"}))
        .await;
    stage.flush_draws();
    let told = cleo.reads(&stage).await;
    assert!(!told.contains("\"type\":\"draw\""), "{told}");
    let told = ana.reads(&stage).await;
    assert_eq!(acks(&told), [("r".to_owned(), 2)], "{told}");
    assert!(told.contains("\"erase\":[{\"id\":\"p\""), "{told}");
    assert_eq!(cleo.connection.delivered(), Seq(2), "and yet it has it all");
}
