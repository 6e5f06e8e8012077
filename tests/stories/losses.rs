//! Stores that lose their memory or go away for a while: clear errors, recovery, and nothing that was promised is lost.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::proxy::{Proxy, Weather};
use crate::harness::stores::{OwnRedis, Stores};
use crate::harness::{
    Address, Cluster, Options, PATIENCE, Rest, Safe, Stories, Story, Stream, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.distributed(redis_emptied_under_load_loses_nothing);
    all.distributed(redis_started_again_empty_loses_nothing);
    all.distributed(a_log_that_was_rolled_back_and_written_to_since_is_found_out);
    all.distributed(all_processes_and_redis_gone_at_once_never_reuse_an_epoch);
    all.distributed(refused_messages_are_looked_up_so_many_at_a_time);
    all.distributed(postgres_cut_off_is_told_and_got_over);
    all.distributed(postgres_silent_is_told_and_got_over);
    all.distributed(mongodb_cut_off_is_told_and_got_over);
    all.distributed(mongodb_silent_is_told_and_got_over);
    all.distributed(redis_cut_off_is_told_and_got_over);
    all.distributed(redis_silent_is_told_and_got_over);
}

fn options() -> Options {
    Options::default()
        .workers(1)
        .set("MESSAGE_RATE", 100_000)
        .set("MESSAGE_BURST", 100_000)
        .set("REQUEST_TIMEOUT", 5)
}

async fn redis_emptied_under_load_loses_nothing(story: Story) -> Told {
    redis_loses_everything(story, async |redis: &mut OwnRedis| redis.empty().await).await
}

async fn redis_started_again_empty_loses_nothing(story: Story) -> Told {
    redis_loses_everything(story, async |redis: &mut OwnRedis| {
        redis.lose_everything().await
    })
    .await
}

async fn redis_loses_everything(
    story: Story,
    lose: impl AsyncFnOnce(&mut OwnRedis) -> Told,
) -> Told {
    const WRITERS: usize = 4;
    const EACH: usize = 150;
    let mut redis = OwnRedis::start().await?;
    let mut stores = Stores::make().await?;
    stores.redis = redis.url()?;
    let cluster = story.cluster(options().stores(stores)).await?;
    let door = cluster.door(Address::Plain, &fresh("stream"));
    let gateways = vec![cluster.here().address(), cluster.there().address()];
    let mut stream = Stream::new(door.clone(), gateways, WRITERS, EACH);
    stream.safe = Safe::Archived;
    let watcher = door.enter().await?;
    watcher.join("Watcher").await?;
    let other = door.clone().at(cluster.there().address()).enter().await?;
    other.join("Other").await?;
    watcher.expect("user_joined").await?;
    let (epoch, _) = watcher.position();
    let stroke = json!({"id": "kept", "width": 1, "color": "#000000", "points": [1, 2], "ts": 5});
    // Drawn and archived in another room, that nobody touches again before the loss.
    let quiet = cluster
        .door(Address::Plain, &fresh("quiet"))
        .enter()
        .await?;
    let drawn = quiet
        .log(json!({"type": "draw", "paths": [stroke]}))
        .await?;
    quiet
        .expect_where("archived", |m| m["seq"].as_u64() >= Some(drawn))
        .await?;
    let way_back = quiet.way_back();
    let strike = async {
        stream.reaches(stream.total() / 3).await?;
        lose(&mut redis).await
    };
    tokio::try_join!(stream.write_all(), strike)?;
    let reload = watcher.expect("reload").await?;
    ensure!(
        reload["epoch"].as_u64() > Some(epoch),
        "the epoch rises: {epoch}, then {reload}"
    );
    stream.check(&stream.whole_log().await?, false)?;
    // The quiet room comes back from the archive, in a new epoch as well.
    let back = way_back.at(cluster.there().address()).enter().await?;
    let board = back.expect("board").await?;
    ensure!(board["paths"][0]["id"] == "kept", "{board}");
    // Presence is told again by those who are still here, and nobody is reported gone meanwhile.
    for pod in [cluster.here(), cluster.there()] {
        until("both to be seen again", PATIENCE, async || {
            let newcomer = door.clone().at(pod.address()).enter().await?;
            let users = newcomer.expect("users").await?;
            let names = users["users"].as_array().into_iter().flatten();
            let names: Vec<&str> = names.filter_map(|user| user["name"].as_str()).collect();
            ensure!(
                names.contains(&"Watcher") && names.contains(&"Other"),
                "{users}"
            );
            let counted = Rest::at(pod).get("/api/metrics").await?.expect(200)?;
            ensure!(
                counted["active_connections"].as_u64() >= Some(2),
                "{counted}"
            );
            anyhow::Ok(())
        })
        .await?;
    }
    watcher.saw_no("user_left")?;
    other.saw_no("user_left")
}

