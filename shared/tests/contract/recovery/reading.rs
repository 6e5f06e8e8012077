//! Log and archive read as one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atelier_shared::Mode;
use atelier_shared::domain::board::{DrawBatch, Stroke};
use atelier_shared::domain::entry::Body;
use atelier_shared::domain::ids::{Epoch, Seq};
use atelier_shared::domain::state::{Checkpoint, RoomState};
use atelier_shared::recovery;

use super::{Stage, now_ms};
use crate::archive::seqs;
use crate::fixture::Outcome;

async fn trim(stage: &Stage, archived: u64, trim_to: u64) {
    let confirmed = stage
        .log()
        .confirm_archived(&stage.room, Epoch(1), Seq(archived), Seq(trim_to))
        .await;
    confirmed.expect("confirm");
}

pub async fn reading_goes_across_the_trimmed_border(mode: Mode) -> Outcome {
    let stage = Stage::with(mode, 30, 20).await;
    let all = stage.tail(Epoch(1), Seq(0)).await;
    trim(&stage, 20, 15).await;
    assert_eq!(
        stage.tail(Epoch(1), Seq(0)).await[0].seq,
        Seq(16),
        "trimmed"
    );
    for limit in [1, 4, 100] {
        for after in 0..30 {
            let read = stage
                .read_after(1, after, limit)
                .await?
                .ok_or("this epoch")?;
            assert!(!read.is_empty() && read.len() <= limit);
            let from = usize::try_from(after)?;
            assert_eq!(read, all[from..from + read.len()], "after {after}");
        }
    }
    for after in [30, 31, 1_000] {
        assert_eq!(
            stage.read_after(1, after, 10).await?,
            Some(vec![]),
            "after {after}"
        );
    }
    Ok(())
}

pub async fn there_is_no_hole_while_the_log_is_trimmed(mode: Mode) -> Outcome {
    const COUNT: u64 = 300;
    let stage = Stage::with(mode, COUNT, 0).await;
    let done = AtomicBool::new(false);
    let trimming = async {
        for upto in (10..=COUNT).step_by(10) {
            stage.move_to(upto).await;
            trim(&stage, upto, upto).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let reading = async {
        let mut rounds = 0;
        loop {
            let last = done.load(Ordering::Relaxed);
            let mut after = 0;
            while after < COUNT {
                let read = stage
                    .read_after(1, after, 7)
                    .await
                    .expect("read")
                    .expect("this epoch");
                let count = read.len() as u64;
                assert_eq!(seqs(&read), (after + 1..=after + count).collect::<Vec<_>>());
                assert!(count > 0, "an end at {after}");
                after += count;
            }
            rounds += 1;
            if last {
                return rounds;
            }
        }
    };
    let ((), rounds) = tokio::join!(trimming, reading);
    assert!(rounds > 1, "read while trimming");
    Ok(())
}

pub async fn another_epoch_is_not_continued(mode: Mode) -> Outcome {
    let mut stage = Stage::with(mode, 10, 5).await;
    stage.empty_log().await;
    assert_eq!(stage.read_after(1, 3, 10).await?, None, "no log");
    let head = stage.activate(None).await?;
    stage.write(&head, 7).await;
    stage.move_to(12).await;
    // Who saw 8 of epoch 1 saw an 8 that is no more.
    for after in [0, 4, 8, 10, 50] {
        assert_eq!(stage.read_after(1, after, 10).await?, None, "after {after}");
        assert_eq!(stage.read_after(3, after, 10).await?, None, "after {after}");
    }
    let read = stage.read_after(2, 3, 100).await?.ok_or("this epoch")?;
    assert_eq!(seqs(&read)[..2], [4, 5]);
    Ok(())
}

pub async fn an_entry_that_is_nowhere_is_an_error(mode: Mode) -> Outcome {
    let stage = Stage::with(mode, 0, 0).await;
    stage.archive().raise_epoch(&stage.room, Epoch(1)).await?;
    stage
        .log()
        .seed(&stage.room, Epoch(2), Seq(10), 0, now_ms())
        .await?;
    let error = stage.read_after(2, 3, 5).await.expect_err("nobody has 4");
    assert!(
        !error.is_retryable() && error.to_string().contains("entry 4"),
        "{error}"
    );
    assert_eq!(stage.read_after(2, 10, 5).await?, Some(vec![]));
    Ok(())
}

fn stroke(n: i64) -> Body {
    let stroke = Stroke {
        id: format!("s{}", n % 7),
        width: 1.5,
        color: "#000".into(),
        points: vec![0.1, n as f64 / 3.0],
        ts: n,
    };
    Body::Draw(DrawBatch {
        paths: vec![Arc::new(stroke)],
        clear: n == 12,
        ..DrawBatch::default()
    })
}

pub async fn a_loaded_state_is_all_entries_folded(mode: Mode) -> Outcome {
    let stage = Stage::new(mode).await;
    let head = stage.activate(None).await?;
    let load = async || {
        let head = stage.activate(None).await.expect("activate");
        let (log, archive) = (&**stage.log(), &**stage.archive());
        let loaded = recovery::load(log, archive, &stage.room, &head).await;
        loaded.expect("load")
    };
    assert_eq!(load().await, (RoomState::default(), Seq(0)));

    let records: Vec<_> = (1..=300).map(|n| stage.writer.record(stroke(n))).collect();
    stage.append(&head, &records).await;
    let mut folded = RoomState::default();
    let mut checkpoint = Checkpoint::default();
    for entry in stage.tail(Epoch(1), Seq(0)).await {
        folded.apply(&entry);
        if entry.seq == Seq(9) {
            checkpoint = Checkpoint {
                epoch: Epoch(1),
                seq: Seq(9),
                state: folded.clone(),
            };
        }
    }
    let whole = (folded, Seq(300));
    assert_eq!(load().await, whole, "all in the log");
    stage.move_to(290).await;
    trim(&stage, 290, 280).await;
    assert_eq!(load().await, whole, "partly in the archive alone");
    assert!(
        stage
            .archive()
            .save_checkpoint(&stage.room, &checkpoint)
            .await?
    );
    assert_eq!(load().await, whole, "from a checkpoint on");
    Ok(())
}
