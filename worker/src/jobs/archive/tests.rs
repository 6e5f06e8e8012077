//! Archiving, on the embedded stores.

use std::time::{Duration, Instant};

use atelier_shared::Backends;
use atelier_shared::config::StoreConfig;
use atelier_shared::domain::entry::{Author, Body, Record};
use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, PodId, RoomId, Seq, UserId};
use atelier_shared::domain::job::QUEUE_ARCHIVE;
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::room::Role;
use atelier_shared::ports::{Append, Cancelled, LogHead};
use atelier_shared::recovery::{self, ArchiveRoom};
use serde_json::json;

use super::checkpoint::Saved;
use super::known::Known;
use super::tail::Tail;
use super::{Archiver, Policy};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

struct Stage {
    archiver: Archiver,
    room: RoomId,
    _folder: tempfile::TempDir,
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Trims all it may, checkpoints whenever it may.
fn eager() -> Policy {
    Policy {
        trim_keep: 10,
        trim_step: 1,
        trim_pause: Duration::ZERO,
        checkpoint_every: 1,
        checkpoint_pause: Duration::ZERO,
        idle_after: Duration::from_secs(60),
        ..Policy::default()
    }
}

async fn stores(folder: &tempfile::TempDir, room_tail_max: u64) -> Backends {
    let config = StoreConfig {
        data_dir: folder.path().to_owned(),
        room_tail_max,
        ..StoreConfig::default()
    };
    Backends::open(&config).await.unwrap()
}

impl Stage {
    async fn new(policy: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stores = stores(&folder, StoreConfig::default().room_tail_max).await;
        let archiver = Archiver {
            log: stores.log,
            archive: stores.archive,
            queue: stores.queue,
            presence: stores.presence,
            policy,
            saved: Saved::default(),
            known: Known::default(),
        };
        let stage = Self {
            archiver,
            room: RoomId::generate(),
            _folder: folder,
        };
        stage.activate().await;
        stage
    }

    async fn activate(&self) -> LogHead {
        let (log, archive) = (&*self.archiver.log, &*self.archiver.archive);
        // Loaded a day ago, so that only its entries keep it from being idle.
        let then_ms = now_ms() - DAY_MS;
        recovery::activate(log, archive, &self.room, None, 0, then_ms)
            .await
            .unwrap()
    }

    /// Appends `count` entries that are `age_ms` old; each sets `n` to its number.
    async fn write(&self, count: u64, age_ms: i64) {
        self.write_with(count, age_ms, "").await;
    }

    /// And `text` to a text.
    async fn write_with(&self, count: u64, age_ms: i64, text: &str) {
        let head = self.log_head().await;
        let author = Author {
            client_id: ClientId::generate(),
            user_id: UserId::generate(),
            connection: None,
            name: "Zoë".into(),
            color: None,
            avatar_url: None,
        };
        let record = |seq: u64| Record {
            ts_ms: now_ms() - age_ms,
            author: author.clone(),
            reference: None,
            audience: None,
            body: Body::SessionUpdate {
                data: serde_json::from_value(json!({ "n": seq, "text": text })).unwrap(),
            },
        };
        let records: Vec<_> = (head.seq.0 + 1..=head.seq.0 + count).map(record).collect();
        let append = Append {
            room: &self.room,
            epoch: head.epoch,
            seen: head.seq,
            role_version: 0,
            now_ms: now_ms(),
            records: &records,
        };
        self.archiver.log.append(append).await.unwrap();
    }

    /// Appends updates of the room's document.
    async fn edit(&self, updates: &[&[u8]]) {
        let head = self.log_head().await;
        let author = Author {
            client_id: ClientId::generate(),
            user_id: UserId::generate(),
            connection: None,
            name: "Zoë".into(),
            color: None,
            avatar_url: None,
        };
        let record = |update: &&[u8]| Record {
            ts_ms: now_ms(),
            author: author.clone(),
            reference: None,
            audience: None,
            body: Body::DocumentUpdate {
                data: update.to_vec().into(),
            },
        };
        let records: Vec<_> = updates.iter().map(record).collect();
        let append = Append {
            room: &self.room,
            epoch: head.epoch,
            seen: head.seq,
            role_version: 0,
            now_ms: now_ms(),
            records: &records,
        };
        self.archiver.log.append(append).await.unwrap();
    }

