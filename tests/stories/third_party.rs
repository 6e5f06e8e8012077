//! Stock Yjs providers, unmodified, as their documentation sets them up: y-websocket 2 and 3, Hocuspocus 2 to 4, pycrdt.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::process::Process;
use crate::harness::{
    Address, NODE, Options, PATIENCE, PYTHON, Person, Puppets, Stories, Story, Told, fresh,
};

const Y_WEBSOCKETS: [&str; 2] = ["y-websocket-2", "y-websocket-3"];
const HOCUSPOCUSES: [&str; 3] = [
    "hocuspocus-provider-2",
    "hocuspocus-provider-3",
    "hocuspocus-provider-4",
];

pub fn stories(all: &mut Stories) {
    all.both_with(NODE, every_stock_provider_edits_one_document_on_two_pods);
    all.both_with(NODE, a_json_update_meets_the_edits_of_providers);
    all.both_with(NODE, edits_made_offline_merge_on_the_way_back);
    all.both_with(NODE, providers_survive_a_killed_gateway_without_ghosts);
    all.both_with(NODE, editors_are_seen_and_leave_no_ghost);
    all.both_with(NODE, who_only_looks_on_is_nobody_else);
    all.both_with(NODE, a_viewer_reads_and_its_edits_are_refused);
    all.both_with(
        NODE,
        an_edit_that_is_too_large_does_not_send_providers_round_in_circles,
    );
    all.both_with(NODE, who_may_not_enter_is_refused_before_the_upgrade);
    all.both_with(NODE, one_hocuspocus_socket_holds_several_documents);
    all.both_with(NODE, a_hocuspocus_client_without_the_right_is_told_so);
    all.both_with(PYTHON, a_python_client_edits_the_same_document);
}

fn at(process: &Process, kind: &str, room: &str) -> Value {
    let path = if kind.starts_with("hocuspocus") {
        "/hocuspocus"
    } else {
        "/yjs"
    };
    let url = format!("ws://{}{path}", process.address());
    json!({"kind": kind, "url": url, "room": room})
}

fn with_token(mut how: Value, person: &Person) -> Value {
    how["params"] = json!({"token": person.token});
    how["token"] = person.token.clone().into();
    how
}

async fn every_stock_provider_edits_one_document_on_two_pods(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let room = fresh("doc");
    let kinds = || Y_WEBSOCKETS.into_iter().chain(HOCUSPOCUSES);
    for (n, kind) in kinds().enumerate() {
        puppets
            .open(kind, at(cluster.gateway(n), kind, &room))
            .await?;
        puppets.synced(kind).await?;
    }
    let mut text = String::new();
    for (n, kind) in kinds().enumerate() {
        let word = format!("{n} ");
        puppets.write(kind, &word).await?;
        text += &word;
        for reader in kinds() {
            puppets.reads(reader, &text).await?;
        }
    }
    // All that was written is known to be stored.
    for kind in kinds() {
        puppets.synced(kind).await?;
    }
    puppets
        .ask("say", json!({"client": HOCUSPOCUSES[0], "text": "hello"}))
        .await?;
    for reader in &HOCUSPOCUSES[1..] {
        let heard = |seen: &Value| seen["said"] == json!(["hello"]);
        puppets
            .until(reader, "the stateless message", heard)
            .await?;
    }
    let own = puppets.look(HOCUSPOCUSES[0]).await?;
    ensure!(own["said"] == json!([]), "its own message came back: {own}");
    Ok(())
}

