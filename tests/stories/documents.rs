//! The room's document, as JSON clients edit it: merged and never replaced, kept small in the log, and the same for all.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Transact, Update};

use crate::harness::editor::{Editor, message};
use crate::harness::{Address, Options, PATIENCE, Stories, Story, Told, fresh, until};

pub fn stories(all: &mut Stories) {
    all.both(a_client_of_the_reference_edits_persists_and_loads);
    all.both(of_whole_states_only_what_is_new_is_logged);
    all.both(two_who_edit_at_once_on_two_gateways_agree);
    all.both(a_room_without_documents_refuses_them);
    all.both(a_document_that_is_full_says_so_and_goes_on);
    all.both(who_asks_right_behind_an_edit_gets_it);
}

/// `sync` only where there is a document, first of all; `update` with `data` and `from` to the others and no echo;
/// `sync_request`; persist, load and sizes as REST tells them.
async fn a_client_of_the_reference_edits_persists_and_loads(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (rest, room) = (cluster.rest(), fresh("abc"));
    let none = json!({"success": false, "error": "No document found"});
    let (persist, load) = (
        format!("/api/rooms/{room}/persist"),
        format!("/api/rooms/{room}/load"),
    );
    ensure!(
        rest.post(&persist, json!({})).await?.expect(200)? == none,
        "no such room"
    );
    ensure!(rest.get(&load).await?.expect(200)? == none, "no such room");
    let door = cluster.door(Address::Plain, &room);
    let mut alice = Editor::enter(&door).await?;
    let mut bob = Editor::enter(&door.clone().at(cluster.there().address())).await?;
    alice.client.saw_no("sync")?;
    alice.client.join("Alice").await?;
    ensure!(
        rest.post(&persist, json!({})).await?.expect(200)? == none,
        "no document yet"
    );
    ensure!(
        rest.get(&load).await?.expect(200)? == none,
        "no document yet"
    );
    let view = rest
        .get(&format!("/api/v1/rooms/{room}"))
        .await?
        .expect(200)?;
    ensure!(
        view["doc_size"] == 0 && view["retention"] == "ephemeral",
        "{view}"
    );
    bob.client.send(json!({"type": "sync_request"})).await?;
    let sync = bob.client.expect("sync").await?;
    ensure!(
        sync["data"] == "0000",
        "an update that brings nothing: {sync}"
    );

    // The whole state with every key, as the reference's editor sends it.
    let mut typed = String::new();
    for letter in "Hello, Bob".chars() {
        typed.push(letter);
        alice.append(&letter.to_string());
        alice.send(&alice.state()).await?;
    }
    bob.reads(&typed).await?;
    let update = bob.client.expect("update").await?;
    ensure!(
        update["from"] == alice.client.client_id.as_str(),
        "{update}"
    );
    ensure!(update["seq"].is_u64() && update["ts"].is_i64(), "{update}");
    alice.client.answered().await?;
    alice.client.saw_no("update")?;
    bob.cut(5, 5);
    bob.send(&bob.state()).await?;
    alice.reads("Hello").await?;

    let late = door.enter().await?;
    late.expect("users").await?;
    let kinds: Vec<String> = late
        .frames()
        .iter()
        .filter_map(|m| m["type"].as_str().map(str::to_owned))
        .collect();
    ensure!(kinds[..3] == ["connected", "sync", "users"], "{kinds:?}");
    let sync = late.expect("sync").await?;
    late.send(json!({"type": "sync_request"})).await?;
    ensure!(late.expect("sync").await? == sync, "the same again");
    let size = sync["data"].as_str().context("data")?.len();

    let kept = rest.post(&persist, json!({})).await?.expect(200)?;
    ensure!(
        kept == json!({"success": true, "size": size}),
        "{kept}, {size}"
    );
    ensure!(
        rest.get(&load).await?.expect(200)? == kept,
        "load as persist"
    );
    let document = rest.request(
        reqwest::Method::GET,
        &format!("/api/v1/rooms/{room}/document"),
    );
    let bytes = document.send().await?.error_for_status()?;
    ensure!(
        bytes.headers()["content-type"] == "application/octet-stream",
        "{bytes:?}"
    );
    ensure!(
        hex::encode(bytes.bytes().await?) == sync["data"].as_str().unwrap_or_default(),
        "the bytes"
    );
    let document = rest.request(
        reqwest::Method::GET,
        &format!("/api/v1/rooms/{room}/document"),
    );
    let text: Value = document
        .header("accept", "application/json")
        .send()
        .await?
        .json()
        .await?;
    ensure!(
        text["data"] == sync["data"] && text["size"] == size,
        "{text}"
    );
    until(
        "the list of active rooms with this one",
        PATIENCE,
        async || {
            let rooms = rest.get("/api/rooms").await?.expect(200)?;
            let mut rooms = rooms.as_array().into_iter().flatten();
            let mine = rooms.find(|r| r["id"] == room.as_str());
            let shown = mine.is_some_and(|r| r["doc_size"].as_u64() > Some(0));
            shown.then_some(()).with_context(|| format!("{mine:?}"))
        },
    )
    .await?;
    let view = rest.get(&format!("/api/v1/rooms/{room}")).await?;
    let view = view.expect(200)?;
    ensure!(
        view["doc_size"] == size && view["retention"] == "keep",
        "{size}: {view}"
    );
    Ok(())
}