    async fn log_head(&self) -> LogHead {
        self.archiver.log.head(&self.room).await.unwrap().unwrap()
    }

    async fn archived(&self) -> u64 {
        self.archiver.archive.head(&self.room).await.unwrap().seq.0
    }

    async fn run(&self) {
        self.archiver.archive(&self.room).await.unwrap();
    }

    /// What is queued for this room, in any order.
    async fn queued(&self) -> Vec<String> {
        let mut found = Vec::new();
        let room = self.room.as_str();
        for (kind, id) in [
            ("archive", "archive-group:0".to_owned()),
            ("alone", format!("archive:{room}")),
            ("unload", format!("unload:{room}")),
        ] {
            if self
                .archiver
                .queue
                .cancel(QUEUE_ARCHIVE, &id)
                .await
                .unwrap()
                != Cancelled::Unknown
            {
                found.push(kind.to_owned());
            }
        }
        found
    }

    async fn checkpoint(&self) -> Option<(u64, serde_json::Value)> {
        let kept = self.archiver.archive.checkpoint(&self.room).await.unwrap();
        kept.map(|kept| (kept.seq.0, kept.state.metadata["n"].clone()))
    }

    async fn is_dirty(&self) -> bool {
        let dirty = self.archiver.log.dirty_rooms(None, 10).await.unwrap();
        dirty.contains(&self.room)
    }
}

#[tokio::test]
async fn a_tail_is_archived_and_the_log_knows() {
    let stage = Stage::new(Policy {
        batch: 7,
        ..Policy::default()
    })
    .await;
    stage.write(50, 0).await;
    assert!(stage.is_dirty().await);
    stage.run().await;
    let head = stage.log_head().await;
    assert_eq!((stage.archived().await, head.archived), (50, Seq(50)));
    assert_eq!(head.trimmed, Seq(0), "all of it is young");
    assert!(!stage.is_dirty().await);
    assert_eq!(stage.queued().await, ["unload"]);
    // More, then nothing more.
    stage.write(3, 0).await;
    stage.run().await;
    stage.run().await;
    assert_eq!(stage.archived().await, 53);
    let all = stage
        .archiver
        .archive
        .read(&stage.room, Seq(0), 100)
        .await
        .unwrap();
    assert!((1..=53).eq(all.iter().map(|entry| entry.seq.0)));
}

#[tokio::test]
async fn only_what_is_archived_old_and_not_among_the_last_is_trimmed() {
    for (old, young, trimmed) in [
        (100, 0, 90),
        (100, 5, 95),
        (100, 30, 100),
        (8, 0, 0),
        (5, 40, 5),
    ] {
        let stage = Stage::new(eager()).await;
        stage.write(old, 61_000).await;
        if young > 0 {
            stage.write(young, 0).await;
        }
        stage.run().await;
        let head = stage.log_head().await;
        assert_eq!(head.archived.0, old + young);
        assert_eq!(head.trimmed.0, trimmed, "{old} old, {young} young");
    }
}

/// However young they are: they lie in the store that all rooms share.
#[tokio::test]
async fn what_stays_in_the_log_is_bounded_in_bytes() {
    const LARGE: usize = 1 << 20;
    let stage = Stage::new(Policy::default()).await;
    let text = "x".repeat(LARGE);
    for _ in 0..4 {
        stage.write_with(5, 0, &text).await;
        stage.run().await;
    }
    let head = stage.log_head().await;
    assert_eq!((head.archived, head.trimmed), (Seq(20), Seq(16)));
    // What was small before stays, and what is small goes on to.
    let stage = Stage::new(Policy::default()).await;
    stage.write(900, 0).await;
    stage.run().await;
    assert_eq!(stage.log_head().await.trimmed, Seq(0));
}

#[tokio::test]
async fn a_room_written_to_all_the_while_is_queued_again() {
    let stage = Stage::new(Policy {
        batch: 10,
        slice: Duration::ZERO,
        ..Policy::default()
    })
    .await;
    stage.write(35, 0).await;
    for archived in [10, 20, 30] {
        stage.run().await;
        assert_eq!(stage.archived().await, archived);
        assert_eq!(stage.queued().await, ["archive"]);
    }
    stage.run().await;
    assert_eq!(stage.archived().await, 35);
    assert_eq!(stage.queued().await, ["unload"]);
}

#[tokio::test]
async fn an_epoch_that_is_over_is_left_to_recovery() {
    let stage = Stage::new(Policy::default()).await;
    stage.write(5, 0).await;
    stage
        .archiver
        .archive
        .raise_epoch(&stage.room, Epoch(1))
        .await
        .unwrap();
    stage.run().await;
    assert_eq!(stage.archived().await, 0);
    let nowhere = Stage {
        room: RoomId::generate(),
        ..stage
    };
    nowhere.run().await;
    assert!(nowhere.queued().await.is_empty());
}

#[tokio::test]
async fn a_log_that_was_rolled_back_is_left_to_recovery() {
    let mut stage = Stage::new(Policy::default()).await;
    stage.write(5, 0).await;
    stage.run().await;
    let folder = tempfile::tempdir().unwrap();
    stage.archiver.log = stores(&folder, 100).await.log;
    let log = &stage.archiver.log;
    log.seed(&stage.room, Epoch(1), Seq(3), 0, now_ms())
        .await
        .unwrap();
    stage.write(1, 0).await;
    let tail = stage
        .archiver
        .move_tail(&stage.room, Instant::now())
        .await
        .unwrap();
    assert_eq!(tail, Tail::NotOurs);
    assert_eq!(stage.archived().await, 5);
}

#[tokio::test]
async fn a_hole_between_archive_and_log_is_told_and_not_jumped() {
    let stage = Stage::new(Policy::default()).await;
    stage
        .archiver
        .archive
        .raise_epoch(&stage.room, Epoch(1))
        .await
        .unwrap();
    let log = &stage.archiver.log;
    log.seed(&stage.room, Epoch(2), Seq(10), 0, now_ms())
        .await
        .unwrap();
    stage.write(2, 0).await;
    let error = stage.archiver.archive(&stage.room).await.unwrap_err();
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("begins at 11"), "{error}");
    assert_eq!(stage.archived().await, 0);
}

