//! What a client may count on: acks, refs, resuming, and that nobody waits for the slowest.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Address, Client, Options, PATIENCE, Stories, Story, Told, fresh, until};

pub fn stories(all: &mut Stories) {
    all.both(a_resend_is_acknowledged_with_the_first_seq_and_stored_once);
    all.both(a_ref_belongs_to_its_client);
    all.both(resuming_brings_exactly_what_was_missed_own_messages_included);
    all.both(an_open_socket_may_resume_again);
    all.both(who_shows_only_by_resume_who_they_were_is_that_person);
    all.both(what_is_said_right_before_a_close_is_heard);
    all.both(a_slow_reader_stalls_nobody_and_catches_up);
    all.both(a_reader_that_was_too_slow_is_told_so_when_it_reads_on);
    all.both(messages_over_the_rate_are_told_when_to_come_again);
}

fn said(reference: &str, content: &str) -> Value {
    json!({"type": "chat_message", "content": content, "ref": reference})
}

async fn a_resend_is_acknowledged_with_the_first_seq_and_stored_once(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let (ana, ben) = (
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    );
    ana.send(said("first", "once")).await?;
    let first = ana.acknowledged("first").await?;
    let second = ana.chat("then this").await?;
    ana.send(said("first", "once")).await?;
    ensure!(
        ana.acknowledged("first").await? == first,
        "the seq of the first"
    );
    // Twice in one write, before either is stored.
    ana.send_all([said("twin", "twin"), said("twin", "twin")])
        .await?;
    let twin = ana.acknowledged("twin").await?;
    ensure!(ana.acknowledged("twin").await? == twin, "both get one seq");
    // The same client after a reconnect, on the other pod.
    let again = ana.way_back().at(cluster.there().address()).enter().await?;
    again.send(said("first", "once")).await?;
    ensure!(
        again.acknowledged("first").await? == first,
        "remembered across connections"
    );
    let last = again.chat("end").await?;
    ben.expect_where("chat_message", |m| m["seq"] == last)
        .await?;
    let heard: Vec<Value> = ben.entries().iter().map(|m| m["content"].clone()).collect();
    ensure!(
        heard == ["once", "then this", "twin", "end"],
        "heard {heard:?}"
    );
    ensure!(
        ben.seqs() == [first, second, twin, last],
        "{:?}",
        ben.seqs()
    );
    Ok(())
}

async fn a_ref_belongs_to_its_client(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let (ana, ben) = (door.enter().await?, door.enter().await?);
    ana.send(said("r", "from Ana")).await?;
    ben.send(said("r", "from Ben")).await?;
    let (a, b) = (ana.acknowledged("r").await?, ben.acknowledged("r").await?);
    ensure!(a != b, "somebody else's ref used up his");
    ana.expect_where("chat_message", |m| m["content"] == "from Ben")
        .await?;
    ben.expect_where("chat_message", |m| m["content"] == "from Ana")
        .await?;
    Ok(())
}

async fn resuming_brings_exactly_what_was_missed_own_messages_included(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let (ana, ben) = (
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    );
    ana.join("Ana").await?;
    ben.chat("1: seen").await?;
    ana.expect("chat_message").await?;
    let way_back = ana.way_back();
    // Said, but its socket was gone before it heard that it was stored.
    ana.send(said("mine", "2: own")).await?;
    ben.expect_where("chat_message", |m| m["content"] == "2: own")
        .await?;
    drop(ana);
    let last = ben.chat("3: missed").await?;
    let back = way_back.at(cluster.there().address()).enter().await?;
    let resumed = back.expect("resumed").await?;
    ensure!(resumed["from"] == 1 && resumed["to"] == last, "{resumed}");
    back.expect_where("chat_message", |m| m["seq"] == last)
        .await?;
    let missed: Vec<Value> = back
        .entries()
        .iter()
        .map(|m| m["content"].clone())
        .collect();
    ensure!(missed == ["2: own", "3: missed"], "{missed:?}");
    back.saw_no("board")?;
    // It goes on as if it had never been away.
    let next = ben.chat("4: live").await?;
    back.expect_where("chat_message", |m| m["seq"] == next)
        .await?;
    ensure!(back.seqs() == [2, 3, 4], "{:?}", back.seqs());
    Ok(())
}

