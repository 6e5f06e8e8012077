//! Rooms that are gone: nothing of them is left, and what was kept of one comes back as it was.

use std::collections::BTreeSet;

use atelier_shared::Mode;
use atelier_shared::domain::backup::{Backup, BackupReason};
use atelier_shared::domain::entry::Body;
use atelier_shared::domain::ids::{BackupId, Epoch, RoomId, Seq};
use atelier_shared::domain::state::{Checkpoint, RoomState};
use atelier_shared::ports::{ActivityQuery, Archive, HistoryQuery, MessageQuery};
use chrono::{SubsecRound, Utc};
use mongodb::bson::{Document, doc};

use super::{Writer, chat, entries, opened, read_all, stale};
use crate::fixture::{self, Outcome};

async fn messages(archive: &dyn Archive, room: &RoomId, reader: &Writer) -> Vec<String> {
    let query = MessageQuery {
        before: None,
        reader: reader.user,
        words: BTreeSet::new(),
        thread: None,
        limit: 100,
    };
    let page = archive.messages(room, &query).await.expect("messages");
    let told = page.messages.iter();
    told.map(|message| {
        format!(
            "{:?} {:?}",
            message.deleted_ms().is_some(),
            message.record.body
        )
    })
    .collect()
}

pub async fn of_a_forgotten_room_nothing_is_left_and_its_next_life_begins_at_1(
    mode: Mode,
) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    let (room, other) = (opened(here).await, opened(here).await);
    let writer = Writer::new();
    let said = entries(1, [writer.says_as("r", "a word"), writer.says("two")]);
    for room in [&room, &other] {
        here.append(room, Epoch(1), &said).await?;
        let checkpoint = Checkpoint {
            epoch: Epoch(1),
            seq: Seq(2),
            state: RoomState::default(),
        };
        assert!(here.save_checkpoint(room, &checkpoint).await?);
        let backup = Backup {
            id: BackupId::generate(),
            seq: Seq(2),
            made_at: Utc::now().trunc_subsecs(3),
            reason: BackupReason::Scheduled,
            strokes: 0,
            document_bytes: 0,
            bytes: 1,
            hash: String::new(),
        };
        assert!(here.put_backup(room, Epoch(1), &backup, b"x").await?);
    }
    for _ in 0..2 {
        let epoch = here.head(&room).await?.epoch;
        assert!(there.forget_room(&room, epoch).await?);
        let head = here.head(&room).await?;
        assert!(
            head.epoch > Epoch(1) && head.seq == Seq(0) && !head.opened,
            "{head:?}"
        );
    }
    assert!(read_all(here, &room, 10).await.is_empty());
    assert!(messages(here, &room, &writer).await.is_empty());
    assert!(here.checkpoint(&room).await?.is_none());
    assert!(here.backups(&room, None, 10).await?.is_empty());
    assert_eq!(here.seqs_of_refs(&room, &[writer.key("r")]).await?, [None]);
    let all = HistoryQuery {
        kinds: Vec::new(),
        before: None,
        reader: Some(writer.user),
        limit: 10,
    };
    assert!(here.history(&room, &all).await?.entries.is_empty());
    // The other one is whole.
    assert_eq!(read_all(here, &other, 10).await, said);
    assert_eq!(here.backups(&other, None, 10).await?.len(), 1);
    // And a new life begins, in which the ref is free again.
    let head = here.head(&room).await?;
    let anew = entries(1, [writer.says_as("r", "anew")]);
    let head = here.append(&room, head.epoch, &anew).await?;
    assert_eq!(head.seq, Seq(1));
    assert_eq!(read_all(there, &room, 10).await, anew);
    Ok(())
}

