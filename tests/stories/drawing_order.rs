//! Drawing of several at once: whoever was here and whoever comes later see the same, whatever is joined on its way.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::boards::board_of;
use crate::harness::{Address, Client, Stories, Story, Told, fresh};

pub fn stories(all: &mut Stories) {
    all.both(a_clear_keeps_its_place_between_draws_of_one_moment);
    all.both(a_stroke_that_lost_against_an_erase_is_shown_to_nobody);
    all.both(an_author_is_told_what_their_draw_lost_against);
    all.both(whoever_is_cut_off_between_two_draws_of_one_window_misses_none);
    all.both(a_message_sent_again_is_acknowledged_whatever_became_of_it);
}

fn stroke(id: &str, ts: i64) -> Value {
    json!({"id": id, "width": 1, "color": "#000000", "points": [0, 0, 1, 1], "ts": ts})
}

/// What a client shows that takes every frame as it comes.
fn shown(client: &Client, base: &[Value]) -> BTreeMap<String, i64> {
    let entry = |path: &Value| {
        let id = path["id"].as_str().unwrap_or_default().to_owned();
        (id, path["ts"].as_i64().unwrap_or(0))
    };
    let mut shown: BTreeMap<String, i64> = base.iter().map(entry).collect();
    for draw in client.entries().iter().filter(|m| m["type"] == "draw") {
        if draw["clear"] == true {
            shown.clear();
        }
        let paths = draw["paths"].as_array().into_iter().flatten();
        shown.extend(paths.map(entry));
        for erase in draw["erase"].as_array().into_iter().flatten() {
            shown.remove(erase["id"].as_str().unwrap_or_default());
        }
    }
    shown
}

async fn a_clear_keeps_its_place_between_draws_of_one_moment(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("clear"));
    let watcher = door.clone().at(cluster.there().address()).enter().await?;
    let (ana, ben) = (door.enter().await?, door.enter().await?);
    for round in 0..8 {
        let id = |who: &str| format!("{who}-{round}");
        // Each waits for its ack: the order in the log is this one, and all of it falls into one window or two.
        ana.log(json!({"type": "draw", "paths": [stroke(&id("a"), 5)]}))
            .await?;
        ben.log(json!({"type": "draw", "paths": [stroke(&id("b"), 5)]}))
            .await?;
        ana.log(json!({"type": "draw", "paths": [], "clear": true}))
            .await?;
        ben.log(json!({"type": "draw", "paths": [stroke(&id("c"), 5)]}))
            .await?;
        ana.log(json!({"type": "draw", "paths": [stroke(&id("d"), 5)]}))
            .await?;
        let last = ben
            .log(json!({"type": "draw", "paths": [stroke(&id("e"), 5)]}))
            .await?;
        watcher
            .expect_where("draw", |m| m["seq"].as_u64() >= Some(last))
            .await?;
        let late = board_of(&door.enter().await?).await?;
        let late: Vec<&str> = late.iter().filter_map(|path| path["id"].as_str()).collect();
        ensure!(late == [id("c"), id("d"), id("e")], "{late:?}");
        let here = shown(&watcher, &[]);
        let here: Vec<&String> = here.keys().collect();
        ensure!(here == late, "the watcher shows {here:?}");
    }
    let seqs = watcher.seqs();
    ensure!(seqs.is_sorted(), "seq falls: {seqs:?}");
    Ok(())
}

