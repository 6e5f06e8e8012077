//! Entering under a client id, changing, leaving.

use std::collections::HashSet;

use super::*;

pub async fn a_free_client_id_is_entered(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let ada = member("a", PodId::generate());
    here.ping().await?;
    assert_eq!(there.members(&room).await?, []);
    assert_eq!(here.enter(&room, &ada, None).await?, Claim::Entered);
    assert_eq!(there.members(&room).await?, [ada]);
    DONE
}

pub async fn the_same_connection_may_ask_twice(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let mut ada = member("a", PodId::generate());
    here.enter(&room, &ada, None).await?;
    ada.name = "Ada L".into();
    assert_eq!(here.enter(&room, &ada, None).await?, Claim::Entered);
    assert_eq!(there.members(&room).await?, std::slice::from_ref(&ada));
    assert!(here.leave(&room, &ada.client_id, ada.connection).await?);
    assert_eq!(there.members(&room).await?, []);
    DONE
}

pub async fn the_same_principal_replaces_itself(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let old = member("a", PodId::generate());
    let new = Member {
        pod: PodId::generate(),
        ..again(&old)
    };
    here.enter(&room, &old, None).await?;
    let claim = there.enter(&room, &new, None).await?;
    assert_eq!(claim, Claim::Replaced(Box::new(old)));
    assert_eq!(here.members(&room).await?, [new]);
    DONE
}

pub async fn somebody_elses_client_id_is_held(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let ada = member("a", PodId::generate());
    let eve = member("a", PodId::generate());
    here.enter(&room, &ada, None).await?;
    assert_eq!(
        there.enter(&room, &eve, None).await?,
        Claim::Held(Box::new(ada.clone()))
    );
    assert_eq!(here.members(&room).await?, std::slice::from_ref(&ada));
    // Once it has left, anybody may use it.
    assert!(here.leave(&room, &ada.client_id, ada.connection).await?);
    assert_eq!(there.enter(&room, &eve, None).await?, Claim::Entered);
    DONE
}

pub async fn a_dead_holder_is_taken_over_if_it_is_still_that_connection(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let ada = member("a", PodId::generate());
    let eve = member("a", PodId::generate());
    here.enter(&room, &ada, None).await?;
    // Ada came again while Eve was waiting for the first connection to answer.
    let ada_again = again(&ada);
    here.enter(&room, &ada_again, None).await?;
    let claim = there.enter(&room, &eve, Some(ada.connection)).await?;
    assert_eq!(claim, Claim::Held(Box::new(ada_again.clone())));
    let claim = there.enter(&room, &eve, Some(ada_again.connection)).await?;
    assert_eq!(claim, Claim::Replaced(Box::new(ada_again)));
    assert_eq!(here.members(&room).await?, [eve]);
    DONE
}

pub async fn of_many_strangers_one_enters(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let strangers: Vec<Member> = (0..30).map(|_| member("a", PodId::generate())).collect();
    let claims =
        futures::future::try_join_all(strangers.iter().enumerate().map(|(n, stranger)| {
            let presence = if n % 2 == 0 { &here } else { &there };
            presence.enter(&room, stranger, None)
        }))
        .await?;
    let holder = here.members(&room).await?.remove(0);
    for (stranger, claim) in strangers.iter().zip(claims) {
        let expected = if stranger.connection == holder.connection {
            Claim::Entered
        } else {
            Claim::Held(Box::new(holder.clone()))
        };
        assert_eq!(claim, expected);
    }
    DONE
}

pub async fn of_many_tabs_the_last_holds_and_each_other_is_told_once(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let first = member("a", PodId::generate());
    let tabs: Vec<Member> = (0..30).map(|_| again(&first)).collect();
    let claims = futures::future::try_join_all(tabs.iter().enumerate().map(|(n, tab)| {
        let presence = if n % 2 == 0 { &here } else { &there };
        presence.enter(&room, tab, None)
    }))
    .await?;
    let holders = here.members(&room).await?;
    assert_eq!(holders.len(), 1);
    let mut told: HashSet<ConnectionId> = HashSet::new();
    let mut entered = 0;
    for claim in claims {
        match claim {
            Claim::Entered => entered += 1,
            Claim::Replaced(old) => assert!(told.insert(old.connection), "told twice"),
            Claim::Held(holder) => panic!("held by itself: {holder:?}"),
        }
    }
    assert_eq!((entered, told.len()), (1, 29));
    assert!(!told.contains(&holders[0].connection));
    DONE
}

pub async fn a_member_leaves_once(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let ada = member("a", PodId::generate());
    here.enter(&room, &ada, None).await?;
    let left = futures::future::try_join_all((0..30).map(|n| {
        let presence = if n % 2 == 0 { &here } else { &there };
        presence.leave(&room, &ada.client_id, ada.connection)
    }))
    .await?;
    assert_eq!(left.into_iter().filter(|left| *left).count(), 1);
    assert!(!here.update(&room, &ada).await?);
    assert_eq!(here.members(&room).await?, []);
    DONE
}

pub async fn a_replaced_connection_cannot_leave_or_update_for_its_successor(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let old = member("a", PodId::generate());
    let new = again(&old);
    here.enter(&room, &old, None).await?;
    there.enter(&room, &new, None).await?;
    assert!(!here.update(&room, &old).await?);
    assert!(!here.leave(&room, &old.client_id, old.connection).await?);
    assert_eq!(here.members(&room).await?, std::slice::from_ref(&new));
    assert!(there.leave(&room, &new.client_id, new.connection).await?);
    DONE
}

pub async fn an_update_is_seen_by_all(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let room = RoomId::generate();
    let mut ada = member("a", PodId::generate());
    assert!(!here.update(&room, &ada).await?, "nobody is there yet");
    assert_eq!(here.members(&room).await?, []);
    here.enter(&room, &ada, None).await?;
    ada.status = Status::Away;
    ada.cursor_position = None;
    ada.selection = Some(Box::new(serde_json::json!({"start": 1, "end": 1e20})));
    assert!(here.update(&room, &ada).await?);
    assert_eq!(there.members(&room).await?, [ada]);
    DONE
}