pub async fn who_is_late_in_a_forgotten_room_is_refused(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    archives.here.append(&room, Epoch(1), &chat(1, 3)).await?;
    assert!(archives.there.forget_room(&room, Epoch(1)).await?);
    let late = stale(archives.here.append(&room, Epoch(1), &chat(4, 1)).await);
    assert!(late.epoch > Epoch(1) && late.seq == Seq(0));
    assert!(read_all(&*archives.here, &room, 10).await.is_empty());
    // A room that was never there is none afterwards.
    let unknown = RoomId::generate();
    assert!(archives.here.forget_room(&unknown, Epoch(0)).await?);
    assert_eq!(archives.here.head(&unknown).await?.epoch, Epoch(0));
    Ok(())
}

pub async fn what_comes_back_is_read_as_before_and_not_counted_again(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    let room = opened(here).await;
    let writer = Writer::new();
    let mut said = entries(1, (0..4).map(|n| writer.says(&format!("word{n}"))));
    let id = said[1].record.body.message_id().expect("a message");
    let deletion = Body::ChatDeleted {
        message_id: id,
        of: Seq(2),
    };
    said.extend(entries(5, [writer.record(deletion)]));
    here.append(&room, Epoch(1), &said).await?;
    let (kept, told) = (
        read_all(here, &room, 100).await,
        messages(here, &room, &writer).await,
    );
    let minute = said[0].record.ts_ms / 60_000;
    let counted = async || {
        let query = ActivityQuery {
            users: vec![writer.user],
            from_minute: minute,
            to_minute: minute + 1,
            slot_minutes: 1,
        };
        let slots = here.activity_of(&query).await.expect("activity");
        slots[0].counts
    };
    let before = counted().await;
    assert!(there.forget_room(&room, Epoch(1)).await?);
    assert_eq!(counted().await, before, "what people did stays counted");
    let epoch = here.head(&room).await?.epoch;
    there.append_again(&room, epoch, &kept[..2]).await?;
    there.append_again(&room, epoch, &kept).await?;
    assert_eq!(read_all(here, &room, 100).await, kept);
    assert_eq!(messages(here, &room, &writer).await, told);
    assert_eq!(counted().await, before);
    Ok(())
}

pub async fn rooms_of_which_anything_is_archived_are_walked_by_id(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let mut written = BTreeSet::new();
    for _ in 0..5 {
        let room = opened(&*archives.here).await;
        archives.here.append(&room, Epoch(1), &chat(1, 1)).await?;
        written.insert(room);
    }
    let empty = opened(&*archives.here).await;
    let mut walked = Vec::new();
    loop {
        // Others write into the same archive.
        let page = archives.there.archived_rooms(walked.last(), 2).await?;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        walked.extend(page);
    }
    assert!(walked.is_sorted() && !walked.contains(&empty));
    assert!(written.iter().all(|room| walked.contains(room)));
    Ok(())
}

/// A worker that was killed leaves its transaction open until the server ends it.
pub async fn a_removal_gives_up_on_a_head_that_is_held_and_leaves_nothing_behind(
    _: Mode,
) -> Outcome {
    let (backends, database) = super::plans::database().await;
    let archive = &*backends.archive;
    let room = opened(archive).await;
    archive.append(&room, Epoch(1), &chat(1, 3)).await?;
    let mut killed = database.client().start_session().await?;
    killed.start_transaction().await?;
    let heads = database.collection::<Document>("room_heads");
    let held = doc! { "$set": { "seq": 9_i64 } };
    heads
        .update_one(doc! { "_id": room.as_str() }, held)
        .session(&mut killed)
        .await?;
    let refused = archive.forget_room(&room, Epoch(1)).await;
    assert!(refused.is_err_and(|error| error.is_retryable()));
    killed.abort_transaction().await?;
    // Waits its turn behind whatever the server still does of the first.
    assert!(archive.forget_room(&room, Epoch(1)).await?);
    let head = archive.head(&room).await?;
    assert_eq!((head.epoch, head.seq), (Epoch(2), Seq(0)), "raised once");
    database.drop().await?;
    Ok(())
}
