//! What only Redis can break.

use atelier_shared::domain::signal::Signal;

use super::*;
use crate::fixture::redis_server::{Proxy, RedisServer, command};
use crate::fixture::room_logs_at;

async fn opened_at(server: &RedisServer) -> Result<(RoomLogs, RoomId), PortError> {
    let logs = room_logs_at(&server.url).await;
    let room = RoomId::generate();
    logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
    Ok((logs, room))
}

fn key(logs: &RoomLogs, room: &RoomId, what: &str) -> String {
    format!(
        "{}:{{p{}}}:room:{room}{what}",
        logs.namespace,
        room.partition()
    )
}

/// Appends until the subscriber hears of one again; nothing is lost that no gap stands for.
async fn goes_on(logs: &RoomLogs, room: &RoomId, live: &mut Subscription, mut seen: Seq) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut gaps = 0;
    loop {
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing arrives any more"
        );
        let newest = match add(&*logs.here, room, &messages(1)).await {
            Ok(seqs) => seqs[0],
            Err(_) => continue,
        };
        let wait = Duration::from_millis(100);
        while let Ok(delivery) = tokio::time::timeout(wait, live.next()).await {
            match delivery.expect("an open subscription") {
                Delivery::Gap => {
                    gaps += 1;
                    seen = Seq(0);
                }
                Delivery::Entries { entries, .. } => {
                    for entry in entries {
                        assert!(
                            seen == Seq(0) || entry.seq == seen.next(),
                            "a hole without a gap"
                        );
                        seen = entry.seq;
                    }
                }
                Delivery::Signal(signal) => panic!("{signal:?}"),
            }
            if seen == newest {
                assert_eq!(gaps, 1, "gaps for one lost connection");
                return;
            }
        }
    }
}

pub async fn a_cut_connection_is_a_gap_and_then_goes_on(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let (logs, room) = opened_at(&server).await?;
    let mut live = logs.there.subscribe(&room).await?;
    let other = RoomId::generate();
    let mut quiet = logs.there.subscribe(&other).await?;
    let seq = add(&*logs.here, &room, &messages(1)).await?[0];
    next(&mut live).await;
    let killed = command(
        &server.client().await,
        &["CLIENT", "KILL", "TYPE", "pubsub"],
    )
    .await?;
    assert_eq!(
        killed.as_i64(),
        Some(1),
        "rooms are followed through one connection"
    );
    goes_on(&logs, &room, &mut live, seq).await;
    assert!(
        matches!(next(&mut quiet).await, Delivery::Gap),
        "a quiet room must be told too"
    );
    // And whoever comes now is subscribed on the new connection.
    let mut late = Reader::of(&*logs.there, &other).await?;
    logs.here.seed(&other, FIRST, Seq(0), 0, now_ms()).await?;
    add(&*logs.here, &other, &messages(1)).await?;
    assert_eq!(late.entry().await.seq, Seq(1));
    DONE
}

/// The network takes a connection away without a word: nothing is refused, nothing is closed.
pub async fn a_silent_connection_is_noticed(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let proxy = Proxy::to(&server.url).await;
    let logs = room_logs_at(&proxy.url).await;
    let room = RoomId::generate();
    logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
    let mut live = logs.there.subscribe(&room).await?;
    let seq = add(&*logs.here, &room, &messages(1)).await?[0];
    next(&mut live).await;
    proxy.silence();
    goes_on(&logs, &room, &mut live, seq).await;
    DONE
}

pub async fn malformed_data_is_an_error_that_names_its_room(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let by_hand = server.client().await;
    let fails = |what: &'static str, room: &RoomId, result: Result<(), PortError>| {
        let error = result.expect_err(what);
        assert!(error.to_string().contains(room.as_str()), "{what}: {error}");
        assert!(!error.is_retryable(), "{what}: {error}");
    };
    let (logs, room) = opened_at(&server).await?;
    add(&*logs.here, &room, &messages(1)).await?;
    for (words, what) in [
        (vec!["XADD", ":log", "2-1", "r", "{}"], "an entry's id"),
        (
            vec!["XADD", ":log", "3-0", "r", "{\"x\""],
            "an entry's record",
        ),
        (vec!["XADD", ":log", "4-0", "r", ""], "an empty record"),
    ] {
        let stream = key(&logs, &room, words[1]);
        command(&by_hand, &["DEL", &stream]).await?;
        let words = [&[words[0], &stream], &words[2..]].concat();
        command(&by_hand, &words).await?;
        let read = logs.here.read(&room, FIRST, Seq(0), 10).await.map(drop);
        fails(what, &room, read);
    }
    let meta = key(&logs, &room, ":meta");
    for field in ["seq", "archived", "role_version", "epoch"] {
        command(&by_hand, &["HSET", &meta, field, "many"]).await?;
        fails(field, &room, logs.here.head(&room).await.map(drop));
        let appended = logs.here.append(to(&room, &messages(1))).await;
        match appended {
            Err(Refusal::Port(error)) => fails(field, &room, Err(error)),
            other => panic!("{field}: {other:?}"),
        }
        command(&by_hand, &["HSET", &meta, field, "1"]).await?;
    }
    command(&by_hand, &["DEL", &meta]).await?;
    command(&by_hand, &["SET", &meta, "a string"]).await?;
    fails(
        "a head of the wrong type",
        &room,
        logs.here.head(&room).await.map(drop),
    );
    DONE
}