/// A client that sends everything with each key costs the log one letter each; what is known already is acknowledged and
/// not logged; a deletion alone is logged.
async fn of_whole_states_only_what_is_new_is_logged(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("keys");
    let door = cluster.door(Address::Plain, &room);
    let mut ana = Editor::enter(&door).await?;
    let mut ben = Editor::enter(&door.clone().at(cluster.there().address())).await?;
    let lorem = "lorem ipsum dolor sit amet ".repeat(40);
    let first = ana.log(&ana.append(&lorem)).await?;
    let mut last = first;
    for _ in 0..20 {
        ana.append("x");
        last = ana.log(&ana.state()).await?;
    }
    ensure!(last == first + 20, "{first} to {last}");
    ensure!(
        ana.log(&ana.state()).await? == last,
        "nothing new: acknowledged where all of it is in"
    );
    ensure!(
        ana.log(&[0, 0]).await? == last,
        "an update that brings nothing"
    );
    ana.cut(0, 6);
    let cut = ana.log(&ana.state()).await?;
    ensure!(cut == last + 1, "a deletion alone is news: {cut}");
    // Said again by one who is not sure.
    let mut again = message(&ana.append("!").clone());
    again["ref"] = "again".into();
    ana.client.send(again.clone()).await?;
    let place = ana.client.acknowledged("again").await?;
    ana.log(&ana.append("?")).await?;
    ana.client.send(again).await?;
    ensure!(
        ana.client.acknowledged("again").await? == place,
        "the seq of the first"
    );
    ben.reads(&ana.text()).await?;
    let sizes: Vec<usize> = ben
        .client
        .entries()
        .iter()
        .filter_map(|m| m["data"].as_str().map(str::len))
        .collect();
    ensure!(sizes.len() == 24, "{sizes:?}");
    ensure!(
        sizes[1..].iter().all(|size| *size < 80),
        "one letter each: {sizes:?}"
    );
    ana.catch_up()?;
    Ok(())
}

async fn two_who_edit_at_once_on_two_gateways_agree(story: Story) -> Told {
    const EDITS: u32 = 150;
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("pair"));
    let mut editors = [
        Editor::enter(&door).await?,
        Editor::enter(&door.clone().at(cluster.there().address())).await?,
    ];
    // A fixed mixture of both kinds of update, of writing and of deleting, at places that meet.
    let mut last = [0, 0];
    for round in 0..EDITS {
        for (who, editor) in editors.iter_mut().enumerate() {
            let place = (round * 7 + u32::try_from(who)? * 3) % 40;
            let increment = if round % 4 == 3 {
                editor.cut(place, 3)
            } else {
                editor.type_at(place, ["a", "bc", "def"][(round % 3) as usize])
            };
            let update = if round % 5 == who as u32 {
                editor.state()
            } else {
                increment
            };
            if round + 1 == EDITS {
                last[who] = editor.log(&update).await?;
            } else {
                editor.send(&update).await?;
            }
            if round % 10 == 0 {
                editor.catch_up()?;
            }
        }
    }
    let late = door.enter().await?;
    let seq = last[0].max(last[1]);
    for editor in &mut editors {
        let all = |frames: &[std::sync::Arc<Value>]| {
            frames.iter().any(|m| m["seq"].as_u64() >= Some(seq))
        };
        editor.client.until("all edits", PATIENCE, all).await?;
        editor.catch_up()?;
    }
    ensure!(
        editors[0].text() == editors[1].text(),
        "{:?}\n{:?}",
        editors[0].text(),
        editors[1].text()
    );
    let doc = Doc::new();
    let text = doc.get_or_insert_text("content");
    let sync = late.expect("sync").await?;
    let state = hex::decode(sync["data"].as_str().context("data")?)?;
    doc.transact_mut()
        .apply_update(Update::decode_v1(&state)?)?;
    let read = text.get_string(&doc.transact());
    ensure!(read == editors[0].text(), "who comes late reads {read:?}");
    Ok(())
}

