//! Refs over a loss, and entries of the server's own.

use atelier_shared::Mode;
use atelier_shared::domain::ids::Seq;
use atelier_shared::domain::job::QUEUE_ARCHIVE;
use atelier_shared::recovery::{self, ArchiveWork};
use std::time::Duration;

use super::{Stage, now_ms};
use crate::fixture::{self, Outcome};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

pub async fn refs_that_the_log_forgot_are_known_from_the_archive(mode: Mode) -> Outcome {
    let mut stage = Stage::with(mode, 0, 0).await;
    let writer = stage.writer.clone();
    let head = stage.activate(None).await?;
    let records = ["a", "b", "c"].map(|reference| writer.says_as(reference, "x"));
    stage.append(&head, &records).await;
    stage.move_to(2).await;
    stage.empty_log().await;
    let head = stage.activate(None).await?;
    stage.append(&head, &[writer.says_as("d", "x")]).await;

    let refs = ["d", "c", "b", "none", "a"].map(|reference| writer.key(reference));
    let (log, archive, room) = (&**stage.log(), &**stage.archive(), &stage.room);
    let known = recovery::known_refs(log, archive, room, &head, &refs, now_ms()).await?;
    // `c` was lost before it was archived: it is to be stored anew.
    assert_eq!(
        known,
        [Some(Seq(3)), None, Some(Seq(2)), None, Some(Seq(1))]
    );
    // A day after the log was seeded it has forgotten nothing that is still to be known.
    let later = now_ms() + DAY_MS;
    let known = recovery::known_refs(log, archive, room, &head, &refs[4..], later).await?;
    assert_eq!(known, [None]);
    assert!(
        recovery::known_refs(log, archive, room, &head, &[], now_ms())
            .await?
            .is_empty()
    );
    Ok(())
}

pub async fn a_server_entry_is_stored_once_and_wakes_the_archive(mode: Mode) -> Outcome {
    let mut stage = Stage::new(mode).await;
    let queues = fixture::queue(mode).await;
    let (first, second) = (
        stage.writer.says_as("1", "began"),
        stage.writer.says_as("2", "ended"),
    );
    for (record, seq) in [(&first, 1), (&first, 1), (&second, 2), (&first, 1)] {
        let (log, archive) = (&**stage.log(), &**stage.archive());
        let got =
            recovery::append(log, archive, &*queues.here, &stage.room, record, now_ms()).await?;
        assert_eq!(got, Seq(seq));
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let job = loop {
        let claim = queues
            .there
            .claim(QUEUE_ARCHIVE, Duration::from_secs(60), 1)
            .await?;
        match claim {
            Ok(job) => break job,
            Err(_) => assert!(tokio::time::Instant::now() < deadline, "nothing was queued"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let work: ArchiveWork = serde_json::from_str(&job.payload)?;
    let group = stage.log().archive_group_of(&stage.room);
    assert_eq!(work, ArchiveWork::Group { group });

    // The log is lost after the first was archived: that one is known, the other is stored anew.
    stage.move_to(1).await;
    stage.empty_log().await;
    for (record, seq) in [(&first, 1), (&second, 2)] {
        let (log, archive) = (&**stage.log(), &**stage.archive());
        let got =
            recovery::append(log, archive, &*queues.here, &stage.room, record, now_ms()).await?;
        assert_eq!(got, Seq(seq));
    }
    let head = stage.activate(None).await?;
    assert_eq!((head.epoch.0, head.seq.0), (2, 2));
    Ok(())
}

pub async fn a_server_entry_takes_the_role_version_as_it_is(mode: Mode) -> Outcome {
    let stage = Stage::with(mode, 1, 0).await;
    let queues = fixture::queue(mode).await;
    stage.log().set_role_version(&stage.room, 7).await?;
    let (log, archive) = (&**stage.log(), &**stage.archive());
    let record = stage.writer.says_as("r", "role changed");
    let seq = recovery::append(log, archive, &*queues.here, &stage.room, &record, now_ms()).await?;
    assert_eq!(seq, Seq(2));
    assert_eq!(stage.activate(None).await?.role_version, 7);
    Ok(())
}
