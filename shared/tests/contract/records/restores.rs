//! Removed rooms come back: whole, under their own id if that is free, by one worker at a time, and never while they expire.

use atelier_shared::Mode;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::removal::{Removal, RemovalState};
use atelier_shared::domain::room::{Retention, Role, Room};
use atelier_shared::ports::{PortError, Records, RestoreBegun};
use chrono::{DateTime, Duration, Utc};
use libtest_mimic::Trial;
use uuid::Uuid;

use super::removals::{made, removed};
use super::{at_once, now};
use crate::archive::promises;
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    use crate::records::restores;
    promises!(trials, "records":
        restores::a_removed_room_comes_back_with_members_and_files,
        restores::a_room_comes_back_under_another_id_where_its_own_is_taken,
        restores::a_room_is_brought_back_by_one_worker_at_a_time,
        restores::a_room_whose_removal_is_not_over_does_not_come_back,
        restores::of_a_restoring_and_an_expiry_one_wins,
    );
}

async fn begin(
    records: &dyn Records,
    removal: &Removal,
    target: &RoomId,
    worker: Uuid,
) -> Result<RestoreBegun, PortError> {
    let until = now() + Duration::seconds(20);
    records
        .begin_restore(removal.id, target, worker, now(), until)
        .await
}

fn begun(begun: RestoreBegun) -> Removal {
    match begun {
        RestoreBegun::Begun(removal) => *removal,
        other => panic!("{other:?}"),
    }
}

pub async fn a_removed_room_comes_back_with_members_and_files(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, file) = made(&*records, Retention::Ephemeral).await?;
    let removal = removed(&*records, &room).await?;
    let worker = Uuid::now_v7();
    assert!(
        !records.finish_restore(removal.id, worker, now()).await?,
        "not begun"
    );
    let begun = begun(begin(&*records, &removal, &room.id, worker).await?);
    assert_eq!(
        (begun.state, &begun.target),
        (RemovalState::Restoring, &Some(room.id.clone()))
    );
    assert!(!records.create_room(&room).await?, "reserved for it");
    assert!(
        !records.reserve_room_id(&room.id, now()).await?,
        "it is coming back"
    );
    // Taken up again, it stays where it was to come back.
    let again = begin(&*records, &removal, &RoomId::generate(), worker).await?;
    assert_eq!(self::begun(again).target, Some(room.id.clone()));
    let at = now();
    assert!(records.finish_restore(removal.id, worker, at).await?);
    assert!(!records.finish_restore(removal.id, worker, at).await?);
    let back = records.room(&room.id).await?.expect("it is back");
    assert_eq!(
        (back.retention, back.last_activity_at),
        (Retention::Keep, at)
    );
    assert_eq!((back.name, back.created_at), (room.name, room.created_at));
    let role = records
        .role(&room.id, room.created_by.expect("a maker"))
        .await?;
    assert_eq!(role, Some(Role::Host));
    assert_eq!(records.file(file.id).await?, Some(file));
    assert_eq!(records.removal(removal.id).await?, None);
    Ok(())
}

pub async fn a_room_comes_back_under_another_id_where_its_own_is_taken(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, file) = made(&*records, Retention::Ephemeral).await?;
    let removal = removed(&*records, &room).await?;
    let stranger = Room {
        name: "another".into(),
        created_by: None,
        ..room.clone()
    };
    assert!(records.create_room(&stranger).await?);
    let worker = Uuid::now_v7();
    let taken = begin(&*records, &removal, &room.id, worker).await?;
    assert_eq!(taken, RestoreBegun::TargetTaken);
    let other = RoomId::generate();
    begun(begin(&*records, &removal, &other, worker).await?);
    assert!(records.finish_restore(removal.id, worker, now()).await?);
    assert_eq!(records.room(&room.id).await?, Some(stranger));
    assert_eq!(
        records.room(&other).await?.map(|room| room.name),
        Some(room.name)
    );
    assert_eq!(
        records.file(file.id).await?.and_then(|file| file.room),
        Some(other)
    );
    Ok(())
}