pub async fn a_malformed_name_does_not_keep_others_from_the_archive(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let (logs, room) = opened_at(&server).await?;
    add(&*logs.here, &room, &messages(1)).await?;
    let dirty = format!("{}:{{p{}}}:dirty", logs.namespace, room.partition());
    server
        .command(&["SADD", &dirty, "", "stats", "no room!"])
        .await;
    let listed = logs.there.dirty_rooms(None, 10).await?;
    assert_eq!(listed, std::slice::from_ref(&room));
    DONE
}

pub async fn a_malformed_message_is_a_gap(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let by_hand = crate::fixture::redis_server::client(&std::env::var("REDIS_URL")?).await;
    let mut live = logs.there.subscribe(&room).await?;
    for message in [
        "",
        "\u{0}",
        "1 1\n{",
        "{\"s\":\"unheard of\"}",
        "1 99999999999999999999\n{}",
    ] {
        command(&by_hand, &["SPUBLISH", &key(&logs, &room, ""), message]).await?;
        assert!(
            matches!(next(&mut live).await, Delivery::Gap),
            "{message:?}"
        );
    }
    logs.here
        .publish(&room, &Signal::EpochRaised { epoch: FIRST })
        .await?;
    assert!(matches!(next(&mut live).await, Delivery::Signal(_)));
    DONE
}

pub async fn forgotten_scripts_are_sent_again(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let (logs, room) = opened_at(&server).await?;
    let by_hand = server.client().await;
    for n in 1..=3 {
        assert_eq!(add(&*logs.here, &room, &messages(1)).await?, [Seq(n)]);
        command(&by_hand, &["SCRIPT", "FLUSH"]).await?;
    }
    DONE
}

pub async fn a_full_redis_refuses_appends_and_can_be_trimmed(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let (logs, room) = opened_at(&server).await?;
    let by_hand = server.client().await;
    let large = [chat(&author("a"), &"x".repeat(100_000), Some("r"))];
    add(&*logs.here, &room, &large).await?;
    add(&*logs.here, &room, &messages(1_000)).await?;
    logs.here
        .seed(&RoomId::generate(), FIRST, Seq(0), 0, now_ms())
        .await?;
    command(&by_hand, &["CONFIG", "SET", "maxmemory", "1mb"]).await?;
    let before = head(&*logs.here, &room).await?;
    let refused = logs.here.append(to(&room, &messages(1))).await;
    assert!(
        matches!(refused, Err(Refusal::ArchiveBehind)),
        "{refused:?}"
    );
    assert_eq!(head(&*logs.here, &room).await?, before);
    // Everything that helps still works.
    assert_eq!(read_all(&*logs.here, &room).await?.len(), 1_001);
    logs.here.set_role_version(&room, 1).await?;
    logs.here
        .seed(&RoomId::generate(), FIRST, Seq(3), 0, now_ms())
        .await?;
    assert!(
        logs.here
            .confirm_archived(&room, FIRST, before.seq, before.seq)
            .await?
    );
    assert!(logs.here.unload(&room, FIRST, before.seq).await?);
    DONE
}

/// What a test waits for must come.
struct Patience(tokio::time::Instant);

impl Patience {
    fn new() -> Self {
        Self(tokio::time::Instant::now() + DEADLINE)
    }