async fn an_open_socket_may_resume_again(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let (ana, ben) = (door.enter().await?, door.enter().await?);
    for n in 0..5 {
        ben.chat(&n.to_string()).await?;
    }
    ana.until("all five", PATIENCE, |frames| {
        frames
            .iter()
            .filter(|m| m["type"] == "chat_message")
            .count()
            == 5
    })
    .await?;
    let (epoch, _) = ana.position();
    ana.send(json!({"type": "resume", "epoch": epoch, "seq": 2}))
        .await?;
    let resumed = ana.expect("resumed").await?;
    ensure!(resumed["from"] == 2 && resumed["to"] == 5, "{resumed}");
    ana.until("the last three again", PATIENCE, |frames| {
        frames
            .iter()
            .filter(|m| m["type"] == "chat_message")
            .count()
            == 8
    })
    .await?;
    ensure!(ana.seqs() == [1, 2, 3, 4, 5, 3, 4, 5], "{:?}", ana.seqs());
    // A place in another epoch can't be resumed: the present state comes instead.
    ana.send(json!({"type": "resume", "epoch": epoch + 7, "seq": 2}))
        .await?;
    let reload = ana.expect("reload").await?;
    ensure!(reload["epoch"] == epoch && reload["seq"] == 5, "{reload}");
    Ok(())
}

async fn who_shows_only_by_resume_who_they_were_is_that_person(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let ben = door.enter().await?;
    let client_id = fresh("ana");
    let ana = door.clone().client_id(&client_id).enter().await?;
    ana.join("Ana").await?;
    let (epoch, before) = ana.position();
    let id = ana.connected["user"]["user_id"].clone();
    ben.log(json!({"type": "direct_message", "to": id, "content": "psst"}))
        .await?;
    ana.send(said("first", "once")).await?;
    let first = ana.acknowledged("first").await?;
    let token = ana.resume_token.clone();
    ana.close().await?;
    // As the reference page comes back: with nothing but its client id.
    let there = door.clone().at(cluster.there().address());
    let again = there.client_id(&client_id).enter().await?;
    again.join("Ana again").await?;
    ensure!(again.connected["user"]["user_id"] != id, "nobody yet");
    let resume = |token: &str| json!({"type": "resume", "epoch": epoch, "seq": before, "resume_token": token});
    again.send(resume("nonsense")).await?;
    let error = again.expect("error").await?;
    ensure!(error["field"] == "resume_token", "{error}");
    again.send(resume(&token)).await?;
    let connected = again.expect("connected").await?;
    ensure!(connected["user"]["user_id"] == id, "{connected}");
    again.expect("resumed").await?;
    let psst = again.expect("direct_message").await?;
    ensure!(psst["content"] == "psst", "{psst}");
    again.send(said("first", "once")).await?;
    ensure!(
        again.acknowledged("first").await? == first,
        "the refs are theirs"
    );
    ben.expect_where("user_joined", |m| {
        m["name"] == "Ana again" && m["user"]["user_id"] == id
    })
    .await?;
    // Whoever came with a token stays who they are.
    let zoe = cluster.rest().guest("Zoe").await?;
    let zoe = door.person(&zoe).enter().await?;
    zoe.send(resume(&token)).await?;
    let connected = zoe.expect("connected").await?;
    ensure!(connected["user"]["name"] == "Zoe", "{connected}");
    zoe.expect("resumed").await.map(|_| ())
}

async fn what_is_said_right_before_a_close_is_heard(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Named, &fresh("board"));
    let ben = door.enter().await?;
    for server in [cluster.here(), cluster.there()] {
        let (name, ana) = (fresh("Ana"), door.clone().at(server.address()));
        let ana = ana.enter().await?;
        let stroke = json!({"id": name, "width": 1, "color": "teal", "points": [1, 2], "ts": 1});
        // A name is asked for everywhere, and what is sent behind it waits.
        ana.send_all([
            json!({"type": "join", "name": name}),
            json!({"type": "draw", "paths": [stroke]}),
            json!({"type": "chat_message", "content": format!("goodbye of {name}")}),
        ])
        .await?;
        ana.close().await?;
        ben.expect_where("user_joined", |m| m["name"] == name.as_str())
            .await?;
        ben.expect("draw").await?;
        let goodbye = ben.expect("chat_message").await?;
        ensure!(
            goodbye["content"] == format!("goodbye of {name}")
                && goodbye["user"]["name"] == name.as_str(),
            "{goodbye}"
        );
        ben.expect("user_left").await?;
    }
    Ok(())
}