async fn a_json_update_meets_the_edits_of_providers(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let room = fresh("doc");
    let json = cluster.door(Address::Plain, &room).enter().await?;
    puppets
        .open("y", at(cluster.there(), "y-websocket-3", &room))
        .await?;
    puppets
        .open("h", at(cluster.here(), "hocuspocus-provider-3", &room))
        .await?;
    puppets.synced("y").await?;
    let update = puppets.ask("write", json!({"text": "from JSON"})).await?;
    json.log(json!({"type": "update", "data": update})).await?;
    puppets.reads("y", "from JSON").await?;
    puppets.reads("h", "from JSON").await?;
    puppets.write("y", ", from Yjs").await?;
    let relayed = json.expect("update").await?;
    puppets.reads("h", "from JSON, from Yjs").await?;
    let read = json!({"updates": [update, relayed["data"]]});
    let read = puppets.ask("read", read).await?;
    ensure!(read == "from JSON, from Yjs", "{read}");
    // Whoever comes later gets all of it in either dialect.
    let late = cluster
        .door(Address::Plain, &room)
        .at(cluster.there().address())
        .enter()
        .await?;
    let sync = late.expect("sync").await?;
    let read = puppets
        .ask("read", json!({"updates": [sync["data"]]}))
        .await?;
    ensure!(read == "from JSON, from Yjs", "{read}");
    puppets
        .open("late", at(cluster.here(), "y-websocket-2", &room))
        .await?;
    puppets.reads("late", "from JSON, from Yjs").await
}

async fn edits_made_offline_merge_on_the_way_back(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    for kind in ["y-websocket-2", "y-websocket-3", "hocuspocus-provider-4"] {
        let room = fresh("doc");
        for (client, process) in [("ana", cluster.here()), ("ben", cluster.there())] {
            puppets.open(client, at(process, kind, &room)).await?;
            puppets.synced(client).await?;
        }
        puppets.write("ana", "together ").await?;
        puppets.reads("ben", "together ").await?;
        puppets.tell("ana", "disconnect").await?;
        puppets
            .until("ana", "offline", |seen| seen["synced"] == false)
            .await?;
        puppets.write("ana", "ana ").await?;
        puppets.write("ben", "ben ").await?;
        puppets.tell("ana", "connect").await?;
        let both = |seen: &Value| {
            let text = seen["text"].as_str().unwrap_or_default();
            text.starts_with("together ") && text.contains("ana ") && text.contains("ben ")
        };
        let ana = puppets.until("ana", "both edits", both).await?;
        let text = ana["text"].as_str().context("a text")?;
        puppets.reads("ben", text).await?;
        puppets.synced("ana").await?;
        for client in ["ana", "ben"] {
            puppets.tell(client, "destroy").await?;
        }
    }
    Ok(())
}

async fn providers_survive_a_killed_gateway_without_ghosts(story: Story) -> Told {
    let cluster = story.cluster(Options::default().workers(0)).await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let room = fresh("doc");
    let kinds = ["y-websocket-2", "y-websocket-3", "hocuspocus-provider-3"];
    // All on the gateway that is going to die, and a witness on the other (embedded: the same).
    for kind in kinds {
        puppets.open(kind, at(cluster.here(), kind, &room)).await?;
        puppets.synced(kind).await?;
    }
    puppets
        .open("lost", at(cluster.here(), "y-websocket-3", &room))
        .await?;
    puppets
        .open("witness", at(cluster.there(), "y-websocket-3", &room))
        .await?;
    let lost = puppets.synced("lost").await?;
    let lost = lost["id"].to_string();
    puppets
        .ask(
            "show",
            json!({"client": "lost", "state": {"user": {"name": "Lost"}}}),
        )
        .await?;
    puppets
        .until("witness", "the one who will be lost", |seen| {
            seen["states"][&lost]["user"]["name"] == "Lost"
        })
        .await?;
    puppets.write(kinds[0], "before ").await?;
    puppets.reads("witness", "before ").await?;
    cluster.here().kill().await?;
    // Stays away: a tab closed while the server was down.
    puppets.tell("lost", "destroy").await?;
    for kind in kinds {
        puppets.write(kind, "down ").await?;
    }
    cluster.here().restart().await?;
    let text = "before down down down ";
    for client in kinds.into_iter().chain(["witness"]) {
        puppets
            .until(client, "all edits", |seen| {
                seen["text"].as_str().map(str::len) == Some(text.len())
            })
            .await?;
        puppets.synced(client).await?;
    }
    puppets
        .until("witness", "everybody but the one who was lost", |seen| {
            let states = seen["states"].as_object();
            states.is_some_and(|states| states.len() == kinds.len() + 1)
                && seen["states"][&lost].is_null()
        })
        .await?;
    Ok(())
}