pub async fn a_room_is_brought_back_by_one_worker_at_a_time(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, _) = made(&*records, Retention::Ephemeral).await?;
    let removal = removed(&*records, &room).await?;
    let workers: Vec<Uuid> = (0..8).map(|_| Uuid::now_v7()).collect();
    let start = now();
    let begin = async |worker: Uuid, at: DateTime<Utc>| {
        let until = at + Duration::seconds(20);
        let begun = records.begin_restore(removal.id, &room.id, worker, at, until);
        begun.await.map(|begun| match begun {
            RestoreBegun::Begun(_) => true,
            RestoreBegun::UnderWay => false,
            other => panic!("{other:?}"),
        })
    };
    let answers = at_once(workers.len(), |n| {
        let (records, worker) = (records.clone(), workers[n]);
        let (id, target) = (removal.id, room.id.clone());
        async move {
            let until = start + Duration::seconds(20);
            let begun = records.begin_restore(id, &target, worker, start, until);
            matches!(begun.await, Ok(RestoreBegun::Begun(_)))
        }
    })
    .await;
    assert_eq!(answers.iter().filter(|begun| **begun).count(), 1);
    let at = answers.iter().position(|begun| *begun).expect("one");
    let (one, two) = (workers[at], workers[(at + 1) % workers.len()]);
    let seconds = |n| start + Duration::seconds(n);
    assert!(begin(one, seconds(5)).await?, "its own claim is renewed");
    assert!(!begin(two, seconds(24)).await?);
    assert!(!records.finish_restore(removal.id, two, now()).await?);
    // The one fell silent.
    assert!(begin(two, seconds(25)).await?);
    assert!(!begin(one, seconds(26)).await?);
    assert!(!records.finish_restore(removal.id, one, now()).await?);
    assert_eq!(records.room(&room.id).await?, None);
    assert!(records.finish_restore(removal.id, two, now()).await?);
    assert!(records.room(&room.id).await?.is_some());
    Ok(())
}

pub async fn a_room_whose_removal_is_not_over_does_not_come_back(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, _) = made(&*records, Retention::Ephemeral).await?;
    let at = now();
    let removal = records.remove_room(&room.id, at, at, at).await?;
    let removal = removal.expect("removed");
    let worker = Uuid::now_v7();
    let early = begin(&*records, &removal, &room.id, worker).await?;
    assert_eq!(early, RestoreBegun::UnderWay);
    assert!(!records.delete_removal(removal.id).await?, "nor expires");
    let until = now() + Duration::seconds(20);
    let claimed = records.claim_removal(removal.id, worker, now(), until);
    assert!(claimed.await?.is_some());
    assert!(records.mark_kept(removal.id, worker, 1).await?);
    let early = begin(&*records, &removal, &room.id, worker).await?;
    assert_eq!(early, RestoreBegun::UnderWay);
    assert!(!records.delete_removal(removal.id).await?);
    assert!(records.finish_removal(removal.id).await?);
    begun(begin(&*records, &removal, &room.id, Uuid::now_v7()).await?);
    Ok(())
}

pub async fn of_a_restoring_and_an_expiry_one_wins(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for _ in 0..10 {
        let (room, _) = made(&*records, Retention::Ephemeral).await?;
        let removal = removed(&*records, &room).await?;
        let worker = Uuid::now_v7();
        let won = at_once(2, |n| {
            let (records, removal, room) = (records.clone(), removal.clone(), room.id.clone());
            async move {
                if n == 0 {
                    let begun = begin(&*records, &removal, &room, worker).await;
                    matches!(begun.expect("an answer"), RestoreBegun::Begun(_))
                } else {
                    let deleted = records.delete_removal(removal.id).await;
                    deleted.expect("an answer")
                }
            }
        })
        .await;
        assert!(won[0] != won[1], "{won:?}");
        let back = records.finish_restore(removal.id, worker, now()).await?;
        assert_eq!(back, won[0]);
        let again = begin(&*records, &removal, &room.id, worker).await?;
        assert_eq!(again, RestoreBegun::Missing);
    }
    Ok(())
}
