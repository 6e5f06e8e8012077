//! Who came into a session and left it, among its events.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::harness::{
    Address, Cluster, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(who_joined_and_left_a_session_is_among_its_events);
    all.both(a_leave_that_a_killed_server_could_not_tell_is_noted_once);
    all.both(a_crowd_is_noted_whole);
    all.distributed(a_crowd_is_noted_in_a_few_statements);
}

async fn events(rest: &Rest, room: &str) -> anyhow::Result<Vec<Value>> {
    let mut path = format!("/api/v1/sessions/{room}/events?limit=200");
    let mut all = Vec::new();
    loop {
        let page = rest.get(&path).await?.expect(200)?;
        let items = page["items"].as_array().context("items")?;
        all.extend(items.iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else {
            return Ok(all);
        };
        path = format!("/api/v1/sessions/{room}/events?limit=200&cursor={cursor}");
    }
}

/// Who it was and what they did, oldest first.
fn told(events: &[Value]) -> Vec<String> {
    let word = |event: &Value| {
        let who = event["name"].as_str().or(event["user"]["name"].as_str());
        let kind = event["type"].as_str().unwrap_or("?");
        format!("{} {kind}", who.unwrap_or("?"))
    };
    events.iter().rev().map(word).collect()
}

async fn who_joined_and_left_a_session_is_among_its_events(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let ana = rest.guest("Ana").await?;
    let ben_name = fresh("ben");
    let ben = rest
        .register(&ben_name, "correct horse battery staple")
        .await?;
    let hers = rest.as_person(&ana);
    let made = hers.post("/api/v1/sessions", json!({"name": "Pairing"}));
    let made = made.await?.expect(201)?;
    let room = made["id"].as_str().context("id")?;
    hers.post(
        &format!("/api/v1/sessions/{room}/participants"),
        json!({"user_id": ben.id, "role": "editor"}),
    )
    .await?
    .expect(201)?;
    let door = cluster.door(Address::Session, room);
    let host = door.clone().person(&ana).enter().await?;
    // Who joined here is there at once.
    ensure!(told(&events(&hers, room).await?).contains(&"Ana user_joined".to_owned()));
    host.chat("hello").await?;
    let there = door.clone().at(cluster.there().address()).person(&ben);
    let visitor = there.clone().enter().await?;
    host.expect_where("user_joined", |m| m["userId"] == visitor.client_id.as_str())
        .await?;
    let (his_id, back) = (visitor.client_id.clone(), visitor.way_back());
    visitor.chat("hi").await?;
    visitor.close().await?;
    host.expect_where("user_left", |m| m["userId"] == his_id.as_str())
        .await?;
    let again = back.at(cluster.here().address()).enter().await?;
    again.chat("me again").await?;
    let joined = |name: &str| format!("{name} user_joined");
    let left = |name: &str| format!("{name} user_left");
    let wanted = vec![
        joined("Ana"),
        "Ana chat_message".to_owned(),
        joined(&ben_name),
        format!("{ben_name} chat_message"),
        left(&ben_name),
        joined(&ben_name),
        format!("{ben_name} chat_message"),
    ];
    // Another server's visits come with its next beat.
    until("all of them among the events", PATIENCE, async || {
        let told = told(&events(&hers, room).await?);
        let shown: Vec<String> = told
            .into_iter()
            .filter(|t| !t.ends_with("role_changed"))
            .collect();
        ensure!(shown == wanted, "{shown:?}");
        anyhow::Ok(())
    })
    .await?;
    let all = events(&hers, room).await?;
    let left = all.iter().find(|event| event["type"] == "user_left");
    let left = left.context("user_left")?;
    ensure!(
        left["userId"] == his_id.as_str() && left["from"] == left["userId"],
        "{left}"
    );
    ensure!(
        left["user"]["user_id"] == ben.id.as_str() && left["ts"].is_u64(),
        "{left}"
    );
    ensure!(
        left.get("seq").is_none() && left.get("reason").is_none(),
        "{left}"
    );
    // Page by page it is the same list, also of the room by its other path.
    let mut path = format!("/api/v1/rooms/{room}/events?limit=1");
    for event in &all {
        let page = hers.get(&path).await?.expect(200)?;
        ensure!(page["items"] == json!([event]), "{page} instead of {event}");
        let cursor = page["next_cursor"].as_str().unwrap_or_default();
        path = format!("/api/v1/rooms/{room}/events?limit=1&cursor={cursor}");
    }
    ensure!(
        path.ends_with("cursor="),
        "there is no page behind the last: {path}"
    );
    // Who deletes their account leaves no name.
    rest.as_person(&ben)
        .delete("/api/v1/users/me")
        .await?
        .expect(204)?;
    let all = events(&hers, room).await?;
    ensure!(!json!(all).to_string().contains(&ben_name), "{all:?}");
    // Of other rooms it is not kept.
    let open = hers.make_room(json!({"kind": "open"})).await?;
    cluster
        .door(Address::Plain, &open)
        .person(&ana)
        .enter()
        .await?;
    let page = hers.get(&format!("/api/v1/rooms/{open}/events")).await?;
    ensure!(page.expect(200)?["items"] == json!([]));
    Ok(())
}

async fn session(cluster: &Cluster) -> anyhow::Result<(Rest, String)> {
    let ana = cluster.rest().guest(&fresh("ana")).await?;
    let hers = cluster.rest().as_person(&ana);
    let room = json!({"kind": "session", "access": "open", "allows": ["chat"]});
    let room = hers.make_room(room).await?;
    Ok((hers, room))
}

async fn a_leave_that_a_killed_server_could_not_tell_is_noted_once(story: Story) -> Told {
    let cluster = story.cluster(Options::default()).await?;
    let (_, room) = session(&cluster).await?;
    let door = cluster.door(Address::Plain, &room);
    let doomed = door.clone().at(cluster.there().address()).enter().await?;
    doomed.join("Doomed").await?;
    let rest = Rest::at(cluster.there());
    until("the join is noted", PATIENCE, async || {
        let told = told(&events(&rest, &room).await?);
        ensure!(told == ["Doomed user_joined"], "{told:?}");
        anyhow::Ok(())
    })
    .await?;
    cluster.there().kill().await?;
    cluster.there().restart().await?;
    let rest = Rest::at(cluster.here());
    until("the leave is noted", PATIENCE, async || {
        let told = told(&events(&rest, &room).await?);
        ensure!(
            told == ["Doomed user_joined", "Doomed user_left"],
            "{told:?}"
        );
        anyhow::Ok(())
    })
    .await?;
    let left = events(&rest, &room).await?.swap_remove(0);
    ensure!(left["reason"] == "lost", "{left}");
    Ok(())
}

async fn a_crowd_is_noted_whole(story: Story) -> Told {
    const CROWD: usize = 300;
    let cluster = story.shared().await?;
    let (_, room) = session(&cluster).await?;
    let admin = cluster.admin();
    let path = format!("/api/v1/simulate/users/{room}?count={CROWD}");
    admin.post(&path, json!({})).await?.expect(200)?;
    let joined = events(&admin, &room).await?;
    ensure!(joined.len() == CROWD, "{} joined", joined.len());
    ensure!(joined.iter().all(|event| event["simulated"] == true));
    admin.delete(&path).await?.expect(200)?;
    until("everybody left", PATIENCE, async || {
        let all = events(&admin, &room).await?;
        let left = all.iter().filter(|event| event["type"] == "user_left");
        let who: std::collections::BTreeSet<&str> = left
            .clone()
            .filter_map(|event| event["userId"].as_str())
            .collect();
        ensure!(
            (left.count(), who.len()) == (CROWD, CROWD),
            "{} events",
            all.len()
        );
        anyhow::Ok(())
    })
    .await
}

/// Postgres itself counts the statements: one for each visit would make it wait for every one of a class that comes in.
async fn a_crowd_is_noted_in_a_few_statements(story: Story) -> Told {
    const CROWD: i64 = 500;
    let options = Options::default().gateways(1).workers(0);
    let cluster = story.cluster(options).await?;
    let mut postgres = PgConnection::connect(cluster.stores()?.postgres.as_str()).await?;
    let counting = "CREATE TABLE statements (of TEXT);
        CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO statements VALUES (TG_OP); RETURN NULL; END';
        CREATE TRIGGER counted AFTER INSERT OR UPDATE ON room_visits
            FOR EACH STATEMENT EXECUTE FUNCTION counted()";
    sqlx::raw_sql(counting).execute(&mut postgres).await?;
    let (_, room) = session(&cluster).await?;
    let path = format!("/api/v1/simulate/users/{room}?count={CROWD}");
    let admin = cluster.admin();
    admin.post(&path, json!({})).await?.expect(200)?;
    let mut noted = 0;
    while noted < CROWD {
        let count = sqlx::query_scalar("SELECT count(*) FROM room_visits");
        noted = count.fetch_one(&mut postgres).await?;
        tokio::task::yield_now().await;
    }
    let count = sqlx::query_scalar("SELECT count(*) FROM statements");
    let statements: i64 = count.fetch_one(&mut postgres).await?;
    // All came at one moment. (Each that inserts is one that updates as well, for those that were noted before.)
    ensure!(
        (1..=10).contains(&statements),
        "{statements} statements for {CROWD} visits"
    );
    Ok(())
}
