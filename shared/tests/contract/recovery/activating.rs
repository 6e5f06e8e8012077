//! Bringing log and archive into agreement.

use std::sync::atomic::{AtomicBool, Ordering};

use atelier_shared::Mode;
use atelier_shared::domain::ids::{Epoch, Seq};
use atelier_shared::ports::{Append, ArchiveHead, LogHead};
use atelier_shared::recovery;
use futures::future::join_all;

use super::{Stage, now_ms};
use crate::fixture::{Outcome, redis_server};

fn place(head: &LogHead) -> (u64, u64) {
    (head.epoch.0, head.seq.0)
}

async fn archive_place(stage: &Stage) -> (u64, u64) {
    let ArchiveHead { epoch, seq, .. } = stage.archive().head(&stage.room).await.expect("head");
    (epoch.0, seq.0)
}

pub async fn a_room_never_opened_starts_in_epoch_1(mode: Mode) -> Outcome {
    let stage = Stage::new(mode).await;
    let head = stage.activate(None).await?;
    assert_eq!(
        (place(&head), archive_place(&stage).await),
        ((1, 0), (1, 0))
    );
    assert!(
        !recovery::refs_need_archive(&head, now_ms()),
        "there is nothing to forget"
    );
    stage.write(&head, 3).await;
    // Again, by whoever: nothing changes.
    for seen in [None, Some((1, 3))] {
        assert_eq!(place(&stage.activate(seen).await?), (1, 3));
    }
    Ok(())
}

pub async fn an_emptied_log_raises_the_epoch_once_and_goes_on_after_what_is_archived(
    mode: Mode,
) -> Outcome {
    let mut stage = Stage::with(mode, 10, 6).await;
    stage.empty_log().await;
    let head = stage.activate(Some((1, 10))).await?;
    assert_eq!((place(&head), head.seeded_seq), ((2, 6), Seq(6)));
    assert_eq!(archive_place(&stage).await, (2, 6));
    assert!(recovery::refs_need_archive(&head, now_ms()));
    assert_eq!(place(&stage.activate(Some((1, 10))).await?), (2, 6));
    stage.write(&head, 1).await;
    assert_eq!(stage.tail(Epoch(2), Seq(6)).await[0].seq, Seq(7));
    Ok(())
}

pub async fn a_log_shorter_than_what_was_seen_is_left_behind(mode: Mode) -> Outcome {
    let mut stage = Stage::with(mode, 10, 6).await;
    stage.empty_log().await;
    // A replica that was promoted without its last entries.
    stage
        .log()
        .seed(&stage.room, Epoch(1), Seq(6), 0, now_ms())
        .await?;
    let head = stage.activate(None).await?;
    assert_eq!(place(&head), (1, 6), "who has seen nothing can't know");
    stage.write(&head, 3).await;
    assert_eq!(place(&stage.activate(Some((1, 9))).await?), (1, 9));
    // Seen in an older epoch says nothing about this one.
    assert_eq!(place(&stage.activate(Some((0, 99))).await?), (1, 9));
    let left = stage.tail(Epoch(1), Seq(6)).await;
    let head = stage.activate(Some((1, 10))).await?;
    assert_eq!(place(&head), (2, 9));
    assert_eq!(stage.archive().read(&stage.room, Seq(6), 10).await?, left);
    Ok(())
}

/// The store was started again, and came back with what it had on its disk: what it holds was acknowledged.
pub async fn a_newcomer_archives_what_a_restarted_store_still_holds(mode: Mode) -> Outcome {
    let stage = Stage::with(mode, 10, 6).await;
    let said = [stage.writer.says("with a ref")];
    let head = stage.log().head(&stage.room).await?.ok_or("a log")?;
    stage.append(&head, &said).await;
    let left = stage.tail(Epoch(1), Seq(6)).await;
    let server = redis_server::client(&std::env::var("REDIS_URL")?).await;
    let meta = format!(
        "{}:{{p{}}}:room:{}:meta",
        stage.logs.namespace,
        stage.room.partition(),
        stage.room
    );
    redis_server::command(&server, &["HSET", &meta, "server", "another"]).await?;
    // Whoever has seen as much goes on; a newcomer can't know.
    assert_eq!(place(&stage.activate(Some((1, 11))).await?), (1, 11));
    let head = stage.activate(None).await?;
    assert_eq!(place(&head), (2, 11));
    assert_eq!(archive_place(&stage).await, (2, 11));
    assert_eq!(stage.archive().read(&stage.room, Seq(6), 10).await?, left);
    Ok(())
}

