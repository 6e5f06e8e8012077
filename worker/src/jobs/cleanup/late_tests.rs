//! Two at one removal, and whoever is late: nothing is lost that somebody still has.

use atelier_shared::domain::backup::{Backup, BackupReason};
use atelier_shared::domain::ids::{BackupId, Epoch, RoomId, Seq, UserId};
use atelier_shared::domain::job::QUEUE_ARCHIVE;
use atelier_shared::domain::removal::Removal;
use atelier_shared::domain::room::{Retention, Room, RoomChoice, RoomKind};
use atelier_shared::ports::{Cancelled, RestoreBegun};
use atelier_shared::recovery;
use atelier_shared::removals::{Claim, Restored};

use super::tests::{embedded, member, old_name, says, upload, write};
use super::*;

/// Who pauses an archive group's job; embedded mode has one.
const GROUP: &str = "archive-group:0";

async fn made(b: &Backends, id: RoomId) -> Room {
    let choice = RoomChoice {
        kind: Some(RoomKind::Open),
        retention: Some(Retention::Ephemeral),
        ..RoomChoice::default()
    };
    let then = now() - chrono::Duration::minutes(15);
    let room = Room::new(id, choice, Some(UserId::generate()), None, then);
    assert!(b.records.create_room(&room).await.unwrap());
    room
}

/// A removed room of three entries and a file.
async fn removed(cleaner: &Cleaner) -> Removal {
    let b = &cleaner.backends;
    let room = made(b, RoomId::generate()).await;
    for _ in 0..3 {
        write(b, &room.id, UserId::generate()).await;
    }
    upload(b, Some(room.id.clone()), 0).await;
    let mut counts = Counts::new();
    let gone = cleaner.abandoned_room(&room.id, false, &mut counts).await;
    gone.unwrap();
    b.records.removals(None, 1).await.unwrap().items.remove(0)
}

async fn restore(b: &Backends, removal: &Removal) -> Restored {
    removals::restore(b, removal.id, now()).await.unwrap()
}

/// Another gateway, whose claim lasts until then.
async fn begun_by_another(b: &Backends, removal: &Removal, until: DateTime<Utc>) -> Uuid {
    let worker = Uuid::now_v7();
    let begun = b
        .records
        .begin_restore(removal.id, &removal.room, worker, now(), until);
    assert!(matches!(begun.await.unwrap(), RestoreBegun::Begun(_)));
    worker
}

async fn assert_whole(b: &Backends, removal: &Removal) {
    assert_eq!(b.archive.head(&removal.room).await.unwrap().seq, Seq(3));
    let files = b.records.files_of_room(&removal.room, None, 10).await;
    assert_eq!(files.unwrap().items.len(), 1);
    let left = b.archive.backups(&removal.kept_under(), None, 10).await;
    assert!(left.unwrap().is_empty());
}

#[tokio::test]
async fn who_brings_back_what_somebody_is_bringing_back_disturbs_nothing() {
    let (cleaner, _folder) = embedded().await;
    let b = &cleaner.backends;
    let removal = removed(&cleaner).await;
    let other = begun_by_another(b, &removal, now() + chrono::Duration::seconds(20)).await;
    // They are half way.
    let left = b.archive.head(&removal.room).await.unwrap();
    let theirs = b.archive.raise_epoch(&removal.room, left.epoch).await;
    let theirs = theirs.unwrap();
    assert_eq!(restore(b, &removal).await, Restored::UnderWay);
    assert_eq!(restore(b, &removal).await, Restored::UnderWay);
    assert_eq!(b.archive.head(&removal.room).await.unwrap(), theirs);
    // They died: whoever asks next does it all, and they are late.
    let lapsed = b
        .records
        .begin_restore(removal.id, &removal.room, other, now(), now());
    assert!(matches!(lapsed.await.unwrap(), RestoreBegun::Begun(_)));
    let done = Restored::Done {
        room: removal.room.clone(),
        entries: 3,
    };
    assert_eq!(restore(b, &removal).await, done);
    let late = b.records.finish_restore(removal.id, other, now()).await;
    assert!(!late.unwrap());
    assert_eq!(restore(b, &removal).await, Restored::Missing);
    assert_whole(b, &removal).await;
}