#[tokio::test]
async fn a_checkpoint_is_due_after_many_entries_or_in_a_quiet_while() {
    let policy = Policy {
        checkpoint_every: 20,
        checkpoint_pause: Duration::ZERO,
        checkpoint_quiet: Duration::from_secs(3_600),
        ..Policy::default()
    };
    let mut stage = Stage::new(policy).await;
    stage.write(3, 0).await;
    stage.run().await;
    assert_eq!(
        stage.checkpoint().await,
        Some((3, 3.into())),
        "the first that is known of"
    );
    stage.write(19, 0).await;
    stage.run().await;
    assert_eq!(
        stage.checkpoint().await,
        Some((3, 3.into())),
        "neither many nor quiet"
    );
    stage.write(1, 0).await;
    stage.run().await;
    assert_eq!(stage.checkpoint().await, Some((23, 23.into())), "many");
    stage.archiver.policy.checkpoint_quiet = Duration::ZERO;
    stage.write(1, 0).await;
    stage.run().await;
    assert_eq!(stage.checkpoint().await, Some((24, 24.into())), "quiet");
    stage.archiver.policy.checkpoint_pause = Duration::from_secs(3_600);
    stage.archiver.policy.checkpoint_quiet = Duration::from_secs(3_600);
    stage.write(600, 0).await;
    stage.run().await;
    assert_eq!(stage.checkpoint().await, Some((24, 24.into())), "too soon");
}

