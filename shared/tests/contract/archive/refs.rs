//! A ref is stored once per room, user and client.

use atelier_shared::Mode;
use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{Epoch, Seq};
use atelier_shared::ports::StaleEpoch;
use futures::future::join_all;

use super::{Writer, entries, opened, read_all};
use crate::fixture::{self, Outcome};

pub async fn a_ref_is_stored_once_and_the_later_entry_loses_it(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let writer = Writer::new();
    let first = entries(1, [writer.says_as("a", "one"), writer.says("two")]);
    archives.here.append(&room, Epoch(1), &first).await?;
    let second = entries(
        3,
        [
            writer.says("three"),
            writer.says_as("a", "one again"),
            writer.says_as("b", "five"),
        ],
    );
    let head = archives.there.append(&room, Epoch(1), &second).await?;
    assert_eq!(head.seq, Seq(5), "the log stays gapless");

    let mut kept = first;
    kept.extend(second);
    kept[3].record.reference = None;
    assert_eq!(read_all(&*archives.here, &room, 100).await, kept);
    let asked = [writer.key("b"), writer.key("none"), writer.key("a")];
    let found = archives.here.seqs_of_refs(&room, &asked).await?;
    assert_eq!(found, [Some(Seq(5)), None, Some(Seq(1))]);
    // The same batch once more, as after a lost answer.
    assert_eq!(archives.here.append(&room, Epoch(1), &kept).await?, head);
    Ok(())
}

pub async fn a_ref_twice_in_one_batch_stays_with_the_first(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let writer = Writer::new();
    let mut batch = entries(1, (0..3).map(|n| writer.says_as("same", &n.to_string())));
    archives.here.append(&room, Epoch(1), &batch).await?;
    let found = archives
        .here
        .seqs_of_refs(&room, &[writer.key("same")])
        .await?;
    assert_eq!(found, [Some(Seq(1))]);
    batch[1].record.reference = None;
    batch[2].record.reference = None;
    assert_eq!(read_all(&*archives.here, &room, 100).await, batch);
    Ok(())
}

/// As a pass over many rooms does: one has brought a ref before, one is in another epoch, one comes twice.
pub async fn rooms_that_are_archived_together_are_each_answered_for_themselves(
    mode: Mode,
) -> Outcome {
    let archives = fixture::archive(mode).await;
    let archive = &*archives.here;
    let writer = Writer::new();
    let mut rooms = Vec::new();
    for _ in 0..8 {
        let room = opened(archive).await;
        let first = entries(1, [writer.says_as("a", "one")]);
        archive.append(&room, Epoch(1), &first).await?;
        rooms.push((room, first));
    }
    archive.raise_epoch(&rooms[3].0, Epoch(1)).await?;
    let second = entries(2, [writer.says("two"), writer.says_as("a", "one again")]);
    let third = entries(4, (0..9).map(|n| writer.says(&n.to_string())));
    let add = async |entries: &[Entry]| {
        let appends = rooms
            .iter()
            .map(|(room, _)| archive.append(room, Epoch(1), entries));
        join_all(appends).await
    };
    let (seconds, thirds) = futures::join!(add(&second), add(&third));
    for (at, (answers, (room, first))) in seconds.iter().zip(thirds).zip(&rooms).enumerate() {
        let mut kept = first.clone();
        if at == 3 {
            let refused = |answer: &_| matches!(answer, Err(StaleEpoch::Stale(_)));
            assert!(refused(answers.0) && refused(&answers.1), "room {at}");
        } else {
            assert_eq!(answers.0.as_ref().unwrap().seq, Seq(3), "room {at}");
            kept.extend(second.clone());
            kept[2].record.reference = None;
            // It may have come before what it follows.
            if let Ok(head) = answers.1 {
                assert_eq!(head.seq, Seq(12), "room {at}");
                kept.extend(third.clone());
            }
        }
        assert_eq!(read_all(archive, room, 100).await, kept, "room {at}");
    }
    Ok(())
}

pub async fn the_same_ref_of_another_client_user_or_room_is_another(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let elsewhere = opened(&*archives.here).await;
    let writer = Writer::new();
    let other_tab = Writer {
        client: Writer::new().client,
        ..writer.clone()
    };
    let other_person = Writer {
        user: Writer::new().user,
        ..writer.clone()
    };
    let writers = [&writer, &other_tab, &other_person];
    let batch = entries(1, writers.map(|writer| writer.says_as("1", "hello")));
    archives.here.append(&room, Epoch(1), &batch).await?;
    archives
        .here
        .append(
            &elsewhere,
            Epoch(1),
            &entries(1, [writer.says_as("1", "hello")]),
        )
        .await?;
    assert_eq!(read_all(&*archives.here, &room, 100).await, batch);
    let keys = writers.map(|writer| writer.key("1"));
    let found = archives.here.seqs_of_refs(&room, &keys).await?;
    assert_eq!(found, [1, 2, 3].map(|seq| Some(Seq(seq))));
    Ok(())
}

pub async fn many_refs_are_answered_in_the_order_asked(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let writers = [Writer::new(), Writer::new()];
    let records = (0..1_200).map(|n| writers[n % 2].says_as(&format!("r{n}"), "x"));
    archives
        .here
        .append(&room, Epoch(1), &entries(1, records))
        .await?;
    let asked: Vec<_> = (0..1_300)
        .rev()
        .map(|n| writers[n % 2].key(&format!("r{n}")))
        .collect();
    let found = archives.here.seqs_of_refs(&room, &asked).await?;
    let expected: Vec<_> = (0..1_300_u64)
        .rev()
        .map(|n| (n < 1_200).then_some(Seq(n + 1)))
        .collect();
    assert_eq!(found, expected);
    assert!(archives.here.seqs_of_refs(&room, &[]).await?.is_empty());
    Ok(())
}
