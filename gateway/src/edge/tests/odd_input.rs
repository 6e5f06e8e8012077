//! Input that is odd, and refused for it rather than failing somewhere.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

#[tokio::test]
async fn what_no_store_could_keep_or_reckon_with_is_refused_by_name() {
    let server = server(&[]).await;
    let tokens = server.guest("Ana").await;
    let token = access(&tokens);
    for bad in ["https://a.example/\0", "https://a.example/\n", "ftp://a"] {
        let patch = json!({"avatar_url": bad});
        let refused = server
            .call("PATCH", "/api/v1/users/me", token, Some(patch))
            .await;
        let told = (refused.status.as_u16(), &refused.body["field"]);
        assert_eq!(told, (422, &json!("avatar_url")), "{bad:?}");
    }
    let team = server
        .post("/api/v1/teams", token, json!({"name": "Compilers"}))
        .await;
    let team = team.body["id"].as_str().unwrap();
    for (field, time) in [
        ("to", "-262143-01-01T00:00:00Z"),
        ("to", "%2B262142-12-31T23:59:59Z"),
        ("from", "-262143-01-01T00:00:00Z"),
        ("from", "%2B262142-12-31T23:59:59Z"),
        ("to", "0000-01-01T00:00:00Z"),
        ("to", "9999-12-31T23:59:59Z"),
    ] {
        for bucket in ["hour", "day", "week"] {
            let path =
                format!("/api/v1/analytics/team?team_id={team}&{field}={time}&bucket={bucket}");
            let refused = server.get(&path, token).await;
            let told = (refused.status.as_u16(), &refused.body["field"]);
            assert_eq!(told, (422, &json!(field)), "{path}: {}", refused.body);
        }
    }
    for year in ["-262143", "-4714", "0001", "9999", "+262142"] {
        let key = json!([format!("{year}-01-01T00:00:00Z"), "room"]);
        let cursor = URL_SAFE_NO_PAD.encode(key.to_string());
        let path = format!("/api/v1/rooms?cursor={cursor}");
        let answer = server.get(&path, token).await;
        assert_eq!(answer.status, StatusCode::OK, "{year}: {}", answer.body);
    }
}
