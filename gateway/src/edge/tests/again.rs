//! Requests that are sent again with their `Idempotency-Key`.

use atelier_shared::domain::ids::FileId;
use axum::Json;
use axum::response::IntoResponse;

use super::*;
use crate::edge::files;

#[tokio::test]
async fn who_asks_for_tokens_may_hold_a_bad_one() {
    let server = server(&[]).await;
    for (path, body) in [
        ("/api/v1/auth/guest", json!({"name": "Ana"})),
        (
            "/api/v1/auth/register",
            json!({"username": "ben", "password": "correct horse"}),
        ),
    ] {
        let send = async || {
            let request = Request::post(path)
                .header("content-type", "application/json")
                .header("authorization", "Bearer of.an.old-one")
                .header("idempotency-key", "once")
                .body(Body::from(body.to_string()))
                .unwrap();
            server.send("192.0.2.1", request).await
        };
        let made = send().await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        let again = send().await;
        assert_eq!(again.body["user"], made.body["user"], "{}", again.body);
    }
    // Everywhere else a bad token is refused.
    let request = Request::post("/api/v1/rooms")
        .header("authorization", "Bearer of.an.old-one")
        .header("idempotency-key", "once")
        .body(Body::empty())
        .unwrap();
    let refused = server.send("192.0.2.1", request).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_upload_that_is_answered_again_has_a_link_that_is_good() {
    let server = server(&[]).await;
    let id = FileId::generate();
    let kept = json!({"id": id, "name": "a.png", "url": "/old", "file_url": "/old"});
    let answer = files::linked_anew(&server.app, Json(kept).into_response()).await;
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
    let view: Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
    assert_eq!(view["name"], "a.png");
    assert_eq!(view["url"], view["file_url"]);
    let link = format!("http://here{}", view["url"].as_str().unwrap());
    let link = url::Url::parse(&link).unwrap();
    let query = |name: &str| {
        let found = link.query_pairs().find(|(key, _)| key == name);
        found.unwrap().1.into_owned()
    };
    let expires = query("exp").parse().unwrap();
    let identity = &server.app.identity;
    assert!(identity.check_file_link(id, expires, &query("sig")).is_ok());
}
