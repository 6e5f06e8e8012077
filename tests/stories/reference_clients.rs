//! Clients as the documents that the protocol was made for describe them, message for message.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Address, Client, Stories, Story, Told, fresh};

pub fn stories(all: &mut Stories) {
    all.both(an_editor_client_connects_joins_and_moves_its_cursor);
    all.both(a_session_client_chats_comments_and_moves_its_cursor);
    all.both(a_whiteboard_client_draws_and_chats_under_its_name);
}

fn kinds(client: &Client) -> Vec<String> {
    let frames = client.frames();
    let kinds = frames.iter().filter_map(|m| m["type"].as_str());
    kinds.map(str::to_owned).collect()
}

fn ids(users: &Value) -> Vec<&str> {
    let users = users.as_array().into_iter().flatten();
    users.filter_map(|user| user["id"].as_str()).collect()
}

/// connect → users → join → users_list, the others get user_joined; cursor, selection, ping, bad JSON, leaving.
async fn an_editor_client_connects_joins_and_moves_its_cursor(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("abc");
    let (alice_id, bob_id) = (
        uuid::Uuid::new_v4().to_string(),
        uuid::Uuid::new_v4().to_string(),
    );
    let door = cluster.door(Address::Plain, &room);
    let alice = door.clone().client_id(&alice_id).enter().await?;
    ensure!(alice.client_id == alice_id, "the client chooses its id");
    let users = alice.expect("users").await?;
    ensure!(
        ids(&users["users"]).is_empty(),
        "nobody has joined yet: {users}"
    );
    alice.send(json!({"type": "join", "name": "Alice", "color": "#3B82F6", "avatar_url": "https://example.com/a.png"})).await?;
    let list = alice.expect("users_list").await?;
    ensure!(list["users"] == json!([]), "everyone but itself: {list}");

    let bob = door
        .client_id(&bob_id)
        .at(cluster.there().address())
        .enter()
        .await?;
    let users = bob.expect("users").await?;
    ensure!(ids(&users["users"]) == [&alice_id], "{users}");
    alice.saw_no("user_joined")?;
    bob.send(json!({"type": "join", "name": "Bob", "color": "#EF4444"}))
        .await?;
    let list = bob.expect("users_list").await?;
    let seen = &list["users"][0];
    ensure!(
        seen["id"] == alice_id
            && seen["name"] == "Alice"
            && seen["color"] == "#3B82F6"
            && seen["avatar_url"] == "https://example.com/a.png"
            && seen.get("cursorPosition").is_some(),
        "{list}"
    );
    let joined = alice.expect("user_joined").await?;
    ensure!(
        joined["userId"] == bob_id && joined["name"] == "Bob" && joined["color"] == "#EF4444",
        "{joined}"
    );
    ensure!(
        kinds(&bob)[..2] == ["connected", "users"],
        "{:?}",
        kinds(&bob)
    );

    alice.send(json!({"type": "cursor", "userId": "somebody else", "name": "Alice", "color": "#3B82F6", "position": 42})).await?;
    let cursor = bob.expect("cursor").await?;
    ensure!(
        cursor["userId"] == alice_id && cursor["position"] == 42,
        "the server knows who it is: {cursor}"
    );
    ensure!(
        cursor["name"] == "Alice" && cursor["color"] == "#3B82F6",
        "{cursor}"
    );
    alice
        .send(json!({"type": "selection", "selection": {"start": 10, "end": 25}}))
        .await?;
    let selection = bob.expect("selection").await?;
    ensure!(
        selection["selection"] == json!({"start": 10, "end": 25})
            && selection["userId"] == alice_id,
        "{selection}"
    );
    bob.send(json!({"type": "ping", "timestamp": 1_703_592_000_000_u64}))
        .await?;
    let pong = bob.expect("pong").await?;
    ensure!(pong["timestamp"] == 1_703_592_000_000_u64, "{pong}");
    bob.send_raw(tokio_tungstenite::tungstenite::Message::text("{not json"))
        .await?;
    let error = bob.expect("error").await?;
    ensure!(error["message"] == "Invalid JSON", "{error}");

    // A third one sees where the cursors are.
    let carol = cluster.door(Address::Plain, &room).enter().await?;
    let list = carol.join("Carol").await?;
    let alice_there = list
        .iter()
        .find(|user| user["id"] == alice_id)
        .context("Alice")?;
    ensure!(alice_there["cursorPosition"] == 42, "{list:?}");
    alice
        .expect_where("user_joined", |m| m["name"] == "Carol")
        .await?;

    bob.close().await?;
    for other in [&alice, &carol] {
        let left = other.expect("user_left").await?;
        ensure!(left["userId"] == bob_id, "{left}");
    }
    alice.saw_no("error")
}

