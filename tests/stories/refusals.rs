//! What the server does not take, on every address: told by name, and the connection stays unless it must not.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{ADDRESSES, Address, Client, Cluster, PATIENCE, Stories, Story, Told, fresh};

pub fn stories(all: &mut Stories) {
    all.both(bad_messages_are_told_by_field_and_the_connection_stays);
    all.both(an_oversized_frame_is_closed_4413);
    all.both(a_wrong_token_is_401_before_the_upgrade);
    all.both(an_unknown_or_malformed_room_is_refused_before_the_upgrade);
    all.both(twenty_refused_messages_close_4429);
    all.both(what_only_the_room_refuses_closes_4429_too);
    all.both(a_stranger_origin_is_refused);
    all.both(what_is_no_websocket_is_told_so);
    all.both(limits_within_a_frame_are_errors_not_closes);
}

/// A room that all four addresses lead into, and its host on each.
async fn everywhere(cluster: &Cluster) -> anyhow::Result<Vec<(Address, Client)>> {
    let ana = cluster.rest().guest(&fresh("Ana")).await?;
    let room = cluster
        .rest()
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    let mut clients = Vec::new();
    for address in ADDRESSES {
        clients.push((
            address,
            cluster.door(address, &room).person(&ana).enter().await?,
        ));
    }
    Ok(clients)
}

