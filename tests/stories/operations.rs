//! What runs beside the rooms: health, metrics, documentation, traces, draining.

use anyhow::{Context, ensure};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::stores::{OwnRedis, Stores};
use crate::harness::{
    Address, Answer, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(the_api_documents_itself_offline);
    all.both(metrics_are_served_and_count);
    all.both(metrics_tell_which_stores_answer);
    all.distributed(metrics_tell_of_a_redis_that_may_evict);
    all.both(health_names_every_store);
    all.both(a_traceparent_is_taken_up_and_the_trace_named);
    all.both(unknown_paths_and_methods_are_problems);
    all.both(every_answer_carries_the_headers_of_a_careful_server);
    all.both(a_stopping_gateway_tells_its_clients_and_ends_well);
}

async fn the_api_documents_itself_offline(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let document = rest.get("/openapi.json").await?.expect(200)?;
    let version = document["openapi"].as_str().unwrap_or_default();
    ensure!(version.starts_with("3.1"), "{version}");
    let paths = document["paths"].as_object().context("paths")?;
    for path in [
        "/api/v1/auth/login",
        "/api/v1/rooms",
        "/api/v1/rooms/{room_id}",
        "/api/v1/jobs",
        "/health",
    ] {
        ensure!(
            paths.contains_key(path),
            "{path} is not documented, only {:?}",
            paths.keys()
        );
    }
    // Every reference leads somewhere, and no operation is named twice.
    let mut references = Vec::new();
    collect(&document, "$ref", &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').context("a local reference")?;
        ensure!(
            document.pointer(pointer).is_some(),
            "{reference} leads nowhere"
        );
    }
    let mut names = Vec::new();
    collect(&document["paths"], "operationId", &mut names);
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    ensure!(
        count == names.len() && count > 10,
        "{count} operations, {} names",
        names.len()
    );
    for page in ["/docs", "/api/docs", "/redoc", "/api/redoc"] {
        let answer = rest.get(page).await?;
        ensure!(
            answer.status == 200 && answer.text.contains("<html"),
            "{page}: {}",
            answer.status
        );
        let loaded = answer
            .text
            .split(['"', '\''])
            .filter(|part| part.starts_with("http") || part.starts_with("//"));
        let elsewhere: Vec<&str> = loaded
            .filter(|url| url.ends_with(".js") || url.ends_with(".css"))
            .collect();
        ensure!(elsewhere.is_empty(), "{page} loads {elsewhere:?}");
    }
    Ok(())
}

fn collect<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == name => found.push(text),
                    _ => collect(value, name, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, name, found)),
        _ => {}
    }
}

async fn metrics_tell_which_stores_answer(story: Story) -> Told {
    let cluster = story.shared().await?;
    let text = cluster.rest().get("/metrics").await?.text;
    for store in [
        "log", "presence", "records", "archive", "queue", "vault", "files",
    ] {
        ensure!(
            text.contains(&format!("\natelier_store_up{{store=\"{store}\"}} 1\n")),
            "{store}:\n{text}"
        );
    }
    ensure!(text.contains("\natelier_ready 1\n"), "{text}");
    Ok(())
}