/// The log is longer than what was lost of it when the pod that saw the loss looks again: its length says nothing.
async fn a_log_that_was_rolled_back_and_written_to_since_is_found_out(story: Story) -> Told {
    let mut redis = OwnRedis::start().await?;
    let mut stores = Stores::make().await?;
    stores.redis = redis.url()?;
    // Nothing is archived, so all that is lost must be said again.
    let cluster = story.cluster(options().workers(0).stores(stores)).await?;
    let door = cluster.door(Address::Plain, &fresh("forked"));
    let ana = door.enter().await?;
    let ben = door.at(cluster.there().address()).enter().await?;
    let mut kept = 0;
    for n in 0..3 {
        kept = ana.chat(&format!("kept {n}")).await?;
    }
    ben.expect_where("chat_message", |m| m["seq"] == kept)
        .await?;
    redis.remember().await?;
    cluster.there().signal(Signal::STOP).await?;
    for n in 0..3 {
        ana.chat(&format!("lost {n}")).await?;
    }
    let (epoch, _) = ana.position();
    cluster.here().signal(Signal::STOP).await?;
    redis.roll_back().await?;
    // This gateway has seen as much as there is: to it the log is as good as any.
    cluster.there().signal(Signal::CONT).await?;
    cluster.there().wait_ready().await?;
    for n in 0..8 {
        ben.chat(&format!("instead {n}")).await?;
    }
    cluster.here().signal(Signal::CONT).await?;
    for client in [&ana, &ben] {
        let reload = client.expect("reload").await?;
        ensure!(reload["epoch"].as_u64() > Some(epoch), "{reload}");
    }
    let after = ana.chat("after").await?;
    ben.expect_where("chat_message", |m| {
        m["seq"] == after && m["content"] == "after"
    })
    .await
    .map(drop)
}

/// Nobody is left who has seen how long the log was: what comes back of it must not be written on in the same epoch.
async fn all_processes_and_redis_gone_at_once_never_reuse_an_epoch(story: Story) -> Told {
    let mut redis = OwnRedis::start().await?;
    let mut stores = Stores::make().await?;
    stores.redis = redis.url()?;
    let options = options().gateways(1).workers(0);
    let cluster = story.cluster(options.stores(stores)).await?;
    let gateway = cluster.here();
    let door = cluster.door(Address::Plain, &fresh("stop"));
    let mut way_back = door.clone();
    let mut epochs = Vec::new();
    for loses_all in [true, false] {
        let ana = way_back.enter().await?;
        let kept = ana.chat("kept").await?;
        redis.remember().await?;
        for n in 0..3 {
            ana.chat(&format!("lost {n}")).await?;
        }
        let (epoch, seq) = ana.position();
        epochs.push(epoch);
        way_back = ana.way_back();
        gateway.kill().await?;
        if loses_all {
            redis.lose_everything().await?;
        } else {
            redis.roll_back().await?;
        }
        gateway.restart().await?;
        // Somebody else is quicker, and writes over the places that were lost.
        let ben = door.enter().await?;
        let (after, at) = ben.position();
        ensure!(after > epoch, "epoch {epoch} goes on, as {after}");
        // What Redis still has is not thrown away with what it lost.
        ensure!(
            loses_all || at >= kept,
            "{kept} was kept, and it goes on from {at}"
        );
        for n in 0..5 {
            ben.chat(&format!("instead {n}")).await?;
        }
        let back = way_back.clone().enter().await?;
        let reload = back.expect("reload").await?;
        ensure!(reload["epoch"] == after, "{reload}, from {epoch}.{seq}");
        way_back = back.way_back();
    }
    let last = *epochs.last().context("two rounds")?;
    ensure!(epochs[0] < last, "{epochs:?}");
    Ok(())
}

