//! Where a log starts, and how it is started anew.

use atelier_shared::domain::signal::Signal;

use super::*;

pub async fn a_seeded_log_starts_where_it_was_told(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
    let room = RoomId::generate();
    let seeded = logs
        .here
        .seed(&room, Epoch(3), Seq(70), 4, 1_234_567)
        .await?;
    let expected = LogHead {
        epoch: Epoch(3),
        seq: Seq(70),
        archived: Seq(70),
        trimmed: Seq(70),
        role_version: 4,
        seeded_at_ms: 1_234_567,
        seeded_seq: Seq(70),
    };
    assert_eq!(seeded, expected);
    assert_eq!(logs.there.head(&room).await?, Some(expected));
    assert_eq!(
        logs.there.read(&room, Epoch(3), Seq(0), 10).await?,
        Some(vec![])
    );
    assert_eq!(logs.there.dirty_rooms(None, 10).await?, []);
    DONE
}

pub async fn an_unknown_room_has_no_log(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
    logs.here.ping().await?;
    assert_eq!(logs.here.head(&RoomId::generate()).await?, None);
    DONE
}

pub async fn seeding_again_leaves_the_log_be(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
    let room = RoomId::generate();
    logs.here
        .seed(&room, Epoch(2), Seq(10), 3, now_ms())
        .await?;
    let mut live = Reader::of(&*logs.there, &room).await?;
    let records = messages(1);
    let append = Append {
        epoch: Epoch(2),
        role_version: 3,
        ..to(&room, &records)
    };
    logs.here.append(append).await?;
    let before = head(&*logs.here, &room).await?;
    for (epoch, seq, role_version, expected) in [(2, 0, 0, 3), (2, 99, 5, 5), (1, 99, 6, 6)] {
        let after = logs
            .there
            .seed(&room, Epoch(epoch), Seq(seq), role_version, 1)
            .await?;
        assert_eq!(
            after,
            LogHead {
                role_version: expected,
                ..before
            }
        );
        assert_eq!(logs.here.head(&room).await?, Some(after));
    }
    assert_eq!(
        seqs(
            &logs
                .here
                .read(&room, Epoch(2), Seq(0), 10)
                .await?
                .expect("a log")
        ),
        [11]
    );
    assert_eq!(
        logs.here.dirty_rooms(None, 10).await?,
        std::slice::from_ref(&room)
    );
    assert_eq!(live.entry().await.seq, Seq(11), "a signal was published");
    DONE
}

pub async fn a_higher_epoch_drops_the_tail_and_tells_subscribers(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    logs.here.set_role_version(&room, 7).await?;
    let records = messages(20);
    let append = Append {
        role_version: 7,
        ..to(&room, &records)
    };
    logs.here.append(append).await?;
    let mut live = logs.there.subscribe(&room).await?;
    let seeded = logs.here.seed(&room, Epoch(2), Seq(5), 1, now_ms()).await?;
    assert_eq!(
        (seeded.epoch, seeded.seq, seeded.trimmed),
        (Epoch(2), Seq(5), Seq(5))
    );
    assert_eq!(seeded.role_version, 7, "a role version was lowered");
    match next(&mut live).await {
        Delivery::Signal(signal) => assert_eq!(*signal, Signal::EpochRaised { epoch: Epoch(2) }),
        other => panic!("{other:?}"),
    }
    assert_eq!(logs.there.read(&room, FIRST, Seq(0), 10).await?, None);
    assert_eq!(
        logs.there.read(&room, Epoch(2), Seq(0), 10).await?,
        Some(vec![])
    );
    assert_eq!(logs.there.dirty_rooms(None, 10).await?, []);
    let refusal = logs
        .there
        .append(Append {
            role_version: 7,
            ..to(&room, &messages(1))
        })
        .await;
    assert!(matches!(refusal, Err(Refusal::Epoch(head)) if head == seeded));

    let records = messages(2);
    let append = Append {
        epoch: Epoch(2),
        role_version: 7,
        seen: Seq(5),
        ..to(&room, &records)
    };
    let (appended, dirty) = logs.there.append(append).await?;
    assert_eq!(
        (appended, dirty),
        (vec![Appended::New(Seq(6)), Appended::New(Seq(7))], true)
    );
    match next(&mut live).await {
        Delivery::Entries { epoch, entries } => {
            assert_eq!((epoch, seqs(&entries)), (Epoch(2), vec![6, 7]));
        }
        other => panic!("{other:?}"),
    }
    DONE
}

pub async fn refs_of_a_lost_tail_are_new_again(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let record = [chat(&author("a"), "sent again", Some("r"))];
    add(&*logs.here, &room, &record).await?;
    logs.here.seed(&room, Epoch(2), Seq(0), 0, now_ms()).await?;
    let key = record[0].ref_key().expect("a ref");
    assert_eq!(logs.there.seqs_of_refs(&room, &[key]).await?, [None]);
    let again = logs
        .there
        .append(Append {
            epoch: Epoch(2),
            ..to(&room, &record)
        })
        .await?;
    assert_eq!(again.0, [Appended::New(Seq(1))]);
    assert_eq!(
        logs.there
            .read(&room, Epoch(2), Seq(0), 10)
            .await?
            .map(|e| e.len()),
        Some(1)
    );
    DONE
}

pub async fn many_seeders_end_in_one_log(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
    let room = RoomId::generate();
    let seeding = (0..40_u64).map(|n| {
        let log = if n % 2 == 0 { &logs.here } else { &logs.there };
        log.seed(&room, Epoch(1 + n % 4), Seq(10 * (1 + n % 4)), n, now_ms())
    });
    futures::future::try_join_all(seeding).await?;
    let head = head(&*logs.here, &room).await?;
    assert_eq!(
        (head.epoch, head.seq, head.role_version),
        (Epoch(4), Seq(40), 39)
    );
    DONE
}

pub async fn a_role_version_is_only_raised(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    for (told, expected) in [(3, 3), (2, 3), (0, 3), (9, 9)] {
        logs.there.set_role_version(&room, told).await?;
        assert_eq!(head(&*logs.here, &room).await?.role_version, expected);
    }
    let nowhere = RoomId::generate();
    logs.there.set_role_version(&nowhere, 3).await?;
    assert_eq!(logs.here.head(&nowhere).await?, None);
    DONE
}

pub async fn reading_another_epoch_is_none(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(3)).await?;
    for epoch in [Epoch(0), Epoch(2)] {
        assert_eq!(logs.there.read(&room, epoch, Seq(0), 10).await?, None);
    }
    assert_eq!(
        seqs(
            &logs
                .there
                .read(&room, FIRST, Seq(1), 1)
                .await?
                .expect("a log")
        ),
        [2]
    );
    assert_eq!(
        logs.there.read(&room, FIRST, Seq(3), 10).await?,
        Some(vec![])
    );
    assert_eq!(
        logs.there.read(&room, FIRST, Seq(99), 10).await?,
        Some(vec![])
    );
    DONE
}
