//! What is written is read back: whole, once, gapless.

use std::sync::Arc;

use atelier_shared::Mode;
use atelier_shared::domain::board::{DrawBatch, Erase, Stroke};
use atelier_shared::domain::entry::{Body, CodeComment, Record};
use atelier_shared::domain::ids::{ConnectionId, Epoch, JobId, MessageId, Seq, UserId};
use atelier_shared::domain::job::JobState;
use atelier_shared::domain::room::Role;
use atelier_shared::ports::StaleEpoch;
use futures::future::join_all;
use serde_json::json;

use super::{Writer, chat, entries, opened, read_all, seqs, stale};
use crate::fixture::{self, Outcome};

fn one_of_each(writer: &Writer) -> Vec<Record> {
    let stroke = Stroke {
        id: "s\"1\u{1f58c}".into(),
        width: 0.1 + 0.2,
        color: "#3B82F6".into(),
        // Full-precision coordinates: a parser that rounds moves them.
        points: vec![
            950.098_145_061_411_3,
            -0.000_012_345_678_9,
            1e300,
            7.0,
            f64::MIN_POSITIVE,
            1.0 / 3.0,
        ],
        ts: i64::MAX,
    };
    let bodies = [
        Body::ChatMessage {
            id: MessageId::generate(),
            content: "a\0b \u{2028} 𝒳 \\ \" ' $set {\"k\":1}".into(),
            mentions: vec!["Jürgen".into()],
            reply_to: Some(MessageId::generate()),
            thread: Some(MessageId::generate()),
            file_id: Some(uuid::Uuid::now_v7()),
            file_name: Some("plan.pdf".into()),
        },
        Body::DirectMessage {
            id: MessageId::generate(),
            to: UserId::generate(),
            content: "psst".into(),
        },
        Body::CodeComment {
            id: MessageId::generate(),
            data: CodeComment {
                file: "src/main.rs".into(),
                line: u32::MAX,
                content: "why?".into(),
                code_snippet: None,
                reply_to: None,
            },
            thread: None,
        },
        Body::Draw(DrawBatch {
            paths: vec![Arc::new(stroke)],
            erase: vec![Erase {
                id: "gone".into(),
                ts: -1,
            }],
            clear: true,
        }),
        Body::SessionUpdate {
            data: serde_json::from_value(json!({
                "$dotted.key": null, "n": u64::MAX, "f": 0.1, "deep": [{"": []}],
            }))
            .expect("an object"),
        },
        Body::RoleChanged {
            user_id: UserId::generate(),
            role: Some(Role::Viewer),
            version: 9_007_199_254_740_993,
            kicked: true,
        },
        Body::RunStarted {
            run_id: JobId::generate(),
            language: "python".into(),
        },
        Body::RunFinished {
            run_id: JobId::generate(),
            status: JobState::OutOfMemory,
            exit_code: Some(-1),
            signal: Some(9),
            wall_ms: 1,
        },
    ];
    let mut records: Vec<Record> = bodies.map(|body| writer.record(body)).into();
    records[0].reference = Some("réf 1".parse().expect("a ref"));
    records[0].author.connection = Some(ConnectionId::generate());
    records[0].author.avatar_url = Some("https://example.org/a.png".into());
    records[1].audience = Some(vec![writer.user, UserId::generate()]);
    records[2].audience = Some(Vec::new());
    records
}

pub async fn entries_are_read_back_as_they_were_written(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let written = entries(1, one_of_each(&Writer::new()));
    let head = archives.here.append(&room, Epoch(1), &written).await?;
    assert_eq!(head.seq, Seq(8));
    for page in [1, 3, 8, 100] {
        assert_eq!(
            read_all(&*archives.there, &room, page).await,
            written,
            "pages of {page}"
        );
    }
    assert_eq!(archives.there.read(&room, Seq(5), 2).await?, written[5..7]);
    assert!(archives.there.read(&room, Seq(8), 2).await?.is_empty());
    assert!(archives.there.read(&room, Seq(0), 0).await?.is_empty());
    // Another room, whose id begins alike, has none of them.
    let alike = format!("{room}-2").parse().expect("a room id");
    assert!(archives.there.read(&alike, Seq(0), 10).await?.is_empty());
    Ok(())
}

pub async fn a_repeated_append_after_a_lost_answer_makes_no_doubles(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let batch = chat(1, 5);
    let first = archives.here.append(&room, Epoch(1), &batch).await?;
    let again = archives.there.append(&room, Epoch(1), &batch).await?;
    assert_eq!((first.seq, again), (Seq(5), first));
    assert_eq!(read_all(&*archives.here, &room, 100).await, batch);
    // Nothing to write is no error either.
    assert_eq!(archives.here.append(&room, Epoch(1), &[]).await?, first);
    Ok(())
}

