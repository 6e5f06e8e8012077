//! What is archived, when clients are told, and what a room is rebuilt from.

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{Address, Client, Options, SOON, Stories, Story, Told, fresh, stores};

pub fn stories(all: &mut Stories) {
    all.both(what_is_said_is_archived_within_two_seconds_of_idle);
    all.distributed(a_room_that_redis_has_forgotten_comes_back_from_the_archive);
    all.distributed(the_past_is_read_across_archive_and_log);
}

async fn archived(client: &Client, seq: u64) -> Told {
    let far_enough = |m: &serde_json::Value| m["seq"].as_u64() >= Some(seq);
    client
        .expect_where("archived", far_enough)
        .await
        .map(|_| ())
}

async fn what_is_said_is_archived_within_two_seconds_of_idle(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let (here, there) = (
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    );
    for round in 0..3 {
        let mut last = 0;
        for n in 0..10 {
            last = here.chat(&format!("{round} {n}")).await?;
        }
        let idle = Instant::now();
        archived(&here, last).await?;
        archived(&there, last).await?;
        let took = idle.elapsed();
        ensure!(took < SOON, "archived after {took:?}");
        let late = door.enter().await?;
        ensure!(late.connected["archived_seq"] == last, "{}", late.connected);
    }
    Ok(())
}

async fn a_room_that_redis_has_forgotten_comes_back_from_the_archive(story: Story) -> Told {
    let cluster = story.cluster(Options::default()).await?;
    let door = cluster.door(Address::Plain, &fresh("board"));
    let client = door.enter().await?;
    let (epoch, _) = client.position();
    let stroke =
        |id: &str| json!({"id": id, "width": 1, "color": "#000000", "points": [1, 2], "ts": 5});
    client
        .log(json!({"type": "draw", "paths": [stroke("a"), stroke("b")]}))
        .await?;
    client
        .log(json!({"type": "draw", "erase": [{"id": "a", "ts": 6}]}))
        .await?;
    client
        .send(json!({"type": "chat_message", "content": "kept", "ref": "kept"}))
        .await?;
    let last = client.acknowledged("kept").await?;
    archived(&client, last).await?;
    let redis = cluster.stores()?;
    stores::delete_namespace(redis.redis.as_str(), &redis.name).await?;
    let reload = client.expect("reload").await?;
    ensure!(
        reload["epoch"].as_u64() > Some(epoch) && reload["seq"] == last,
        "{reload}"
    );
    let board = client.expect("board").await?;
    let ids: Vec<_> = board["paths"]
        .as_array()
        .context("paths")?
        .iter()
        .map(|p| &p["id"])
        .collect();
    ensure!(ids == ["b"], "{board}");
    // Said again by one who is not sure: known to the archive, stored once.
    client
        .send(json!({"type": "chat_message", "content": "kept", "ref": "kept"}))
        .await?;
    ensure!(
        client.acknowledged("kept").await? == last,
        "the seq of the first"
    );
    let next = client.chat("and on").await?;
    ensure!(next == last + 1, "{last}, then {next}");
    let late = door.at(cluster.there().address()).enter().await?;
    late.expect("board").await?;
    ensure!(
        late.connected["epoch"] == reload["epoch"],
        "both gateways agree: {}",
        late.connected
    );
    Ok(())
}

async fn the_past_is_read_across_archive_and_log(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let client = door.enter().await?;
    let mut last = 0;
    for n in 0..100 {
        last = client.chat(&n.to_string()).await?;
    }
    archived(&client, last).await?;
    for n in 100..120 {
        last = client.chat(&n.to_string()).await?;
    }
    let past = client
        .way_back()
        .query("seq", 0)
        .query("client_id", fresh("other"));
    let past = past.at(cluster.there().address()).enter().await?;
    past.expect_where("chat_message", |m| m["seq"] == last)
        .await?;
    ensure!(
        past.seqs() == (1..=last).collect::<Vec<_>>(),
        "{:?}",
        past.seqs()
    );
    Ok(())
}