#[tokio::test]
async fn of_many_who_bring_one_room_back_at_once_one_does() {
    let (cleaner, _folder) = embedded().await;
    let b = &cleaner.backends;
    let removal = removed(&cleaner).await;
    let all = (0..8).map(|_| restore(b, &removal));
    let answers = futures::future::join_all(all).await;
    let done = answers
        .iter()
        .filter(|answer| matches!(answer, Restored::Done { .. }));
    assert_eq!(done.count(), 1, "{answers:?}");
    assert_whole(b, &removal).await;
}

#[tokio::test]
async fn what_is_being_brought_back_does_not_expire() {
    let (mut cleaner, _folder) = embedded().await;
    cleaner.policy.keep = Duration::ZERO;
    let b = &cleaner.backends;
    let removal = removed(&cleaner).await;
    // The beat had found it expired; then somebody wanted it.
    begun_by_another(b, &removal, now()).await;
    assert_eq!(removals::purge(b, &removal).await.unwrap(), None);
    let done = restore(b, &removal).await;
    assert!(matches!(done, Restored::Done { .. }), "{done:?}");
    assert_whole(b, &removal).await;
}

#[tokio::test]
async fn a_room_does_not_come_back_without_all_that_was_kept() {
    let (cleaner, _folder) = embedded().await;
    let b = &cleaner.backends;
    let removal = removed(&cleaner).await;
    let under = removal.kept_under();
    let parts = b.archive.backups(&under, None, 10).await.unwrap();
    let ids: Vec<BackupId> = parts.iter().map(|part| part.id).collect();
    b.archive.remove_backups(&under, &ids).await.unwrap();
    let refused = removals::restore(b, removal.id, now()).await.unwrap_err();
    assert!(!refused.is_retryable(), "{refused}");
    assert!(b.records.room(&removal.room).await.unwrap().is_none());
    assert!(b.records.removal(removal.id).await.unwrap().is_some());
}

/// It stood still for longer than its claim, and another went on.
#[tokio::test]
async fn a_worker_that_was_overtaken_takes_nothing_away() {
    let (cleaner, _folder) = embedded().await;
    let b = &cleaner.backends;
    let room = made(b, RoomId::generate()).await;
    write(b, &room.id, UserId::generate()).await;
    let begun = b.records.remove_room(&room.id, now(), now(), now()).await;
    let removal = begun.unwrap().unwrap();
    let (slow, _) = Claim::of(b, removal.id).await.unwrap().unwrap();
    let entries = removals::keep_aside(b, &slow, &removal).await.unwrap();
    let later = now() + chrono::Duration::seconds(21);
    let until = later + chrono::Duration::seconds(20);
    let other = Uuid::now_v7();
    let taken = b
        .records
        .claim_removal(removal.id, other, later, until)
        .await;
    assert!(taken.unwrap().is_some());
    let under = removal.kept_under();
    let kept = b.archive.backups(&under, None, 10).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert!(removals::keep_aside(b, &slow, &removal).await.is_err());
    assert!(removals::mark_kept(b, &slow, entries).await.is_err());
    let marked = b.records.mark_kept(removal.id, other, entries).await;
    assert!(marked.unwrap());
    let late = removals::finish(b, &slow, &removal, entries).await;
    assert!(late.unwrap_err().is_retryable());
    assert_eq!(b.archive.head(&room.id).await.unwrap().seq, Seq(1));
    assert_eq!(b.archive.backups(&under, None, 10).await.unwrap(), kept);
}