/// While the store that knows them is silent, refused messages do not pile up in search of their refs.
async fn refused_messages_are_looked_up_so_many_at_a_time(story: Story) -> Told {
    const SENT: usize = 200;
    let (cluster, proxy) = behind_a_proxy(&story, Store::Redis).await?;
    let person = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&person);
    // A room in which nobody chats.
    let room = rest.make_room(json!({"kind": "whiteboard"})).await?;
    let door = cluster.door(Address::Rooms, &room).person(&person);
    let ana = door.enter().await?;
    ana.expect("users").await?;
    proxy.set(Weather::Blackhole);
    let message =
        |n: usize| json!({"type": "chat_message", "content": "no", "ref": format!("r{n}")});
    ana.send_all((0..SENT).map(message)).await?;
    let all = ana.until("an answer to each", PATIENCE, |frames| {
        frames.iter().filter(|m| m["type"] == "error").count() >= SENT
    });
    all.await?;
    let frames = ana.frames();
    let of = |code: &str| {
        let errors = frames.iter().filter(|m| m["type"] == "error");
        errors.filter(|m| m["code"] == code).count()
    };
    // Those that are looked up hear that the store is away.
    let (beyond, away) = (of("overloaded"), of("unavailable"));
    ensure!(beyond + away == SENT, "{beyond} and {away}");
    ensure!(beyond >= SENT / 2 && away > 0, "{beyond} and {away}");
    proxy.set(Weather::Pass);
    ready_again(&cluster).await?;
    // Its places are free again.
    ana.send(message(SENT)).await?;
    let error = ana
        .expect_where("error", |m| m["ref"] == format!("r{SENT}"))
        .await?;
    ensure!(error["code"] == "not_allowed", "{error}");
    Ok(())
}

/// Which store stands behind the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Postgres,
    Mongo,
    Redis,
}

async fn behind_a_proxy(story: &Story, store: Store) -> anyhow::Result<(Cluster, Proxy)> {
    let mut stores = Stores::make().await?;
    let proxy = match store {
        Store::Postgres => Proxy::into_url(&mut stores.postgres, 5432).await?,
        Store::Redis => Proxy::into_url(&mut stores.redis, 6379).await?,
        Store::Mongo => {
            // A member of a replica set names its own address; the driver must not go there.
            stores.mongo.set_query(Some("directConnection=true"));
            Proxy::into_url(&mut stores.mongo, 27017).await?
        }
    };
    let cluster = story.cluster(options().stores(stores)).await?;
    Ok((cluster, proxy))
}

/// `/readyz` says no and names the store, `/livez` goes on saying yes.
async fn told_to_be_away(cluster: &Cluster, name: &str) -> Told {
    until("the store to be told as away", PATIENCE, async || {
        let problem = cluster
            .rest()
            .get("/readyz")
            .await?
            .problem(503, "unavailable")?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains(name), "{name} should be named: {problem}");
        let health = cluster.rest().get("/health").await?.expect(503)?;
        ensure!(health["stores"][name] == "away", "{health}");
        anyhow::Ok(())
    })
    .await?;
    // For balancers: the other stores' rooms go on.
    for path in ["/readyz?exclude=stores", "/livez"] {
        cluster.rest().get(path).await?.expect(200)?;
    }
    let others = if name == "files" { "vault" } else { "files" };
    let others = format!("/readyz?exclude={others}");
    let still = cluster.rest().get(&others).await?;
    still.problem(503, "unavailable").map(|_| ())
}

