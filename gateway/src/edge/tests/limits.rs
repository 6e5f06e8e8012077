//! What counts against a limit, and what does not.

use atelier_shared::domain::room::RoomKind;
use atelier_shared::ports::{RoomQuery, RoomVisibility};

use super::*;

#[tokio::test]
async fn right_logins_use_up_nobodys_tries() {
    let server = server(&["--login-tries=1"]).await;
    let login = async |username: &str, password: &str| {
        let body = json!({"username": username, "password": password});
        server.post("/api/v1/auth/login", "", body).await.status
    };
    let account = json!({"username": "ana", "password": "correct horse"});
    server.post("/api/v1/auth/register", "", account).await;
    // At once more than the limits of the account and of the address.
    let at_once = (0..25).map(|_| login("ana", "correct horse"));
    for status in futures::future::join_all(at_once).await {
        assert_eq!(status, StatusCode::OK);
    }
    // Guesses stay bounded, also when a right login comes between.
    let names: Vec<String> = (0..25).map(|at| format!("nobody{at}")).collect();
    let guesses = names.iter().map(|name| login(name, "guess"));
    let (first, _) = tokio::join!(
        futures::future::join_all(guesses),
        login("ana", "correct horse")
    );
    let wrong = first.iter().filter(|status| status.as_u16() == 401).count();
    assert_eq!(wrong, 20, "{first:?}");
    let over = login("nobody", "guess").await;
    assert_eq!(over, StatusCode::TOO_MANY_REQUESTS);
    let guesses = (0..5).map(|_| login("ben", "guess"));
    for status in futures::future::join_all(guesses).await {
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    }
}

#[tokio::test]
async fn an_upgrade_that_a_route_does_not_know_makes_it_no_freer() {
    let server = server(&["--rate-entries=2"]).await;
    let refresh = async || {
        let request = Request::post("/api/v1/auth/refresh")
            .header("content-type", "application/json")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(Body::from(r#"{"refresh_token":"none"}"#))
            .unwrap();
        server.send("192.0.2.1", request).await
    };
    for _ in 0..2 {
        let refused = refresh().await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert!(refused.headers.contains_key("ratelimit"));
    }
    assert_eq!(refresh().await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn who_is_over_the_room_limit_leaves_no_drawing_behind() {
    let server = server(&["--rooms-per-address=1"]).await;
    let tokens = server.guest("Ana").await;
    let import = async || {
        let request = Request::post("/api/v1/rooms?import=svg")
            .header("content-type", "image/svg+xml")
            .header("authorization", format!("Bearer {}", access(&tokens)))
            .body(Body::from(
                r##"<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L9 9" stroke="#000"/></svg>"##,
            ))
            .unwrap();
        server.send("192.0.2.1", request).await
    };
    let made = import().await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let b = &server.app.backends;
    let logged = async || b.log.dirty_rooms(None, 100).await.unwrap().len();
    let before = logged().await;
    assert_eq!(before, 1);
    let refused = import().await;
    assert_eq!(refused.body["type"], "/problems/room-limit");
    assert_eq!(logged().await, before, "nothing of it is in a log");
    let query = RoomQuery {
        kind: Some(RoomKind::Open),
        ..RoomQuery::of(RoomVisibility::All)
    };
    assert_eq!(
        b.records.list_rooms(&query, 10).await.unwrap().items.len(),
        1
    );
}