pub async fn a_batch_that_overlaps_the_head_adds_only_the_rest(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let all = chat(1, 10);
    archives.here.append(&room, Epoch(1), &all[..6]).await?;
    let head = archives.here.append(&room, Epoch(1), &all[3..]).await?;
    assert_eq!(head.seq, Seq(10));
    assert_eq!(read_all(&*archives.here, &room, 100).await, all);
    Ok(())
}

pub async fn a_hole_after_the_head_is_refused(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    archives.here.append(&room, Epoch(1), &chat(1, 2)).await?;
    let head = stale(archives.here.append(&room, Epoch(1), &chat(4, 2)).await);
    assert_eq!(head.seq, Seq(2));
    assert_eq!(seqs(&read_all(&*archives.here, &room, 100).await), [1, 2]);
    Ok(())
}

pub async fn a_hole_within_a_batch_writes_nothing(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    for (at, to) in [(2, Seq(9)), (1, Seq(1))] {
        let mut batch = chat(1, 3);
        batch[at].seq = to;
        let refused = archives.here.append(&room, Epoch(1), &batch).await;
        assert!(refused.is_err(), "{:?}", seqs(&batch));
    }
    assert_eq!(archives.here.head(&room).await?.seq, Seq(0));
    assert!(archives.here.read(&room, Seq(0), 10).await?.is_empty());
    Ok(())
}

/// Two archive jobs may run for one room (a lease lapsed while its holder went on); each has the same log.
pub async fn twenty_writers_of_one_log_leave_it_gapless(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let log = chat(1, 60);
    let writers = (0..20_usize).map(|n| {
        let (room, log) = (&room, &log);
        let archive = if n % 2 == 0 {
            &archives.here
        } else {
            &archives.there
        };
        async move {
            let step = n % 7 + 1;
            loop {
                let done = archive.head(room).await.expect("head").seq.0;
                let from = usize::try_from(done).expect("small");
                if from == log.len() {
                    return;
                }
                let to = (from + step).min(log.len());
                match archive.append(room, Epoch(1), &log[from..to]).await {
                    Ok(_) | Err(StaleEpoch::Stale(_)) => {}
                    // Crowded out by the others, and to be repeated.
                    Err(StaleEpoch::Port(error)) if error.is_retryable() => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    });
    tokio::time::timeout(std::time::Duration::from_secs(60), join_all(writers))
        .await
        .map_err(|_| "the writers did not come to an end")?;
    assert_eq!(read_all(&*archives.here, &room, 1_000).await, log);
    Ok(())
}

pub async fn a_batch_is_written_whole(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    // 20 MB: more than a document, or a transaction's first write, can hold.
    let writer = Writer::new();
    let long = "x".repeat(20_000);
    // Not said: words are stored twice, and so much of them fits no transaction of a small database.
    let large = |n: usize| Body::SessionUpdate {
        data: [(n.to_string(), long.clone().into())].into_iter().collect(),
    };
    let batch = entries(1, (0..1_000).map(|n| writer.record(large(n))));
    let (room, batch) = (&room, &batch);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let watcher = async {
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            // A small database that is busy with so much may not answer in time.
            let Ok(head) = archives.there.head(room).await else {
                continue;
            };
            let head = head.seq.0;
            assert!(head == 0 || head == 1_000, "part of a batch shows: {head}");
        }
    };
    let appending = async {
        // As a job does: what was not written in time is written again.
        let mut head = archives.here.append(room, Epoch(1), batch).await;
        for _ in 0..3 {
            if matches!(&head, Err(StaleEpoch::Port(error)) if error.is_retryable()) {
                head = archives.here.append(room, Epoch(1), batch).await;
            }
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        head
    };
    let (head, ()) = tokio::join!(appending, watcher);
    assert_eq!(head?.seq, Seq(1_000));
    assert_eq!(&read_all(&*archives.here, room, 300).await, batch);
    Ok(())
}

pub async fn a_large_answer_is_cut_and_reading_on_gets_all(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let writer = Writer::new();
    // As large as nothing said can be: documents and drawings are.
    let large = |n: usize| Body::SessionUpdate {
        data: [(n.to_string(), "y".repeat(1 << 20).into())]
            .into_iter()
            .collect(),
    };
    let batch = entries(1, (0..20).map(|n| writer.record(large(n))));
    archives.here.append(&room, Epoch(1), &batch).await?;
    let first = archives.here.read(&room, Seq(0), 1_000).await?;
    assert!(
        (1..20).contains(&first.len()),
        "{} MiB in one answer",
        first.len()
    );
    assert_eq!(read_all(&*archives.here, &room, 1_000).await, batch);
    Ok(())
}