async fn editors_are_seen_and_leave_no_ghost(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let room = fresh("doc");
    let json = cluster.door(Address::Plain, &room).enter().await?;
    for (client, kind, process) in [
        ("ana", "y-websocket-3", cluster.here()),
        ("ben", "hocuspocus-provider-4", cluster.there()),
    ] {
        puppets.open(client, at(process, kind, &room)).await?;
        puppets.synced(client).await?;
    }
    let id = puppets.look("ana").await?["id"].to_string();
    let state = json!({"user": {"name": "Ana", "color": "#ff8800"}, "cursor": {"anchor": 3}});
    puppets
        .ask("show", json!({"client": "ana", "state": state}))
        .await?;
    puppets
        .until("ben", "Ana's state", |seen| seen["states"][&id] == state)
        .await?;
    // People who speak JSON see the same person, by the name and colour it shows.
    let named = |m: &Value| m["name"] == "Ana" && m["color"] == "#ff8800";
    json.news(|m| matches!(m["type"].as_str(), Some("user_joined" | "user_updated")) && named(m))
        .await?;
    // Whoever comes later sees who is there.
    puppets
        .open("late", at(cluster.there(), "y-websocket-2", &room))
        .await?;
    puppets
        .until("late", "Ana's state", |seen| seen["states"][&id] == state)
        .await?;
    puppets.tell("ana", "destroy").await?;
    for client in ["ben", "late"] {
        puppets
            .until(client, "Ana gone", |seen| seen["states"][&id].is_null())
            .await?;
    }
    json.expect("user_left").await.map(drop)
}

/// What it is told of others it says again, as every provider does: it is not they.
async fn who_only_looks_on_is_nobody_else(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let room = fresh("doc");
    let json = cluster.door(Address::Plain, &room).enter().await?;
    puppets
        .open("ana", at(cluster.here(), "y-websocket-3", &room))
        .await?;
    let id = puppets.synced("ana").await?["id"].to_string();
    let state = json!({"user": {"name": "Ana"}});
    puppets
        .ask("show", json!({"client": "ana", "state": state}))
        .await?;
    json.news(|m| m["name"] == "Ana").await?;
    for kind in ["y-websocket-2", "y-websocket-3"] {
        let mut how = at(cluster.here(), kind, &room);
        how["observer"] = true.into();
        puppets.open(kind, how).await?;
        puppets.synced(kind).await?;
        puppets
            .until(kind, "Ana's state", |seen| seen["states"][&id] == state)
            .await?;
        // What is written after the echo arrives after it.
        puppets.write(kind, kind).await?;
        puppets
            .until("ana", "its edit", |seen| {
                seen["text"]
                    .as_str()
                    .is_some_and(|text| text.ends_with(kind))
            })
            .await?;
        puppets.tell(kind, "destroy").await?;
    }
    let witness = cluster.door(Address::Plain, &room).enter().await?;
    let users = witness.join("Witness").await?;
    let names: Vec<&Value> = users.iter().map(|user| &user["name"]).collect();
    ensure!(names == ["Ana"], "{users:?}");
    json.news(|m| m["name"] == "Witness").await?;
    let told = (json.count("user_joined"), json.count("user_left"));
    ensure!(told == (2, 0), "joined and left: {told:?}");
    Ok(())
}

