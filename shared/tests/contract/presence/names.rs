//! Who goes by which name.

use atelier_shared::ports::NAME_HOLDERS_MAX;

use super::*;

const LONG: Duration = Duration::from_secs(600);

pub async fn a_name_is_held_for_its_time_and_not_longer(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let ana = UserId::generate();
    assert!(!there.is_name_held("größe 🦊", None).await?);
    let ttl = Duration::from_millis(400);
    here.hold_name("größe 🦊", ana, ttl).await?;
    here.hold_name("ben", ana, LONG).await?;
    let freed = async {
        while there.is_name_held("größe 🦊", None).await? {
            tokio::time::sleep(ttl / 20).await;
        }
        Ok::<(), atelier_shared::ports::PortError>(())
    };
    tokio::time::timeout(DEADLINE, freed).await??;
    assert!(there.is_name_held("ben", None).await?);
    DONE
}

pub async fn several_people_may_hold_a_name_and_each_lets_go_alone(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (ana, eve) = (UserId::generate(), UserId::generate());
    here.hold_name("ana", ana, LONG).await?;
    assert!(!there.is_name_held("ana", Some(ana)).await?, "her own");
    assert!(there.is_name_held("ana", Some(eve)).await?);
    there.hold_name("ana", eve, LONG).await?;
    assert!(here.is_name_held("ana", Some(ana)).await?);
    here.hold_name("ana", ana, Duration::ZERO).await?;
    assert!(here.is_name_held("ana", None).await?);
    assert!(!here.is_name_held("ana", Some(eve)).await?);
    there.hold_name("ana", eve, Duration::ZERO).await?;
    assert!(!here.is_name_held("ana", None).await?);
    DONE
}

pub async fn a_shorter_hold_does_not_shorten_a_longer_one(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let ana = UserId::generate();
    here.hold_name("ana", ana, LONG).await?;
    let short = Duration::from_millis(5);
    there.hold_name("ana", ana, short).await?;
    tokio::time::sleep(short * 4).await;
    assert!(there.is_name_held("ana", None).await?);
    DONE
}

pub async fn a_crowd_under_one_name_is_bounded(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let first = UserId::generate();
    here.hold_name("ana", first, Duration::from_secs(60))
        .await?;
    for _ in 0..NAME_HOLDERS_MAX {
        here.hold_name("ana", UserId::generate(), LONG).await?;
    }
    // Whose hold ends first is forgotten; ending the others' holds would not bring it back.
    assert!(there.is_name_held("ana", Some(first)).await?);
    here.hold_name("ana", first, Duration::from_secs(60))
        .await?;
    assert!(there.is_name_held("ana", None).await?);
    DONE
}

pub async fn of_many_who_take_a_name_at_once_one_has_it(mode: Mode) -> Outcome {
    let presences = presences(mode).await;
    let mut takers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let presence = presences[n % 2].clone();
        takers.spawn(async move {
            let person = UserId::generate();
            let taken = presence.take_name("ana", person, LONG).await;
            taken.expect("an answer").then_some(person)
        });
    }
    let had: Vec<UserId> = takers.join_all().await.into_iter().flatten().collect();
    assert_eq!(had.len(), 1);
    assert!(!presences[0].is_name_held("ana", Some(had[0])).await?);
    assert!(presences[1].is_name_held("ana", None).await?);
    DONE
}

pub async fn who_holds_a_name_takes_it_again_and_others_when_it_is_over(mode: Mode) -> Outcome {
    let [here, there] = presences(mode).await;
    let (ana, eve) = (UserId::generate(), UserId::generate());
    assert!(here.take_name("ana", ana, LONG).await?);
    assert!(there.take_name("ana", ana, LONG).await?, "her own");
    assert!(!there.take_name("ana", eve, LONG).await?);
    here.hold_name("ana", ana, Duration::ZERO).await?;
    assert!(
        there
            .take_name("ana", eve, Duration::from_millis(300))
            .await?
    );
    let free = async {
        while !here.take_name("ana", ana, LONG).await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, atelier_shared::ports::PortError>(())
    };
    tokio::time::timeout(DEADLINE, free).await??;
    DONE
}
