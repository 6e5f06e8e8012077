//! Rooms that are removed and brought back: the row, the members and the files change hands in one step, or not at all.

use atelier_shared::Mode;
use atelier_shared::domain::file::StoredFile;
use atelier_shared::domain::ids::{FileId, RoomId, UserId};
use atelier_shared::domain::removal::{Removal, RemovalState};
use atelier_shared::domain::room::{Retention, Role, Room, RoomChoice, RoomKind};
use atelier_shared::ports::{PortError, Records};
use chrono::{DateTime, Duration, Utc};
use libtest_mimic::Trial;
use uuid::Uuid;

use super::{at_once, now};
use crate::archive::promises;
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    use crate::records::removals;
    promises!(trials, "records":
        removals::a_room_is_removed_only_if_nobody_has_wanted_it_since,
        removals::of_many_who_remove_a_room_one_does,
        removals::a_removal_that_is_undone_leaves_everything_as_it_was,
        removals::a_removal_is_one_workers_at_a_time_and_finished_once,
        removals::removals_are_listed_and_found_when_their_time_is_over,
        removals::the_id_of_a_room_that_is_there_or_under_way_is_not_reserved,
        removals::of_a_maker_and_a_reserver_of_one_id_one_wins,
    );
}

pub async fn made(
    records: &dyn Records,
    retention: Retention,
) -> Result<(Room, StoredFile), PortError> {
    let choice = RoomChoice {
        kind: Some(RoomKind::Open),
        retention: Some(retention),
        ..RoomChoice::default()
    };
    let then = now() - Duration::minutes(10);
    let room = Room::new(
        RoomId::generate(),
        choice,
        Some(UserId::generate()),
        None,
        then,
    );
    assert!(records.create_room(&room).await?);
    let file = StoredFile {
        id: FileId::generate(),
        room: Some(room.id.clone()),
        uploader: None,
        uploader_name: "Ana Ñ".into(),
        name: "a".into(),
        content_type: "image/png".into(),
        size: 1,
        sha256: String::new(),
        created_at: now(),
    };
    records.create_file(&file, None).await?;
    Ok((room, file))
}

fn later() -> DateTime<Utc> {
    now() + Duration::days(7)
}

async fn remove(records: &dyn Records, room: &Room) -> Result<Removal, PortError> {
    let removal = records.remove_room(&room.id, now(), now(), later()).await?;
    Ok(removal.expect("removed"))
}

/// All of its content is kept aside, by one worker.
async fn kept(records: &dyn Records, removal: &Removal, entries: u64) -> Result<(), PortError> {
    let (worker, until) = (Uuid::now_v7(), now() + Duration::seconds(20));
    let claimed = records.claim_removal(removal.id, worker, now(), until);
    assert!(claimed.await?.is_some());
    assert!(records.mark_kept(removal.id, worker, entries).await?);
    Ok(())
}

/// As far as `removed`.
pub async fn removed(records: &dyn Records, room: &Room) -> Result<Removal, PortError> {
    let removal = remove(records, room).await?;
    kept(records, &removal, 4).await?;
    assert!(records.finish_removal(removal.id).await?);
    let removal = records.removal(removal.id).await?.expect("kept");
    assert_eq!((removal.state, removal.entries), (RemovalState::Removed, 4));
    Ok(removal)
}

pub async fn a_room_is_removed_only_if_nobody_has_wanted_it_since(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (kept, _) = made(&*records, Retention::Keep).await?;
    let (room, file) = made(&*records, Retention::Ephemeral).await?;
    let remove = async |id: &RoomId, since: DateTime<Utc>| {
        records.remove_room(id, since, now(), later()).await
    };
    assert_eq!(remove(&kept.id, now()).await?, None, "it is kept");
    assert_eq!(remove(&RoomId::generate(), now()).await?, None);
    let before = room.last_activity_at - Duration::seconds(1);
    assert_eq!(remove(&room.id, before).await?, None, "active since");
    assert_eq!(records.room(&room.id).await?, Some(room.clone()));
    let removal = remove(&room.id, room.last_activity_at)
        .await?
        .expect("removed");
    assert_eq!(removal.snapshot.room.name, room.name);
    let maker = room.created_by.expect("a maker");
    assert_eq!(removal.snapshot.members, [(maker, Role::Host)]);
    assert_eq!((removal.files, removal.state), (1, RemovalState::Removing));
    assert_eq!(records.room(&room.id).await?, None);
    assert!(records.members(&room.id, None, 1).await?.items.is_empty());
    assert!(!records.create_room(&room).await?, "its id is reserved");
    let under = records.file(file.id).await?.expect("the file").room;
    assert_eq!(under, Some(removal.kept_under()));
    assert_eq!(records.removal_of(&room.id).await?, Some(removal));
    Ok(())
}

pub async fn of_many_who_remove_a_room_one_does(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, _) = made(&*records, Retention::Ephemeral).await?;
    let answers = at_once(8, |_| {
        let (records, id) = (records.clone(), room.id.clone());
        async move {
            records
                .remove_room(&id, now(), now(), later())
                .await
                .expect("an answer")
        }
    })
    .await;
    assert_eq!(answers.iter().flatten().count(), 1);
    Ok(())
}