async fn a_viewer_reads_and_its_edits_are_refused(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let rest = cluster.rest();
    let (host, viewer) = (rest.guest("Hanna").await?, rest.guest("Vera").await?);
    let as_host = rest.as_person(&host);
    let room = as_host
        .make_room(json!({"name": "Script", "kind": "session"}))
        .await?;
    let member = json!({"user_id": viewer.id, "role": "viewer"});
    let added = as_host
        .post(&format!("/api/v1/rooms/{room}/members"), member)
        .await?;
    added.expect(201)?;
    let host_at = |kind| with_token(at(cluster.here(), kind, &room), &host);
    puppets.open("host", host_at("y-websocket-3")).await?;
    puppets.synced("host").await?;
    puppets.write("host", "read me").await?;
    for kind in [
        "y-websocket-3",
        "hocuspocus-provider-2",
        "hocuspocus-provider-4",
    ] {
        let how = with_token(at(cluster.there(), kind, &room), &viewer);
        puppets.open(kind, how).await?;
        puppets.reads(kind, "read me").await?;
        if kind.starts_with("hocuspocus") {
            let seen = puppets.synced(kind).await?;
            ensure!(
                seen["scope"] == "readonly" || kind.ends_with('2'),
                "told that it only reads: {seen}"
            );
        }
        puppets.write(kind, " (scribble)").await?;
    }
    puppets.write("host", "!").await?;
    puppets
        .until("y-websocket-3", "the host's edit", |seen| {
            seen["text"].as_str().is_some_and(|text| text.contains('!'))
        })
        .await?;
    let seen = puppets
        .until("hocuspocus-provider-4", "its edit stays unsaved", |seen| {
            seen["unsynced"] == 1
        })
        .await?;
    ensure!(seen["synced"] == true, "{seen}");
    puppets.reads("host", "read me!").await
}

/// A provider comes back from every close with the same edit: it is told, and keeps its socket.
async fn an_edit_that_is_too_large_does_not_send_providers_round_in_circles(story: Story) -> Told {
    const LIMIT: usize = 1 << 20;
    let options = Options::default().set("DOCUMENT_MAX_BYTES", LIMIT);
    let cluster = story.cluster(options).await?;
    let puppets = Puppets::start(&story, NODE).await?;
    for kind in [
        "y-websocket-2",
        "y-websocket-3",
        "hocuspocus-provider-2",
        "hocuspocus-provider-4",
    ] {
        let room = fresh("large");
        for (client, process) in [("ana", cluster.here()), ("ben", cluster.there())] {
            puppets.open(client, at(process, kind, &room)).await?;
            puppets.synced(client).await?;
        }
        puppets.write("ana", &"x".repeat(2 * LIMIT)).await?;
        puppets.write("ben", "ben is heard").await?;
        let heard = |seen: &Value| {
            let text = seen["text"].as_str().unwrap_or_default();
            text.contains("ben is heard")
        };
        let ana = puppets.until("ana", "ben's edit", heard).await?;
        ensure!(ana["opened"] == 1, "{kind} came back: {}", ana["events"]);
        if kind.starts_with("hocuspocus") {
            ensure!(
                ana["unsynced"] == 1,
                "{kind} takes it for saved: {}",
                ana["unsynced"]
            );
        }
        puppets.reads("ben", "ben is heard").await?;
        for client in ["ana", "ben"] {
            puppets.tell(client, "destroy").await?;
        }
    }
    Ok(())
}

async fn who_may_not_enter_is_refused_before_the_upgrade(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let rest = cluster.rest();
    let (host, stranger) = (rest.guest("Hanna").await?, rest.guest("Stan").await?);
    let room = rest
        .as_person(&host)
        .make_room(json!({"name": "Closed", "kind": "session"}))
        .await?;
    let plain = at(cluster.here(), "y-websocket-3", &room);
    let mut forged = plain.clone();
    forged["params"] = json!({"token": "nonsense"});
    let mut by_subprotocol = plain.clone();
    by_subprotocol["protocols"] = json!([format!("yauth-{}", host.token)]);
    for (client, how, status) in [
        ("nobody", plain.clone(), 401),
        ("forger", forged, 401),
        ("stranger", with_token(plain.clone(), &stranger), 403),
    ] {
        puppets.open(client, how).await?;
        let refused = |seen: &Value| seen["refusals"][0] == status;
        puppets.until(client, &format!("{status}"), refused).await?;
        puppets.tell(client, "destroy").await?;
    }
    puppets.open("host", by_subprotocol).await?;
    puppets.synced("host").await.map(drop)
}

