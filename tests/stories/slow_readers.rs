//! Editors that do not read, edits made long without a connection, and crowds: nobody holds anybody up, and all is had in
//! the end.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;

use crate::harness::editor::Editor;
use crate::harness::process::Process;
use crate::harness::stores::{Stores, forget_log};
use crate::harness::yjs::YjsClient;
use crate::harness::{
    Address, Client, Cluster, Mode, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(an_editor_that_does_not_read_holds_nobody_up);
    all.both(an_editor_that_never_reads_is_sent_away_and_has_all_when_it_is_back);
    all.both(what_was_written_offline_is_taken_however_much_it_is);
    all.both(an_edit_that_is_too_large_is_told_and_its_editor_stays);
    all.distributed(a_slow_reader_is_served_from_the_archive_where_the_log_has_forgotten);
    all.both(a_crowd_that_comes_at_once_costs_one_read_of_the_room);
}

/// More than kernels take for a reader who does not read, in few edits.
const EDITS: usize = 100;
const EACH: usize = 60_000;
/// Long enough for megabytes on a busy machine.
const LONG: Duration = Duration::from_secs(120);
const ALL: u32 = (EDITS * EACH) as u32;

fn options() -> Options {
    // Small: what the kernel does not take falls off the ring and is read back from the log.
    Options::default()
        .set("ROOM_RING_BYTES", 262_144)
        .set("SLOW_READER_TIMEOUT", 3)
}

/// Somebody who came in and then does not read, and a text that another writes meanwhile while a third reads along.
async fn written_meanwhile(cluster: &Cluster, room: &str) -> anyhow::Result<(YjsClient, Editor)> {
    let door = cluster.door(Address::Yjs, room);
    let mut slow = YjsClient::offline();
    slow.connect(&door.clone().receive_buffer(4_096)).await?;
    let mut quick = YjsClient::offline();
    quick.connect(&door).await?;
    let json = cluster.door(Address::Plain, room);
    let writer = Editor::enter(&json.at(cluster.there().address())).await?;
    let writing = async {
        for _ in 0..EDITS {
            writer.log(&writer.append(&"x".repeat(EACH))).await?;
        }
        anyhow::Ok(())
    };
    let reading = quick.read_to(ALL, LONG);
    let ((), closed) = tokio::try_join!(writing, reading)?;
    ensure!(closed.is_none(), "the quick one was closed: {closed:?}");
    Ok((slow, writer))
}

async fn an_editor_that_does_not_read_holds_nobody_up(story: Story) -> Told {
    let cluster = story
        .cluster(options().set("SLOW_READER_TIMEOUT", 300))
        .await?;
    let room = fresh("slow");
    let (mut slow, writer) = written_meanwhile(&cluster, &room).await?;
    ensure!(slow.text().is_empty(), "it was not slow");
    // It goes on where it stopped, from the log.
    let closed = slow.read_to(ALL, LONG).await?;
    ensure!(closed.is_none(), "it was closed: {closed:?}");
    ensure!(slow.text() == writer.text(), "it reads something else");
    writer.log(&writer.append("and on")).await?;
    slow.read_to(ALL + 6, PATIENCE).await.map(drop)
}

async fn an_editor_that_never_reads_is_sent_away_and_has_all_when_it_is_back(story: Story) -> Told {
    let cluster = story.cluster(options()).await?;
    let room = fresh("slow");
    let (mut slow, writer) = written_meanwhile(&cluster, &room).await?;
    closes_one_slow(cluster.here()).await?;
    // What is left in the kernels still comes, then the end.
    let closed = slow.read_to(ALL, LONG).await?;
    let closed = closed.context("it was never closed")?;
    ensure!([4508, 1006].contains(&closed.code), "{closed:?}");
    slow.connect(&cluster.door(Address::Yjs, &room)).await?;
    let closed = slow.read_to(ALL, LONG).await?;
    ensure!(closed.is_none(), "closed again: {closed:?}");
    ensure!(slow.text() == writer.text(), "it reads something else");
    Ok(())
}

async fn closes_one_slow(process: &Process) -> Told {
    until("a slow reader to be closed", PATIENCE, async || {
        let closed = counter(process, "atelier_slow_readers_closed_total").await?;
        ensure!(closed >= 1, "{closed} closed");
        anyhow::Ok(())
    })
    .await
}

async fn counter(process: &Process, name: &str) -> anyhow::Result<u64> {
    let metrics = Rest::at(process).get("/metrics").await?;
    let line = metrics
        .text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.with_context(|| format!("{name} is not among the metrics: {}", metrics.text))
}

async fn what_was_written_offline_is_taken_however_much_it_is(story: Story) -> Told {
    const OFFLINE: usize = 5 << 20;
    let cluster = story.cluster(Options::default()).await?;
    let room = fresh("offline");
    let door = cluster.door(Address::Yjs, &room);
    let mut reader = YjsClient::offline();
    reader
        .connect(&door.clone().at(cluster.there().address()))
        .await?;
    let json: Client = cluster.door(Address::Plain, &room).enter().await?;
    let mut writer = YjsClient::offline();
    writer.write(&"offline ".repeat(OFFLINE / 8));
    writer.connect(&door).await?;
    // Its own update comes back: that is how a provider knows.
    writer.confirmed().await?;
    let closed = reader.read_to(OFFLINE as u32, LONG).await?;
    ensure!(closed.is_none(), "closed: {closed:?}");
    json.expect_within("update", LONG, |_| true).await?;
    // It is not sent away, and nobody else is.
    let more = writer.write("and on");
    writer.send_update(&more).await?;
    let closed = reader.read_to(OFFLINE as u32 + 6, PATIENCE).await?;
    ensure!(closed.is_none(), "closed: {closed:?}");
    ensure!(reader.text() == writer.text(), "the texts differ");
    // JSON has other ways: its frames stay as small as they are.
    let large = "00".repeat(600_000);
    json.send(json!({"type": "update", "data": large})).await?;
    json.closed_with(4413).await.map(drop)
}

