//! Every REST endpoint that a reference document shows, at the path it shows and with the body it shows, field for field.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::editor::Editor;
use crate::harness::{
    Address, Answer, Cluster, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(the_editor_s_endpoints_answer_as_it_shows);
    all.both(the_whiteboard_s_endpoints_answer_as_it_shows);
    all.both(the_session_s_endpoints_answer_at_its_paths);
}

/// Has every field of the example, of the same type; an example's `null` is any type.
fn is_like(answer: &Value, example: &Value) -> Told {
    match (answer, example) {
        (_, Value::Null) => Ok(()),
        (Value::Object(answer), Value::Object(example)) => {
            for (name, example) in example {
                let value = answer.get(name).with_context(|| format!("no {name}"))?;
                is_like(value, example).with_context(|| name.clone())?;
            }
            Ok(())
        }
        (Value::Array(items), Value::Array(example)) => {
            let Some(example) = example.first() else {
                return Ok(());
            };
            ensure!(!items.is_empty(), "an empty list");
            items.iter().try_for_each(|item| is_like(item, example))
        }
        (Value::Number(answer), Value::Number(example)) => {
            // A count is a whole number; a rate is any.
            ensure!(
                example.is_f64() || !answer.is_f64(),
                "{answer} is no whole number"
            );
            Ok(())
        }
        (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => Ok(()),
        _ => anyhow::bail!("{answer} is not like {example}"),
    }
}

fn has_only(answer: &Value, example: &Value) -> Told {
    is_like(answer, example)?;
    let names = |value: &Value| -> Vec<String> {
        let fields = value.as_object().into_iter().flatten();
        fields.map(|(name, _)| name.clone()).collect()
    };
    let (mut answer, mut example) = (names(answer), names(example));
    answer.sort();
    example.sort();
    ensure!(answer == example, "{answer:?}, not {example:?}");
    Ok(())
}

/// Somebody in the room who has a cursor.
async fn alice(cluster: &Cluster, room: &str) -> anyhow::Result<Editor> {
    let editor = Editor::enter(&cluster.door(Address::Plain, room)).await?;
    editor.client.join("Alice").await?;
    let cursor = json!({"type": "cursor", "position": 42});
    editor.client.send(cursor).await?;
    editor.client.answered().await?;
    Ok(editor)
}

async fn the_editor_s_endpoints_answer_as_it_shows(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (rest, admin) = (Rest::at(cluster.there()), cluster.admin());
    let room = fresh("abc");
    let missing = json!({"success": false, "error": "No document found"});
    let welcome = rest.get("/api/").await?.expect(200)?;
    is_like(&welcome, &json!({"message": "an API"}))?;
    let health = rest.get("/api/health").await?.expect(200)?;
    is_like(
        &health,
        &json!({"status": "healthy", "timestamp": "2025-12-26T12:00:00.000Z"}),
    )?;
    ensure!(health["status"] == "healthy", "{health}");

    let editor = alice(&cluster, &room).await?;
    let client = &editor.client;
    let user =
        json!({"id": "client-uuid", "name": "Alice", "color": "#3B82F6", "cursor_position": 42});
    let path = format!("/api/rooms/{room}");
    let users = until(
        "her cursor is seen at the other gateway",
        PATIENCE,
        async || {
            let users = rest.get(&format!("{path}/users")).await?.expect(200)?;
            is_like(&users, &json!([user]))?;
            ensure!(users[0]["cursor_position"] == 42, "{users}");
            Ok(users)
        },
    )
    .await?;
    ensure!(users[0]["id"] == client.client_id.as_str(), "{users}");
    for pair in [("POST", "persist"), ("GET", "load")] {
        let told = ask(&rest, pair.0, &format!("{path}/{}", pair.1)).await?;
        ensure!(told == missing, "{}: {told}", pair.1);
    }
    let update = hex::encode(editor.append("a letter"));
    client
        .log(json!({"type": "update", "data": update}))
        .await?;
    let saved = ask(&rest, "POST", &format!("{path}/persist")).await?;
    has_only(&saved, &json!({"success": true, "size": 2048}))?;
    let loaded = ask(&rest, "GET", &format!("{path}/load")).await?;
    ensure!(
        loaded == saved && saved["size"].as_u64() > Some(0),
        "{saved} {loaded}"
    );

    let shown = json!({"id": "abc123", "name": "abc123", "user_count": 3, "doc_size": 1024,
        "users": [{"id": "…", "name": "Alice", "color": "#3B82F6"}]});
    let one = rest.get(&path).await?.expect(200)?;
    is_like(&one, &shown)?;
    ensure!(
        one["doc_size"] == saved["size"] && one["name"] == room.as_str(),
        "{one}"
    );
    until("the room is listed", PATIENCE, async || {
        let rooms = rest.get("/api/rooms").await?.expect(200)?;
        let rooms = rooms.as_array().context("a bare array")?;
        let listed = rooms.iter().find(|listed| listed["id"] == room.as_str());
        is_like(listed.context("listed")?, &shown)
    })
    .await?;

    let simulate = format!("/api/simulate/users/{room}");
    let added = admin
        .post(&format!("{simulate}?count=2"), json!({}))
        .await?;
    ensure!(
        added.expect(200)? == json!({"success": true, "simulated_users": 2, "total_users": 3}),
        "she and two others"
    );
    let removed = admin.delete(&simulate).await?.expect(200)?;
    ensure!(
        removed == json!({"success": true, "removed": 2}),
        "{removed}"
    );

    let figures = json!({"active_connections": 5, "messages_per_sec": 12.34, "p50_latency_ms": 2.5,
        "p95_latency_ms": 8.3, "error_count": 0, "reconnect_count": 2, "total_doc_size_bytes": 4096,
        "uptime_seconds": 3600, "total_messages": 15000, "rooms_active": 3});
    has_only(&rest.get("/api/metrics").await?.expect(200)?, &figures)?;
    let event = json!({"id": "uuid", "timestamp": "2025-12-26T12:00:00.000Z", "type": "join",
        "room_id": "abc123", "user_id": "client-uuid", "details": "User Alice joined"});
    until("her coming is an event", PATIENCE, async || {
        let events = rest
            .get("/api/metrics/events?limit=100")
            .await?
            .expect(200)?;
        let events = events.as_array().context("a bare array")?;
        let hers = events
            .iter()
            .find(|e| e["type"] == "join" && e["room_id"] == room.as_str());
        has_only(hers.context("her event")?, &event)
    })
    .await?;
    editor.client.close().await
}

async fn ask(rest: &Rest, method: &str, path: &str) -> anyhow::Result<Value> {
    let request = rest.request(method.parse()?, path);
    Answer::of(request.send().await?).await?.expect(200)
}

async fn the_whiteboard_s_endpoints_answer_as_it_shows(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (rest, admin) = (cluster.rest(), cluster.admin());
    let room = fresh("board");
    let health = rest.get("/health").await?.expect(200)?;
    ensure!(health["status"] == "healthy", "{health}");
    let name = fresh("n");
    let free = rest.post("/users/check", json!({"username": name})).await?;
    ensure!(
        free.expect(200)? == json!({"available": true}),
        "nobody has it"
    );
    let client = cluster.door(Address::Named, &room).query("username", &name);
    let client = client.enter().await?;
    let taken = rest.post("/users/check", json!({"username": name})).await?;
    ensure!(
        taken.expect(200)? == json!({"available": false}),
        "it is taken"
    );
    let users = rest
        .get(&format!("/rooms/{room}/users"))
        .await?
        .expect(200)?;
    ensure!(users[0]["name"] == name.as_str(), "{users}");
    client.close().await?;
    for path in [
        "/cleanup",
        "/cleanup/auto-users",
        &format!("/cleanup/room/{room}"),
        "/cleanup/orphaned-files",
        "/cleanup/comprehensive",
        "/cleanup/force-stuck-users",
    ] {
        let path = format!("{path}?dry_run=true");
        rest.post(&path, json!({}))
            .await?
            .problem(401, "unauthenticated")?;
        let answer = admin.post(&path, json!({})).await?;
        ensure!(
            [200, 202].contains(&answer.status),
            "{path}: {}",
            answer.text
        );
        ensure!(
            answer.body["removed"].is_object(),
            "{path}: {}",
            answer.text
        );
    }
    let status = admin.get("/cleanup/status").await?.expect(200)?;
    is_like(
        &status,
        &json!({"connections": {}, "scheduled_rooms": 0, "stale_connections": 0, "orphaned_files": 0,
            "orphaned_records": 0, "success_rate": 0.5, "failure_rate": 0.5}),
    )
}

async fn the_session_s_endpoints_answer_at_its_paths(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let name = fresh("u");
    let body = json!({"username": name, "password": "correct horse"});
    let tokens = rest
        .post("/api/auth/register", body.clone())
        .await?
        .expect(201)?;
    let again = rest.post("/api/auth/login", body).await?.expect(200)?;
    has_only(&again, &tokens)?;
    let token = again["access_token"].as_str().context("a token")?;
    let own = rest.with_token(token);
    for path in ["/", "/health", "/ws/stats"] {
        rest.get(path).await?.expect(200)?;
    }
    let page = json!({"items": [], "next_cursor": null});
    for path in ["/api/sessions", "/api/teams", "/api/insights"] {
        rest.get(path).await?.problem(401, "unauthenticated")?;
        has_only(&own.get(path).await?.expect(200)?, &page)?;
    }
    let team = own
        .post("/api/teams", json!({"name": "Readers"}))
        .await?
        .expect(201)?;
    let id = team["id"].as_str().context("an id")?;
    let path = format!("/api/analytics/team?team_id={id}");
    is_like(&own.get(&path).await?.expect(200)?, &page)?;
    let refused = own
        .get("/api/analytics/team")
        .await?
        .problem(422, "invalid")?;
    ensure!(refused["field"] == "team_id", "{refused}");
    let answer = rest.get("/api/docs").await?;
    ensure!(
        answer.status == 200 && answer.text.contains("<html"),
        "the API's pages"
    );
    Ok(())
}
