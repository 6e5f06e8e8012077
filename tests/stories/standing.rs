//! Who may do what: every message for every role, roles changed by a host in the room, people sent out, code run in a room.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{
    Address, Client, Cluster, PATIENCE, Person, Stories, Story, Told, fresh, until,
};
use crate::messages::{refused, say};

pub fn stories(all: &mut Stories) {
    all.both(every_message_needs_its_role);
    all.both(a_host_changes_roles_in_the_room_and_it_counts_on_every_pod);
    all.both(a_host_sends_somebody_out_on_every_pod);
    all.both(code_run_in_a_room_is_acknowledged_by_its_start_and_runs_once);
}

/// Starting a box and an interpreter on a busy machine.
const RUN_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Viewer,
    Editor,
    Host,
}

/// What is sent, and the least role that may.
fn table(host_said: &str, own: &str, host: &str, spare: &str) -> Vec<(Value, Role)> {
    let stroke =
        json!({"id": fresh("s"), "width": 1, "color": "#000000", "points": [1, 2], "ts": 5});
    let about = |data: Value| json!({"type": "reaction", "data": data});
    vec![
        (json!({"type": "ping", "timestamp": 1}), Role::Viewer),
        (json!({"type": "heartbeat"}), Role::Viewer),
        (json!({"type": "join", "name": "Somebody"}), Role::Viewer),
        (json!({"type": "receipt", "seq": 1}), Role::Viewer),
        (json!({"type": "cursor", "position": 3}), Role::Viewer),
        (
            json!({"type": "selection", "selection": {"start": 1, "end": 2}}),
            Role::Viewer,
        ),
        (
            json!({"type": "cursor_update", "data": {"x": 1, "y": 2}}),
            Role::Viewer,
        ),
        (
            json!({"type": "viewport_update", "data": {"x": 1, "y": 2, "zoom": 1}}),
            Role::Viewer,
        ),
        (
            json!({"type": "presence_update", "data": {"status": "idle"}}),
            Role::Viewer,
        ),
        (
            json!({"type": "typing", "data": {"on": true}}),
            Role::Editor,
        ),
        (
            json!({"type": "chat_message", "content": "hello"}),
            Role::Editor,
        ),
        (
            json!({"type": "direct_message", "to": host, "content": "psst"}),
            Role::Editor,
        ),
        (
            json!({"type": "chat_edit", "message_id": own, "content": "better"}),
            Role::Editor,
        ),
        (
            json!({"type": "code_comment", "data": {"file": "a", "line": 1, "content": "why?"}}),
            Role::Editor,
        ),
        (
            about(json!({"message_id": host_said, "emoji": "👍", "action": "add"})),
            Role::Editor,
        ),
        (json!({"type": "draw", "paths": [stroke]}), Role::Editor),
        (
            json!({"type": "session_update", "data": {"title": "x"}}),
            Role::Editor,
        ),
        (
            json!({"type": "chat_delete", "message_id": own}),
            Role::Editor,
        ),
        (
            json!({"type": "run", "language": "python", "source": "print(1)"}),
            Role::Editor,
        ),
        (
            json!({"type": "set_role", "user_id": spare, "role": "viewer"}),
            Role::Host,
        ),
        (json!({"type": "kick", "user_id": spare}), Role::Host),
    ]
}

const DURABLE: [&str; 11] = [
    "chat_message",
    "direct_message",
    "chat_edit",
    "code_comment",
    "reaction",
    "draw",
    "session_update",
    "chat_delete",
    "run",
    "set_role",
    "kick",
];

async fn try_all(
    client: &Client,
    who: &str,
    role: Role,
    with_token: bool,
    messages: Vec<(Value, Role)>,
) -> Told {
    for (mut message, least) in messages {
        let kind = message["type"].as_str().context("type")?.to_owned();
        let allowed = role >= least && (kind != "run" || with_token);
        let reference = fresh("ref");
        message["ref"] = reference.clone().into();
        let before = client.count("error");
        client.send(message.clone()).await?;
        if allowed && DURABLE.contains(&kind.as_str()) {
            let answered = |m: &Value| m["ref"] == reference.as_str();
            let answer = client.expect_within("ack", RUN_PATIENCE, answered).await;
            answer.with_context(|| format!("{who} may send {message}"))?;
        } else if allowed {
            client.answered().await?;
            ensure!(
                client.count("error") == before,
                "{who} may send {message}: {:?}",
                client.frames().last()
            );
        } else {
            let answered = |m: &Value| m["ref"] == reference.as_str() || kind == "typing";
            let error = client.expect_where("error", answered).await;
            let error = error.with_context(|| format!("{who} may not send {message}"))?;
            ensure!(
                error["code"] == "forbidden" && error["field"] == "type",
                "{who}, {message}: {error}"
            );
        }
    }
    Ok(())
}

async fn members_only(cluster: &Cluster, ana: &Person) -> anyhow::Result<String> {
    let rest = cluster.rest().as_person(ana);
    rest.make_room(json!({"kind": "open", "access": "members"}))
        .await
}

