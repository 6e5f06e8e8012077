//! The archive's side: dirty marks, confirmations, trimming, unloading.

use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::READ_MAX_BYTES;

use super::*;

pub async fn nothing_is_trimmed_beyond_what_is_confirmed(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(20)).await?;
    for (confirmed, trim_to, archived, trimmed) in [
        (10, 4, 10, 4),
        (12, 99, 12, 12),
        // Older news changes nothing.
        (3, 3, 12, 12),
        (15, 0, 15, 12),
        // Not even by an archive that claims more than there is.
        (99, 99, 20, 20),
    ] {
        let clean = logs
            .there
            .confirm_archived(&room, FIRST, Seq(confirmed), Seq(trim_to))
            .await?;
        assert_eq!(clean, archived == 20);
        let head = head(&*logs.here, &room).await?;
        assert_eq!(
            (head.archived, head.trimmed, head.seq),
            (Seq(archived), Seq(trimmed), Seq(20))
        );
        assert_eq!(
            seqs(&read_all(&*logs.here, &room).await?),
            (trimmed + 1..=20).collect::<Vec<_>>()
        );
    }
    // An emptied tail goes on where it was.
    assert_eq!(add(&*logs.here, &room, &messages(1)).await?, [Seq(21)]);
    DONE
}

pub async fn confirming_tells_subscribers(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(5)).await?;
    let mut live = logs.here.subscribe(&room).await?;
    logs.there
        .confirm_archived(&room, FIRST, Seq(3), Seq(0))
        .await?;
    match next(&mut live).await {
        Delivery::Signal(told) => {
            assert_eq!(
                *told,
                Signal::Archived {
                    epoch: FIRST,
                    seq: Seq(3)
                }
            );
        }
        other => panic!("{other:?}"),
    }
    DONE
}

pub async fn an_entry_meanwhile_keeps_the_room_dirty(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(3)).await?;
    add(&*logs.here, &room, &messages(1)).await?;
    assert!(
        !logs
            .there
            .confirm_archived(&room, FIRST, Seq(3), Seq(3))
            .await?
    );
    assert_eq!(
        logs.here.dirty_rooms(None, 10).await?,
        std::slice::from_ref(&room)
    );
    assert!(
        logs.there
            .confirm_archived(&room, FIRST, Seq(4), Seq(3))
            .await?
    );
    assert_eq!(logs.here.dirty_rooms(None, 10).await?, []);
    DONE
}

pub async fn confirming_another_epoch_changes_nothing(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(3)).await?;
    let before = head(&*logs.here, &room).await?;
    for epoch in [Epoch(0), Epoch(2)] {
        assert!(
            logs.there
                .confirm_archived(&room, epoch, Seq(3), Seq(3))
                .await?
        );
        assert_eq!(head(&*logs.here, &room).await?, before);
    }
    assert_eq!(
        logs.here.dirty_rooms(None, 10).await?,
        std::slice::from_ref(&room)
    );
    assert!(
        logs.there
            .confirm_archived(&RoomId::generate(), FIRST, Seq(3), Seq(3))
            .await?
    );
    DONE
}

pub async fn reading_starts_behind_what_was_trimmed(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(10)).await?;
    logs.here
        .confirm_archived(&room, FIRST, Seq(10), Seq(6))
        .await?;
    let entries = logs
        .there
        .read(&room, FIRST, Seq(2), 2)
        .await?
        .expect("a log");
    assert_eq!(seqs(&entries), [7, 8]);
    DONE
}

pub async fn a_room_becomes_dirty_once(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    assert!(
        logs.here
            .append(to(&room, &[chat(&ada, "", Some("r"))]))
            .await?
            .1
    );
    assert!(!logs.there.append(to(&room, &messages(2))).await?.1);
    logs.here
        .confirm_archived(&room, FIRST, Seq(3), Seq(3))
        .await?;
    assert!(
        !logs
            .there
            .append(to(&room, &[chat(&ada, "", Some("r"))]))
            .await?
            .1
    );
    assert_eq!(logs.here.dirty_rooms(None, 10).await?, []);
    assert!(logs.there.append(to(&room, &messages(1))).await?.1);
    DONE
}

pub async fn dirty_rooms_are_listed_up_to_the_limit(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
    let mut expected = Vec::new();
    for n in 0..30 {
        let room = RoomId::generate();
        logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
        if n % 3 > 0 {
            add(&*logs.here, &room, &messages(1)).await?;
            expected.push(room);
        }
    }
    let mut listed = logs.there.dirty_rooms(None, 100).await?;
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let mut some = logs.there.dirty_rooms(None, 7).await?;
    some.sort();
    some.dedup();
    assert_eq!(some.len(), 7);
    assert!(some.iter().all(|room| expected.contains(room)));
    assert_eq!(logs.there.dirty_rooms(None, 0).await?, []);
    DONE
}

