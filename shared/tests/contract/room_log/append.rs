//! What an append does, and what it refuses.

use std::collections::HashMap;

use atelier_shared::domain::board::DrawBatch;
use atelier_shared::domain::entry::CodeComment;
use atelier_shared::domain::room::Role;
use atelier_shared::ports::{APPEND_MAX, APPEND_MAX_BYTES};

use super::*;
use crate::fixture::TAIL_MAX;

pub async fn seqs_are_consecutive_and_follow_the_head(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
    let room = RoomId::generate();
    logs.here.seed(&room, FIRST, Seq(41), 0, now_ms()).await?;
    assert_eq!(add(&*logs.here, &room, &messages(1)).await?, [Seq(42)]);
    assert_eq!(
        add(&*logs.there, &room, &messages(3)).await?,
        [Seq(43), Seq(44), Seq(45)]
    );
    assert_eq!(head(&*logs.here, &room).await?.seq, Seq(45));
    DONE
}

pub async fn entries_are_read_back_unchanged(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = Author {
        connection: Some(atelier_shared::domain::ids::ConnectionId::generate()),
        color: Some("#fff".into()),
        avatar_url: Some("https://example.org/ä b?c=\"d\"".into()),
        name: "Ada\u{202f}\u{1F980}".into(),
        ..author("!\"#{}~")
    };
    let of = |body| Record {
        body,
        audience: Some(vec![UserId::generate()]),
        ..chat(&ada, "", Some("ref with spaces, {}, \" and ü"))
    };
    let draw: DrawBatch = serde_json::from_value(serde_json::json!({
        "paths": [{"id": "p", "width": 2.5, "color": "#000", "points": [0.1, 0.2, 1e9, -3.0], "ts": 7}],
        "erase": [], "clear": false,
    }))?;
    let mut records = vec![
        of(Body::Draw(draw)),
        of(Body::CodeComment {
            id: MessageId::generate(),
            data: CodeComment {
                file: "a/b.rs".into(),
                line: 7,
                content: "\r\n\t\u{0}\u{2028}\n\n".into(),
                code_snippet: Some("epoch 1\n{}".into()),
                reply_to: None,
            },
            thread: None,
        }),
        of(Body::SessionUpdate {
            data: serde_json::from_str(r#"{"deep":{"er":[null,true,1.5,"x\n"]},"":0}"#)?,
        }),
        of(Body::RoleChanged {
            user_id: UserId::generate(),
            role: Some(Role::Host),
            version: u64::from(u32::MAX),
            kicked: false,
        }),
        chat(&ada, &"long ".repeat(50_000), None),
    ];
    for (n, record) in records.iter_mut().enumerate() {
        record.reference = Some(format!("ref {n} ü").parse()?);
    }
    let mut live = Reader::of(&*logs.there, &room).await?;
    add(&*logs.here, &room, &records).await?;
    let expected: Vec<Entry> = (1..)
        .zip(records)
        .map(|(seq, record)| Entry {
            seq: Seq(seq),
            record,
        })
        .collect();
    assert_eq!(read_all(&*logs.there, &room).await?, expected);
    assert_eq!(live.entries(expected.len()).await, expected);
    DONE
}

pub async fn a_ref_is_stored_once_whoever_appends_it(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    let first = [chat(&ada, "one", Some("r1")), chat(&ada, "two", Some("r2"))];
    add(&*logs.here, &room, &first).await?;
    let again = [
        chat(&ada, "two again", Some("r2")),
        chat(&ada, "three", Some("r3")),
        chat(&ada, "one again", Some("r1")),
    ];
    for (expected, dirty) in [
        (
            [
                Appended::Duplicate(Seq(2)),
                Appended::New(Seq(3)),
                Appended::Duplicate(Seq(1)),
            ],
            false,
        ),
        (
            [
                Appended::Duplicate(Seq(2)),
                Appended::Duplicate(Seq(3)),
                Appended::Duplicate(Seq(1)),
            ],
            false,
        ),
    ] {
        assert_eq!(
            logs.there.append(to(&room, &again)).await?,
            (expected.to_vec(), dirty)
        );
    }
    let stored = read_all(&*logs.here, &room).await?;
    assert_eq!(
        stored.iter().map(content).collect::<Vec<_>>(),
        ["one", "two", "three"]
    );
    DONE
}

pub async fn a_ref_is_stored_once_within_one_batch(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    let batch = [
        chat(&ada, "one", Some("r")),
        chat(&ada, "no ref", None),
        chat(&ada, "one again", Some("r")),
        chat(&ada, "no ref", None),
    ];
    let (appended, _) = logs.here.append(to(&room, &batch)).await?;
    use Appended::{Duplicate, New};
    assert_eq!(
        appended,
        [New(Seq(1)), New(Seq(2)), Duplicate(Seq(1)), New(Seq(3))]
    );
    assert_eq!(read_all(&*logs.here, &room).await?.len(), 3);
    DONE
}

pub async fn another_persons_ref_is_another_ref(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    let other_tab = Author {
        client_id: "b".parse()?,
        ..ada.clone()
    };
    let other_user = Author {
        user_id: UserId::generate(),
        ..ada.clone()
    };
    // What would be alike if the parts of the key ran into one another.
    let longer = Author {
        client_id: "ar".parse()?,
        ..ada.clone()
    };
    let batch = [
        chat(&ada, "", Some("rr")),
        chat(&other_tab, "", Some("rr")),
        chat(&other_user, "", Some("rr")),
        chat(&longer, "", Some("r")),
        chat(&ada, "", Some("RR")),
    ];
    assert_eq!(add(&*logs.here, &room, &batch).await?.len(), 5);
    let elsewhere = RoomId::generate();
    logs.here
        .seed(&elsewhere, FIRST, Seq(0), 0, now_ms())
        .await?;
    assert_eq!(add(&*logs.here, &elsewhere, &batch[..1]).await?, [Seq(1)]);
    DONE
}

pub async fn a_ref_is_remembered_for_a_day(mode: Mode) -> Outcome {
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    let (logs, room) = opened(mode).await?;
    let record = [chat(&author("a"), "", Some("r"))];
    add(&*logs.here, &room, &record).await?;
    for later_ms in [60_000, DAY_MS / 2, DAY_MS - 60_000] {
        let append = Append {
            now_ms: now_ms() + later_ms,
            ..to(&room, &record)
        };
        assert_eq!(
            logs.there.append(append).await?.0,
            [Appended::Duplicate(Seq(1))],
            "{later_ms}"
        );
    }
    let append = Append {
        now_ms: now_ms() + 3 * DAY_MS,
        ..to(&room, &record)
    };
    assert_eq!(logs.there.append(append).await?.0, [Appended::New(Seq(2))]);
    DONE
}

pub async fn seqs_of_refs_come_in_the_order_asked(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    let records: Vec<Record> = ["x", "y", "z"]
        .iter()
        .map(|r| chat(&ada, "", Some(r)))
        .collect();
    add(&*logs.here, &room, &records).await?;
    let key = |r: &str| RefKey {
        user_id: ada.user_id,
        client_id: ada.client_id.clone(),
        reference: r.parse().expect("a ref"),
    };
    let asked = [key("z"), key("unknown"), key("x"), key("z")];
    let seqs = logs.there.seqs_of_refs(&room, &asked).await?;
    assert_eq!(seqs, [Some(Seq(3)), None, Some(Seq(1)), Some(Seq(3))]);
    assert_eq!(logs.there.seqs_of_refs(&room, &[]).await?, []);
    let nowhere = RoomId::generate();
    assert_eq!(
        logs.there.seqs_of_refs(&nowhere, &asked[..1]).await?,
        [None]
    );
    DONE
}

pub async fn no_log_refuses(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
    let room = RoomId::generate();
    let refused = logs.here.append(to(&room, &messages(1))).await;
    assert!(matches!(refused, Err(Refusal::NotSeeded)), "{refused:?}");
    assert_eq!(logs.here.head(&room).await?, None);
    assert_eq!(logs.here.read(&room, FIRST, Seq(0), 10).await?, None);
    assert_eq!(logs.here.dirty_rooms(None, 10).await?, []);
    DONE
}

/// A log of three entries, role version 5, and a refusal of what would otherwise be taken: nothing may have changed.
async fn refused(
    mode: Mode,
    change: impl FnOnce(Append<'_>) -> Append<'_>,
) -> Result<Refusal, PortError> {
    let (logs, room) = opened(mode).await?;
    logs.here.set_role_version(&room, 5).await?;
    let ada = author("a");
    let role_version = 5;
    let records = messages(3);
    let append = Append {
        role_version,
        ..to(&room, &records)
    };
    logs.here.append(append).await.expect("taken");
    logs.here
        .confirm_archived(&room, FIRST, Seq(3), Seq(0))
        .await?;
    let before = head(&*logs.here, &room).await?;
    let mut live = Reader::of(&*logs.there, &room).await?;

    let batch = [
        chat(&ada, "refused", Some("r")),
        chat(&ada, "refused too", None),
    ];
    let append = change(Append {
        role_version,
        seen: Seq(3),
        ..to(&room, &batch)
    });
    let refusal = logs.here.append(append).await.expect_err("a refusal");

    assert_eq!(head(&*logs.there, &room).await?, before);
    assert_eq!(seqs(&read_all(&*logs.there, &room).await?), [1, 2, 3]);
    let key = batch[0].ref_key().expect("a ref");
    assert_eq!(logs.there.seqs_of_refs(&room, &[key]).await?, [None]);
    assert_eq!(logs.there.dirty_rooms(None, 10).await?, []);
    let append = Append {
        role_version,
        ..to(&room, &batch[..1])
    };
    logs.here.append(append).await.expect("taken afterwards");
    assert_eq!(
        live.entry().await.seq,
        Seq(4),
        "the refused batch was delivered"
    );
    Ok(refusal)
}

pub async fn another_epoch_refuses_and_writes_nothing(mode: Mode) -> Outcome {
    for epoch in [Epoch(0), Epoch(2)] {
        let refusal = refused(mode, |append| Append { epoch, ..append }).await?;
        let Refusal::Epoch(head) = refusal else {
            panic!("{refusal:?}");
        };
        assert_eq!(
            (head.epoch, head.seq, head.role_version),
            (FIRST, Seq(3), 5)
        );
    }
    DONE
}

pub async fn a_log_behind_what_was_seen_refuses_and_writes_nothing(mode: Mode) -> Outcome {
    let refusal = refused(mode, |append| Append {
        seen: Seq(4),
        ..append
    })
    .await?;
    let Refusal::Behind(head) = refusal else {
        panic!("{refusal:?}");
    };
    assert_eq!((head.epoch, head.seq), (FIRST, Seq(3)));
    DONE
}

pub async fn an_old_role_version_refuses_and_writes_nothing(mode: Mode) -> Outcome {
    let refusal = refused(mode, |append| Append {
        role_version: 4,
        ..append
    })
    .await?;
    assert!(matches!(refusal, Refusal::RoleVersion(5)), "{refusal:?}");
    DONE
}

pub async fn a_newer_role_version_raises_the_fence(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    logs.here.set_role_version(&room, 5).await?;
    logs.here
        .append(Append {
            role_version: 6,
            ..to(&room, &messages(1))
        })
        .await?;
    let refusal = logs
        .there
        .append(Append {
            role_version: 5,
            ..to(&room, &messages(1))
        })
        .await;
    assert!(
        matches!(refusal, Err(Refusal::RoleVersion(6))),
        "{refusal:?}"
    );
    DONE
}

pub async fn an_unknown_role_version_is_learned_from_the_writer(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    assert_eq!(head(&*logs.here, &room).await?.role_version, 0);
    logs.here
        .append(Append {
            role_version: 3,
            ..to(&room, &messages(1))
        })
        .await?;
    assert_eq!(head(&*logs.here, &room).await?.role_version, 3);
    DONE
}

pub async fn a_full_tail_refuses_until_the_archive_moves_on(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    add(&*logs.here, &room, &[chat(&ada, "", Some("r"))]).await?;
    let mut left = usize::try_from(TAIL_MAX)? - 1;
    while left > 0 {
        let batch = messages(left.min(1_000));
        add(&*logs.here, &room, &batch).await?;
        left -= batch.len();
    }
    let full = head(&*logs.here, &room).await?;
    let refusal = logs.here.append(to(&room, &messages(1))).await;
    assert!(
        matches!(refusal, Err(Refusal::ArchiveBehind)),
        "{refusal:?}"
    );
    assert_eq!(head(&*logs.here, &room).await?, full);
    // What is there is told still, and read.
    let again = logs
        .here
        .append(to(&room, &[chat(&ada, "", Some("r"))]))
        .await?;
    assert_eq!(again.0, [Appended::Duplicate(Seq(1))]);
    assert_eq!(
        logs.here
            .read(&room, FIRST, Seq(0), 10)
            .await?
            .map(|e| e.len()),
        Some(10)
    );

    logs.there
        .confirm_archived(&room, FIRST, Seq(2), Seq(0))
        .await?;
    add(&*logs.here, &room, &messages(2)).await?;
    let refusal = logs.here.append(to(&room, &messages(1))).await;
    assert!(
        matches!(refusal, Err(Refusal::ArchiveBehind)),
        "{refusal:?}"
    );
    DONE
}

pub async fn too_many_records_at_once_are_refused(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(APPEND_MAX)).await?;
    let large = chat(&author("a"), &"x".repeat(APPEND_MAX_BYTES / 8), None);
    for records in [messages(APPEND_MAX + 1), vec![large; 8]] {
        match logs.here.append(to(&room, &records)).await {
            Err(Refusal::Port(error)) => assert!(!error.is_retryable(), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(head(&*logs.here, &room).await?.seq.0, APPEND_MAX as u64);
    DONE
}

pub async fn nothing_appended_is_nothing_written(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    assert_eq!(logs.here.append(to(&room, &[])).await?, (vec![], false));
    assert_eq!(logs.here.dirty_rooms(None, 10).await?, []);
    DONE
}

pub async fn fifty_appenders_make_one_gapless_log(mode: Mode) -> Outcome {
    const APPENDERS: usize = 50;
    const BATCHES: usize = 10;
    let (logs, room) = opened(mode).await?;
    let mut live = Reader::of(&*logs.there, &room).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for appender in 0..APPENDERS {
        let log = if appender % 2 == 0 {
            logs.here.clone()
        } else {
            logs.there.clone()
        };
        let room = room.clone();
        tasks.spawn(async move {
            let ada = author(&format!("c{appender}"));
            let mut given = Vec::new();
            for batch in 0..BATCHES {
                let records: Vec<Record> = (0..=batch % 3)
                    .map(|n| {
                        chat(
                            &ada,
                            &format!("{appender} {batch} {n}"),
                            Some(&format!("{batch} {n}")),
                        )
                    })
                    .collect();
                for (record, seq) in records.iter().zip(add(&*log, &room, &records).await?) {
                    given.push((
                        content(&Entry {
                            seq,
                            record: record.clone(),
                        })
                        .to_owned(),
                        seq,
                    ));
                }
            }
            Ok::<_, Refusal>(given)
        });
    }
    let mut given: HashMap<Seq, String> = HashMap::new();
    while let Some(result) = tasks.join_next().await {
        let of_one = result??;
        assert!(
            of_one.is_sorted_by_key(|(_, seq)| *seq),
            "an appender's own order was not kept"
        );
        for (text, seq) in of_one {
            assert_eq!(given.insert(seq, text), None, "{seq} was given twice");
        }
    }
    let stored = read_all(&*logs.here, &room).await?;
    assert_eq!(seqs(&stored), (1..=given.len() as u64).collect::<Vec<_>>());
    for entry in &stored {
        assert_eq!(content(entry), given[&entry.seq]);
    }
    assert_eq!(live.entries(stored.len()).await, stored);
    DONE
}