async fn a_stroke_that_lost_against_an_erase_is_shown_to_nobody(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("erased"));
    let ana = door.enter().await?;
    ana.log(json!({"type": "draw", "paths": [stroke("kept", 1), stroke("gone", 10)]}))
        .await?;
    ana.log(json!({"type": "draw", "paths": [], "erase": [{"id": "gone", "ts": 20}]}))
        .await?;
    // Knows nothing of the erase: its board does not tell.
    let newcomer = door.clone().at(cluster.there().address()).enter().await?;
    let base = board_of(&newcomer).await?;
    ensure!(base.len() == 1, "{base:?}");
    let way_back = door.clone().at(cluster.there().address()).enter().await?;
    let (door_back, base_back) = (way_back.way_back(), board_of(&way_back).await?);
    drop(way_back);
    // Somebody whose clock is behind, or who was away.
    let ben = door.enter().await?;
    let lost = ben
        .log(json!({"type": "draw", "paths": [stroke("gone", 15), stroke("new", 15)]}))
        .await?;
    newcomer
        .expect_where("draw", |m| m["seq"].as_u64() >= Some(lost))
        .await?;
    let wanted = ["kept", "new"];
    let sees = |client: &Client, base: &[Value]| {
        let shown = shown(client, base);
        shown.keys().map(String::as_str).eq(wanted)
    };
    ensure!(sees(&newcomer, &base), "{:?}", shown(&newcomer, &base));
    let back = door_back.enter().await?;
    back.expect_where("draw", |m| m["seq"] == lost).await?;
    ensure!(sees(&back, &base_back), "{:?}", shown(&back, &base_back));
    let late = board_of(&door.enter().await?).await?;
    ensure!(late.len() == 2, "{late:?}");
    Ok(())
}

/// Authors get no echo: without a word they would go on showing what is on nobody else's board.
async fn an_author_is_told_what_their_draw_lost_against(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("unseen"));
    let there = door.clone().at(cluster.there().address());
    let ben = there.client_id(&fresh("zoe")).enter().await?;
    ben.log(json!({"type": "draw", "paths": [stroke("gone", 10), stroke("tied", 10)]}))
        .await?;
    ben.log(json!({"type": "draw", "paths": [], "erase": [{"id": "gone", "ts": 20}]}))
        .await?;
    // Was shown a board: it tells of no erase, and not whose its paths are.
    let ana = door.client_id(&fresh("ana")).enter().await?;
    let base = board_of(&ana).await?;
    ensure!(base.len() == 1, "{base:?}");
    let mine = json!({"id": "tied", "width": 9, "color": "#112233", "points": [5, 5], "ts": 10});
    let draw = json!({"type": "draw", "paths": [stroke("gone", 15), mine, stroke("new", 15)], "ref": "late"});
    ana.send(draw.clone()).await?;
    let seq = ana.acknowledged("late").await?;
    let frames = ana.frames();
    let ack = frames.iter().position(|m| m["ref"] == "late");
    // Right ahead of the ack: whoever has that has all up to it.
    let told = &frames[ack.context("the ack")? - 1];
    ensure!(told["type"] == "draw", "{told}");
    ensure!(
        told["seq"] == seq && told["from"] == *ben.client_id,
        "{told}"
    );
    ensure!(told["erase"] == json!([{"id": "gone", "ts": 20}]), "{told}");
    ensure!(told["paths"] == json!([stroke("tied", 10)]), "{told}");
    // Sent again it is at a place that its author is past: they are shown the board, behind the ack.
    ana.send(draw.clone()).await?;
    let board = ana
        .expect_where("board", |m| m["paths"].as_array().map(Vec::len) == Some(2))
        .await?;
    ensure!(board["seq"] == seq, "{board}");
    let frames = ana.frames();
    let place = |what: &str| frames.iter().rposition(|m| m["type"] == what);
    let acks = frames.iter().filter(|m| m["ref"] == "late").count();
    ensure!(
        acks == 2 && place("ack") < place("board") && ana.count("draw") == 1,
        "{frames:?}"
    );
    let paths = board["paths"].as_array().into_iter().flatten();
    let shown: Vec<&Value> = paths.filter(|path| path["id"] == "tied").collect();
    ensure!(shown == [&stroke("tied", 10)], "{board}");
    ben.expect_where("draw", |m| m["paths"][0]["id"] == "new")
        .await?;
    Ok(())
}

