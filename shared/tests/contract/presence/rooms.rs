//! Who is in a room, and which rooms are occupied.

use super::*;

pub async fn members_come_in_the_order_of_their_client_ids(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let mut ids = ["z", "a", "B", "~", "!", "aa", "10", "9"];
    for id in ids {
        here.enter(&room, &member(id, PodId::generate()), None)
            .await?;
    }
    ids.sort_unstable();
    let members = there.members(&room).await?;
    let listed: Vec<&str> = members
        .iter()
        .map(|member| member.client_id.as_str())
        .collect();
    assert_eq!(listed, ids);
    DONE
}

pub async fn rooms_keep_their_members_apart(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (one, two) = (RoomId::generate(), RoomId::generate());
    let ada = member("a", PodId::generate());
    let eve = member("a", PodId::generate());
    here.enter(&one, &ada, None).await?;
    assert_eq!(there.enter(&two, &eve, None).await?, Claim::Entered);
    assert!(!there.leave(&two, &ada.client_id, ada.connection).await?);
    assert_eq!(here.members(&one).await?, [ada]);
    assert_eq!(here.members(&two).await?, [eve]);
    DONE
}

pub async fn a_pods_members_are_found_wherever_they_are(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (pod, other) = (PodId::generate(), PodId::generate());
    let mut wanted = Vec::new();
    for n in 0..20 {
        let room = RoomId::generate();
        here.enter(&room, &member("other", other), None).await?;
        let ada = member(&format!("a{n}"), pod);
        here.enter(&room, &ada, None).await?;
        wanted.push((room, ada));
    }
    let by_room = |(a, _): &(RoomId, Member), (b, _): &(RoomId, Member)| a.cmp(b);
    wanted.sort_by(by_room);
    let mut found = there.members_of(pod, 100).await?;
    found.sort_by(by_room);
    assert_eq!(found, wanted);
    assert_eq!(there.members_of(pod, 7).await?.len(), 7);
    let (room, gone) = wanted.remove(0);
    there.leave(&room, &gone.client_id, gone.connection).await?;
    assert_eq!(here.members_of(pod, 100).await?.len(), 19);
    assert_eq!(here.members_of(PodId::generate(), 100).await?, []);
    DONE
}

pub async fn occupied_rooms_are_counted_and_paged(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    assert_eq!(there.occupied(None, 10).await?, []);
    let mut expected: Vec<(RoomId, usize)> = Vec::new();
    for n in 0..60_usize {
        // Ids that begin alike, and one that begins with a character that ranges begin with.
        let room: RoomId = if n == 0 { "-".into() } else { format!("r{n}") }.parse()?;
        for client in 0..=n % 3 {
            here.enter(&room, &member(&client.to_string(), PodId::generate()), None)
                .await?;
        }
        expected.push((room, 1 + n % 3));
    }
    expected.sort();
    for limit in [1, 7, 60, 1_000] {
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let page = there.occupied(after.as_ref(), limit).await?;
            assert!(page.len() <= limit);
            let full = page.len() == limit;
            listed.extend(page.into_iter().map(|room| (room.room, room.members)));
            after = listed.last().map(|(room, _)| room.clone());
            if !full {
                break;
            }
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
    assert_eq!(there.occupied(None, 0).await?, []);
    DONE
}

/// However the rooms lie in the store: here half of them in one partition.
pub async fn crowded_partitions_are_paged_in_order(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let mut expected: Vec<RoomId> = (0..40_000)
        .map(|n| format!("r{n:05}").parse().expect("a room id"))
        .filter(|room: &RoomId| room.partition() == 7)
        .take(30)
        .collect();
    expected.extend((0..30).map(|_| RoomId::generate()));
    for room in &expected {
        here.enter(room, &member("a", PodId::generate()), None)
            .await?;
    }
    expected.sort();
    for limit in [3, 25, 60, 61] {
        let mut listed: Vec<RoomId> = Vec::new();
        loop {
            let page = there.occupied(listed.last(), limit).await?;
            listed.extend(page.iter().map(|room| room.room.clone()));
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(listed, expected, "in pages of {limit}");
    }
    DONE
}

pub async fn an_empty_room_is_not_occupied(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let (ada, eve) = (
        member("a", PodId::generate()),
        member("e", PodId::generate()),
    );
    here.enter(&room, &ada, None).await?;
    here.enter(&room, &eve, None).await?;
    here.leave(&room, &ada.client_id, ada.connection).await?;
    assert_eq!(there.occupied(None, 10).await?[0].members, 1);
    here.leave(&room, &eve.client_id, eve.connection).await?;
    assert_eq!(there.occupied(None, 10).await?, []);
    // A claim that is held back makes no room.
    let held = RoomId::generate();
    here.enter(&held, &ada, None).await?;
    there
        .enter(&held, &member("a", PodId::generate()), None)
        .await?;
    here.leave(&held, &ada.client_id, ada.connection).await?;
    assert_eq!(there.occupied(None, 10).await?, []);
    DONE
}