async fn one_hocuspocus_socket_holds_several_documents(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    for kind in HOCUSPOCUSES {
        let rooms = [fresh("doc"), fresh("doc"), fresh("doc")];
        for (n, room) in rooms.iter().enumerate() {
            let mut how = at(cluster.here(), kind, room);
            how["socket"] = kind.into();
            puppets.open(&format!("mine-{n}"), how).await?;
            let theirs = at(cluster.there(), "y-websocket-3", room);
            puppets.open(&format!("theirs-{n}"), theirs).await?;
        }
        for n in 0..rooms.len() {
            puppets.synced(&format!("mine-{n}")).await?;
            puppets.write(&format!("mine-{n}"), &format!("{n}")).await?;
        }
        for n in 0..rooms.len() {
            puppets
                .reads(&format!("theirs-{n}"), &format!("{n}"))
                .await?;
        }
        let opened = puppets.look("mine-0").await?;
        ensure!(opened["opened"] == 1, "one socket: {opened}");
        // One is let go of; the others go on.
        puppets.tell("mine-0", "destroy").await?;
        puppets.write("theirs-1", " more").await?;
        puppets.reads("mine-1", "1 more").await?;
        for n in 0..rooms.len() {
            puppets.tell(&format!("theirs-{n}"), "destroy").await?;
        }
    }
    // Two providers of one document share a socket by their sessions' names.
    let room = fresh("doc");
    for client in ["one", "two"] {
        let mut how = at(cluster.here(), "hocuspocus-provider-4", &room);
        how["socket"] = "sessions".into();
        how["session"] = true.into();
        puppets.open(client, how).await?;
        puppets.synced(client).await?;
    }
    puppets.write("one", "shared").await?;
    puppets.reads("two", "shared").await?;
    puppets.synced("one").await.map(drop)
}

async fn a_hocuspocus_client_without_the_right_is_told_so(story: Story) -> Told {
    let cluster = story.shared().await?;
    let puppets = Puppets::start(&story, NODE).await?;
    let rest = cluster.rest();
    let (host, stranger) = (rest.guest("Hanna").await?, rest.guest("Stan").await?);
    let room = rest
        .as_person(&host)
        .make_room(json!({"name": "Closed", "kind": "session"}))
        .await?;
    for kind in HOCUSPOCUSES {
        let plain = at(cluster.here(), kind, &room);
        let mut forged = plain.clone();
        forged["token"] = "nonsense".into();
        for (client, how) in [
            ("nobody", plain.clone()),
            ("forger", forged),
            ("stranger", with_token(plain.clone(), &stranger)),
        ] {
            let client = format!("{client} by {kind}");
            puppets.open(&client, how).await?;
            puppets
                .until(&client, "denied", |seen| {
                    let last = seen["events"].as_array().and_then(|events| events.last());
                    last.and_then(Value::as_str)
                        .is_some_and(|event| event.starts_with("denied: "))
                })
                .await?;
            let seen = puppets.look(&client).await?;
            ensure!(seen["opened"] == 1, "it does not come again: {seen}");
            puppets.tell(&client, "destroy").await?;
        }
        let host_here = with_token(plain, &host);
        puppets.open(kind, host_here).await?;
        puppets.synced(kind).await?;
    }
    Ok(())
}

async fn a_python_client_edits_the_same_document(story: Story) -> Told {
    let cluster = story.shared().await?;
    let python = Puppets::start(&story, PYTHON).await?;
    let room = fresh("doc");
    let json = cluster.door(Address::Plain, &room).enter().await?;
    for (client, process) in [("ana", cluster.here()), ("ben", cluster.there())] {
        let how = at(process, "pycrdt", &room);
        python.open(client, how).await?;
    }
    python.write("ana", "from Python").await?;
    python.reads("ben", "from Python").await?;
    json.expect_within("update", PATIENCE, |m| m["data"].is_string())
        .await?;
    python.write("ben", ", twice").await?;
    python.reads("ana", "from Python, twice").await
}
