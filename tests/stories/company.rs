//! People in one room: who sees whom, on which pod, and in which order.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Address, Mode, Options, PATIENCE, Rest, SOON, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(two_people_on_two_pods_see_one_room);
    all.both(whom_a_list_names_is_not_told_to_come_after_it);
    all.both(whoever_speaks_at_once_hears_connected_first);
    all.both(everybody_sees_the_same_order);
    all.both(a_late_joiner_sees_every_stroke);
    all.both(a_held_client_id_is_refused_to_others_and_replaced_by_its_own);
    all.both(a_client_id_whose_holder_is_silent_is_taken_over);
    all.both(leaving_is_told_at_once);
    all.both(rest_knows_what_somebody_has_just_shown_here);
    all.both(a_direct_message_is_seen_by_the_two_only);
    all.distributed(people_of_a_killed_pod_are_reported_gone_exactly_once);
    all.distributed(a_client_that_comes_back_in_time_was_never_gone);
}

/// Several who join at the same moment: a client that adds whoever comes to the list it was given shows nobody twice.
async fn whom_a_list_names_is_not_told_to_come_after_it(story: Story) -> Told {
    const AT_ONCE: usize = 8;
    let cluster = story.shared().await?;
    for _ in 0..5 {
        let door = cluster.door(Address::Plain, &fresh("room"));
        let clients = try_join_all((0..AT_ONCE).map(|_| door.enter())).await?;
        let joins = clients.iter().map(|client| client.join("Ana"));
        try_join_all(joins).await?;
        for client in &clients {
            client.answered().await?;
            let mut known = Vec::new();
            for frame in client.frames() {
                match frame["type"].as_str() {
                    Some("users_list") => {
                        let users = frame["users"].as_array().context("users_list.users")?;
                        known = users.iter().map(|user| user["id"].clone()).collect();
                    }
                    Some("user_joined") => {
                        let id = &frame["user"]["id"];
                        let again = known.contains(id);
                        ensure!(!again, "{frame} after a list of {known:?}");
                        known.push(id.clone());
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

async fn two_people_on_two_pods_see_one_room(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("room");
    let door = cluster.door(Address::Plain, &room);
    let ana = door.enter().await?;
    let ben = door.clone().at(cluster.there().address()).enter().await?;
    ana.join("Ana").await?;
    ben.join("Ben").await?;
    ana.expect_where("user_joined", |m| m["name"] == "Ben")
        .await?;
    let first = ana.chat("one").await?;
    ben.expect_where("chat_message", |m| {
        m["content"] == "one" && m["seq"] == first
    })
    .await?;
    let second = ben.chat("two").await?;
    ana.expect_where("chat_message", |m| {
        m["content"] == "two" && m["seq"] == second
    })
    .await?;
    ensure!(second == first + 1, "one log: {first}, then {second}");
    // The latest value wins, also over a pod's border: whatever came between, 99 is seen last.
    ana.send_all((0..100).map(|n| json!({"type": "cursor", "position": n})))
        .await?;
    ben.expect_where("cursor", |m| m["position"] == 99).await?;
    let stroke = json!({"id": "s", "width": 1, "color": "#000000", "points": [1, 2], "ts": 5});
    let drawn = ben.log(json!({"type": "draw", "paths": [stroke]})).await?;
    let seen = ana.expect("draw").await?;
    ensure!(
        seen["seq"] == drawn && seen["paths"][0]["id"] == "s",
        "{seen}"
    );
    ben.send(json!({"type": "receipt", "seq": drawn})).await?;
    let receipt = ana.expect("receipt").await?;
    ensure!(
        receipt["seq"] == drawn && receipt["userId"] == ben.client_id.as_str(),
        "{receipt}"
    );
    for pod in [cluster.here(), cluster.there()] {
        until("both to be counted", PATIENCE, async || {
            let room = Rest::at(pod)
                .get(&format!("/api/v1/rooms/{room}"))
                .await?
                .expect(200)?;
            ensure!(room["user_count"] == 2, "{room}");
            anyhow::Ok(())
        })
        .await?;
    }
    ben.close().await?;
    ana.expect_where("user_left", |m| m["userId"].is_string())
        .await
        .map(|_| ())
}

/// A client that does not wait for `connected` before its first message.
async fn whoever_speaks_at_once_hears_connected_first(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    for _ in 0..30 {
        let mut socket = door.socket().await?;
        let join = json!({"type": "join", "name": "Ana", "color": "#3B82F6"});
        socket.send(Message::text(join.to_string())).await?;
        let first = socket.next().await.context("a first frame")??;
        let first = first.into_text()?;
        ensure!(
            first.contains(r#""type":"connected""#),
            "first came {first}"
        );
    }
    Ok(())
}

async fn everybody_sees_the_same_order(story: Story) -> Told {
    const WRITERS: usize = 4;
    const EACH: usize = 50;
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let doors = [door.clone(), door.at(cluster.there().address())];
    let readers = try_join_all(doors.iter().map(crate::harness::Door::enter)).await?;
    let writers = (0..WRITERS).map(|n| doors[n % 2].enter());
    let writers = try_join_all(writers).await?;
    let texts = |who: usize| {
        (0..EACH).map(move |n| json!({"type": "chat_message", "content": format!("{who} {n}")}))
    };
    try_join_all(
        writers
            .iter()
            .enumerate()
            .map(|(who, writer)| writer.send_all(texts(who))),
    )
    .await?;
    let mut orders = Vec::new();
    for reader in &readers {
        reader
            .until("all messages", PATIENCE, |frames| {
                frames
                    .iter()
                    .filter(|m| m["type"] == "chat_message")
                    .count()
                    >= WRITERS * EACH
            })
            .await?;
        let seqs = reader.seqs();
        ensure!(
            seqs == (1..=(WRITERS * EACH) as u64).collect::<Vec<_>>(),
            "seqs: {seqs:?}"
        );
        let contents = reader
            .entries()
            .iter()
            .map(|m| m["content"].to_string())
            .collect::<Vec<_>>();
        for who in 0..WRITERS {
            let mine: Vec<&String> = contents
                .iter()
                .filter(|c| c.starts_with(&format!("\"{who} ")))
                .collect();
            let sent: Vec<String> = (0..EACH).map(|n| format!("\"{who} {n}\"")).collect();
            ensure!(
                mine.iter().copied().eq(sent.iter()),
                "what {who} said is out of order: {mine:?}"
            );
        }
        orders.push(contents);
    }
    ensure!(orders[0] == orders[1], "the pods disagree on the order");
    Ok(())
}

async fn a_late_joiner_sees_every_stroke(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("board"));
    let (ana, ben) = (
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    );
    let stroke = |id: &str, ts: u64| json!({"id": id, "width": 2, "color": "#00FF00", "points": [0, 0, 1, 1], "ts": ts});
    for batch in 0..20 {
        let writer = if batch % 2 == 0 { &ana } else { &ben };
        let paths: Vec<_> = (0..50)
            .map(|n| stroke(&format!("{batch}-{n}"), 10))
            .collect();
        writer.log(json!({"type": "draw", "paths": paths})).await?;
    }
    // The later clock wins, an erased path stays erased.
    ana.log(
        json!({"type": "draw", "paths": [stroke("0-0", 12)], "erase": [{"id": "0-1", "ts": 11}]}),
    )
    .await?;
    ben.log(json!({"type": "draw", "paths": [stroke("0-0", 11), stroke("0-1", 10)]}))
        .await?;
    let last = ana
        .log(json!({"type": "draw", "erase": [{"id": "never drawn", "ts": 1}]}))
        .await?;
    for pod in [cluster.here(), cluster.there()] {
        let late = door.clone().at(pod.address()).enter().await?;
        let board = late.expect("board").await?;
        let paths = board["paths"].as_array().context("board.paths")?;
        ensure!(
            board["seq"].as_u64() >= Some(last),
            "{} of {last}",
            board["seq"]
        );
        ensure!(
            paths.len() == 999,
            "1000 strokes less one erased: {}",
            paths.len()
        );
        let changed = paths.iter().find(|p| p["id"] == "0-0").context("0-0")?;
        ensure!(
            changed["ts"] == 12 && !paths.iter().any(|p| p["id"] == "0-1"),
            "{changed}"
        );
    }
    ana.log(json!({"type": "draw", "clear": true})).await?;
    let late = door.enter().await?;
    late.expect("users").await?;
    late.saw_no("board")
}

async fn a_held_client_id_is_refused_to_others_and_replaced_by_its_own(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest(&fresh("Ana")).await?;
    let room = cluster
        .rest()
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    for address in [Address::Rooms, Address::Plain, Address::Named] {
        let door = cluster.door(address, &room).client_id("one-client");
        let there = door.clone().at(cluster.there().address());
        let watcher = cluster.door(Address::Rooms, &room).enter().await?;
        let first = door.person(&ana).enter().await?;
        let refused = there.refused(409, "conflict").await?;
        ensure!(
            refused.body["field"] == "client_id",
            "{address:?}: {}",
            refused.body
        );
        let second = there.person(&ana).enter().await?;
        first.closed_with(4409).await?;
        second.chat("still here").await?;
        watcher.expect("chat_message").await?;
        watcher.saw_no("user_left")?;
        second.close().await?;
        watcher.expect("user_left").await?;
    }
    Ok(())
}

async fn a_client_id_whose_holder_is_silent_is_taken_over(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster
        .door(Address::Plain, &fresh("room"))
        .client_id("one-client");
    let silent = door.enter().await?;
    silent.answered().await?;
    // Its socket stays open, but nobody is there to answer a ping.
    silent.read_on(false);
    silent.send(json!({"type": "ping"})).await?;
    let there = door.at(cluster.there().address());
    until(
        "the silent holder to lose its place",
        PATIENCE,
        async || there.enter().await,
    )
    .await?
    .answered()
    .await
}

async fn leaving_is_told_at_once(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let watcher = door.clone().at(cluster.there().address()).enter().await?;
    for polite in [true, false] {
        let leaver = door.enter().await?;
        leaver.join("Leaver").await?;
        watcher.expect("user_joined").await?;
        let began = Instant::now();
        if polite {
            leaver.close().await?;
        } else {
            drop(leaver);
        }
        watcher.expect("user_left").await?;
        let took = began.elapsed();
        ensure!(took < SOON, "told after {took:?} (polite: {polite})");
    }
    Ok(())
}

async fn rest_knows_what_somebody_has_just_shown_here(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("room");
    let ana = cluster.door(Address::Plain, &room).enter().await?;
    ana.join("Ana").await?;
    let rest = cluster.rest();
    // Presence is written with the room's next beat: some of these would come before it.
    for n in 0..10 {
        let away = json!({"type": "presence_update", "data": {"status": "away"}});
        ana.send(json!({"type": "cursor", "position": n})).await?;
        ana.send(json!({"type": "selection", "selection": {"start": n, "end": 9}}))
            .await?;
        ana.send(away).await?;
        ana.answered().await?;
        let users = rest.get(&format!("/api/rooms/{room}/users")).await?;
        let users = users.expect(200)?;
        let one = rest.get(&format!("/api/rooms/{room}")).await?.expect(200)?;
        ensure!(one["users"] == users, "{one} and {users}");
        let shown = &users[0];
        ensure!(
            shown["cursor_position"] == n && shown["selection"]["start"] == n,
            "{n}: {users}"
        );
        ensure!(shown["status"] == "away", "{users}");
    }
    Ok(())
}

async fn a_direct_message_is_seen_by_the_two_only(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben, eve) = (
        rest.guest("Ana").await?,
        rest.guest("Ben").await?,
        rest.guest("Eve").await?,
    );
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    let door = cluster.door(Address::Rooms, &room);
    let there = door.clone().at(cluster.there().address());
    let (a, e) = (
        door.clone().person(&ana).enter().await?,
        there.clone().person(&eve).enter().await?,
    );
    // All of that person's connections.
    let (b, b2) = (
        door.person(&ben).enter().await?,
        there.person(&ben).enter().await?,
    );
    a.log(json!({"type": "direct_message", "to": ben.id, "content": "psst"}))
        .await?;
    for mine in [&b, &b2] {
        let heard = mine.expect("direct_message").await?;
        ensure!(
            heard["content"] == "psst" && heard["user"]["user_id"] == ana.id,
            "{heard}"
        );
    }
    let after = a.chat("for all").await?;
    e.expect_where("chat_message", |m| m["seq"] == after)
        .await?;
    e.saw_no("direct_message")?;
    // Nor when it reads the past.
    let (epoch, _) = e.position();
    let past = e
        .way_back()
        .query("epoch", epoch)
        .query("seq", 0)
        .enter()
        .await?;
    past.expect_where("chat_message", |m| m["seq"] == after)
        .await?;
    past.saw_no("direct_message")
}

async fn people_of_a_killed_pod_are_reported_gone_exactly_once(story: Story) -> Told {
    ensure!(
        story.mode() == Mode::Distributed,
        "one process has no other to tell"
    );
    let cluster = story
        .cluster(Options::default().gateways(3).workers(0))
        .await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let watchers = [
        door.enter().await?,
        door.clone()
            .at(cluster.gateway(1).address())
            .enter()
            .await?,
    ];
    let doomed = cluster.there();
    let mut lost = Vec::new();
    for n in 0..3 {
        let client = door.clone().at(doomed.address()).enter().await?;
        client.join(&format!("Lost{n}")).await?;
        lost.push(client);
    }
    for watcher in &watchers {
        for client in &lost {
            watcher
                .expect_where("user_joined", |m| m["userId"] == client.client_id.as_str())
                .await?;
        }
    }
    doomed.kill().await?;
    for watcher in &watchers {
        for client in &lost {
            watcher
                .expect_where("user_left", |m| m["userId"] == client.client_id.as_str())
                .await?;
        }
    }
    // Whoever else looks after the dead pod has had its turn when the room is counted anew.
    until("the room to be empty of them", PATIENCE, async || {
        let newcomer = door.enter().await?;
        let users = newcomer.expect("users").await?;
        ensure!(users["users"] == json!([]), "{users}");
        anyhow::Ok(())
    })
    .await?;
    for watcher in &watchers {
        watcher.answered().await?;
        ensure!(
            watcher.count("user_left") == 3,
            "told {} times of 3",
            watcher.count("user_left")
        );
    }
    Ok(())
}

async fn a_client_that_comes_back_in_time_was_never_gone(story: Story) -> Told {
    ensure!(
        story.mode() == Mode::Distributed,
        "one process has no other to tell"
    );
    let cluster = story.cluster(Options::default().workers(0)).await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let watcher = door.enter().await?;
    let doomed = cluster.there();
    let (back, gone) = (
        door.clone().at(doomed.address()).enter().await?,
        door.clone().at(doomed.address()).enter().await?,
    );
    back.join("Back").await?;
    gone.join("Gone").await?;
    watcher
        .expect_where("user_joined", |m| m["name"] == "Gone")
        .await?;
    doomed.kill().await?;
    back.closed().await?;
    let back = back.way_back().at(cluster.here().address()).enter().await?;
    // Once the other one's place is cleared, his would have been too.
    let left = watcher.expect("user_left").await?;
    ensure!(left["userId"] == gone.client_id.as_str(), "{left}");
    let seq = back.chat("I never left").await?;
    let heard = watcher
        .expect_where("chat_message", |m| m["seq"] == seq)
        .await?;
    ensure!(
        heard["user"]["name"] == "Back",
        "it keeps its name: {heard}"
    );
    ensure!(
        watcher.count("user_left") == 1 && watcher.count("user_joined") == 2,
        "it neither left nor came"
    );
    Ok(())
}