/// A reader may stop behind any frame: up to the seq it then has, it must have everything.
async fn whoever_is_cut_off_between_two_draws_of_one_window_misses_none(story: Story) -> Told {
    const EACH: usize = 40;
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("window"));
    let watcher = door.clone().at(cluster.there().address()).enter().await?;
    watcher.expect("users").await?;
    let (epoch, before) = watcher.position();
    let authors = [
        door.enter().await?,
        door.enter().await?,
        door.enter().await?,
    ];
    let id = |author: usize, n: usize| format!("{author}.{n}");
    for n in 0..EACH {
        for (author, client) in authors.iter().enumerate() {
            let id = id(author, n);
            let draw = json!({"type": "draw", "paths": [stroke(&id, 5)], "ref": id});
            client.send(draw).await?;
        }
        // Some cross, some do not.
        if n % 8 == 0 {
            authors[n % 3].acknowledged(&id(n % 3, n)).await?;
        }
    }
    // Where each stroke stands in the log.
    let mut places: BTreeMap<u64, String> = BTreeMap::new();
    for (author, client) in authors.iter().enumerate() {
        for n in 0..EACH {
            let wanted = id(author, n);
            client
                .news(|m| m["type"] == "ack" && m["ref"] == wanted)
                .await?;
            let frames = client.frames();
            let ack = frames.iter().find(|m| m["ref"] == wanted);
            let seq = ack.and_then(|ack| ack["seq"].as_u64());
            places.insert(seq.context("an ack's seq")?, wanted);
        }
    }
    let last = *places.keys().next_back().context("strokes")?;
    let ids = |frame: &Value| -> Vec<String> {
        let paths = frame["paths"].as_array().into_iter().flatten();
        paths
            .filter_map(|path| Some(path["id"].as_str()?.to_owned()))
            .collect()
    };
    let mut cuts = Vec::new();
    for client in authors.iter().chain([&watcher]) {
        client.news(|m| m["seq"].as_u64() >= Some(last)).await?;
        let (mut known, mut place) = (BTreeSet::new(), before);
        for frame in client.frames() {
            match frame["type"].as_str() {
                Some("draw") => known.extend(ids(&frame)),
                Some("ack") => known.extend(frame["ref"].as_str().map(str::to_owned)),
                _ => continue,
            }
            let seq = frame["seq"].as_u64().context("seq")?;
            ensure!(seq > place, "seq does not rise from {place}: {frame}");
            place = seq;
            let missed: Vec<_> = places
                .range(..=place)
                .filter(|(_, id)| !known.contains(*id))
                .collect();
            ensure!(missed.is_empty(), "up to {place} it lacks {missed:?}");
            cuts.push((place, known.clone()));
        }
    }
    // What comes after any such place is what was missing.
    for (place, mut known) in cuts.into_iter().step_by(17) {
        let back = door.clone().query("epoch", epoch).query("seq", place);
        let back = back.enter().await?;
        back.expect("users").await?;
        for entry in back.entries() {
            known.extend(ids(&entry));
        }
        ensure!(
            known.len() == places.len(),
            "back at {place} it has {known:?}"
        );
    }
    Ok(())
}

/// The ack was lost, so it is sent again; meanwhile it could not be taken any more, but it was.
async fn a_message_sent_again_is_acknowledged_whatever_became_of_it(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("again"));
    let (ana, ben) = (door.enter().await?, door.enter().await?);
    ana.send(json!({"type": "chat_message", "content": "words", "ref": "say"}))
        .await?;
    let said = ana.expect_where("ack", |m| m["ref"] == "say").await?;
    let message = &said["id"];
    let steps = [
        (
            &ana,
            json!({"type": "chat_edit", "message_id": message, "content": "other", "ref": "edit"}),
        ),
        (
            &ben,
            json!({"type": "reaction", "data": {"message_id": message, "emoji": "👍", "action": "add"}, "ref": "like"}),
        ),
        (
            &ana,
            json!({"type": "chat_delete", "message_id": message, "ref": "delete"}),
        ),
    ];
    let mut first = Vec::new();
    for (who, step) in &steps {
        who.send(step.clone()).await?;
        let reference = step["ref"].as_str().unwrap_or_default();
        first.push(who.acknowledged(reference).await?);
    }
    for ((who, step), first) in steps.iter().zip(first) {
        who.send(step.clone()).await?;
        let reference = step["ref"].as_str().unwrap_or_default();
        let again = who.acknowledged(reference).await?;
        ensure!(again == first, "{reference}: {first}, then {again}");
    }
    // What was never stored is refused as before.
    ana.send(json!({"type": "chat_edit", "message_id": message, "content": "x", "ref": "late"}))
        .await?;
    let error = ana.expect_where("error", |m| m["ref"] == "late").await?;
    ensure!(error["code"] == "not_found", "{error}");
    ana.saw_no("reload")
}