/// Those who write to a log that is over are told so, and nothing that they were told is stored is lost or stored twice.
pub async fn what_is_written_while_the_epoch_ends_is_archived_or_refused(mode: Mode) -> Outcome {
    let stage = Stage::with(mode, 200, 0).await;
    let done = AtomicBool::new(false);
    let writes = async {
        let mut taken = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let append = Append {
                room: &stage.room,
                epoch: Epoch(1),
                seen: Seq(200),
                role_version: 0,
                now_ms: now_ms(),
                records: &[stage.writer.says("meanwhile")],
            };
            match stage.log().append(append).await {
                Ok((appended, _)) => taken.extend(appended[0].seq()),
                Err(_) => break,
            }
        }
        taken
    };
    let raises = async {
        // Seen by somebody who is on another way.
        let head = stage.activate(Some((1, u64::MAX))).await;
        done.store(true, Ordering::Relaxed);
        head
    };
    let (taken, head) = tokio::join!(writes, raises);
    let head = head?;
    assert_eq!(head.epoch, Epoch(2));
    let archived = stage.archive().read(&stage.room, Seq(0), 10_000).await?;
    let seqs: Vec<u64> = archived.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=head.seq.0).collect::<Vec<_>>());
    // The last were on their way when the log ended: their writers say them again, as they are not told archived.
    assert!(head.seq >= Seq(200), "{head:?}, taken {taken:?}");
    Ok(())
}

pub async fn a_log_shorter_than_the_archive_is_left_behind(mode: Mode) -> Outcome {
    let mut stage = Stage::with(mode, 10, 6).await;
    stage.empty_log().await;
    stage
        .log()
        .seed(&stage.room, Epoch(1), Seq(5), 0, now_ms())
        .await?;
    assert_eq!(place(&stage.activate(None).await?), (2, 6));
    assert_eq!(archive_place(&stage).await, (2, 6));
    Ok(())
}

/// Nobody was told anything of an epoch before it was opened: there is nothing to leave behind.
pub async fn an_epoch_whose_raiser_died_is_taken_up_as_it_is(mode: Mode) -> Outcome {
    // After its raise, over a log of the old epoch.
    let mut stage = Stage::with(mode, 10, 6).await;
    stage.archive().raise_epoch(&stage.room, Epoch(1)).await?;
    assert_eq!(place(&stage.activate(Some((1, 10))).await?), (2, 6));
    assert!(stage.tail(Epoch(2), Seq(6)).await.is_empty());
    // After its raise, over no log.
    stage.empty_log().await;
    stage.archive().raise_epoch(&stage.room, Epoch(2)).await?;
    assert_eq!(place(&stage.activate(None).await?), (3, 6));
    // After its seed.
    stage.empty_log().await;
    stage.archive().raise_epoch(&stage.room, Epoch(3)).await?;
    stage
        .log()
        .seed(&stage.room, Epoch(4), Seq(6), 0, now_ms())
        .await?;
    assert_eq!(place(&stage.activate(None).await?), (4, 6));
    assert_eq!(archive_place(&stage).await, (4, 6));
    // From here on it is opened.
    stage.empty_log().await;
    assert_eq!(place(&stage.activate(None).await?), (5, 6));
    Ok(())
}

/// A replica was promoted that had not heard of the last epoch. What was written in that may have been seen.
pub async fn a_log_of_an_older_epoch_stands_for_a_lost_one(mode: Mode) -> Outcome {
    let mut stage = Stage::with(mode, 10, 6).await;
    stage.empty_log().await;
    let head = stage.activate(None).await?;
    stage.write(&head, 3).await;
    stage.empty_log().await;
    stage
        .log()
        .seed(&stage.room, Epoch(1), Seq(10), 0, now_ms())
        .await?;
    assert_eq!(place(&stage.activate(None).await?), (3, 6));
    assert_eq!(archive_place(&stage).await, (3, 6));
    Ok(())
}

