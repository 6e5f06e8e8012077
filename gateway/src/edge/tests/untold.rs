//! Changes that were made and not told, by a call that was cut short: whoever asks again makes that good.

use atelier_shared::domain::ids::UserId;
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{Delivery, RoleChange, Subscription};
use atelier_shared::recovery;

use super::*;

struct Told {
    server: Server,
    host: Value,
    room: RoomId,
    feed: Subscription,
}

async fn told() -> Told {
    let server = server(&[]).await;
    let host = server.guest("Ana").await;
    let made = server
        .post("/api/v1/rooms", access(&host), json!({"kind": "session"}))
        .await;
    let room: RoomId = made.body["id"].as_str().unwrap().parse().unwrap();
    let b = &server.app.backends;
    recovery::activate(&*b.log, &*b.archive, &room, None, 0, 0)
        .await
        .unwrap();
    let feed = b.log.subscribe(&room).await.unwrap();
    Told {
        server,
        host,
        room,
        feed,
    }
}

impl Told {
    async fn signal(&mut self) -> Signal {
        match self.feed.next().await {
            Some(Delivery::Signal(signal)) => *signal,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> u16 {
        let token = access(&self.host);
        let answer = self.server.call(method, path, token, body).await;
        answer.status.as_u16()
    }

    async fn fence(&self) -> u64 {
        let head = self.server.app.backends.log.head(&self.room).await;
        head.unwrap().unwrap().role_version
    }
}

#[tokio::test]
async fn a_role_that_was_taken_away_untold() {
    let mut it = told().await;
    let ben = it.server.guest("Ben").await;
    let ben: UserId = ben["user"]["id"].as_str().unwrap().parse().unwrap();
    let path = format!("/api/v1/rooms/{}/members", it.room);
    let records = it.server.app.backends.records.clone();
    let set = async |role| match records.set_role(&it.room, ben, role).await.unwrap() {
        RoleChange::Done(version) => version,
        other => panic!("{other:?}"),
    };
    let given = set(Some(Role::Viewer)).await;
    assert!(it.fence().await < given);
    let again = json!({"user_id": ben, "role": "viewer"});
    assert_eq!(it.send("POST", &path, Some(again)).await, 409);
    assert_eq!(it.fence().await, given);
    let taken = set(None).await;
    assert_eq!(it.send("DELETE", &format!("{path}/{ben}"), None).await, 404);
    assert_eq!(it.fence().await, taken);
    for _ in 0..2 {
        assert_eq!(it.signal().await, Signal::Changed);
    }
}

#[tokio::test]
async fn a_role_in_a_project_that_was_taken_away_untold() {
    let mut it = told().await;
    let made = it.server.post(
        "/api/v1/workspaces",
        access(&it.host),
        json!({"name": "Lab"}),
    );
    let workspace = made.await.body["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/workspaces/{workspace}/projects");
    let name = json!({"name": "Parsers"});
    let made = it.server.post(&path, access(&it.host), name);
    let project = made.await.body["id"].as_str().unwrap().to_owned();
    let made = it.server.post(
        "/api/v1/rooms",
        access(&it.host),
        json!({"project_id": project}),
    );
    it.room = made.await.body["id"].as_str().unwrap().parse().unwrap();
    let b = it.server.app.backends.clone();
    recovery::activate(&*b.log, &*b.archive, &it.room, None, 0, 0)
        .await
        .unwrap();
    // One role more than the log has heard of.
    let someone = UserId::generate();
    b.records
        .set_role(&it.room, someone, Some(Role::Viewer))
        .await
        .unwrap();
    let row = b.records.room(&it.room).await.unwrap().unwrap();
    assert!(it.fence().await < row.role_version);
    let path = format!("/api/v1/projects/{project}/members/{someone}");
    assert_eq!(it.send("DELETE", &path, None).await, 404);
    assert_eq!(it.fence().await, row.role_version);
}

#[tokio::test]
async fn a_room_that_was_deleted_untold() {
    for area in ["rooms", "sessions"] {
        let mut it = told().await;
        let records = it.server.app.backends.records.clone();
        let path = format!("/api/v1/{area}/{}", it.room);
        assert!(records.delete_room(&it.room, Utc::now()).await.unwrap());
        assert_eq!(it.send("DELETE", &path, None).await, 404);
        assert!(matches!(it.signal().await, Signal::Closed { .. }));
    }
    // Nobody is told of one that never was, nor of one that was made anew.
    let mut it = told().await;
    let b = it.server.app.backends.clone();
    let never = format!("/api/v1/rooms/{}", RoomId::generate());
    assert_eq!(it.send("DELETE", &never, None).await, 404);
    b.log.publish(&it.room, &Signal::Changed).await.unwrap();
    assert_eq!(it.signal().await, Signal::Changed);
}
