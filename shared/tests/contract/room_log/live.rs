//! What subscribers receive.

use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::SUBSCRIPTION_CAPACITY;

use super::*;

fn signal(n: u64) -> Signal {
    Signal::Closed {
        reason: n.to_string(),
    }
}

pub async fn a_subscriber_gets_every_entry_in_order(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(2)).await?;
    let mut live = Reader::of(&*logs.there, &room).await?;
    let mut expected = Vec::new();
    for n in 0..100 {
        expected.extend(add(&*logs.here, &room, &messages(1 + n % 4)).await?);
    }
    let entries = live.entries(expected.len()).await;
    assert_eq!(
        entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        expected
    );
    let stored = read_all(&*logs.here, &room).await?;
    assert_eq!(entries, stored[2..]);
    DONE
}

pub async fn every_subscriber_of_a_room_gets_all(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    // All at once: they share one subscription, and none may return before it stands.
    let subscribing = (0..20).map(|n| {
        let log = if n % 2 == 0 { &logs.here } else { &logs.there };
        let room = &room;
        async move {
            let reader = Reader::of(&**log, room).await?;
            let seqs = add(&**log, room, &messages(1)).await.expect("taken");
            Ok::<_, PortError>((reader, seqs[0]))
        }
    });
    for (mut reader, own) in futures::future::try_join_all(subscribing).await? {
        let mut entry = reader.entry().await;
        assert!(
            entry.seq <= own,
            "{own} was appended after subscribing, {} came first",
            entry.seq
        );
        while entry.seq < Seq(20) {
            let next = reader.entry().await;
            assert_eq!(next.seq, entry.seq.next());
            entry = next;
        }
    }
    DONE
}

pub async fn rooms_do_not_mix(mode: Mode) -> Outcome {
    let (logs, one) = opened(mode).await?;
    let two = RoomId::generate();
    logs.here.seed(&two, FIRST, Seq(100), 0, now_ms()).await?;
    let mut in_one = Reader::of(&*logs.there, &one).await?;
    let mut in_two = Reader::of(&*logs.there, &two).await?;
    for _ in 0..10 {
        add(&*logs.here, &one, &messages(1)).await?;
        add(&*logs.here, &two, &messages(1)).await?;
    }
    assert_eq!(
        seqs(&in_one.entries(10).await),
        (1..=10).collect::<Vec<_>>()
    );
    assert_eq!(
        seqs(&in_two.entries(10).await),
        (101..=110).collect::<Vec<_>>()
    );
    assert_eq!(
        seqs(&read_all(&*logs.there, &two).await?),
        (101..=110).collect::<Vec<_>>()
    );
    DONE
}

pub async fn a_duplicate_is_not_delivered(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    let mut live = Reader::of(&*logs.there, &room).await?;
    let once = [chat(&ada, "once", Some("r"))];
    add(&*logs.here, &room, &once).await?;
    logs.here.append(to(&room, &once)).await?;
    let mixed = [once[0].clone(), chat(&ada, "new", None), once[0].clone()];
    logs.here.append(to(&room, &mixed)).await?;
    let entries = live.entries(2).await;
    assert_eq!(
        entries.iter().map(content).collect::<Vec<_>>(),
        ["once", "new"]
    );
    assert_eq!(seqs(&entries), [1, 2]);
    DONE
}

pub async fn signals_reach_all_the_publisher_too(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let mut here = logs.here.subscribe(&room).await?;
    let mut there = logs.there.subscribe(&room).await?;
    for n in 0..10 {
        logs.here.publish(&room, &signal(n)).await?;
        for subscription in [&mut here, &mut there] {
            match next(subscription).await {
                Delivery::Signal(received) => assert_eq!(*received, signal(n)),
                other => panic!("{other:?}"),
            }
        }
    }
    DONE
}

pub async fn signals_that_are_published_together_come_in_order(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let mut there = logs.there.subscribe(&room).await?;
    let signals: Vec<Signal> = (0..200).map(signal).collect();
    let calls = signals.iter().map(|one| logs.here.publish(&room, one));
    futures::future::try_join_all(calls).await?;
    for signal in signals {
        match next(&mut there).await {
            Delivery::Signal(received) => assert_eq!(*received, signal),
            other => panic!("{other:?}"),
        }
    }
    DONE
}

pub async fn a_slow_subscriber_finds_one_gap_and_repairs_it_by_reading(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let mut slow = logs.there.subscribe(&room).await?;
    let mut quick = Reader::of(&*logs.there, &room).await?;
    let total = 2 * SUBSCRIPTION_CAPACITY;
    for _ in 0..total {
        add(&*logs.here, &room, &messages(1)).await?;
        quick.entry().await;
    }
    // The quick one has all, so all was handed to the slow one, or dropped.
    let mut seen = Vec::new();
    loop {
        match next(&mut slow).await {
            Delivery::Entries { entries, .. } => seen.extend(seqs(&entries)),
            Delivery::Gap => break,
            Delivery::Signal(signal) => panic!("{signal:?}"),
        }
    }
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
    assert!(
        seen.len() >= SUBSCRIPTION_CAPACITY,
        "only {} were kept",
        seen.len()
    );
    let last = Seq(seen.len() as u64);
    let repaired = logs
        .there
        .read(&room, FIRST, last, total)
        .await?
        .expect("a log");
    seen.extend(seqs(&repaired));
    assert_eq!(seen, (1..=total as u64).collect::<Vec<_>>());
    // And goes on from there, with no second gap.
    let next_seq = add(&*logs.here, &room, &messages(1)).await?[0];
    match next(&mut slow).await {
        Delivery::Entries { entries, .. } => assert_eq!(entries[0].seq, next_seq),
        other => panic!("{other:?}"),
    }
    DONE
}

pub async fn a_room_is_followed_again_after_it_was_left(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    for _ in 0..50 {
        let mut live = Reader::of(&*logs.there, &room).await?;
        let seq = add(&*logs.here, &room, &messages(1)).await?[0];
        assert_eq!(live.entry().await.seq, seq);
    }
    DONE
}

pub async fn coming_and_going_loses_nothing_for_those_who_stay(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (log, room) = (logs.there.clone(), room.clone());
        tasks.spawn(async move {
            for turn in 0..25 {
                let subscription = log.subscribe(&room).await?;
                if (n + turn) % 3 == 0 {
                    // Given up half-way.
                    let again = log.subscribe(&room);
                    let _ = futures::FutureExt::now_or_never(again);
                }
                drop(subscription);
            }
            // Whoever stays gets what comes now.
            Reader::of(&*log, &room).await
        });
    }
    let mut stayed = Vec::new();
    while let Some(reader) = tasks.join_next().await {
        stayed.push(reader??);
    }
    let expected = add(&*logs.here, &room, &messages(5)).await?;
    for reader in &mut stayed {
        let got: Vec<Seq> = reader
            .entries(5)
            .await
            .iter()
            .map(|entry| entry.seq)
            .collect();
        assert_eq!(got, expected);
    }
    DONE
}