async fn a_slow_reader_stalls_nobody_and_catches_up(story: Story) -> Told {
    const MESSAGES: usize = 1_000;
    const BYTES: usize = 12_000;
    let options = Options::default()
        .workers(0)
        .set("MESSAGE_RATE", 100_000)
        .set("MESSAGE_BURST", 100_000)
        // Small: what the kernel does not take falls off the ring and is read back from the log.
        .set("ROOM_RING_BYTES", 65_536 * 4);
    let cluster = story.cluster(options).await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let slow = door.clone().receive_buffer(4_096).enter().await?;
    slow.expect("users").await?;
    slow.read_on(false);
    let quick = door.enter().await?;
    let writer = door.clone().at(cluster.there().address()).enter().await?;
    let filling = "x".repeat(BYTES);
    for part in 0..10 {
        let messages = (0..MESSAGES / 10).map(|n| said(&format!("{part}-{n}"), &filling));
        writer.send_all(messages).await?;
        writer
            .acknowledged(&format!("{part}-{}", MESSAGES / 10 - 1))
            .await?;
    }
    let all = |client: &Client| client.seqs() == (1..=MESSAGES as u64).collect::<Vec<_>>();
    quick
        .expect_where("chat_message", |m| m["seq"] == MESSAGES)
        .await?;
    ensure!(all(&quick), "the quick one has gaps");
    let before = slow.seqs().len();
    ensure!(
        before < MESSAGES / 2,
        "it was not slow: {before} of {MESSAGES} had come"
    );
    slow.read_on(true);
    slow.expect_within("chat_message", PATIENCE, |m| m["seq"] == MESSAGES)
        .await?;
    ensure!(all(&slow), "the slow one has gaps");
    let next = writer.chat("and on").await?;
    slow.expect_where("chat_message", |m| m["seq"] == next)
        .await
        .map(|_| ())
}

/// The others are told at once that it is gone; it still learns from the close frame that it may come back.
async fn a_reader_that_was_too_slow_is_told_so_when_it_reads_on(story: Story) -> Told {
    let options = Options::default()
        .workers(0)
        .set("MESSAGE_RATE", 100_000)
        .set("MESSAGE_BURST", 100_000)
        .set("SLOW_READER_TIMEOUT", 1);
    let cluster = story.cluster(options).await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let slow = door.clone().receive_buffer(4_096).enter().await?;
    slow.join("Slow").await?;
    slow.read_on(false);
    let writer = door.at(cluster.there().address()).enter().await?;
    let gone = |frames: &[std::sync::Arc<Value>]| {
        let left = |m: &std::sync::Arc<Value>| {
            m["type"] == "user_left" && m["userId"] == slow.client_id.as_str()
        };
        frames.iter().any(left)
    };
    let filling = "x".repeat(12_000);
    let mut written = 0;
    while !gone(&writer.frames()) {
        ensure!(written < 20_000, "nobody found it slow");
        writer
            .send_all((0..50).map(|n| said(&format!("{written}-{n}"), &filling)))
            .await?;
        writer.acknowledged(&format!("{written}-49")).await?;
        written += 50;
    }
    slow.read_on(true);
    slow.closed_with(4508).await?;
    let back = slow.way_back().enter().await?;
    back.expect_where("chat_message", |m| m["seq"] == written)
        .await
        .map(|_| ())
}

async fn messages_over_the_rate_are_told_when_to_come_again(story: Story) -> Told {
    let cluster = story.shared().await?;
    let client = cluster.door(Address::Plain, &fresh("room")).enter().await?;
    // The default: 200 at once, 50 a second. A server that takes seconds to read all this still has to refuse some.
    client
        .send_all((0..600).map(|n| said(&n.to_string(), "x")))
        .await?;
    let error = client.expect("error").await?;
    let wait = error["retry_in_ms"].as_u64().context("retry_in_ms")?;
    ensure!(
        error["code"] == "rate_limited" && error["ref"].is_string() && wait <= 1_000,
        "{error}"
    );
    let reference = error["ref"].as_str().context("a ref")?.to_owned();
    // What it sent behind that one may take the next place before it; then it is told again when to come.
    until("the refused message to be taken", PATIENCE, async || {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        client.send(said(&reference, "x")).await?;
        client.answered().await?;
        let acks = client.frames();
        let acked = acks
            .iter()
            .any(|m| m["type"] == "ack" && m["ref"] == reference.as_str());
        ensure!(acked, "no ack yet");
        anyhow::Ok(())
    })
    .await?;
    // Drawing has no such limit.
    let stroke = |n: usize| json!({"id": n.to_string(), "width": 1, "color": "#000000", "points": [0, 0], "ts": 1});
    client
        .send_all(
            (0..300).map(|n| json!({"type": "draw", "ref": format!("d{n}"), "paths": [stroke(n)]})),
        )
        .await?;
    client.acknowledged("d299").await.map(|_| ())
}