pub async fn an_archive_that_lost_an_epoch_is_an_error_and_changes_nothing(mode: Mode) -> Outcome {
    let stage = Stage::with(mode, 3, 3).await;
    stage
        .log()
        .seed(&stage.room, Epoch(4), Seq(9), 0, now_ms())
        .await?;
    for seen in [None, Some((4, 9))] {
        let error = stage
            .activate(seen)
            .await
            .expect_err("the archive lost an epoch");
        assert!(!error.is_retryable());
        let text = error.to_string();
        assert!(
            text.contains(stage.room.as_str()) && text.contains("epoch 4"),
            "{text}"
        );
    }
    let head = stage.log().head(&stage.room).await?.ok_or("a log")?;
    assert_eq!(
        (place(&head), archive_place(&stage).await),
        ((4, 9), (1, 3))
    );
    // Known from memory alone: the same.
    let stage = Stage::with(mode, 3, 3).await;
    let error = stage
        .activate(Some((7, 1)))
        .await
        .expect_err("epoch 7 was seen");
    assert!(error.to_string().contains("epoch 7"), "{error}");
    Ok(())
}

pub async fn a_role_version_is_raised_and_never_lowered(mode: Mode) -> Outcome {
    let stage = Stage::new(mode).await;
    for (told, kept) in [(5, 5), (3, 5), (0, 5), (8, 8)] {
        let (log, archive) = (&**stage.log(), &**stage.archive());
        let head = recovery::activate(log, archive, &stage.room, None, told, now_ms()).await?;
        assert_eq!(head.role_version, kept, "told {told}");
        let head = log.head(&stage.room).await?.ok_or("a log")?;
        assert_eq!(head.role_version, kept);
    }
    Ok(())
}

/// Activates from both handles, twenty at once.
async fn twenty(stage: &Stage, seen: Option<(Epoch, Seq)>) -> Vec<LogHead> {
    let activations = (0..20).map(|n| {
        let (log, archive) = if n % 2 == 0 {
            (&stage.logs.here, &stage.archives.here)
        } else {
            (&stage.logs.there, &stage.archives.there)
        };
        recovery::activate(&**log, &**archive, &stage.room, seen, 0, now_ms())
    });
    let heads = join_all(activations).await;
    heads
        .into_iter()
        .map(|head| head.expect("activate"))
        .collect()
}

pub async fn twenty_activations_of_a_new_room_agree(mode: Mode) -> Outcome {
    for _ in 0..10 {
        let stage = Stage::new(mode).await;
        for head in twenty(&stage, None).await {
            assert_eq!(place(&head), (1, 0));
        }
    }
    Ok(())
}

/// Each goes on writing as soon as it may: a second raise would drop what the quicker ones were told is stored.
pub async fn twenty_activations_of_an_emptied_log_agree_and_lose_nothing_that_was_acknowledged(
    mode: Mode,
) -> Outcome {
    let mut stage = Stage::with(mode, 10, 6).await;
    for epoch in 2..6 {
        stage.empty_log().await;
        let stage = &stage;
        let pods = (0..20).map(|n| async move {
            let (log, archive) = if n % 2 == 0 {
                (&stage.logs.here, &stage.archives.here)
            } else {
                (&stage.logs.there, &stage.archives.there)
            };
            let seen = Some((Epoch(epoch - 1), Seq(10)));
            let head =
                recovery::activate(&**log, &**archive, &stage.room, seen, 0, now_ms()).await?;
            let append = Append {
                room: &stage.room,
                epoch: head.epoch,
                seen: head.seq,
                role_version: 0,
                now_ms: now_ms(),
                records: &[stage.writer.says("first")],
            };
            let (appended, _) = log.append(append).await?;
            Ok::<_, atelier_shared::ports::Refusal>((
                head.epoch,
                appended[0].seq().expect("stored"),
            ))
        });
        let mut seqs = Vec::new();
        for pod in join_all(pods).await {
            let (opened, seq) = pod?;
            assert_eq!(opened, Epoch(epoch));
            seqs.push(seq.0);
        }
        seqs.sort_unstable();
        assert_eq!(seqs, (7..27).collect::<Vec<_>>());
        assert_eq!(stage.tail(Epoch(epoch), Seq(6)).await.len(), 20);
    }
    Ok(())
}

/// Log and archive are read one after the other, and both move: that alone must not look like a loss.
pub async fn a_room_written_to_and_archived_all_the_while_is_not_raised(mode: Mode) -> Outcome {
    let stage = Stage::with(mode, 1, 0).await;
    let head = stage.activate(None).await?;
    let done = AtomicBool::new(false);
    let busy = async {
        let mut written = 1;
        while !done.load(Ordering::Relaxed) {
            stage.write(&head, 1).await;
            written += 1;
            stage.move_to(written).await;
        }
    };
    let looking = async {
        for _ in 0..100 {
            let head = stage.activate(None).await.expect("activate");
            assert_eq!(head.epoch, Epoch(1));
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(busy, looking);
    Ok(())
}