async fn ready_again(cluster: &Cluster) -> Told {
    for process in [cluster.here(), cluster.there(), cluster.worker(0)] {
        process.wait_ready().await?;
    }
    Ok(())
}

async fn postgres_cut_off_is_told_and_got_over(story: Story) -> Told {
    postgres_goes_away(story, Weather::Cut).await
}

async fn postgres_silent_is_told_and_got_over(story: Story) -> Told {
    postgres_goes_away(story, Weather::Blackhole).await
}

async fn postgres_goes_away(story: Story, weather: Weather) -> Told {
    let (cluster, proxy) = behind_a_proxy(&story, Store::Postgres).await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Rooms, &room);
    let (here, there) = (
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    );
    here.chat("before").await?;
    proxy.set(weather);
    told_to_be_away(&cluster, "records").await?;
    let refused = rest.post("/api/v1/rooms", json!({})).await?;
    ensure!(refused.headers.contains_key("retry-after"), "{refused:?}");
    is_away(refused)?;
    // A room that is live needs no Postgres to talk.
    let said = here.chat("meanwhile").await?;
    there
        .expect_where("chat_message", |m| m["seq"] == said)
        .await?;
    proxy.set(Weather::Pass);
    ready_again(&cluster).await?;
    until("rooms to be made again", PATIENCE, async || {
        rest.make_room(json!({})).await
    })
    .await?;
    let late = door
        .clone()
        .query("epoch", here.position().0)
        .query("seq", 0)
        .enter()
        .await?;
    late.expect_where("chat_message", |m| m["seq"] == said)
        .await?;
    ensure!(late.seqs() == [1, 2], "{:?}", late.seqs());
    Ok(())
}

fn is_away(answer: crate::harness::Answer) -> anyhow::Result<Value> {
    ensure!(
        answer.status == 503,
        "expected 503, got {}: {}",
        answer.status,
        answer.text
    );
    let kind = answer.body["type"].as_str().unwrap_or_default().to_owned();
    ensure!(
        kind.ends_with("/unavailable") || kind.ends_with("/timeout"),
        "{}",
        answer.text
    );
    answer.expect(503)
}

async fn mongodb_cut_off_is_told_and_got_over(story: Story) -> Told {
    mongodb_goes_away(story, Weather::Cut).await
}

async fn mongodb_silent_is_told_and_got_over(story: Story) -> Told {
    mongodb_goes_away(story, Weather::Blackhole).await
}

async fn mongodb_goes_away(story: Story, weather: Weather) -> Told {
    let (cluster, proxy) = behind_a_proxy(&story, Store::Mongo).await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let (here, there) = (
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    );
    let before = here.chat("before").await?;
    there
        .expect_where("archived", |m| m["seq"] == before)
        .await?;
    proxy.set(weather);
    told_to_be_away(&cluster, "archive").await?;
    // Logged is logged; archived it will be.
    let mut last = 0;
    for n in 0..50 {
        last = here.chat(&format!("meanwhile {n}")).await?;
    }
    there
        .expect_where("chat_message", |m| m["seq"] == last)
        .await?;
    there.answered().await?;
    let told = there
        .frames()
        .iter()
        .filter_map(|m| (m["type"] == "archived").then(|| m["seq"].as_u64())?)
        .max();
    ensure!(
        told == Some(before),
        "nothing is archived without an archive: {told:?}"
    );
    proxy.set(Weather::Pass);
    ready_again(&cluster).await?;
    for client in [&here, &there] {
        client
            .expect_where("archived", |m| m["seq"].as_u64() >= Some(last))
            .await?;
    }
    let late = door
        .clone()
        .query("epoch", here.position().0)
        .query("seq", 0)
        .enter()
        .await?;
    late.expect_where("chat_message", |m| m["seq"] == last)
        .await?;
    ensure!(
        late.seqs() == (1..=last).collect::<Vec<_>>(),
        "{:?}",
        late.seqs()
    );
    Ok(())
}