async fn add(cluster: &Cluster, host: &Person, room: &str, who: &Person, role: &str) -> Told {
    let path = format!("/api/v1/rooms/{room}/members");
    let body = json!({"user_id": who.id, "role": role});
    let rest = cluster.rest().as_person(host);
    rest.post(&path, body).await?.expect(201).map(|_| ())
}

async fn every_message_needs_its_role(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let ana = rest.guest("Ana").await?;
    let room = members_only(&cluster, &ana).await?;
    let door = cluster.door(Address::Rooms, &room);
    let host = door.clone().person(&ana).enter().await?;
    let (_, said) = say(
        &host,
        json!({"type": "chat_message", "content": "the host's"}),
    )
    .await?;
    let there = door.at(cluster.there().address());
    for (role, word) in [
        (Role::Viewer, "viewer"),
        (Role::Editor, "editor"),
        (Role::Host, "host"),
    ] {
        let (person, spare) = (rest.guest("Ben").await?, rest.guest("Spare").await?);
        add(&cluster, &ana, &room, &person, "editor").await?;
        add(&cluster, &ana, &room, &spare, "editor").await?;
        let client = there.clone().person(&person).enter().await?;
        let (_, own) = say(&client, json!({"type": "chat_message", "content": "mine"})).await?;
        let path = format!("/api/v1/rooms/{room}/members/{}", person.id);
        let hers = rest.as_person(&ana);
        hers.patch(&path, json!({"role": word}))
            .await?
            .expect(200)?;
        client
            .expect_where("role_changed", |m| m["role"] == word)
            .await?;
        let messages = table(&said, &own, &ana.id, &spare.id);
        try_all(&client, word, role, true, messages).await?;
    }
    // Whoever comes without a token to an open room is an editor there, but runs no code.
    let open = cluster.door(Address::Plain, &fresh("room"));
    let other = open.enter().await?;
    let (_, said) = say(&other, json!({"type": "chat_message", "content": "hi"})).await?;
    let anonymous = open.at(cluster.there().address()).enter().await?;
    let (_, own) = say(
        &anonymous,
        json!({"type": "chat_message", "content": "mine"}),
    )
    .await?;
    let messages = table(&said, &own, &ana.id, &ana.id);
    try_all(&anonymous, "anonymous", Role::Editor, false, messages).await
}

async fn a_host_changes_roles_in_the_room_and_it_counts_on_every_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let room = members_only(&cluster, &ana).await?;
    add(&cluster, &ana, &room, &ben, "editor").await?;
    let door = cluster.door(Address::Rooms, &room);
    let host = door.clone().person(&ana).enter().await?;
    let there = door.clone().at(cluster.there().address());
    let client = there.person(&ben).enter().await?;
    client.chat("as an editor").await?;
    let set = |id: &str, role: &str| json!({"type": "set_role", "user_id": id, "role": role});
    let seq = host.log(set(&ben.id, "viewer")).await?;
    // The ack is the promise: nothing of his is logged from here on, though his pod may not have heard yet.
    let late = json!({"type": "chat_message", "content": "too late"});
    refused(&client, late, "forbidden", "type").await?;
    let told = client.expect("role_changed").await?;
    ensure!(
        told["seq"] == seq && told["user_id"] == ben.id && told["role"] == "viewer",
        "{told}"
    );
    // Without a ref the host hears nothing of it.
    host.send(set(&ben.id, "editor")).await?;
    client
        .expect_where("role_changed", |m| m["role"] == "editor")
        .await?;
    host.log(set(&ben.id, "host")).await?;
    host.saw_no("role_changed")?;
    client
        .expect_where("role_changed", |m| m["role"] == "host")
        .await?;
    client.chat("as a host").await?;
    client.log(set(&ana.id, "viewer")).await?;
    host.expect_where("role_changed", |m| m["user_id"] == ana.id)
        .await?;
    refused(&host, set(&ben.id, "viewer"), "forbidden", "type").await?;
    // A room keeps a host, and roles are for people there are.
    refused(&client, set(&ben.id, "viewer"), "conflict", "user_id").await?;
    let kick = json!({"type": "kick", "user_id": ben.id});
    refused(&client, kick, "conflict", "user_id").await?;
    let nobody = uuid::Uuid::now_v7().to_string();
    refused(&client, set(&nobody, "viewer"), "not_found", "user_id").await?;
    refused(&client, set(&ana.id, "king"), "invalid", "role").await?;
    // Sent again after a lost answer: told the place of the first.
    let mut again = set(&ana.id, "editor");
    again["ref"] = "once".into();
    client.send(again.clone()).await?;
    let first = client.acknowledged("once").await?;
    client.send(again).await?;
    let second = client.acknowledged("once").await?;
    ensure!(first == second, "{first}, then {second}");
    Ok(())
}

