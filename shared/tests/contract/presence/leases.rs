//! Pods, their leases, and what becomes of the members of dead ones.

use super::*;

pub async fn a_lapsed_pods_members_are_handed_out_once(mode: Mode) -> Outcome {
    let presences = presences(mode).await;
    let dead = PodId::generate();
    presences[0].renew(dead, LEASE).await?;
    let mut expected = Vec::new();
    for n in 0..60 {
        let room: RoomId = format!("room{}", n % 20).parse()?;
        let member = member(&n.to_string(), dead);
        presences[n % 2].enter(&room, &member, None).await?;
        expected.push((room, member));
    }
    // Several pods on their own beats, for as long as it takes and a while longer.
    let mut reapers = tokio::task::JoinSet::new();
    let (count, mut counted) = tokio::sync::watch::channel(0);
    for n in 0..6 {
        let (presence, count) = (presences[n % 2].clone(), count.clone());
        let mut counted = count.subscribe();
        reapers.spawn(async move {
            let pod = PodId::generate();
            let _alive = alive(&presence, pod).await;
            let mut handed = Vec::new();
            while *counted.borrow_and_update() < 60 {
                let some = presence.reap(pod, 7).await.expect("a beat");
                count.send_modify(|count| *count += some.len());
                handed.extend(some);
                tokio::time::sleep(LEASE / 20).await;
            }
            for _ in 0..5 {
                handed.extend(presence.reap(pod, 7).await.expect("a beat"));
            }
            handed
        });
    }
    let all = counted.wait_for(|count| *count >= 60);
    assert!(
        tokio::time::timeout(DEADLINE, all).await.is_ok(),
        "{} of 60 were reaped",
        *count.borrow()
    );
    let mut handed = reapers.join_all().await.concat();
    let by_client = |(room, member): &(RoomId, Member)| (room.clone(), member.client_id.clone());
    handed.sort_by_key(by_client);
    expected.sort_by_key(by_client);
    assert_eq!(handed, expected);
    assert_eq!(presences[0].occupied(None, 100).await?, []);
    assert_eq!(presences[0].members(&"room1".parse()?).await?, []);
    DONE
}

