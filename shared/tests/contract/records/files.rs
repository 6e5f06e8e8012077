//! Uploaded files: whose they are and where they are shown.

use atelier_shared::Mode;
use atelier_shared::domain::file::StoredFile;
use atelier_shared::domain::ids::{FileId, RoomId, UserId};
use atelier_shared::domain::room::{Retention, Room};
use atelier_shared::ports::{FileIs, PortError, RestoreBegun};
use chrono::{DateTime, Duration, Utc};
use libtest_mimic::Trial;
use uuid::Uuid;

use super::removals::{made, removed};
use super::{at_once, now};
use crate::archive::promises;
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    use crate::records::files;
    promises!(trials, "records":
        files::a_file_is_read_back_whole,
        files::the_files_of_a_room_are_newest_first_and_in_pages,
        files::a_file_goes_into_one_room_and_stays_there,
        files::of_many_who_delete_a_file_one_is_told_so,
        files::every_file_is_walked_by_id,
        files::a_file_that_went_elsewhere_is_not_deleted_where_it_was,
        files::a_file_comes_into_a_room_only_while_that_very_room_is_there,
    );
}

fn file(room: Option<&RoomId>, uploader: Option<UserId>) -> StoredFile {
    StoredFile {
        id: FileId::generate(),
        room: room.cloned(),
        uploader,
        uploader_name: "Ana Ñ".into(),
        name: "plan \"ü\".pdf".into(),
        content_type: "application/pdf".into(),
        size: 5_000_000_000,
        sha256: "ab".repeat(32),
        created_at: now(),
    }
}

pub async fn a_file_is_read_back_whole(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for uploader in [None, Some(UserId::generate())] {
        for room in [None, Some(RoomId::generate())] {
            let file = file(room.as_ref(), uploader);
            assert!(records.create_file(&file, None).await?);
            assert_eq!(records.file(file.id).await?, Some(file));
        }
    }
    assert_eq!(records.file(FileId::generate()).await?, None);
    Ok(())
}

pub async fn the_files_of_a_room_are_newest_first_and_in_pages(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, other) = (RoomId::generate(), RoomId::generate());
    let mut made = Vec::new();
    for _ in 0..5 {
        let file = file(Some(&room), None);
        assert!(records.create_file(&file, None).await?);
        made.push(file);
    }
    records
        .create_file(&self::file(Some(&other), None), None)
        .await?;
    records.create_file(&self::file(None, None), None).await?;
    made.reverse();
    let first = records.files_of_room(&room, None, 2).await?;
    assert!(first.more);
    assert_eq!(first.items, made[..2]);
    let rest = records.files_of_room(&room, Some(made[1].id), 3).await?;
    assert!(!rest.more);
    assert_eq!(rest.items, made[2..]);
    Ok(())
}

pub async fn a_file_goes_into_one_room_and_stays_there(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let file = file(None, None);
    assert!(records.create_file(&file, None).await?);
    let rooms: Vec<RoomId> = (0..8).map(|_| RoomId::generate()).collect();
    let answers = at_once(rooms.len(), |n| {
        let (records, room, id) = (records.clone(), rooms[n].clone(), file.id);
        async move { records.attach_file(id, &room).await.expect("an answer") }
    })
    .await;
    let winners: Vec<usize> = (0..rooms.len()).filter(|n| answers[*n]).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let room = &rooms[winners[0]];
    assert_eq!(
        records
            .file(file.id)
            .await?
            .and_then(|file| file.room)
            .as_ref(),
        Some(room)
    );
    assert!(
        records.attach_file(file.id, room).await?,
        "again is no harm"
    );
    assert!(
        !records.delete_file(file.id, FileIs::InNoRoom).await?,
        "it is attached"
    );
    assert!(!records.attach_file(FileId::generate(), room).await?);
    Ok(())
}

pub async fn of_many_who_delete_a_file_one_is_told_so(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for only in [FileIs::Anywhere, FileIs::InNoRoom] {
        let file = file(None, None);
        assert!(records.create_file(&file, None).await?);
        let answers = at_once(8, |_| {
            let (records, id) = (records.clone(), file.id);
            async move { records.delete_file(id, only).await.expect("an answer") }
        })
        .await;
        assert_eq!(answers.iter().filter(|deleted| **deleted).count(), 1);
        assert_eq!(records.file(file.id).await?, None);
    }
    Ok(())
}

pub async fn every_file_is_walked_by_id(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        let file = file(None, None);
        assert!(records.create_file(&file, None).await?);
        made.push(file.id);
    }
    // Other tests' files are in between.
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = records.files_after(after, 2).await?;
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some(last.id);
        seen.extend(page.into_iter().map(|file| file.id));
    }
    assert!(seen.is_sorted());
    assert!(made.iter().all(|id| seen.contains(id)));
    Ok(())
}

pub async fn a_file_that_went_elsewhere_is_not_deleted_where_it_was(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, file) = made(&*records, Retention::Ephemeral).await?;
    let other = FileIs::In(&RoomId::generate());
    assert!(!records.delete_file(file.id, other).await?);
    let removal = removed(&*records, &room).await?;
    let under = removal.kept_under();
    assert!(!records.delete_file(file.id, FileIs::In(&room.id)).await?);
    assert!(!records.delete_file(file.id, FileIs::InNoRoom).await?);
    let (worker, until) = (Uuid::now_v7(), now() + Duration::seconds(20));
    let begun = records.begin_restore(removal.id, &room.id, worker, now(), until);
    assert!(matches!(begun.await?, RestoreBegun::Begun(_)));
    assert!(records.finish_restore(removal.id, worker, now()).await?);
    assert!(!records.delete_file(file.id, FileIs::In(&under)).await?);
    assert!(records.file(file.id).await?.is_some());
    assert!(records.delete_file(file.id, FileIs::In(&room.id)).await?);
    assert!(records.file(file.id).await?.is_none());
    Ok(())
}

pub async fn a_file_comes_into_a_room_only_while_that_very_room_is_there(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, _) = made(&*records, Retention::Ephemeral).await?;
    let come = async |made_at: DateTime<Utc>| {
        let file = file(Some(&room.id), None);
        let kept = records.create_file(&file, Some(made_at)).await?;
        let found = records.file(file.id).await?;
        assert_eq!(found, kept.then_some(file));
        Ok::<_, PortError>(kept)
    };
    assert!(come(room.created_at).await?);
    assert!(!come(now()).await?, "another of that name");
    removed(&*records, &room).await?;
    assert!(!come(room.created_at).await?, "it is gone");
    let anew = Room {
        created_at: now(),
        ..room.clone()
    };
    assert!(records.create_room(&anew).await?);
    assert!(!come(room.created_at).await?, "a stranger's");
    assert!(come(anew.created_at).await?);
    // Its own answer may have been lost.
    let file = file(Some(&room.id), None);
    for _ in 0..2 {
        assert!(records.create_file(&file, Some(anew.created_at)).await?);
    }
    Ok(())
}
