//! Drawing of several at once: whoever was here and whoever comes later see the same, whatever is joined on its way.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::{Value, json};

use super::boards::board_of;
use crate::harness::{Address, Client, Stories, Story, Told, fresh};

pub fn stories(all: &mut Stories) {
    all.both(a_clear_keeps_its_place_between_draws_of_one_moment);
    all.both(a_stroke_that_lost_against_an_erase_is_shown_to_nobody);
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