pub async fn a_live_pod_is_not_reaped(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (live, dead, reaper) = (PodId::generate(), PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    let _live = alive(&here, live).await;
    let _reaper = alive(&there, reaper).await;
    here.renew(dead, LEASE).await?;
    here.enter(&room, &member("live", live), None).await?;
    here.enter(&room, &member("reaper", reaper), None).await?;
    here.enter(&room, &member("dead", dead), None).await?;
    let handed = reaped(&*there, reaper, 1).await;
    assert_eq!(handed[0].1.client_id.as_str(), "dead");
    for _ in 0..20 {
        assert_eq!(there.reap(reaper, 100).await?, []);
        tokio::time::sleep(LEASE / 10).await;
    }
    assert_eq!(here.members(&room).await?.len(), 2);
    DONE
}

pub async fn reaping_keeps_its_limit(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (dead, reaper) = (PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    here.renew(dead, LEASE).await?;
    for n in 0..10 {
        here.enter(&room, &member(&n.to_string(), dead), None)
            .await?;
    }
    let _reaper = alive(&there, reaper).await;
    let mut sizes = Vec::new();
    let first = async {
        while sizes.is_empty() {
            let some = there.reap(reaper, 4).await.expect("a beat");
            sizes.extend((!some.is_empty()).then_some(some.len()));
            tokio::time::sleep(LEASE / 20).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, first).await.is_ok(),
        "nobody was reaped"
    );
    // What was left over is there for the next beat, whoever's.
    sizes.push(there.reap(reaper, 4).await?.len());
    sizes.push(here.reap(reaper, 4).await?.len());
    assert_eq!(sizes, [4, 4, 2]);
    DONE
}

pub async fn who_just_came_reaps_nobody(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (dead, newcomer, stranger) = (PodId::generate(), PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    here.renew(dead, Duration::from_millis(1)).await?;
    here.enter(&room, &member("a", dead), None).await?;
    tokio::time::sleep(LEASE / 10).await;
    let came = tokio::time::Instant::now();
    let _newcomer = alive(&there, newcomer).await;
    assert_eq!(there.reap(stranger, 10).await?, [], "a pod without a lease");
    reaped(&*there, newcomer, 1).await;
    assert!(came.elapsed() >= LEASE, "reaped after {:?}", came.elapsed());
    DONE
}

pub async fn who_stopped_renewing_reaps_nobody(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (dead, sleeper) = (PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    let renewing = alive(&there, sleeper).await;
    tokio::time::sleep(LEASE * 3 / 2).await;
    drop(renewing);
    // It sleeps for more than half a lease; meanwhile somebody dies.
    here.renew(dead, Duration::from_millis(1)).await?;
    here.enter(&room, &member("a", dead), None).await?;
    tokio::time::sleep(LEASE * 2 / 3).await;
    assert_eq!(
        there.reap(sleeper, 10).await?,
        [],
        "it knows nothing of the time it slept"
    );
    let woke = tokio::time::Instant::now();
    let _renewing = alive(&there, sleeper).await;
    assert_eq!(
        there.reap(sleeper, 10).await?,
        [],
        "nor does renewing once help"
    );
    reaped(&*there, sleeper, 1).await;
    assert!(woke.elapsed() >= LEASE, "reaped after {:?}", woke.elapsed());
    DONE
}

pub async fn a_pod_that_renews_again_is_safe(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (late, reaper) = (PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    let _reaper = alive(&there, reaper).await;
    here.renew(late, Duration::from_millis(1)).await?;
    here.enter(&room, &member("a", late), None).await?;
    // Nobody has reaped it yet: the reaper is new.
    let _late = alive(&here, late).await;
    for _ in 0..30 {
        assert_eq!(there.reap(reaper, 10).await?, []);
        tokio::time::sleep(LEASE / 10).await;
    }
    assert_eq!(here.members(&room).await?.len(), 1);
    DONE
}

pub async fn a_retired_pod_is_lapsed_at_once(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (retired, reaper) = (PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    let _reaper = alive(&there, reaper).await;
    here.renew(retired, Duration::from_secs(3_600)).await?;
    here.enter(&room, &member("a", retired), None).await?;
    here.retire(retired).await?;
    here.retire(PodId::generate()).await?;
    assert_eq!(here.reap(retired, 10).await?, []);
    reaped(&*there, reaper, 1).await;
    DONE
}

pub async fn a_reaped_member_may_enter_again(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (dead, reaper) = (PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    let ada = member("a", dead);
    here.renew(dead, Duration::from_millis(1)).await?;
    here.enter(&room, &ada, None).await?;
    let _reaper = alive(&there, reaper).await;
    reaped(&*there, reaper, 1).await;
    assert!(
        !here.update(&room, &ada).await?,
        "its pod must learn that it was reaped"
    );
    assert!(!here.leave(&room, &ada.client_id, ada.connection).await?);
    // The pod was only cut off, and comes back: its member is safe, and when it dies again so is the room.
    let alive_again = alive(&here, dead).await;
    assert_eq!(here.enter(&room, &ada, None).await?, Claim::Entered);
    for _ in 0..15 {
        assert_eq!(there.reap(reaper, 10).await?, []);
        tokio::time::sleep(LEASE / 10).await;
    }
    drop(alive_again);
    assert_eq!(reaped(&*there, reaper, 1).await, [(room, ada)]);
    DONE
}

pub async fn a_member_that_moved_to_a_live_pod_is_not_reaped(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (dead, reaper) = (PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    let (old, other) = (member("a", dead), member("b", dead));
    here.renew(dead, LEASE).await?;
    here.enter(&room, &old, None).await?;
    here.enter(&room, &other, None).await?;
    let _reaper = alive(&there, reaper).await;
    let moved = Member {
        pod: reaper,
        ..again(&old)
    };
    there.enter(&room, &moved, None).await?;
    assert_eq!(reaped(&*there, reaper, 1).await, [(room.clone(), other)]);
    for _ in 0..5 {
        assert_eq!(there.reap(reaper, 10).await?, []);
    }
    assert_eq!(here.members(&room).await?, [moved]);
    DONE
}

pub async fn a_pod_is_told_for_how_long_it_was_steady(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let pod = PodId::generate();
    assert_eq!(here.steady(pod).await?, Duration::ZERO, "never seen");
    let long = Duration::from_secs(60);
    let began = tokio::time::Instant::now();
    assert_eq!(
        here.renew(pod, long).await?,
        Duration::ZERO,
        "the first time"
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    let renewed = there.renew(pod, long).await?;
    let asked = here.steady(pod).await?;
    assert!(renewed >= Duration::from_millis(49), "{renewed:?}");
    assert!(renewed <= asked, "{renewed:?}, then {asked:?}");
    let most = began.elapsed() + Duration::from_millis(2);
    assert!(asked <= most, "{asked:?} of {most:?}");
    // Late by more than half of a lease: it starts anew.
    let short = Duration::from_millis(40);
    here.renew(pod, short).await?;
    tokio::time::sleep(short).await;
    assert_eq!(here.steady(pod).await?, Duration::ZERO, "late");
    assert_eq!(
        there.renew(pod, short).await?,
        Duration::ZERO,
        "after a pause"
    );
    DONE
}

pub async fn whom_reaping_would_hand_out_is_listed_and_left(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (live, dead, reaper) = (PodId::generate(), PodId::generate(), PodId::generate());
    let room = RoomId::generate();
    let _live = alive(&here, live).await;
    here.renew(dead, LEASE).await?;
    here.enter(&room, &member("live", live), None).await?;
    here.enter(&room, &member("one", dead), None).await?;
    here.enter(&room, &member("two", dead), None).await?;
    here.retire(dead).await?;
    assert_eq!(there.lapsed(reaper, 10).await?, [], "it just came");
    let _reaper = alive(&there, reaper).await;
    let listed = async {
        loop {
            let listed = there.lapsed(reaper, 10).await.expect("a list");
            if !listed.is_empty() {
                return listed;
            }
            tokio::time::sleep(LEASE / 20).await;
        }
    };
    let mut listed = tokio::time::timeout(DEADLINE, listed).await?;
    listed.sort_by(|a, b| a.1.client_id.cmp(&b.1.client_id));
    let names: Vec<&str> = listed.iter().map(|(_, m)| m.client_id.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert!(listed.iter().all(|(at, _)| *at == room));
    assert_eq!(there.lapsed(reaper, 1).await?.len(), 1);
    assert_eq!(here.members(&room).await?.len(), 3, "they are left");
    assert_eq!(reaped(&*there, reaper, 2).await.len(), 2);
    assert_eq!(there.lapsed(reaper, 10).await?, []);
    DONE
}
