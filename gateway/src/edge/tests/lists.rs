//! Lists give as many as were asked for, and the rest behind them.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn every_list_of_a_room_goes_page_by_page() {
    let server = server(&[]).await;
    let host = server.guest("Ana").await;
    let token = access(&host);
    let made = server
        .post("/api/v1/sessions", token, json!({"name": "Review"}))
        .await;
    let room = made.body["id"].as_str().unwrap();
    for name in ["Ben", "Cleo"] {
        let guest = server.guest(name).await;
        let member = json!({"user_id": guest["user"]["id"], "role": "viewer"});
        let path = format!("/api/v1/rooms/{room}/members");
        let added = server.post(&path, token, member).await;
        assert_eq!(added.status, StatusCode::CREATED, "{}", added.body);
    }
    for _ in 0..3 {
        let path = format!("/api/v1/rooms/{room}/invites");
        let made = server.post(&path, token, json!({})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    }
    for (path, key) in [
        (format!("/api/v1/rooms/{room}/members"), "user_id"),
        (format!("/api/v1/sessions/{room}/participants"), "user_id"),
        (format!("/api/v1/rooms/{room}/invites"), "id"),
    ] {
        let (mut seen, mut cursor) = (BTreeSet::new(), String::new());
        for left in (0..3).rev() {
            let page = server
                .get(&format!("{path}?limit=1&cursor={cursor}"), token)
                .await;
            let items = page.body["items"].as_array().unwrap();
            assert_eq!(items.len(), 1, "{path}");
            seen.insert(items[0][key].as_str().unwrap().to_owned());
            assert_eq!(page.body["next_cursor"].is_null(), left == 0, "{path}");
            cursor = page.body["next_cursor"].as_str().unwrap_or("").to_owned();
        }
        assert_eq!(seen.len(), 3, "{path}");
    }
    for list in [
        format!("/api/v1/rooms/{room}/members"),
        format!("/api/v1/sessions/{room}/participants"),
        format!("/api/v1/rooms/{room}/invites"),
        format!("/api/v1/sessions/{room}/files"),
    ] {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=201", "limit"),
            ("cursor=x", "cursor"),
        ] {
            let refused = server.get(&format!("{list}?{query}"), token).await;
            let told = (refused.status.as_u16(), &refused.body["field"]);
            assert_eq!(told, (422, &json!(field)), "{list}?{query}");
        }
    }
}
