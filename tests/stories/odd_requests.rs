//! Requests that no client of ours would send: each gets a problem that says what is wrong, and none more than that.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Options, Rest, Stories, Story, Told, fresh};

pub fn stories(all: &mut Stories) {
    all.both(odd_bodies_are_told_what_is_wrong);
    all.both(odd_paths_and_queries_lead_nowhere);
    all.both(a_header_that_stands_twice_counts_for_nothing);
    all.both(who_may_never_is_told_so_before_anything_is_looked_up);
    all.both(a_host_changes_what_a_room_is_called);
    all.both(pages_of_other_origins_are_let_in_by_name);
}

async fn send(rest: &Rest, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
    let request = rest.request(Method::POST, path);
    let request = request
        .header("content-type", "application/json")
        .body(body);
    Answer::of(request.send().await?).await
}

async fn odd_bodies_are_told_what_is_wrong(story: Story) -> Told {
    let rest = story.shared().await?.rest();
    let deep = format!("{{\"name\":{}", "[".repeat(100_000));
    let odd: [(&[u8], u16, &str); 13] = [
        (b"", 400, "malformed"),
        (b"{", 400, "malformed"),
        (b"name", 400, "malformed"),
        (b"{\"name\":\"a\"}{\"name\":\"b\"}", 400, "malformed"),
        (b"\xef\xbb\xbf{\"name\":\"a\"}", 400, "malformed"),
        (b"{\"name\":\"\xff\"}", 400, "malformed"),
        (b"{\"name\":\"\\ud800\"}", 400, "malformed"),
        (b"null", 422, "invalid"),
        (b"\"a\"", 422, "invalid"),
        // Fields have names: their order means nothing.
        (b"[\"a\"]", 422, "invalid"),
        (b"{\"name\":\"a\",\"name\":\"b\"}", 422, "invalid"),
        (b"{\"name\":{\"of\":\"somebody\"}}", 422, "invalid"),
        (b"{\"name\":\"a\\u0000b\"}", 422, "invalid"),
    ];
    for (body, status, kind) in odd {
        let answer = send(&rest, "/api/v1/auth/guest", body.to_vec()).await?;
        let told = answer.problem(status, kind);
        told.with_context(|| String::from_utf8_lossy(body).into_owned())?;
    }
    let answer = send(&rest, "/api/v1/auth/guest", deep.into_bytes()).await?;
    ensure!([400, 422].contains(&answer.status), "{}", answer.text);
    let huge = json!({"name": "x".repeat(1 << 20)}).to_string();
    let answer = send(&rest, "/api/v1/auth/guest", huge.into_bytes()).await?;
    answer.problem(413, "too-large")?;
    let form = rest
        .request(Method::POST, "/api/v1/auth/guest")
        .body("name=a");
    let answer = Answer::of(form.send().await?).await?;
    answer.problem(415, "unsupported-media-type")?;
    // Text that databases do not take is nobody's name, and no server's failure.
    let login = json!({"username": "a\u{0}b", "password": "correct\u{0}horse"});
    let answer = rest.post("/api/v1/auth/login", login).await?;
    answer.problem(401, "wrong-credentials")?;
    Ok(())
}

async fn odd_paths_and_queries_lead_nowhere(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    for path in [
        "/%ff",
        "/api/v1/rooms/%00",
        "/api/v1/rooms/%2e%2e%2frooms",
        "/api/v1/rooms/%F0%9F%98%80",
        "/api/v1/invites/%ff",
        "/api/v1/files/%00",
        "/api/v1/jobs/%ff/artifacts/%ff",
        "/ws/%ff",
    ] {
        let answer = rest.get(path).await?;
        let kind = answer.headers.get("content-type").cloned();
        ensure!(
            (400..500).contains(&answer.status),
            "{path}: {}",
            answer.status
        );
        ensure!(
            kind.is_some_and(|kind| kind == "application/problem+json"),
            "{path}"
        );
    }
    let room = rest.make_room(json!({"kind": "open"})).await?;
    // The greatest number that a log's place may have, and the next.
    for (query, field) in [("messages?before", "before"), ("log?since", "since")] {
        let path = format!("/api/v1/rooms/{room}/{query}");
        rest.get(&format!("{path}={}", i64::MAX))
            .await?
            .expect(200)?;
        let over = rest.get(&format!("{path}={}", u64::MAX)).await?;
        ensure!(over.problem(422, "invalid")?["field"] == field, "{path}");
    }
    // A cursor that holds such a number: base64 of it.
    for list in ["messages", "log", "events"] {
        let path = format!("/api/v1/rooms/{room}/{list}?cursor=MTg0NDY3NDQwNzM3MDk1NTE2MTU");
        let over = rest.get(&path).await?.problem(422, "invalid")?;
        ensure!(over["field"] == "cursor", "{path}: {over}");
    }
    for query in [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=many",
        "limit=1&limit=2",
    ] {
        let path = format!("/api/v1/workspaces?{query}");
        rest.get(&path).await?.problem(422, "invalid")?;
    }
    Ok(())
}

