//! Processes that die or are told to go, in the middle of everything: nothing lost, nothing twice, order kept.

use anyhow::ensure;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Address, Cluster, Options, PATIENCE, Rest, Stories, Story, Stream, Told, fresh,
};

pub fn stories(all: &mut Stories) {
    all.both(a_stream_survives_kill_9_of_its_gateway);
    all.both(a_stream_survives_the_drain_of_its_gateway);
    all.distributed(a_stream_survives_a_gateway_that_is_frozen);
    all.embedded(everything_is_there_after_a_restart);
}

const WRITERS: usize = 4;
const EACH: usize = 500;

fn options() -> Options {
    Options::default()
        .set("MESSAGE_RATE", 100_000)
        .set("MESSAGE_BURST", 100_000)
}

fn stream(cluster: &Cluster) -> Stream {
    let gateways = vec![cluster.here().address(), cluster.there().address()];
    let door = cluster.door(Address::Plain, &fresh("stream"));
    Stream::new(door, gateways, WRITERS, EACH)
}

/// Writers and readers on both gateways while `strike` happens; then everything must be there, once, in order.
async fn tell(stream: &Stream, strike: impl Future<Output = Told>) -> Told {
    let ((), (), here, there) =
        tokio::try_join!(stream.write_all(), strike, stream.read(0), stream.read(1))?;
    for read in [here, there, stream.whole_log().await?] {
        ensure!(
            read.len() == stream.total(),
            "{} of {}",
            read.len(),
            stream.total()
        );
        stream.check(&read, true)?;
    }
    Ok(())
}

async fn a_stream_survives_kill_9_of_its_gateway(story: Story) -> Told {
    let cluster = story.cluster(options()).await?;
    let stream = stream(&cluster);
    tell(&stream, async {
        stream.reaches(stream.total() / 3).await?;
        cluster.here().kill().await?;
        // Somewhere to come back to.
        cluster.here().restart().await
    })
    .await
}

async fn a_stream_survives_the_drain_of_its_gateway(story: Story) -> Told {
    let cluster = story.cluster(options()).await?;
    let stream = stream(&cluster);
    tell(&stream, async {
        stream.reaches(stream.total() / 3).await?;
        cluster.here().signal(Signal::TERM).await?;
        let status = cluster.here().ended(PATIENCE).await?;
        ensure!(status.success(), "{status}");
        cluster.here().restart().await
    })
    .await
}

/// Not dead, only silent: its people come back by another, it wakes up again and must do no harm.
async fn a_stream_survives_a_gateway_that_is_frozen(story: Story) -> Told {
    let cluster = story.cluster(options()).await?;
    let stream = stream(&cluster);
    tell(&stream, async {
        stream.reaches(stream.total() / 3).await?;
        cluster.here().signal(Signal::STOP).await?;
        // All that the others have to say is said meanwhile.
        stream.reaches(stream.total()).await?;
        cluster.here().signal(Signal::CONT).await
    })
    .await
}

async fn everything_is_there_after_a_restart(story: Story) -> Told {
    let cluster = story.cluster(Options::default()).await?;
    let rest = cluster.rest();
    let name = fresh("ana");
    let ana = rest.register(&name, "correct horse battery staple").await?;
    let room = rest
        .as_person(&ana)
        .make_room(json!({"name": "kept", "kind": "session"}))
        .await?;
    let door = cluster.door(Address::Session, &room).person(&ana);
    let client = door.enter().await?;
    client.chat("remember me").await?;
    let titled = client
        .log(json!({"type": "session_update", "data": {"title": "Kept"}}))
        .await?;
    for (how, last) in [("kill -9", false), ("SIGTERM", true)] {
        if last {
            cluster.here().signal(Signal::TERM).await?;
            cluster.here().ended(PATIENCE).await?;
        } else {
            cluster.here().kill().await?;
        }
        cluster.here().restart().await?;
        let rest = Rest::at(cluster.here());
        // The token was signed before, and the login goes on.
        let me = rest
            .as_person(&ana)
            .get("/api/v1/auth/me")
            .await?
            .expect(200)?;
        ensure!(me["username"] == name.as_str(), "{how}: {me}");
        rest.login(&name, "correct horse battery staple").await?;
        let room = rest
            .as_person(&ana)
            .get(&format!("/api/v1/rooms/{room}"))
            .await?
            .expect(200)?;
        ensure!(room["name"] == "kept", "{how}: {room}");
        let back = door
            .clone()
            .query("epoch", client.position().0)
            .query("seq", 0)
            .enter()
            .await?;
        back.expect_where("chat_message", |m| m["content"] == "remember me")
            .await?;
        back.expect_where("session_update", |m| m["seq"] == titled)
            .await?;
        ensure!(
            back.connected["room"]["metadata"]["title"] == "Kept",
            "{how}: {}",
            back.connected
        );
    }
    Ok(())
}