async fn a_host_sends_somebody_out_on_every_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let room = members_only(&cluster, &ana).await?;
    add(&cluster, &ana, &room, &ben, "editor").await?;
    let door = cluster.door(Address::Rooms, &room);
    let host = door.clone().person(&ana).enter().await?;
    let his = door.clone().person(&ben);
    let (here, there) = (
        his.enter().await?,
        his.clone().at(cluster.there().address()).enter().await?,
    );
    host.log(json!({"type": "kick", "user_id": ben.id})).await?;
    here.closed_with(4403).await?;
    there.closed_with(4403).await?;
    his.refused(403, "forbidden").await?;
    // Also where everybody may come: out of the room, by the log, on every pod.
    let open = rest
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    let door = cluster.door(Address::Rooms, &open);
    let host = door.clone().person(&ana).enter().await?;
    let visitor = door.at(cluster.there().address()).enter().await?;
    visitor.join("Visitor").await?;
    let joined = host
        .expect_where("user_joined", |m| m["name"] == "Visitor")
        .await?;
    let kick = json!({"type": "kick", "user_id": joined["user_id"]});
    host.log(kick).await?;
    visitor.closed_with(4403).await?;
    host.expect("user_left").await.map(|_| ())
}

async fn code_run_in_a_room_is_acknowledged_by_its_start_and_runs_once(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Rooms, &room);
    let client = door.clone().person(&ana).enter().await?;
    let watcher = door.at(cluster.there().address()).enter().await?;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let run = json!({
        "type": "run", "language": "python", "source": "print(input() * 2)", "stdin": "21\n",
        "ref": "run-1", "traceparent": format!("00-{trace}-b7ad6b7169203331-01"),
    });
    // Twice before it has started: once.
    client.send_all([run.clone(), run.clone()]).await?;
    let mine = |m: &Value| m["ref"] == "run-1";
    let ack = client.expect_within("ack", RUN_PATIENCE, mine).await?;
    let started = watcher.expect("run_started").await?;
    ensure!(
        started["seq"] == ack["seq"] && started["language"] == "python",
        "{ack}, {started}"
    );
    ensure!(started["user"]["user_id"] == ana.id, "{started}");
    let color = &client.connected["user"]["color"];
    ensure!(
        color.is_string() && started["user"]["color"] == *color,
        "{started}"
    );
    client.expect("run_started").await?;
    let id = started["run_id"].as_str().context("run_id")?.to_owned();
    let finished = watcher
        .expect_within("run_finished", RUN_PATIENCE, |m| m["run_id"] == id.as_str())
        .await?;
    ensure!(
        finished["status"] == "succeeded" && finished["exit_code"] == 0,
        "{finished}"
    );
    for told in [&started, &finished] {
        ensure!(told["from"] == client.client_id.as_str(), "{told}");
    }
    let job = until("the result", PATIENCE, async || {
        let job = rest.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)?;
        ensure!(job["result"]["stdout"] == "2121\n", "{job}");
        anyhow::Ok(job)
    })
    .await?;
    ensure!(job["room_id"] == room.as_str(), "{job}");
    ensure!(job["result"]["trace_id"] == trace, "one trace: {job}");
    // And again long after.
    client.send(run).await?;
    let again = client.expect_where("ack", mine).await?;
    ensure!(again["seq"] == ack["seq"], "{again}");
    let jobs = rest.get("/api/v1/jobs").await?.expect(200)?;
    ensure!(jobs["items"].as_array().map(Vec::len) == Some(1), "{jobs}");
    for (body, field) in [
        (
            json!({"type": "run", "language": "cobol", "source": "x"}),
            "language",
        ),
        (json!({"type": "run", "language": "python"}), "source"),
        (json!({"type": "run", "source": "x"}), "language"),
        (
            json!({"type": "run", "language": "python", "files": [{"path": "../x", "content": ""}]}),
            "files.path",
        ),
    ] {
        client.send(body.clone()).await?;
        let error = client.expect("error").await?;
        let named = error["field"].as_str().unwrap_or_default();
        // The place among several may stand within.
        let named = named.replace("[0]", "");
        ensure!(named == field, "{body}: {error}");
    }
    // Without a ref nothing is acknowledged, and who asked is told as everybody is.
    let acks = client.count("ack");
    let run = json!({"type": "run", "language": "python", "source": "print(2)"});
    client.send(run).await?;
    for kind in ["run_started", "run_finished"] {
        let mine = |m: &Value| m["run_id"] != id.as_str();
        let told = client.expect_within(kind, RUN_PATIENCE, mine).await?;
        ensure!(told["from"] == client.client_id.as_str(), "{told}");
    }
    client.answered().await?;
    ensure!(client.count("ack") == acks, "{:?}", client.frames().last());
    // A room that allows no code.
    let board = rest.make_room(json!({"kind": "whiteboard"})).await?;
    let client = cluster
        .door(Address::Rooms, &board)
        .person(&ana)
        .enter()
        .await?;
    let run = json!({"type": "run", "language": "python", "source": "1"});
    refused(&client, run, "not_allowed", "type").await
}