/// Stock providers come back from every close and send it again: closing would never end.
async fn an_edit_that_is_too_large_is_told_and_its_editor_stays(story: Story) -> Told {
    const LIMIT: usize = 1 << 20;
    let options = Options::default().set("DOCUMENT_MAX_BYTES", LIMIT);
    let cluster = story.cluster(options).await?;
    let door = cluster.door(Address::Yjs, &fresh("large"));
    let mut other = YjsClient::offline();
    other
        .connect(&door.clone().at(cluster.there().address()))
        .await?;
    let mut writer = YjsClient::offline();
    writer.write(&"x".repeat(3 * LIMIT));
    writer.connect(&door).await?;
    let reason = writer.denied().await?;
    ensure!(reason.contains(&LIMIT.to_string()), "{reason}");
    // Its connection lives on, in both directions.
    let hello = other.write("hello");
    other.send_update(&hello).await?;
    let closed = writer.read_to((3 * LIMIT + 5) as u32, PATIENCE).await?;
    ensure!(closed.is_none(), "closed: {closed:?}");
    let mut small = YjsClient::offline();
    let small = small_edit(&mut small);
    writer.send_update(&small).await?;
    let closed = other.read_to(10, PATIENCE).await?;
    ensure!(closed.is_none(), "closed: {closed:?}");
    ensure!(other.text().len() == 10, "{}", other.text());
    Ok(())
}

/// Of an author of its own, so that it does not hang on what was not taken.
fn small_edit(author: &mut YjsClient) -> Vec<u8> {
    author.write("after")
}

/// From the ring, then the log, then the archive: whatever has been forgotten meanwhile.
async fn a_slow_reader_is_served_from_the_archive_where_the_log_has_forgotten(
    story: Story,
) -> Told {
    const MESSAGES: usize = 1_000;
    let stores = Stores::make().await?;
    let (redis, name) = (stores.redis.clone(), stores.name.clone());
    let options = options()
        .workers(1)
        .set("SLOW_READER_TIMEOUT", 300)
        .set("MESSAGE_RATE", 100_000)
        .set("MESSAGE_BURST", 100_000);
    let cluster = story.cluster(options.stores(stores)).await?;
    let room = fresh("slow");
    let door = cluster.door(Address::Plain, &room);
    let slow = door.clone().receive_buffer(4_096).enter().await?;
    slow.expect("users").await?;
    slow.read_on(false);
    let writer = door.at(cluster.there().address()).enter().await?;
    let words = "w".repeat(12_000);
    let mut last = 0;
    for n in 0..MESSAGES {
        last = writer.chat(&format!("{n} {words}")).await?;
    }
    writer
        .expect_within("archived", LONG, |m| m["seq"].as_u64() >= Some(last))
        .await?;
    // What the worker does with an old log once a minute.
    forget_log(&redis, &name, &room, last).await?;
    ensure!(slow.entries().len() < MESSAGES / 2, "it was not slow");
    slow.read_on(true);
    slow.entries_reach(MESSAGES, LONG).await?;
    let seqs = slow.seqs();
    ensure!(seqs == (1..=last).collect::<Vec<_>>(), "{seqs:?}");
    // And it goes on live.
    let next = writer.chat("and on").await?;
    slow.expect_where("chat_message", |m| m["seq"] == next)
        .await
        .map(drop)
}

async fn a_crowd_that_comes_at_once_costs_one_read_of_the_room(story: Story) -> Told {
    // In distributed mode one small Postgres, of an unoptimised gateway, has to let every one of them in.
    let crowd_size = match story.mode() {
        Mode::Embedded => 1_000,
        Mode::Distributed => 250,
    };
    let options = Options::default().gateways(1).set("DATABASE_POOL", 20);
    let cluster = story.cluster(options).await?;
    let room = fresh("crowd");
    let writer = Editor::enter(&cluster.door(Address::Plain, &room)).await?;
    let mut seq = 0;
    for _ in 0..20 {
        seq = writer.log(&writer.append(&"text ".repeat(1_000))).await?;
    }
    let stroke = json!({"id": "s", "width": 1, "color": "#000000", "points": [1, 2], "ts": 5});
    seq = seq.max(
        writer
            .client
            .log(json!({"type": "draw", "paths": [stroke]}))
            .await?,
    );
    writer
        .client
        .expect_where("archived", |m| m["seq"].as_u64() >= Some(seq))
        .await?;
    // Nobody has it in memory.
    cluster.here().kill().await?;
    cluster.here().restart().await?;
    ensure!(
        counter(cluster.here(), "atelier_room_loads_total").await? == 0,
        "the room is loaded already"
    );
    let door = cluster.door(Address::Plain, &room);
    let crowd = (0..crowd_size).map(|_| async {
        let client = door.enter().await?;
        client
            .expect_within("board", LONG, |m| m["paths"][0]["id"] == "s")
            .await?;
        ensure!(client.count("sync") == 1, "no document came");
        anyhow::Ok(client)
    });
    // As many at once as a small database lets in.
    let crowd: Vec<Client> = stream::iter(crowd)
        .buffer_unordered(16)
        .try_collect()
        .await?;
    ensure!(crowd.len() == crowd_size, "all are in");
    let loads = counter(cluster.here(), "atelier_room_loads_total").await?;
    ensure!(loads == 1, "the room was read {loads} times");
    Ok(())
}
