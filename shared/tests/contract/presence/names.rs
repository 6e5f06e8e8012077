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
