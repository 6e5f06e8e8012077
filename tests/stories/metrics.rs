//! Figures of the whole cluster: added up over gateways, and open to whom they should be.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::harness::{Address, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until};

pub fn stories(all: &mut Stories) {
    all.both(figures_are_the_clusters_and_as_the_reference_shows_them);
    all.both(events_of_unlisted_rooms_are_for_administrators);
}

const FIELDS: [&str; 10] = [
    "active_connections",
    "messages_per_sec",
    "p50_latency_ms",
    "p95_latency_ms",
    "error_count",
    "reconnect_count",
    "total_doc_size_bytes",
    "uptime_seconds",
    "total_messages",
    "rooms_active",
];

async fn figures_are_the_clusters_and_as_the_reference_shows_them(story: Story) -> Told {
    const MESSAGES: usize = 20;
    let cluster = story.cluster(Options::default().workers(0)).await?;
    let room = fresh("room");
    let here = cluster.door(Address::Plain, &room).enter().await?;
    let there = cluster
        .door(Address::Plain, &room)
        .at(cluster.there().address())
        .enter()
        .await?;
    for client in [&here, &there] {
        client.join("Ana").await?;
        for n in 0..MESSAGES {
            client.chat(&format!("{n}")).await?;
        }
    }
    here.send_raw(tokio_tungstenite::tungstenite::Message::text("no JSON"))
        .await?;
    here.expect("error").await?;
    // Back, as a page is that keeps its id and nothing else: by the id alone.
    let door = cluster.door(Address::Plain, &room).client_id("a-page");
    for _ in 0..2 {
        let page = door.enter().await?;
        page.join("Page").await?;
        page.close().await?;
    }
    for gateway in [cluster.here(), cluster.there()] {
        for path in ["/api/metrics", "/api/v1/metrics", "/ws/stats"] {
            until("figures of both gateways", PATIENCE, async || {
                let seen = Rest::at(gateway).get(path).await?.expect(200)?;
                let fields: Vec<&String> = seen
                    .as_object()
                    .map(|o| o.keys().collect())
                    .unwrap_or_default();
                ensure!(
                    fields.len() == FIELDS.len() && FIELDS.iter().all(|f| seen[f].is_number()),
                    "{seen}"
                );
                ensure!(
                    seen["active_connections"] == 2 && seen["rooms_active"] == 1,
                    "{seen}"
                );
                ensure!(
                    seen["total_messages"].as_u64() >= Some(2 * MESSAGES as u64),
                    "{seen}"
                );
                ensure!(seen["error_count"] == 1, "{seen}");
                ensure!(seen["reconnect_count"] == 1, "{seen}");
                let (p50, p95) = (
                    seen["p50_latency_ms"].as_f64(),
                    seen["p95_latency_ms"].as_f64(),
                );
                ensure!(p50 > Some(0.0) && p95 >= p50, "{seen}");
                ensure!(
                    seen["messages_per_sec"].as_f64() > Some(0.0)
                        || seen["uptime_seconds"].as_u64() > Some(10),
                    "{seen}"
                );
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

async fn events_of_unlisted_rooms_are_for_administrators(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let hidden = rest
        .make_room(json!({"kind": "open", "listed": false}))
        .await?;
    let shown = rest.make_room(json!({"kind": "open"})).await?;
    let mut doors = Vec::new();
    for room in [&hidden, &shown] {
        let client = cluster.door(Address::Rooms, room).enter().await?;
        client.join("Ben").await?;
        doors.push(client);
    }
    let there = Rest::at(cluster.there());
    let of = |events: &Value, room: &str, kind: &str| {
        events.as_array().is_some_and(|all| {
            all.iter()
                .any(|e| e["room_id"] == room && e["type"] == kind)
        })
    };
    until("the events on the other gateway", PATIENCE, async || {
        let events = there
            .get("/api/metrics/events?limit=100")
            .await?
            .expect(200)?;
        ensure!(
            of(&events, &shown, "connect") && of(&events, &shown, "join"),
            "{events}"
        );
        ensure!(!of(&events, &hidden, "connect"), "a hidden room: {events}");
        let admin = there.with_token("the-administrator-of-the-stories");
        let events = admin
            .get("/api/metrics/events?limit=100")
            .await?
            .expect(200)?;
        ensure!(of(&events, &hidden, "join"), "{events}");
        Ok(())
    })
    .await?;
    let one = there
        .get("/api/metrics/events?limit=1")
        .await?
        .expect(200)?;
    ensure!(one.as_array().is_some_and(|all| all.len() == 1), "{one}");
    let problem = there
        .get("/api/metrics/events?limit=0")
        .await?
        .problem(422, "invalid")?;
    ensure!(problem["field"] == "limit", "{problem}");
    Ok(())
}