async fn a_header_that_stands_twice_counts_for_nothing(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest();
    let bearer = format!("Bearer {}", ana.token);
    let twice = rest.request(Method::GET, "/api/v1/auth/me");
    let twice = twice
        .header("authorization", &bearer)
        .header("authorization", &bearer);
    let answer = Answer::of(twice.send().await?).await?;
    answer.problem(401, "token-invalid")?;
    let rest = rest.as_person(&ana);
    let twice = rest
        .request(Method::POST, "/api/v1/teams")
        .json(&json!({"name": "Readers"}));
    let twice = twice
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    let refused = Answer::of(twice.send().await?)
        .await?
        .problem(422, "invalid")?;
    ensure!(refused["field"] == "Idempotency-Key", "{refused}");
    Ok(())
}

async fn who_may_never_is_told_so_before_anything_is_looked_up(story: Story) -> Told {
    let rest = story.shared().await?.rest();
    let (room, id) = (fresh("none"), uuid::Uuid::new_v4());
    for (method, path) in [
        ("PATCH", format!("/api/v1/rooms/{room}")),
        ("DELETE", format!("/api/v1/rooms/{room}")),
        ("POST", format!("/api/v1/rooms/{room}/members")),
        ("DELETE", format!("/api/v1/rooms/{room}/members/{id}")),
        ("GET", format!("/api/v1/rooms/{room}/invites")),
        ("POST", format!("/api/v1/rooms/{room}/backups/{id}/restore")),
        ("DELETE", format!("/api/v1/sessions/{room}")),
        ("GET", format!("/api/v1/workspaces/{id}")),
    ] {
        let request = rest.request(method.parse()?, &path);
        let answer = Answer::of(request.send().await?).await?;
        answer.problem(401, "unauthenticated").context(path)?;
    }
    Ok(())
}

async fn a_host_changes_what_a_room_is_called(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let path = format!("/api/v1/rooms/{room}");
    let changed = rest
        .patch(&path, json!({"kind": "session"}))
        .await?
        .expect(200)?;
    let there = Rest::at(cluster.there()).get(&path).await?.expect(200)?;
    for room in [&changed, &there] {
        ensure!(
            room["kind"] == "session" && room["access"] == "open",
            "{room}"
        );
    }
    rest.get(&format!("/api/v1/sessions/{room}"))
        .await?
        .expect(200)?;
    // Rooms of projects are those that stand in one.
    let refused = rest.patch(&path, json!({"kind": "project"})).await?;
    ensure!(
        refused.problem(422, "invalid")?["field"] == "kind",
        "no project"
    );
    Ok(())
}

async fn preflight(rest: &Rest, origin: &str) -> anyhow::Result<Answer> {
    let request = rest.request(Method::OPTIONS, "/api/v1/rooms/any");
    let request = request
        .header("origin", origin)
        .header("access-control-request-method", "PATCH")
        .header(
            "access-control-request-headers",
            "authorization,x-of-their-own",
        );
    Answer::of(request.send().await?).await
}

/// Named origins with credentials; `*` for all, and never with any.
async fn pages_of_other_origins_are_let_in_by_name(story: Story) -> Told {
    let text = |answer: &Answer, name: &str| -> Value {
        let value = answer.headers.get(name).and_then(|v| v.to_str().ok());
        value.map_or(Value::Null, Value::from)
    };
    let origin = "https://app.example.com";
    for (setting, allowed) in [
        (
            "https://app.example.com,http://localhost:3000",
            json!(origin),
        ),
        ("*", json!("*")),
    ] {
        let options = Options::default().gateways(1).workers(0);
        let cluster = story.cluster(options.set("CORS_ORIGINS", setting)).await?;
        let rest = cluster.rest();
        let credentials = if setting == "*" {
            Value::Null
        } else {
            json!("true")
        };
        let asked = rest
            .request(Method::GET, "/nowhere")
            .header("origin", origin);
        let asked = Answer::of(asked.send().await?).await?;
        let ahead = preflight(&rest, origin).await?;
        ensure!(ahead.status == 200, "{}", ahead.status);
        for answer in [&asked, &ahead] {
            ensure!(
                text(answer, "access-control-allow-origin") == allowed,
                "{setting}"
            );
            ensure!(
                text(answer, "access-control-allow-credentials") == credentials,
                "{setting}: {:?}",
                answer.headers
            );
        }
        let headers = text(&ahead, "access-control-allow-headers");
        let headers = headers.as_str().unwrap_or_default();
        ensure!(headers.contains("x-of-their-own"), "{headers}");
        let methods = text(&ahead, "access-control-allow-methods");
        ensure!(
            methods.as_str().is_some_and(|m| m.contains("PATCH")),
            "{methods}"
        );
        if setting != "*" {
            let stranger = preflight(&rest, "https://evil.example").await?;
            ensure!(
                text(&stranger, "access-control-allow-origin").is_null(),
                "a stranger is named nowhere"
            );
        }
    }
    // Where nothing is set, no other origin is let in.
    let quiet = preflight(&story.shared().await?.rest(), origin).await?;
    ensure!(
        text(&quiet, "access-control-allow-origin").is_null(),
        "no setting"
    );
    Ok(())
}