pub async fn a_removal_that_is_undone_leaves_everything_as_it_was(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, file) = made(&*records, Retention::Ephemeral).await?;
    let removal = remove(&*records, &room).await?;
    assert!(records.undo_removal(removal.id).await?);
    assert!(!records.undo_removal(removal.id).await?);
    let back = records.room(&room.id).await?.expect("it is back");
    assert!(
        back.role_version > room.role_version,
        "who knew it looks again"
    );
    let same = Room {
        role_version: room.role_version,
        ..back
    };
    assert_eq!(same, room);
    let role = records
        .role(&room.id, room.created_by.expect("a maker"))
        .await?;
    assert_eq!(role, Some(Role::Host));
    assert_eq!(records.file(file.id).await?, Some(file));
    assert_eq!(records.removal_of(&room.id).await?, None);
    // Once its content is kept aside it is too late.
    let removal = remove(&*records, &room).await?;
    kept(&*records, &removal, 1).await?;
    assert!(!records.undo_removal(removal.id).await?);
    Ok(())
}

pub async fn a_removal_is_one_workers_at_a_time_and_finished_once(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, _) = made(&*records, Retention::Ephemeral).await?;
    let removal = remove(&*records, &room).await?;
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let claim = async |worker: Uuid, at: DateTime<Utc>| {
        let until = at + Duration::seconds(20);
        let claimed = records.claim_removal(removal.id, worker, at, until).await;
        claimed.map(|claimed| claimed.is_some())
    };
    let start = now();
    assert!(claim(one, start).await? && claim(one, start).await?);
    assert!(!claim(two, start + Duration::seconds(19)).await?);
    assert!(claim(two, start + Duration::seconds(20)).await?);
    assert!(
        !claim(one, start + Duration::seconds(21)).await?,
        "taken over"
    );
    let unfinished = records.unfinished_removals(1_000).await?;
    assert!(unfinished.iter().any(|found| found.id == removal.id));
    assert!(
        !records.finish_removal(removal.id).await?,
        "not kept aside yet"
    );
    assert!(
        !records.mark_kept(removal.id, one, 7).await?,
        "another has it"
    );
    assert!(records.mark_kept(removal.id, two, 7).await?);
    assert!(!records.mark_kept(removal.id, two, 0).await?);
    assert!(records.finish_removal(removal.id).await?);
    assert!(!records.finish_removal(removal.id).await?);
    assert!(!claim(two, start).await?, "it is over");
    assert_eq!(records.removal_of(&room.id).await?, None);
    let unfinished = records.unfinished_removals(1_000).await?;
    assert!(unfinished.iter().all(|found| found.id != removal.id));
    assert!(records.create_room(&room).await?, "its id is free");
    Ok(())
}

pub async fn removals_are_listed_and_found_when_their_time_is_over(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (room, _) = made(&*records, Retention::Ephemeral).await?;
        ids.push(removed(&*records, &room).await?.id);
    }
    let mut listed = Vec::new();
    loop {
        let page = records.removals(listed.last().copied(), 2).await?;
        listed.extend(page.items.iter().map(|removal| removal.id));
        if !page.more {
            break;
        }
    }
    assert!(listed.is_sorted_by(|a, b| a > b), "newest first");
    assert!(ids.iter().all(|id| listed.contains(id)));
    let expired = async |at: DateTime<Utc>| {
        let expired = records.expired_removals(at, 1_000).await;
        expired.map(|all| {
            all.iter()
                .filter(|removal| ids.contains(&removal.id))
                .count()
        })
    };
    assert_eq!(expired(now()).await?, 0);
    assert_eq!(expired(later() + Duration::minutes(1)).await?, 3);
    assert!(records.delete_removal(ids[0]).await?);
    assert!(!records.delete_removal(ids[0]).await?);
    assert_eq!(expired(later() + Duration::minutes(1)).await?, 2);
    Ok(())
}

pub async fn the_id_of_a_room_that_is_there_or_under_way_is_not_reserved(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, _) = made(&*records, Retention::Ephemeral).await?;
    assert!(!records.reserve_room_id(&room.id, now()).await?);
    assert!(records.room(&room.id).await?.is_some());
    let removal = remove(&*records, &room).await?;
    assert!(!records.reserve_room_id(&room.id, now()).await?);
    kept(&*records, &removal, 1).await?;
    assert!(!records.reserve_room_id(&room.id, now()).await?);
    assert!(records.finish_removal(removal.id).await?);
    assert!(records.reserve_room_id(&room.id, now()).await?);
    assert!(!records.create_room(&room).await?);
    records.release_room_id(&room.id).await?;
    assert!(records.create_room(&room).await?);
    Ok(())
}

pub async fn of_a_maker_and_a_reserver_of_one_id_one_wins(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for _ in 0..10 {
        let choice = RoomChoice {
            kind: Some(RoomKind::Open),
            ..RoomChoice::default()
        };
        let room = Room::new(RoomId::generate(), choice, None, None, now());
        let won = at_once(8, |n| {
            let (records, room) = (records.clone(), room.clone());
            async move {
                if n % 2 == 0 {
                    records.create_room(&room).await.expect("an answer")
                } else {
                    records
                        .reserve_room_id(&room.id, now())
                        .await
                        .expect("an answer");
                    false
                }
            }
        })
        .await;
        let made = won.into_iter().filter(|won| *won).count();
        let there = usize::from(records.room(&room.id).await?.is_some());
        assert_eq!(made, there);
        // Whoever reserved it did so before nobody or after nobody: where the room is, no reservation is.
        if there == 1 {
            assert!(!records.reserve_room_id(&room.id, now()).await?);
        } else {
            assert!(!records.create_room(&room).await?, "it is reserved");
        }
    }
    Ok(())
}