async fn a_room_without_documents_refuses_them(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let ana = rest.guest("Ana").await?;
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "whiteboard"}))
        .await?;
    let door = cluster.door(Address::Rooms, &room).person(&ana);
    let client = door.enter().await?;
    for ask in [
        json!({"type": "update", "data": "0000", "ref": "a"}),
        json!({"type": "sync_request"}),
    ] {
        client.send(ask).await?;
        let error = client.expect("error").await?;
        ensure!(
            error["code"] == "not_allowed" && error["field"] == "type",
            "{error}"
        );
    }
    let load = rest
        .as_person(&ana)
        .get(&format!("/api/rooms/{room}/load"))
        .await?
        .expect(200)?;
    ensure!(
        load == json!({"success": false, "error": "No document found"}),
        "{load}"
    );
    let path = format!("/api/v1/rooms/{room}/document");
    rest.as_person(&ana)
        .get(&path)
        .await?
        .problem(404, "not-found")?;
    rest.get(&path).await?.problem(401, "unauthenticated")?;
    // A viewer reads and does not write.
    let body = json!({"kind": "session"});
    let session = rest.as_person(&ana).make_room(body).await?;
    let ben = rest.guest("Ben").await?;
    let members = format!("/api/v1/rooms/{session}/members");
    let viewer = json!({"user_id": ben.id, "role": "viewer"});
    rest.as_person(&ana)
        .post(&members, viewer)
        .await?
        .expect(201)?;
    let viewer = cluster
        .door(Address::Rooms, &session)
        .person(&ben)
        .enter()
        .await?;
    viewer
        .send(json!({"type": "update", "data": "0000"}))
        .await?;
    let error = viewer.expect("error").await?;
    ensure!(error["code"] == "forbidden", "{error}");
    viewer.send(json!({"type": "sync_request"})).await?;
    viewer.expect("sync").await?;
    let persist = format!("/api/v1/rooms/{session}/persist");
    rest.as_person(&ben)
        .post(&persist, json!({}))
        .await?
        .problem(403, "forbidden")
        .map(drop)
}

async fn a_document_that_is_full_says_so_and_goes_on(story: Story) -> Told {
    let options = Options::default()
        .gateways(1)
        .set("DOCUMENT_MAX_BYTES", 4_096);
    let cluster = story.cluster(options).await?;
    let door = cluster.door(Address::Plain, &fresh("full"));
    let ana = Editor::enter(&door).await?;
    let small = ana.log(&ana.append("small")).await?;
    let before = ana.text();
    let large = {
        let other = Editor::enter(&door).await?;
        other.append(&"x".repeat(5_000))
    };
    let mut ask = message(&large);
    ask["ref"] = "large".into();
    ana.client.send(ask).await?;
    let error = ana.client.expect("error").await?;
    ensure!(
        error["code"] == "document_full" && error["field"] == "data" && error["ref"] == "large",
        "{error}"
    );
    ensure!(
        ana.log(&ana.append("er")).await? == small + 1,
        "what fits is taken"
    );
    let mut late = Editor::enter(&door).await?;
    late.reads(&format!("{before}er")).await
}

async fn who_asks_right_behind_an_edit_gets_it(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("abc"));
    let writer = Editor::enter(&door).await?;
    for round in 1..=20 {
        let edit = message(&writer.append("word "));
        let ask = json!({"type": "sync_request"});
        writer.client.send_all([edit, ask]).await?;
        let sync = writer.client.expect("sync").await?;
        let copy = Doc::new();
        let text = copy.get_or_insert_text("content");
        let bytes = hex::decode(sync["data"].as_str().context("data")?)?;
        copy.transact_mut()
            .apply_update(Update::decode_v1(&bytes)?)?;
        let text = text.get_string(&copy.transact());
        ensure!(text == "word ".repeat(round), "{round}: {text:?}");
    }
    Ok(())
}