async fn redis_cut_off_is_told_and_got_over(story: Story) -> Told {
    redis_goes_away(story, Weather::Cut).await
}

async fn redis_silent_is_told_and_got_over(story: Story) -> Told {
    redis_goes_away(story, Weather::Blackhole).await
}

async fn redis_goes_away(story: Story, weather: Weather) -> Told {
    let (cluster, proxy) = behind_a_proxy(&story, Store::Redis).await?;
    let room = fresh("room");
    let door = cluster.door(Address::Plain, &room);
    let (here, there) = (
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    );
    here.join("Ana").await?;
    there.join("Ben").await?;
    let before = here.chat("before").await?;
    there
        .expect_where("chat_message", |m| m["seq"] == before)
        .await?;
    proxy.set(weather);
    told_to_be_away(&cluster, "log").await?;
    here.send(json!({"type": "chat_message", "content": "meanwhile", "ref": "meanwhile"}))
        .await?;
    here.send(json!({"type": "chat_message", "content": "without a ref"}))
        .await?;
    // It can't be promised, so it is given back; with a ref it may be kept for a while.
    let error = here.expect_where("error", |m| m["ref"].is_null()).await?;
    ensure!(
        error["code"] == "unavailable" && error["retry_in_ms"].is_u64(),
        "{error}"
    );
    let refused = Rest::at(cluster.here())
        .post("/api/v1/auth/guest", json!({"name": "Eve"}))
        .await?;
    is_away(refused)?;
    proxy.set(Weather::Pass);
    ready_again(&cluster).await?;
    // What was told here is in the figures everywhere.
    until("the error to be counted", PATIENCE, async || {
        let figures = Rest::at(cluster.there()).get("/api/metrics").await?;
        let figures = figures.expect(200)?;
        ensure!(figures["error_count"].as_u64() >= Some(1), "{figures}");
        anyhow::Ok(())
    })
    .await?;
    // Said again until it is acknowledged, it is there once.
    until("the message to be acknowledged", PATIENCE, async || {
        if here.count("ack") > 1 {
            return Ok(());
        }
        here.send(json!({"type": "chat_message", "content": "meanwhile", "ref": "meanwhile"}))
            .await?;
        here.answered().await?;
        anyhow::bail!("no ack yet")
    })
    .await?;
    there
        .expect_where("chat_message", |m| m["content"] == "meanwhile")
        .await?;
    // Nobody was reaped for Redis' own silence.
    here.saw_no("user_left")?;
    there.saw_no("user_left")?;
    let last = there.chat("after").await?;
    here.expect_where("chat_message", |m| m["seq"] == last)
        .await?;
    let late = door
        .clone()
        .query("epoch", here.position().0)
        .query("seq", 0)
        .enter()
        .await?;
    late.expect_where("chat_message", |m| m["seq"] == last)
        .await?;
    let contents: Vec<Value> = late
        .entries()
        .iter()
        .map(|m| m["content"].clone())
        .collect();
    let meanwhile = contents.iter().filter(|c| *c == "meanwhile").count();
    ensure!(
        meanwhile == 1 && contents.contains(&json!("before")),
        "{contents:?}"
    );
    let rooms = Rest::at(cluster.there())
        .get(&format!("/api/v1/rooms/{room}"))
        .await?
        .expect(200)?;
    ensure!(rooms["user_count"] == 2, "{rooms}");
    try_join_all([here.answered(), there.answered()])
        .await
        .context("both sockets live on")
        .map(|_| ())
}