    async fn or_else(&self, what: &str) {
        assert!(tokio::time::Instant::now() < self.0, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Queues and tokens may lie there too: rooms leave them room, and are not told that nothing works.
pub async fn a_redis_that_is_nearly_full_refuses_rooms_and_nothing_else(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let (logs, room) = opened_at(&server).await?;
    let said = [chat(&author("a"), "", Some("r"))];
    add(&*logs.here, &room, &said).await?;
    let info = server.command(&["INFO", "memory"]).await;
    let info = info.into_string().expect("a text");
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: u64 = used.expect("used_memory").trim().parse()?;
    // Nine tenths of it are used.
    let most = (used * 10 / 9).to_string();
    server.command(&["CONFIG", "SET", "maxmemory", &most]).await;
    let (patience, more) = (Patience::new(), messages(1));
    let refused = loop {
        match logs.here.append(to(&room, &more)).await {
            Err(refused) => break refused,
            Ok(_) => patience.or_else("rooms still fill it").await,
        }
    };
    assert!(matches!(refused, Refusal::ArchiveBehind), "{refused:?}");
    server.command(&["SET", "other", "written"]).await;
    // What is stored already is told.
    let again = logs.here.append(to(&room, &said)).await?;
    assert_eq!(again.0, [Appended::Duplicate(Seq(1))]);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let patience = Patience::new();
    while logs.here.append(to(&room, &more)).await.is_err() {
        patience.or_else("it takes nothing any more").await;
    }
    DONE
}

/// A failover that cuts no connection: the server that was the primary answers everything but writes.
pub async fn a_demoted_primary_is_left_for_the_one_that_took_over(_: Mode) -> Outcome {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let proxy = Proxy::to(&old.url).await;
    let logs = room_logs_at(&proxy.url).await;
    let room = RoomId::generate();
    logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
    let mut live = Reader::of(&*logs.there, &room).await?;
    add(&*logs.here, &room, &messages(1)).await?;
    live.entries(1).await;
    let port = new.port.to_string();
    old.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    let patience = Patience::new();
    let told = loop {
        match logs.here.ping().await {
            Err(told) => break told,
            Ok(()) => patience.or_else("it counts as well").await,
        }
    };
    assert!(told.is_retryable(), "{told}");
    proxy.lead_to(&new.url);
    // It has nothing of the room.
    let patience = Patience::new();
    while logs
        .here
        .seed(&room, Epoch(2), Seq(1), 0, now_ms())
        .await
        .is_err()
    {
        patience.or_else("nothing is written any more").await;
    }
    while logs.here.ping().await.is_err() {
        patience.or_else("it counts as away").await;
    }
    let (patience, more) = (Patience::new(), messages(1));
    loop {
        let append = Append {
            epoch: Epoch(2),
            ..to(&room, &more)
        };
        let _may_be_on_its_way = logs.here.append(append).await;
        let wait = Duration::from_millis(200);
        let heard = tokio::time::timeout(wait, live.subscription.next()).await;
        if let Ok(Some(Delivery::Entries { epoch, .. })) = heard {
            assert_eq!(epoch, Epoch(2));
            return DONE;
        }
        patience.or_else("the subscriber stayed behind").await;
    }
}

/// As after a restart from what was on disk, or after a replica took over: the numbers go on, and nothing tells.
pub async fn a_log_of_another_life_of_its_server_is_broken(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let (logs, room) = opened_at(&server).await?;
    add(&*logs.here, &room, &messages(3)).await?;
    assert!(logs.there.is_unbroken(&room).await?);
    let nowhere = RoomId::generate();
    assert!(logs.there.is_unbroken(&nowhere).await?, "no log");
    let meta = key(&logs, &room, ":meta");
    for (server_then, unbroken) in [("a1b2c3", false), ("", true)] {
        server
            .command(&["HSET", &meta, "server", server_then])
            .await;
        assert_eq!(logs.there.is_unbroken(&room).await?, unbroken);
    }
    server.command(&["HSET", &meta, "server", "a1b2c3"]).await;
    logs.here.seed(&room, Epoch(2), Seq(3), 0, now_ms()).await?;
    assert!(logs.there.is_unbroken(&room).await?, "seeded anew");
    DONE
}

pub async fn an_emptied_redis_refuses_until_it_is_seeded(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let (logs, room) = opened_at(&server).await?;
    let mut live = Reader::of(&*logs.there, &room).await?;
    add(&*logs.here, &room, &messages(3)).await?;
    live.entries(3).await;
    command(&server.client().await, &["FLUSHALL"]).await?;
    let refused = logs.here.append(to(&room, &messages(1))).await;
    assert!(matches!(refused, Err(Refusal::NotSeeded)), "{refused:?}");
    assert_eq!(logs.here.head(&room).await?, None);
    logs.here.seed(&room, Epoch(2), Seq(2), 0, now_ms()).await?;
    logs.here
        .append(Append {
            epoch: Epoch(2),
            ..to(&room, &messages(1))
        })
        .await?;
    match next(&mut live.subscription).await {
        Delivery::Entries { epoch, entries } => {
            assert_eq!((epoch, seqs(&entries)), (Epoch(2), vec![3]));
        }
        other => panic!("{other:?}"),
    }
    DONE
}

/// Two nodes; every script must keep to one slot, and every room be found on its node.
pub async fn a_cluster_serves_the_rooms_of_all_its_nodes(_: Mode) -> Outcome {
    let nodes = RedisServer::start_cluster().await;
    let logs = room_logs_at(&nodes[0].url.replace("redis://", "redis-cluster://")).await;
    let ada = author("a");
    let mut dirty = Vec::new();
    for _ in 0..20 {
        let room = RoomId::generate();
        logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
        let mut live = Reader::of(&*logs.there, &room).await?;
        let records = [chat(&ada, "", Some("r")), chat(&ada, "", None)];
        add(&*logs.here, &room, &records).await?;
        assert_eq!(live.entries(2).await, read_all(&*logs.there, &room).await?);
        let keys = [records[0].ref_key().expect("a ref")];
        assert_eq!(logs.there.seqs_of_refs(&room, &keys).await?, [Some(Seq(1))]);
        logs.there.set_role_version(&room, 0).await?;
        assert!(
            !logs
                .there
                .confirm_archived(&room, FIRST, Seq(1), Seq(1))
                .await?
        );
        dirty.push(room);
    }
    let mut listed = logs.there.dirty_rooms(None, 100).await?;
    listed.sort();
    dirty.sort();
    assert_eq!(listed, dirty);
    for room in &dirty {
        assert!(
            logs.there
                .confirm_archived(room, FIRST, Seq(2), Seq(2))
                .await?
        );
        assert!(logs.there.unload(room, FIRST, Seq(2)).await?);
    }
    assert_eq!(logs.there.dirty_rooms(None, 100).await?, []);
    DONE
}

/// The room's slot moves to the other node while it is followed: Redis unsubscribes everybody, without an answer to
/// anything asked.
pub async fn a_slot_that_moves_is_a_gap_and_then_goes_on(_: Mode) -> Outcome {
    let nodes = RedisServer::start_cluster().await;
    let logs = room_logs_at(&nodes[0].url.replace("redis://", "redis-cluster://")).await;
    let room = RoomId::generate();
    logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
    let mut live = logs.there.subscribe(&room).await?;
    add(&*logs.here, &room, &messages(1)).await?;
    next(&mut live).await;

    let slot = fred::util::redis_keyslot(key(&logs, &room, ":meta").as_bytes());
    let (from, to) = if slot < 8192 {
        (&nodes[0], &nodes[1])
    } else {
        (&nodes[1], &nodes[0])
    };
    let id = async |node: &RedisServer| {
        let id = node.command(&["CLUSTER", "MYID"]).await;
        id.into_string().expect("an id")
    };
    let (slot, from_id, to_id) = (slot.to_string(), id(from).await, id(to).await);
    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])
        .await;
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])
        .await;
    let keys = from
        .command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"])
        .await
        .into_array();
    for moved in keys {
        let (moved, port) = (moved.into_string().expect("a key"), to.port.to_string());
        from.command(&["MIGRATE", "127.0.0.1", &port, &moved, "0", "5000"])
            .await;
    }
    for node in [to, from] {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id])
            .await;
    }
    // A pod that does nothing at all with a room's slot does not learn that it moved; this one asks now and then.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let (mut heard, mut gaps) = (false, 0);
    while !heard {
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing arrives any more"
        );
        let _maybe_moved = logs.there.head(&room).await;
        let Ok(newest) = add(&*logs.here, &room, &messages(1)).await else {
            continue;
        };
        let wait = Duration::from_millis(200);
        while let Ok(Some(delivery)) = tokio::time::timeout(wait, live.next()).await {
            match delivery {
                Delivery::Gap => gaps += 1,
                Delivery::Entries { entries, .. } => {
                    heard = entries.iter().any(|entry| entry.seq == newest[0]);
                }
                Delivery::Signal(signal) => panic!("{signal:?}"),
            }
        }
    }
    assert!(gaps > 0, "it went on without a gap");
    assert_eq!(seqs(&read_all(&*logs.there, &room).await?)[0], 1);
    DONE
}