/// A large room is loaded for longer than a removal waits: they show up when its last entries are being archived.
#[tokio::test]
async fn who_comes_late_has_the_room_back_and_nothing_is_left_aside() {
    let (cleaner, _folder) = embedded().await;
    let b = &cleaner.backends;
    let room = made(b, RoomId::generate()).await;
    let ms = now().timestamp_millis();
    let said = says(UserId::generate());
    recovery::append(&*b.log, &*b.archive, &*b.queue, &room.id, &said, ms)
        .await
        .unwrap();
    b.queue.cancel(QUEUE_ARCHIVE, GROUP).await.unwrap();
    let comes = async {
        // The removal waits for the archive: it has looked who is there.
        while b.queue.cancel(QUEUE_ARCHIVE, GROUP).await.unwrap() == Cancelled::Unknown {
            tokio::task::yield_now().await;
        }
        let somebody = member(UserId::generate());
        let entered = b.presence.enter(&room.id, &somebody, None);
        entered.await.unwrap();
        let head = b.archive.head(&room.id).await.unwrap();
        let tail = b.log.read(&room.id, head.epoch, head.seq, 10).await;
        let tail = tail.unwrap().unwrap();
        b.archive.append(&room.id, head.epoch, &tail).await.unwrap();
    };
    let mut counts = Counts::new();
    let (cleaned, ()) = tokio::join!(cleaner.abandoned_room(&room.id, false, &mut counts), comes);
    cleaned.unwrap();
    assert_eq!(counts.get("rooms_taken_back"), Some(&1), "{counts:?}");
    assert!(b.records.room(&room.id).await.unwrap().is_some());
    assert_eq!(b.archive.head(&room.id).await.unwrap().seq, Seq(1));
    let aside = b.archive.rooms_with_backups(None, 10).await.unwrap();
    assert!(aside.is_empty(), "{aside:?}");
}

/// Of an import the drawing is there before the room.
#[tokio::test]
async fn content_whose_room_is_just_being_made_is_left_alone() {
    let (cleaner, _folder) = embedded().await;
    let b = &cleaner.backends;
    let (coming, gone) = (RoomId::generate(), old_name());
    for room in [&coming, &gone] {
        write(b, room, UserId::generate()).await;
    }
    for dry_run in [true, false] {
        let mut counts = Counts::new();
        cleaner.remains(dry_run, &mut counts).await.unwrap();
        assert_eq!(counts["orphaned_rooms"], 1);
    }
    assert_eq!(b.archive.head(&coming).await.unwrap().seq, Seq(1));
    assert_eq!(b.archive.head(&gone).await.unwrap().seq, Seq(0));
    made(b, coming).await;
}

/// Whoever brought a room back, or let it go, died before the parts were gone.
#[tokio::test]
async fn parts_of_no_removal_go_and_those_of_one_stay() {
    let (cleaner, _folder) = embedded().await;
    let b = &cleaner.backends;
    let removal = removed(&cleaner).await;
    let orphan = old_name();
    let part = Backup {
        id: BackupId::generate(),
        seq: Seq(1),
        made_at: now().trunc_subsecs(3),
        reason: BackupReason::Removal,
        strokes: 0,
        document_bytes: 0,
        bytes: 1,
        hash: String::new(),
    };
    let put = b.archive.put_backup(&orphan, Epoch(0), &part, b"x");
    assert!(put.await.unwrap());
    for dry_run in [true, false] {
        let mut counts = Counts::new();
        cleaner.remains(dry_run, &mut counts).await.unwrap();
        assert_eq!(counts["orphaned_rooms"], 1);
    }
    let left = b.archive.rooms_with_backups(None, 10).await.unwrap();
    assert_eq!(left, [removal.kept_under()]);
    // Nor does an administrator remove them who names the removal as if it were a room.
    let mut counts = Counts::new();
    let under = removal.kept_under();
    let asked = cleaner.room_asked_for(&under, false, &mut counts);
    asked.await.unwrap();
    assert!(matches!(restore(b, &removal).await, Restored::Done { .. }));
    assert_whole(b, &removal).await;
}