pub async fn appends_and_confirmations_at_once_agree_in_the_end(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let (log, of) = (logs.here.clone(), room.clone());
    let appending = tokio::spawn(async move {
        let mut woken = 0;
        for _ in 0..150 {
            woken += usize::from(log.append(to(&of, &messages(2))).await?.1);
        }
        Ok::<_, Refusal>(woken)
    });
    // An archive that does nothing but what it is woken for, and confirms what it read.
    let mut cleaned = 0;
    loop {
        let finished = appending.is_finished();
        let read = head(&*logs.there, &room).await?.seq;
        let was_dirty = !logs.there.dirty_rooms(None, 10).await?.is_empty();
        if logs
            .there
            .confirm_archived(&room, FIRST, read, read)
            .await?
            && was_dirty
        {
            cleaned += 1;
        }
        if finished {
            break;
        }
    }
    let woken = appending.await??;
    let head = head(&*logs.here, &room).await?;
    assert_eq!(
        (head.seq, head.archived, head.trimmed),
        (Seq(300), Seq(300), Seq(300))
    );
    assert_eq!(logs.here.dirty_rooms(None, 10).await?, []);
    // Every time it became dirty it was cleaned, at the latest by the last round.
    assert!(
        woken >= 1 && cleaned <= woken,
        "woken {woken} times, cleaned {cleaned} times"
    );
    DONE
}

pub async fn only_a_clean_room_is_unloaded(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let records = [chat(&author("a"), "", Some("r"))];
    add(&*logs.here, &room, &records).await?;
    assert!(
        !logs.there.unload(&room, FIRST, Seq(1)).await?,
        "it is not archived"
    );
    logs.here
        .confirm_archived(&room, FIRST, Seq(1), Seq(0))
        .await?;
    assert!(
        !logs.there.unload(&room, Epoch(2), Seq(1)).await?,
        "another epoch"
    );
    assert!(
        !logs.there.unload(&room, FIRST, Seq(0)).await?,
        "it changed"
    );
    assert!(
        !logs
            .there
            .unload(&RoomId::generate(), FIRST, Seq(0))
            .await?,
        "no such log"
    );
    assert!(logs.there.unload(&room, FIRST, Seq(1)).await?);
    assert_eq!(logs.here.head(&room).await?, None);
    assert_eq!(logs.here.read(&room, FIRST, Seq(0), 10).await?, None);
    assert!(
        !logs.there.unload(&room, FIRST, Seq(1)).await?,
        "it is gone already"
    );
    // It may come back at the same place.
    logs.here.seed(&room, FIRST, Seq(1), 0, now_ms()).await?;
    assert_eq!(add(&*logs.here, &room, &messages(1)).await?, [Seq(2)]);
    DONE
}

pub async fn unloading_races_with_appending_and_one_wins(mode: Mode) -> Outcome {
    let (logs, _) = opened(mode).await?;
    for _ in 0..40 {
        let room = RoomId::generate();
        logs.here.seed(&room, FIRST, Seq(5), 0, now_ms()).await?;
        let records = messages(1);
        let (appended, unloaded) = tokio::join!(
            logs.here.append(to(&room, &records)),
            logs.there.unload(&room, FIRST, Seq(5)),
        );
        let head = logs.here.head(&room).await?;
        match appended {
            Ok(_) => {
                assert!(!unloaded?, "an acknowledged entry was unloaded");
                assert_eq!(head.map(|head| head.seq), Some(Seq(6)));
            }
            Err(Refusal::NotSeeded) => {
                assert!(unloaded?);
                assert_eq!(head, None);
                assert!(!logs.here.dirty_rooms(None, 100).await?.contains(&room));
            }
            Err(other) => return Err(other.into()),
        }
    }
    DONE
}

pub async fn reads_are_bounded_in_bytes(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let large = chat(&author("a"), &"x".repeat(READ_MAX_BYTES / 3), None);
    for _ in 0..4 {
        add(&*logs.here, &room, std::slice::from_ref(&large)).await?;
    }
    let page = logs
        .here
        .read(&room, FIRST, Seq(0), 10)
        .await?
        .expect("a log");
    assert_eq!(seqs(&page), [1, 2]);
    assert_eq!(read_all(&*logs.here, &room).await?.len(), 4);
    let huge = chat(&author("a"), &"x".repeat(READ_MAX_BYTES + 1), None);
    add(&*logs.here, &room, &[huge]).await?;
    let page = logs
        .here
        .read(&room, FIRST, Seq(4), 10)
        .await?
        .expect("a log");
    assert_eq!(seqs(&page), [5], "what is larger than a page is still read");
    DONE
}
