//! What a power failure may take, in lives of the machine that a test makes up.

use std::path::Path;

use tempfile::TempDir;

use super::life::BOOT_BYTES;
use super::*;
use crate::adapters::embedded::archive::SqliteArchive;
use crate::domain::entry::{Author, Body};
use crate::domain::ids::{MessageId, UserId};
use crate::ports::Archive;
use crate::recovery;

const NOW_MS: i64 = 1_700_000_000_000;

async fn opened(folder: &Path, boot: u8, commits: Commits) -> JournalRoomLog {
    let life = Life {
        boot: [boot; BOOT_BYTES],
        is_kept: commits == Commits::Synced,
    };
    let log = JournalRoomLog::open_in(life, folder, commits, 1_000).await;
    log.expect("a log")
}

/// What the disk has now of what is open there.
fn copied(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn said(by: UserId, reference: &str) -> Record {
    Record {
        ts_ms: NOW_MS,
        author: Author {
            client_id: "tab1".parse().unwrap(),
            user_id: by,
            connection: None,
            name: "Ada".into(),
            color: None,
            avatar_url: None,
        },
        reference: Some(reference.parse().unwrap()),
        audience: None,
        body: Body::ChatMessage {
            id: MessageId::generate(),
            content: reference.into(),
            mentions: Vec::new(),
            reply_to: None,
            thread: None,
            file_id: None,
            file_name: None,
        },
    }
}

async fn say(
    log: &dyn RoomLog,
    room: &RoomId,
    head: &LogHead,
    records: &[Record],
) -> Vec<Appended> {
    let append = Append {
        room,
        epoch: head.epoch,
        seen: Seq(0),
        role_version: 0,
        now_ms: NOW_MS,
        records,
    };
    log.append(append).await.expect("appended").0
}

#[tokio::test]
async fn after_a_power_failure_the_epoch_rises_and_what_the_disk_kept_is_archived() {
    let archives = tempfile::tempdir().unwrap();
    let archive = SqliteArchive::open(archives.path()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (room, ada) = (RoomId::generate(), UserId::generate());
    let log = opened(folder.path(), 1, Commits::Written).await;
    let head = recovery::activate(&log, &archive, &room, None, 0, NOW_MS).await;
    let head = head.unwrap();
    let records: Vec<Record> = (1..=10).map(|n| said(ada, &n.to_string())).collect();
    say(&log, &room, &head, &records[..6]).await;
    let entries = log.read(&room, head.epoch, Seq(0), 4).await.unwrap();
    archive
        .append(&room, head.epoch, &entries.unwrap())
        .await
        .unwrap();
    let on_disk = copied(folder.path());
    say(&log, &room, &head, &records[6..]).await;

    // The process alone died: nothing is missing.
    let same = opened(copied(folder.path()).path(), 1, Commits::Written).await;
    let goes_on = recovery::activate(&same, &archive, &room, None, 0, NOW_MS).await;
    assert_eq!(goes_on.unwrap().epoch, head.epoch);
    assert_eq!(archive.head(&room).await.unwrap().seq, Seq(4));

    let log = opened(on_disk.path(), 2, Commits::Written).await;
    assert!(!log.is_unbroken(&room).await.unwrap());
    let anew = recovery::activate(&log, &archive, &room, None, 0, NOW_MS).await;
    let anew = anew.unwrap();
    assert_eq!((anew.epoch, anew.seq), (head.epoch.next(), Seq(6)));
    assert_eq!(archive.head(&room).await.unwrap().seq, Seq(6));
    assert!(log.is_unbroken(&room).await.unwrap(), "seeded in this life");
    // What was lost is stored when it is said again, and what was kept is known.
    let refs: Vec<RefKey> = records.iter().filter_map(Record::ref_key).collect();
    let known = recovery::known_refs(&log, &archive, &room, &anew, &refs, NOW_MS).await;
    let known: Vec<u64> = known
        .unwrap()
        .into_iter()
        .flatten()
        .map(|seq| seq.0)
        .collect();
    assert_eq!(known, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        say(&log, &room, &anew, &records[6..7]).await,
        [Appended::New(Seq(7))]
    );
}

#[tokio::test]
async fn what_may_be_missing_stays_known_until_the_room_is_seeded_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (RoomId::generate(), RoomId::generate());
    let log = opened(folder.path(), 1, Commits::Written).await;
    log.seed(&old, Epoch(1), Seq(0), 0, NOW_MS).await.unwrap();
    let on_disk = copied(folder.path());
    let log = opened(on_disk.path(), 2, Commits::Written).await;
    log.seed(&new, Epoch(1), Seq(0), 0, NOW_MS).await.unwrap();
    let unbroken = async |log: &JournalRoomLog| {
        (
            log.is_unbroken(&old).await.unwrap(),
            log.is_unbroken(&new).await.unwrap(),
        )
    };
    assert_eq!(unbroken(&log).await, (false, true));
    // Killed, started again, and written anew.
    let killed = copied(on_disk.path());
    let log = opened(killed.path(), 2, Commits::Written).await;
    assert_eq!(unbroken(&log).await, (false, true));
    log.inner.state.lock().write_anew().unwrap();
    let killed = copied(killed.path());
    let log = opened(killed.path(), 2, Commits::Written).await;
    assert_eq!(unbroken(&log).await, (false, true));
    log.seed(&old, Epoch(2), Seq(0), 0, NOW_MS).await.unwrap();
    assert_eq!(unbroken(&log).await, (true, true));
    // Closed before the machine went down: nothing is missing.
    drop(log);
    let log = opened(killed.path(), 3, Commits::Written).await;
    assert_eq!(unbroken(&log).await, (true, true));
}

#[tokio::test]
async fn a_synced_log_lacks_nothing_in_another_life() {
    let folder = tempfile::tempdir().unwrap();
    let room = RoomId::generate();
    let log = opened(folder.path(), 1, Commits::Synced).await;
    log.seed(&room, Epoch(1), Seq(0), 0, NOW_MS).await.unwrap();
    let on_disk = copied(folder.path());
    let log = opened(on_disk.path(), 2, Commits::Synced).await;
    assert!(log.is_unbroken(&room).await.unwrap());
}

/// Files of refs are synced when they are written, so they may know rooms of which the journal has lost the beginning.
#[tokio::test]
async fn keys_that_a_power_failure_took_are_not_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, lost, later) = (RoomId::generate(), RoomId::generate(), RoomId::generate());
    let log = opened(folder.path(), 1, Commits::Written).await;
    log.seed(&first, Epoch(1), Seq(0), 0, NOW_MS).await.unwrap();
    let on_disk = copied(folder.path());
    log.seed(&lost, Epoch(1), Seq(0), 0, NOW_MS).await.unwrap();
    let key =
        |log: &JournalRoomLog, room| log.inner.state.lock().rooms.get(room).map(|log| log.key);
    let taken = key(&log, &lost);
    let log = opened(on_disk.path(), 2, Commits::Written).await;
    log.seed(&later, Epoch(1), Seq(0), 0, NOW_MS).await.unwrap();
    assert!(taken.is_some() && key(&log, &later) > taken);
}
