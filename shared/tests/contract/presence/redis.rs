//! What only Redis can break.

use super::*;
use crate::fixture::presences_at;
use crate::fixture::redis_server::{RedisServer, command};

/// Redis stands still for three leases. Every pod was alive all the time.
pub async fn a_stall_of_redis_reaps_nobody(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let presences = presences_at(&server.url).await;
    let room = RoomId::generate();
    let pods: Vec<PodId> = (0..4).map(|_| PodId::generate()).collect();
    let mut living = Vec::new();
    for (n, pod) in pods.iter().enumerate() {
        living.push(alive(&presences[n % 2], *pod).await);
        presences[0]
            .enter(&room, &member(&n.to_string(), *pod), None)
            .await?;
    }
    // All of them steady, and reaping on a fast beat.
    tokio::time::sleep(LEASE * 3 / 2).await;
    let beat = |n: usize| {
        let (presence, pod) = (presences[n % 2].clone(), pods[n]);
        tokio::spawn(async move {
            let until = tokio::time::Instant::now() + LEASE * 8;
            let mut handed = Vec::new();
            while tokio::time::Instant::now() < until {
                // Those sent during the stall time out, and may be carried out after it: so must be harmless.
                handed.extend(presence.reap(pod, 100).await.unwrap_or_default());
                tokio::time::sleep(LEASE / 50).await;
            }
            handed
        })
    };
    let beats: Vec<_> = (0..pods.len()).map(beat).collect();
    tokio::time::sleep(LEASE / 10).await;
    let stalled_for = (LEASE * 3).as_secs_f32().to_string();
    let client = server.client().await;
    command(&client, &["DEBUG", "SLEEP", &stalled_for]).await?;
    for handed in futures::future::try_join_all(beats).await? {
        assert_eq!(handed, [], "the living were reaped");
    }
    assert_eq!(presences[0].members(&room).await?.len(), pods.len());
    // Whoever dies then is still found.
    drop(living.pop());
    let handed = reaped(&*presences[0], pods[0], 1).await;
    assert_eq!(handed[0].1.pod, pods[3]);
    DONE
}

pub async fn malformed_data_is_an_error_that_names_its_room(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let [here, _] = presences_at(&server.url).await;
    let by_hand = server.client().await;
    let room = RoomId::generate();
    let ada = member("a", PodId::generate());
    here.enter(&room, &ada, None).await?;
    let keys = command(&by_hand, &["KEYS", "*:members"])
        .await?
        .into_array();
    let key = keys[0].as_string().expect("the members' key");
    for malformed in ["", "{", "[]", "{}", "7", "{\"connection\":1}"] {
        command(&by_hand, &["HSET", &key, "a", malformed]).await?;
        for error in [
            here.members(&room).await.map(drop).expect_err("members"),
            here.enter(&room, &ada, None)
                .await
                .map(drop)
                .expect_err("enter"),
        ] {
            assert!(
                error.to_string().contains(room.as_str()),
                "{malformed:?}: {error}"
            );
            assert!(!error.is_retryable(), "{malformed:?}: {error}");
        }
    }
    DONE
}

pub async fn a_malformed_name_does_not_hide_other_rooms(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let [here, there] = presences_at(&server.url).await;
    let room = RoomId::generate();
    here.enter(&room, &member("a", PodId::generate()), None)
        .await?;
    let keys = server.command(&["KEYS", "*:occupied"]).await.into_array();
    let occupied = keys[0].as_string().expect("the occupied rooms' key");
    for n in 0..10 {
        // Before the room's own name, and more than are asked for at once.
        let malformed = format!("!{n}");
        server.command(&["ZADD", &occupied, "0", &malformed]).await;
    }
    let listed = there.occupied(None, 3).await?;
    assert_eq!((listed.len(), &listed[0].room), (1, &room));
    DONE
}

pub async fn a_malformed_place_does_not_stop_reaping(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let [here, there] = presences_at(&server.url).await;
    let by_hand = server.client().await;
    let (dead, reaper) = (PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    here.renew(dead, LEASE).await?;
    here.enter(&room, &member("a", dead), None).await?;
    here.enter(&room, &member("b", dead), None).await?;
    let keys = command(&by_hand, &["KEYS", "*:places"]).await?.into_array();
    let places = keys[0].as_string().expect("the places' key");
    for malformed in ["", "x", "not_a_room! c x", "stats c x"] {
        command(
            &by_hand,
            &["ZADD", &places, "0", &format!("{dead} {malformed}")],
        )
        .await?;
    }
    let keys = command(&by_hand, &["KEYS", "*:members"])
        .await?
        .into_array();
    let members = keys[0].as_string().expect("the members' key");
    command(&by_hand, &["HSET", &members, "a", "{"]).await?;
    let _reaper = alive(&there, reaper).await;
    let handed = reaped(&*there, reaper, 1).await;
    assert_eq!(handed[0].1.client_id, "b".parse::<ClientId>()?);
    DONE
}

pub async fn a_cluster_serves_the_rooms_of_all_its_nodes(_: Mode) -> Outcome {
    let nodes = RedisServer::start_cluster().await;
    let [here, there] = presences_at(&nodes[0].url.replace("redis://", "redis-cluster://")).await;
    let (dead, reaper) = (PodId::generate(), PodId::generate());
    here.renew(dead, LEASE).await?;
    for n in 0..20 {
        let room = RoomId::generate();
        let mut ada = member(&n.to_string(), dead);
        here.enter(&room, &ada, None).await?;
        ada.status = Status::Idle;
        assert!(here.update(&room, &ada).await?);
        assert_eq!(there.members(&room).await?, [ada]);
    }
    assert_eq!(there.occupied(None, 100).await?.len(), 20);
    let _reaper = alive(&there, reaper).await;
    reaped(&*there, reaper, 20).await;
    assert_eq!(here.occupied(None, 100).await?, []);
    here.retire(reaper).await?;
    DONE
}

pub async fn who_was_steady_starts_anew_when_redis_forgets(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let [here, _] = presences_at(&server.url).await;
    let pod = PodId::generate();
    let long = Duration::from_secs(60);
    here.renew(pod, long).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(here.renew(pod, long).await? > Duration::ZERO, "steady");
    command(&server.client().await, &["FLUSHALL"]).await?;
    assert_eq!(here.steady(pod).await?, Duration::ZERO);
    assert_eq!(here.renew(pod, long).await?, Duration::ZERO);
    DONE
}

/// As a replica that was promoted without its tail: nothing of what it holds tells.
pub async fn who_was_steady_starts_anew_when_redis_was_rolled_back(_: Mode) -> Outcome {
    let mut server = RedisServer::start().await;
    let [here, _] = presences_at(&server.url).await;
    let pod = PodId::generate();
    let long = Duration::from_secs(60);
    here.renew(pod, long).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.command(&["SAVE"]).await;
    assert!(here.renew(pod, long).await? > Duration::ZERO, "steady");
    server.roll_back();
    // Its clients find it again by and by.
    let steady = async {
        loop {
            match here.steady(pod).await {
                Ok(steady) => return steady,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let steady = tokio::time::timeout(DEADLINE, steady).await?;
    assert_eq!(steady, Duration::ZERO);
    assert_eq!(here.renew(pod, long).await?, Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(here.renew(pod, long).await? > Duration::ZERO, "in its life");
    DONE
}