async fn metrics_tell_of_a_redis_that_may_evict(story: Story) -> Told {
    let redis = OwnRedis::start().await?;
    let mut stores = Stores::make().await?;
    stores.redis = redis.url()?;
    let cluster = story.cluster(Options::default().stores(stores)).await?;
    for (policy, told) in [("noeviction", 0), ("allkeys-lru", 1)] {
        redis.configure("maxmemory-policy", policy).await?;
        for process in [cluster.here(), cluster.worker(0)] {
            let text = Rest::at(process).get("/metrics").await?.text;
            for of in ["rooms", "queues"] {
                let line = format!("\natelier_redis_may_evict{{redis=\"{of}\"}} {told}\n");
                ensure!(text.contains(&line), "{policy}, {of}:\n{text}");
            }
        }
    }
    drop(redis);
    for process in [cluster.here(), cluster.worker(0)] {
        until("Redis to be told away", PATIENCE, async || {
            let text = Rest::at(process).get("/metrics").await?.text;
            ensure!(text.contains("\natelier_ready 0\n"), "{text}");
            ensure!(
                text.contains("\natelier_store_up{store=\"log\"} 0\n"),
                "{text}"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn metrics_are_served_and_count(story: Story) -> Told {
    let cluster = story.shared().await?;
    let client = cluster.door(Address::Plain, &fresh("room")).enter().await?;
    client.join("Ana").await?;
    client.chat("counted").await?;
    let text = cluster.rest().get("/metrics").await?;
    ensure!(
        text.status == 200 && text.text.ends_with("# EOF\n"),
        "{}",
        text.text
    );
    let counted = text
        .text
        .lines()
        .find(|line| line.contains("messages_received") && line.contains("chat_message"));
    let count = counted.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    ensure!(
        count.is_some_and(|n| n >= 1.0),
        "no chat_message counted:\n{}",
        text.text
    );
    for path in ["/api/metrics", "/ws/stats"] {
        until("the figures to count the person", PATIENCE, async || {
            let figures = Rest::at(cluster.there()).get(path).await?.expect(200)?;
            let counted = |name: &str| figures[name].as_u64().is_some_and(|n| n >= 1);
            ensure!(
                counted("active_connections") && counted("rooms_active"),
                "{figures}"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn health_names_every_store(story: Story) -> Told {
    let cluster = story.shared().await?;
    for path in ["/health", "/api/health"] {
        let health = cluster.rest().get(path).await?.expect(200)?;
        ensure!(
            health["status"] == "healthy" && health["timestamp"].is_string(),
            "{health}"
        );
        for store in [
            "log", "presence", "records", "archive", "queue", "vault", "files",
        ] {
            ensure!(health["stores"][store] == "ok", "{store}: {health}");
        }
    }
    cluster.rest().get("/livez").await?.expect(200)?;
    cluster.rest().get("/readyz").await?.expect(200).map(|_| ())
}

async fn a_traceparent_is_taken_up_and_the_trace_named(story: Story) -> Told {
    let cluster = story.shared().await?;
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let request = cluster
        .rest()
        .request(Method::GET, "/api/v1/rooms/nobody-made-this");
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let problem = Answer::of(request.send().await?)
        .await?
        .problem(404, "not-found")?;
    ensure!(problem["trace_id"] == trace.as_str(), "{problem}");
    // One that is malformed is no reason to refuse.
    let request = cluster
        .rest()
        .request(Method::GET, "/livez")
        .header("traceparent", "nonsense");
    Answer::of(request.send().await?).await?.expect(200)?;
    let client = cluster.door(Address::Plain, &fresh("room")).enter().await?;
    let message = json!({"type": "chat_message", "content": "x", "traceparent": format!("00-{trace}-00f067aa0ba902b7-01")});
    client.log(message).await.map(|_| ())
}

async fn unknown_paths_and_methods_are_problems(story: Story) -> Told {
    let rest = story.shared().await?.rest();
    for path in [
        "/nowhere",
        "/api/nowhere",
        "/api/v1/nowhere",
        "/api/v1/rooms/x/nowhere",
    ] {
        rest.get(path).await?.problem(404, "not-found")?;
    }
    rest.delete("/api/v1/auth/login")
        .await?
        .problem(405, "method-not-allowed")?;
    Ok(())
}

async fn every_answer_carries_the_headers_of_a_careful_server(story: Story) -> Told {
    let rest = story.shared().await?.rest();
    for path in ["/health", "/docs", "/nowhere"] {
        let answer = rest.get(path).await?;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", ""),
            ("content-security-policy", ""),
        ] {
            let is = answer.headers.get(name).and_then(|v| v.to_str().ok());
            ensure!(
                is.is_some_and(|is| is.contains(value)),
                "{path}: {name} is {is:?}"
            );
        }
    }
    Ok(())
}

async fn a_stopping_gateway_tells_its_clients_and_ends_well(story: Story) -> Told {
    let cluster = story.cluster(Options::default().workers(0)).await?;
    let doomed = cluster.here();
    let door = cluster.door(Address::Plain, &fresh("room"));
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(door.enter().await?);
    }
    clients[0]
        .send_all(
            (0..100).map(|n| json!({"type": "chat_message", "content": "x", "ref": n.to_string()})),
        )
        .await?;
    clients[0].acknowledged("0").await?;
    let rest = cluster.rest();
    let rest = rest.as_person(&rest.guest("Late").await?);
    let ticket = rest.post("/api/v1/auth/ws-ticket", json!({})).await?;
    let ticket = ticket.expect(200)?["ticket"].clone();
    let ticket = ticket.as_str().context("a ticket")?;
    doomed.signal(Signal::TERM).await?;
    for client in &clients {
        let drain = client.expect("drain").await?;
        ensure!(drain["after_ms"].is_u64(), "{drain}");
    }
    // A ticket that comes too late here is good elsewhere, as a balancer that tries the next gateway has it.
    let late = door.clone().query("ticket", ticket);
    if let Ok(Err(refused)) = late.open().await {
        ensure!(refused.status == 503, "{refused:?}");
    }
    if cluster.there().name() != doomed.name() {
        let elsewhere = late.at(cluster.there().address());
        elsewhere.enter().await?.answered().await?;
    }
    // Not ready, while it still answers; or gone by now.
    if let Ok(answer) = cluster.rest().get("/readyz").await {
        answer.problem(503, "draining")?;
    }
    // What was taken is acknowledged before the end.
    clients[0].acknowledged("99").await?;
    for client in &clients {
        client.closed_with(4503).await?;
    }
    let status = doomed.ended(PATIENCE).await?;
    ensure!(status.success(), "{status}");
    if cluster.there().name() != doomed.name() {
        let back = clients[1]
            .way_back()
            .at(cluster.there().address())
            .enter()
            .await?;
        back.answered().await?;
    }
    Ok(())
}
