//! Documents whose gateways die, whose logs are lost and whose editors send garbage: nothing is lost and nobody is hurt.

use anyhow::ensure;
use serde_json::{Value, json};
use yrs::{Doc, ReadTxn, StateVector, Text, Transact};

use crate::harness::editor::{Editor, message};
use crate::harness::{Address, Client, Options, PATIENCE, Stories, Story, Told, fresh, stores};

pub fn stories(all: &mut Stories) {
    all.both(typing_survives_kill_9_of_its_gateway);
    all.both(malformed_updates_are_refused_and_hurt_nobody);
    all.both(a_late_joiner_finds_the_text_after_the_log_is_gone);
}

async fn archived(client: &Client, seq: u64) -> Told {
    let far_enough = |m: &Value| m["seq"].as_u64() >= Some(seq);
    client.expect_where("archived", far_enough).await.map(drop)
}

/// Every letter is sent with a ref, and again after the loss where no ack came: the text is what was typed, once.
async fn typing_survives_kill_9_of_its_gateway(story: Story) -> Told {
    const LETTERS: usize = 120;
    let cluster = story.cluster(Options::default()).await?;
    let door = cluster.door(Address::Plain, &fresh("letters"));
    let ana = Editor::enter(&door).await?;
    let mut reader = Editor::enter(&door.clone().at(cluster.there().address())).await?;
    let updates: Vec<Value> = (0..LETTERS)
        .map(|at| {
            let mut message = message(&ana.append(["a", "b", "c"][at % 3]));
            message["ref"] = format!("letter-{at}").into();
            message
        })
        .collect();
    let typed = ana.text();
    for update in &updates[..LETTERS / 2] {
        ana.client.send(update.clone()).await?;
    }
    // Some are acknowledged, some on their way, some not sent.
    ana.client.acknowledged("letter-10").await?;
    cluster.here().kill().await?;
    ana.client.closed().await?;
    cluster.here().restart().await?;
    let acknowledged = |client: &Client| {
        let frames = client.frames();
        let refs = frames.iter().filter(|m| m["type"] == "ack");
        refs.filter_map(|m| m["ref"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let known = acknowledged(&ana.client);
    let back = ana
        .client
        .way_back()
        .at(cluster.here().address())
        .enter()
        .await?;
    back.expect("resumed").await?;
    for update in &updates {
        let reference = update["ref"].as_str().unwrap_or_default();
        if !known.iter().any(|known| known == reference) {
            back.send(update.clone()).await?;
        }
    }
    back.acknowledged(&format!("letter-{}", LETTERS - 1))
        .await?;
    if reader.client.is_closed() {
        // Embedded: there was one process.
        reader.catch_up()?;
        let door = reader.client.way_back().at(cluster.there().address());
        reader.client = door.enter().await?;
        reader.seen = 0;
    }
    reader.reads(&typed).await?;
    let mut late = Editor::enter(&door.at(cluster.there().address())).await?;
    late.reads(&typed).await
}

/// Hundreds of updates that were cut, flipped and made up, on several connections: each is answered, none stops anybody.
async fn malformed_updates_are_refused_and_hurt_nobody(story: Story) -> Told {
    const PER_CONNECTION: usize = 15;
    let cluster = story.cluster(Options::default()).await?;
    let door = cluster.door(Address::Plain, &fresh("fuzz"));
    let writer = Editor::enter(&door).await?;
    let mut reader = Editor::enter(&door.clone().at(cluster.there().address())).await?;
    writer.log(&writer.append("untouched")).await?;
    reader.reads("untouched").await?;
    for (text, why) in [
        (json!("xyz"), "no hex"),
        (json!("abc"), "half a byte"),
        (json!(5), "no text"),
        (json!("0001020304"), "cut off"),
        (json!("ffffffff0f00"), "more clients than bytes"),
        (json!("000000"), "something behind its end"),
        (json!(""), "nothing at all"),
    ] {
        let ask = json!({"type": "update", "data": text, "ref": why});
        writer.client.send(ask).await?;
        let error = writer
            .client
            .expect_where("error", |m| m["ref"] == why)
            .await?;
        ensure!(
            error["field"] == "data" && error["code"] == "invalid",
            "{why}: {error}"
        );
    }
    // Arrays in arrays, half a million deep.
    let mut deep = vec![1, 1, 1, 0, 8, 1, 1, b't', 1];
    deep.extend([117, 1].repeat(200_000));
    deep.extend([126, 0]);
    writer.client.send(message(&deep)).await?;
    writer
        .client
        .expect_where("error", |m| m["field"] == "data")
        .await?;

    // A state with a bit of everything, struck again and again by a fixed generator of numbers. It is of another root, and of
    // other people: what of it is taken changes nobody's text.
    let victim = Doc::new();
    {
        let (other, map) = (
            victim.get_or_insert_text("other"),
            victim.get_or_insert_map("map"),
        );
        let mut t = victim.transact_mut();
        other.insert(&mut t, 0, "some text to strike at");
        other.remove_range(&mut t, 3, 5);
        yrs::Map::insert(&map, &mut t, "key", 1.5);
        yrs::Map::insert(&map, &mut t, "key", "value");
    }
    let sound = victim
        .transact()
        .encode_state_as_update_v1(&StateVector::default());
    let mut number = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        (number % below as u64) as usize
    };
    let mut refused = 0;
    for _ in 0..24 {
        let client = door.enter().await?;
        for at in 0..PER_CONNECTION {
            let mut struck = sound.clone();
            for _ in 0..=next(3) {
                let place = next(struck.len());
                match next(3) {
                    0 => struck[place] ^= 1 << next(8),
                    1 => struck.truncate(place.max(1)),
                    _ => struck.insert(place, next(256) as u8),
                }
            }
            let mut message = message(&struck);
            message["ref"] = format!("blow-{at}").into();
            client.send(message).await?;
        }
        let answered = |frames: &[std::sync::Arc<Value>]| {
            let answers = frames
                .iter()
                .filter(|m| m["type"] == "ack" || m["type"] == "error");
            answers.count() >= PER_CONNECTION
        };
        client
            .until("an answer to every blow", PATIENCE, answered)
            .await?;
        refused += client.count("error");
    }
    ensure!(refused > 100, "{refused} of 360 refused");
    writer.log(&writer.append(" by it")).await?;
    reader.reads("untouched by it").await?;
    let mut late = Editor::enter(&door).await?;
    late.reads("untouched by it").await
}

async fn a_late_joiner_finds_the_text_after_the_log_is_gone(story: Story) -> Told {
    let cluster = story.cluster(Options::default()).await?;
    let room = fresh("kept");
    let door = cluster.door(Address::Plain, &room);
    let ana = Editor::enter(&door).await?;
    let mut seq = ana.log(&ana.append("written, cut and kept")).await?;
    for _ in 0..50 {
        ana.send(&ana.append("xyz")).await?;
        seq = ana.log(&ana.cut(21, 3)).await?;
    }
    seq = ana.log(&ana.cut(7, 5)).await.map(|last| last.max(seq))?;
    let text = ana.text();
    ensure!(text == "written and kept", "{text}");
    archived(&ana.client, seq).await?;
    let kept = cluster
        .rest()
        .post(&format!("/api/rooms/{room}/persist"), json!({}))
        .await?;
    ensure!(kept.expect(200)?["success"] == true, "persisted");
    match cluster.stores() {
        Ok(stores) => stores::delete_namespace(stores.redis.as_str(), &stores.name).await?,
        Err(_) => {
            cluster.here().kill().await?;
            cluster.here().restart().await?;
        }
    }
    let mut late = Editor::enter(&door.clone().at(cluster.there().address())).await?;
    late.reads("written and kept").await?;
    // What the first still has in hand meets it again.
    ana.append(" on");
    late.send(&ana.state()).await?;
    let mut third = Editor::enter(&door).await?;
    third.reads("written and kept on").await?;
    let load = cluster
        .rest()
        .get(&format!("/api/rooms/{room}/load"))
        .await?
        .expect(200)?;
    ensure!(
        load["success"] == true && load["size"].as_u64() > Some(0),
        "{load}"
    );
    Ok(())
}