async fn bad_messages_are_told_by_field_and_the_connection_stays(story: Story) -> Told {
    let cluster = story.shared().await?;
    for (address, client) in everywhere(&cluster).await? {
        for (text, code, field) in [
            ("{\"type\":", "bad_json", None),
            ("hello", "bad_json", None),
            ("[]", "invalid", None),
            ("{}", "invalid", Some("type")),
            (r#"{"type":"dance"}"#, "unknown_type", Some("type")),
            (r#"{"type":"chat_message"}"#, "invalid", Some("content")),
            (
                r#"{"type":"chat_message","content":["x"]}"#,
                "invalid",
                Some("content"),
            ),
            (
                r#"{"type":"chat_message","content":"x","ref":""}"#,
                "invalid",
                Some("ref"),
            ),
            (
                r#"{"type":"join","name":"a\u202eb"}"#,
                "invalid",
                Some("name"),
            ),
            (
                r#"{"type":"join","name":"x","color":"red; drop"}"#,
                "invalid",
                Some("color"),
            ),
            (
                r#"{"type":"cursor_update","data":{"line":1}}"#,
                "invalid",
                Some("data"),
            ),
            (
                r##"{"type":"draw","paths":[{"id":"s","width":1,"color":"#000","points":["x"],"ts":1}]}"##,
                "invalid",
                Some("paths[0].points[0]"),
            ),
        ] {
            client.send_raw(Message::text(text)).await?;
            let error = client
                .expect("error")
                .await
                .with_context(|| format!("{address:?} {text}"))?;
            let fits = error["code"] == code && error["field"].as_str() == field;
            ensure!(
                fits,
                "{address:?} {text}: expected {code} at {field:?}, got {error}"
            );
            ensure!(
                code != "bad_json" || error["message"] == "Invalid JSON",
                "{error}"
            );
        }
        client
            .send(json!({"type": "chat_message", "content": "", "ref": "mine"}))
            .await?;
        let error = client.expect("error").await?;
        ensure!(error["ref"] == "mine", "an error names the ref: {error}");
        client.chat("still here").await?;
    }
    Ok(())
}

async fn an_oversized_frame_is_closed_4413(story: Story) -> Told {
    let cluster = story.shared().await?;
    for (address, client) in everywhere(&cluster).await? {
        let max = client.connected["max_frame"]
            .as_u64()
            .context("max_frame")?;
        let frame = |bytes: u64| {
            let empty = json!({"type": "ping", "timestamp": ""}).to_string().len() as u64;
            json!({"type": "ping", "timestamp": "x".repeat((bytes - empty) as usize)})
        };
        client.send(frame(max)).await?;
        client
            .expect("pong")
            .await
            .with_context(|| format!("{address:?}: a frame of max_frame is taken"))?;
        // The server may close before it has read it all: that the sending ends badly is no surprise.
        let _ = client.send(frame(max + 1)).await;
        client
            .closed_with(4413)
            .await
            .with_context(|| format!("{address:?}"))?;
    }
    Ok(())
}

async fn a_wrong_token_is_401_before_the_upgrade(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let room = cluster
        .rest()
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    let (head, signature) = ana.token.rsplit_once('.').context("a JWT")?;
    let forged = format!("{head}.{}{signature}", "A")
        .chars()
        .take(ana.token.len())
        .collect::<String>();
    for address in ADDRESSES {
        let door = cluster.door(address, &room);
        for token in ["nonsense", forged.as_str()] {
            let refused = door
                .clone()
                .query("token", token)
                .refused(401, "token-invalid")
                .await?;
            ensure!(
                refused.headers.contains_key("www-authenticate"),
                "{refused:?}"
            );
            door.clone()
                .header("authorization", format!("Bearer {token}"))
                .refused(401, "token-invalid")
                .await?;
            door.clone()
                .header("sec-websocket-protocol", format!("bearer, {token}"))
                .refused(401, "token-invalid")
                .await?;
        }
        door.query("ticket", "nonsense")
            .refused(401, "token-invalid")
            .await?;
    }
    Ok(())
}

async fn an_unknown_or_malformed_room_is_refused_before_the_upgrade(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    for address in ADDRESSES {
        let room = fresh("room");
        let door = cluster.door(address, &room).person(&ana);
        if matches!(address, Address::Rooms | Address::Session) {
            door.refused(404, "not-found").await?;
        }
        for bad in ["a.b", "r%C3%A4um", &"x".repeat(65)] {
            cluster
                .door(address, bad)
                .person(&ana)
                .refused(422, "invalid")
                .await?;
        }
        let refused = door
            .client_id(&"x".repeat(65))
            .refused_one_of(&[(422, "invalid"), (404, "not-found")])
            .await?;
        ensure!(
            refused.status == 404 || refused.body["field"] == "client_id",
            "{refused:?}"
        );
    }
    Ok(())
}

async fn twenty_refused_messages_close_4429(story: Story) -> Told {
    let cluster = story.shared().await?;
    for (address, client) in everywhere(&cluster).await? {
        client
            .send_all((0..20).map(|_| json!({"type": "dance"})))
            .await?;
        client
            .answered()
            .await
            .with_context(|| format!("{address:?}: twenty are borne"))?;
        client.send(json!({"type": "dance"})).await?;
        client
            .closed_with(4429)
            .await
            .with_context(|| format!("{address:?}"))?;
        ensure!(
            client.count("error") == 21,
            "each is told: {}",
            client.count("error")
        );
    }
    Ok(())
}

async fn what_only_the_room_refuses_closes_4429_too(story: Story) -> Told {
    let cluster = story.shared().await?;
    for (address, client) in everywhere(&cluster).await? {
        let edits = (0..20).map(|n| {
            let nothing = uuid::Uuid::now_v7();
            json!({"type": "chat_edit", "message_id": nothing, "content": "x", "ref": n.to_string()})
        });
        client.send_all(edits).await?;
        client
            .until("each is told", PATIENCE, |frames| {
                frames.iter().filter(|m| m["code"] == "not_found").count() == 20
            })
            .await?;
        ensure!(!client.is_closed(), "{address:?}: twenty are borne");
        client.send(json!({"type": "dance"})).await?;
        client
            .closed_with(4429)
            .await
            .with_context(|| format!("{address:?}"))?;
    }
    Ok(())
}

async fn a_stranger_origin_is_refused(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let room = cluster
        .rest()
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    for address in ADDRESSES {
        let door = cluster.door(address, &room).person(&ana);
        door.clone()
            .header("origin", "https://evil.example")
            .refused(403, "forbidden")
            .await?;
        // This server's own pages, and what somebody develops on the same machine.
        for page in [&*cluster.here().url(""), "http://localhost:3000"] {
            door.clone().header("origin", page).enter().await?;
        }
    }
    Ok(())
}

async fn what_is_no_websocket_is_told_so(story: Story) -> Told {
    let cluster = story.shared().await?;
    for address in ADDRESSES {
        let answer = cluster.rest().get(&address.path("room")).await?;
        let version = answer.headers.get("sec-websocket-version").cloned();
        answer.problem(426, "upgrade-required")?;
        ensure!(version.is_some_and(|v| v == "13"), "no version is offered");
    }
    Ok(())
}

async fn limits_within_a_frame_are_errors_not_closes(story: Story) -> Told {
    let cluster = story.shared().await?;
    let client = cluster.door(Address::Plain, &fresh("room")).enter().await?;
    let stroke = |points: usize, ts: i64| json!({"id": "s", "width": 1, "color": "#000000", "points": vec![0; points], "ts": ts});
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_millis();
    let ahead = i64::try_from(now_ms)? + 60_000;
    let refused: [(Value, &str); 4] = [
        (
            json!({"type": "chat_message", "content": "x".repeat(16_385)}),
            "content",
        ),
        (
            json!({"type": "draw", "paths": [stroke(200_002, 1)]}),
            "paths",
        ),
        (
            json!({"type": "draw", "paths": [stroke(2, ahead)]}),
            "paths",
        ),
        (json!({"type": "join", "name": "x".repeat(33)}), "name"),
    ];
    for (message, field) in refused {
        client.send(message).await?;
        let error = client.expect("error").await?;
        let named = error["field"].as_str().unwrap_or_default();
        ensure!(named.starts_with(field), "expected {field}, got {error}");
    }
    client.chat(&"x".repeat(16_384)).await?;
    client
        .log(json!({"type": "draw", "paths": [stroke(200_000, 1)]}))
        .await?;
    client.saw_no("notice")
}