/// `connected` with participants, chat, cursor_update, viewport_update, presence_update, code_comment, session_update.
async fn a_session_client_chats_comments_and_moves_its_cursor(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let session = rest
        .as_person(&ana)
        .make_room(json!({"kind": "session"}))
        .await?;
    let path = format!("/api/v1/sessions/{session}/participants");
    let body = json!({"user_id": ben.id, "role": "editor"});
    rest.as_person(&ana).post(&path, body).await?.expect(201)?;
    let door = cluster.door(Address::Session, &session);
    let host = door.clone().query("token", &ana.token).enter().await?;
    ensure!(host.connected["role"] == "host", "{}", host.connected);
    let there = door.at(cluster.there().address());
    let editor = there.query("token", &ben.token).enter().await?;
    let participants = &editor.connected["participants"];
    let names: Vec<&str> = participants
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| p["name"].as_str())
        .collect();
    ensure!(
        names.contains(&"Ana"),
        "`connected` names who is here: {participants}"
    );
    // The name is in the token: joined at once, and a later join is an update.
    let joined = host.expect("user_joined").await?;
    ensure!(
        joined["userId"] == editor.client_id.as_str() && joined["name"] == "Ben",
        "{joined}"
    );

    editor
        .send(json!({"type": "chat_message", "content": "Hello @Ana from the browser!"}))
        .await?;
    let chat = host.expect("chat_message").await?;
    ensure!(
        chat["user"]["name"] == "Ben" && chat["mentions"] == json!(["Ana"]),
        "{chat}"
    );
    for field in [
        "id",
        "seq",
        "content",
        "reply_to",
        "file_id",
        "created_at",
        "from",
        "ts",
    ] {
        ensure!(
            chat.get(field).is_some(),
            "a chat_message has {field}: {chat}"
        );
    }
    for (kind, data) in [
        (
            "cursor_update",
            json!({"file": "main.py", "line": 42, "column": 10}),
        ),
        (
            "viewport_update",
            json!({"file": "main.py", "start_line": 1, "end_line": 60}),
        ),
        ("presence_update", json!({"status": "idle"})),
        ("typing", json!({"on": true})),
    ] {
        editor.send(json!({"type": kind, "data": data})).await?;
        let seen = host.expect(kind).await?;
        ensure!(
            seen["userId"] == editor.client_id.as_str() && seen["data"] == data,
            "{seen}"
        );
    }
    let comment = json!({"file": "main.py", "line": 42, "content": "This could be optimized", "code_snippet": "def foo():"});
    editor
        .send(json!({"type": "code_comment", "data": comment}))
        .await?;
    let seen = host.expect("code_comment").await?;
    ensure!(
        seen["data"]["line"] == 42 && seen["data"]["code_snippet"] == "def foo():",
        "{seen}"
    );
    host.send(json!({"type": "session_update", "data": {"title": "Parser"}}))
        .await?;
    let seen = editor.expect("session_update").await?;
    ensure!(seen["data"]["title"] == "Parser", "{seen}");
    // The sender is told nothing of its own.
    editor.saw_no("chat_message")?;
    editor.saw_no("code_comment")?;
    editor.join("Benjamin").await?;
    let updated = host.expect("user_updated").await?;
    ensure!(updated["name"] == "Benjamin", "{updated}");
    ensure!(
        host.count("user_joined") == 1,
        "a later join is no second user_joined"
    );
    Ok(())
}

/// `/ws/{room}?username=`: joined at once, the name held by one person at a time.
async fn a_whiteboard_client_draws_and_chats_under_its_name(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("board");
    let door = cluster.door(Address::Named, &room);
    let ana = door.clone().query("username", "Ana").enter().await?;
    let there = door.clone().at(cluster.there().address());
    let ben = there.clone().query("username", "Ben").enter().await?;
    let joined = ana.expect("user_joined").await?;
    ensure!(joined["name"] == "Ben", "{joined}");
    ana.send(json!({"type": "draw", "paths": [{"id": "s1", "width": 3, "color": "#112233", "points": [0, 0, 10, 12.5], "ts": 1}]})).await?;
    let draw = ben.expect("draw").await?;
    ensure!(
        draw["from"] == ana.client_id.as_str()
            && draw["paths"][0]["points"] == json!([0, 0, 10, 12.5]),
        "{draw}"
    );
    ben.chat("nice").await?;
    ana.expect_where("chat_message", |m| m["user"]["name"] == "Ben")
        .await?;

    // Somebody else under her name, also in another spelling of it: refused. She herself: replaced.
    for name in ["Ana", "ANA", "Ａna"] {
        let refused = there
            .clone()
            .query("username", name)
            .refused(409, "conflict")
            .await?;
        ensure!(refused.body["field"] == "username", "{}", refused.body);
    }
    let again = there
        .query("username", "Ana")
        .query("resume_token", &ana.resume_token);
    let again = again.query("client_id", "another-tab").enter().await?;
    ana.closed_with(4409).await?;
    again.chat("it is me").await.map(|_| ())
}