#[tokio::test]
async fn a_room_that_was_removed_and_made_again_has_a_checkpoint_at_once() {
    let policy = Policy {
        checkpoint_quiet: Duration::from_secs(3_600),
        ..Policy::default()
    };
    let stage = Stage::new(policy).await;
    stage.write(7, 0).await;
    stage.run().await;
    assert_eq!(stage.checkpoint().await, Some((7, 7.into())));
    let archive = &stage.archiver.archive;
    let epoch = archive.head(&stage.room).await.unwrap().epoch;
    assert!(archive.forget_room(&stage.room, epoch).await.unwrap());
    stage.activate().await;
    stage.write(2, 0).await;
    stage.run().await;
    assert_eq!(stage.checkpoint().await, Some((2, 2.into())));
    // And then it is as with every other.
    stage.write(1, 0).await;
    stage.run().await;
    assert_eq!(stage.checkpoint().await, Some((2, 2.into())));
}

#[tokio::test]
async fn the_sweep_finds_a_room_whose_wake_up_was_lost() {
    let stage = Stage::new(Policy::default()).await;
    stage.write(1, 0).await;
    assert!(stage.queued().await.is_empty());
    stage.archiver.sweep_once(7).await.unwrap();
    assert_eq!(stage.queued().await, ["archive"]);
    stage.archiver.sweep_once(7).await.unwrap();
    assert!(stage.queued().await.is_empty(), "a beat is taken once");
    stage.run().await;
    stage.queued().await;
    stage.archiver.sweep_once(8).await.unwrap();
    assert!(stage.queued().await.is_empty(), "nothing waits any more");
}

fn member() -> Member {
    Member {
        client_id: ClientId::generate(),
        connection: ConnectionId::generate(),
        pod: PodId::generate(),
        user_id: UserId::generate(),
        name: "Zoë".into(),
        color: "#123456".into(),
        avatar_url: None,
        role: Role::Editor,
        status: Status::Active,
        simulated: false,
        joined: true,
        cursor_position: None,
        selection: None,
        viewing: None,
        name_is_exclusive: false,
    }
}

#[tokio::test]
async fn a_room_is_unloaded_when_nobody_is_in_it_and_all_is_archived() {
    let stage = Stage::new(eager()).await;
    let unload = async || {
        stage.archiver.unload_if_idle(&stage.room).await.unwrap();
        let loaded = stage
            .archiver
            .log
            .head(&stage.room)
            .await
            .unwrap()
            .is_some();
        (loaded, stage.queued().await)
    };
    let again = (true, vec!["unload".to_owned()]);
    stage.write(30, 61_000).await;
    assert_eq!(unload().await, again, "not archived");
    stage.run().await;
    stage.queued().await;

    let somebody = member();
    let presence = &stage.archiver.presence;
    presence
        .renew(somebody.pod, Duration::from_secs(60))
        .await
        .unwrap();
    presence.enter(&stage.room, &somebody, None).await.unwrap();
    assert_eq!(unload().await, again, "somebody is in it");
    presence
        .leave(&stage.room, &somebody.client_id, somebody.connection)
        .await
        .unwrap();

    stage.write(1, 0).await;
    stage.run().await;
    stage.queued().await;
    assert_eq!(unload().await, again, "written to just now");
    stage.write(1, 61_000).await;
    stage.run().await;
    stage.queued().await;
    assert_eq!(unload().await, (false, vec![]));
    assert_eq!(
        stage.checkpoint().await,
        Some((32, 32.into())),
        "loaded in one read"
    );

    // It comes back where it was.
    let head = stage.activate().await;
    assert_eq!((head.epoch, head.seq), (Epoch(2), Seq(32)));
    let archived = stage.archiver.archive.head(&stage.room).await.unwrap();
    assert_eq!((archived.epoch, archived.seq), (Epoch(2), Seq(32)));
    // And one that is not there any more is nobody's business.
    let gone = ArchiveRoom {
        room: RoomId::generate(),
        unload: true,
    };
    stage.archiver.unload_if_idle(&gone.room).await.unwrap();
}

/// Client 1 writes a hundred letters and a word, and takes the letters back.
#[tokio::test]
async fn a_room_that_was_opened_and_never_written_to_leaves_the_hot_store_too() {
    // Loaded a day ago by somebody who only looked; what they queued is all there is to find it by.
    let stage = Stage::new(eager()).await;
    let queue = &*stage.archiver.queue;
    recovery::watch_idle(queue, &stage.room, Duration::ZERO)
        .await
        .unwrap();
    assert!(!stage.is_dirty().await);
    assert_eq!(stage.queued().await, ["unload"]);
    stage.archiver.unload_if_idle(&stage.room).await.unwrap();
    let log = stage.archiver.log.head(&stage.room).await.unwrap();
    assert_eq!(log, None, "it left");
    // Whoever opens it again finds an empty room, in a new epoch, and may write.
    let head = stage.activate().await;
    assert_eq!(head.seq, Seq(0));
    stage.write(1, 0).await;
    stage.run().await;
    assert_eq!(stage.archived().await, 1);
}

#[tokio::test]
async fn a_checkpoint_leaves_out_what_was_deleted_from_the_document() {
    let stage = Stage::new(eager()).await;
    let mut letters = vec![1, 1, 1, 0, 4, 1, 1, b't', 100];
    letters.extend([b'x'; 100]);
    letters.push(0);
    let word = [1, 1, 1, 100, 0x84, 1, 99, 4, b'w', b'o', b'r', b'd', 0];
    let deletion = [0, 1, 1, 1, 0, 100];
    stage.edit(&[&letters, &word, &deletion]).await;
    stage.run().await;
    let kept = stage.archiver.archive.checkpoint(&stage.room).await;
    let document = kept.unwrap().unwrap().state.document;
    assert!(document.bytes() < 40, "{} bytes", document.bytes());
    assert!(document.merge_all().is_none(), "in one piece");
    let updates: [&[u8]; 3] = [&letters, &word, &deletion];
    for update in updates {
        assert_eq!(document.news(&update.to_vec().into()), None);
    }
    let state = document.snapshot().state();
    assert!(state.windows(4).any(|w| w == b"word"), "{state:?}");
    assert!(!state.windows(4).any(|w| w == b"xxxx"), "{state:?}");
    let sizes = stage
        .archiver
        .archive
        .document_bytes(std::slice::from_ref(&stage.room));
    let expected = document.bytes() as u64;
    assert_eq!(sizes.await.unwrap().get(&stage.room), Some(&expected));
}

/// An update whose predecessor never came: nothing can be made of it yet, and nothing of it is lost.
#[tokio::test]
async fn what_waits_for_its_predecessor_survives_checkpoints() {
    let stage = Stage::new(eager()).await;
    let first = [1, 1, 1, 0, 4, 1, 1, b't', 3, b'o', b'n', b'e', 0];
    let second = [1, 1, 1, 3, 0x84, 1, 2, 3, b't', b'w', b'o', 0];
    let third = [1, 1, 1, 6, 0x84, 1, 5, 5, b't', b'h', b'r', b'e', b'e', 0];
    for update in [&third[..], &first, &second] {
        stage.edit(&[update]).await;
        stage.run().await;
    }
    let kept = stage.archiver.archive.checkpoint(&stage.room).await;
    let document = kept.unwrap().unwrap().state.document;
    let state = document.snapshot().state();
    assert!(state.windows(11).any(|w| w == b"onetwothree"), "{state:?}");
}
