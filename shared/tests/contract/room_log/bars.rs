//! Refs whose messages were refused.

use super::*;

fn key(record: &Record) -> RefKey {
    record.ref_key().expect("a ref")
}

fn bar<'a>(room: &'a RoomId, refs: &'a [(RefKey, ConnectionId)]) -> Bar<'a> {
    Bar {
        room,
        epoch: FIRST,
        seen: Seq(0),
        now_ms: now_ms(),
        refs,
    }
}

/// The same message, written by three connections of one client, one after the other.
fn copies() -> [Record; 3] {
    let ada = author("a");
    [(); 3].map(|()| {
        let by = Author {
            connection: Some(ConnectionId::generate()),
            ..ada.clone()
        };
        // Whatever it says of connections.
        chat(&by, r#"{"by":{"x":"~"}}"#, Some("r"))
    })
}

fn connection(record: &Record) -> ConnectionId {
    record.author.connection.expect("a connection")
}

pub async fn a_barred_ref_is_stored_by_no_older_connection(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let [older, refused, newer] = copies();
    let refs = [(key(&refused), connection(&refused))];
    assert_eq!(logs.here.bar(bar(&room, &refs)).await?, [None]);
    // An earlier one that is refused later takes nothing back.
    let earlier = [(key(&older), connection(&older))];
    assert_eq!(logs.there.bar(bar(&room, &earlier)).await?, [None]);
    let mut live = Reader::of(&*logs.here, &room).await?;
    let other = chat(&author("b"), "other", Some("r"));
    let batch = [older.clone(), other.clone(), older.clone()];
    let (appended, _) = logs.there.append(to(&room, &batch)).await?;
    let wanted = [Appended::Barred, Appended::New(Seq(1)), Appended::Barred];
    assert_eq!(appended, wanted);
    assert_eq!(logs.here.seqs_of_refs(&room, &[key(&older)]).await?, [None]);
    // The connection that was refused may say it again, and so may a later one.
    let (appended, _) = logs.there.append(to(&room, &[newer])).await?;
    assert_eq!(appended, [Appended::New(Seq(2))]);
    let (appended, _) = logs.here.append(to(&room, &[refused, older])).await?;
    assert_eq!(appended, [Appended::Duplicate(Seq(2)); 2]);
    let stored = live.entries(2).await;
    assert_eq!(stored[0].record, other);
    assert_eq!(read_all(&*logs.there, &room).await?, stored);
    DONE
}

pub async fn what_is_stored_is_not_barred(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let [first, again, _] = copies();
    add(&*logs.here, &room, std::slice::from_ref(&first)).await?;
    let unknown = RefKey {
        reference: "other".parse()?,
        ..key(&again)
    };
    let refs = [
        (unknown, connection(&again)),
        (key(&again), connection(&again)),
    ];
    assert_eq!(
        logs.there.bar(bar(&room, &refs)).await?,
        [None, Some(Seq(1))]
    );
    let (appended, _) = logs.here.append(to(&room, &[first])).await?;
    assert_eq!(appended, [Appended::Duplicate(Seq(1))]);
    DONE
}

pub async fn a_bar_is_refused_as_an_append_is(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let [older, refused, _] = copies();
    let refs = [(key(&refused), connection(&refused))];
    let nowhere = RoomId::generate();
    let told = logs.here.bar(bar(&nowhere, &refs)).await;
    assert!(matches!(told, Err(Refusal::NotSeeded)), "{told:?}");
    let seen = Seq(1);
    let told = logs
        .here
        .bar(Bar {
            seen,
            ..bar(&room, &refs)
        })
        .await;
    assert!(
        matches!(told, Err(Refusal::Behind(head)) if head.seq == Seq(0)),
        "{told:?}"
    );
    let epoch = FIRST.next();
    let told = logs
        .here
        .bar(Bar {
            epoch,
            ..bar(&room, &refs)
        })
        .await;
    assert!(
        matches!(told, Err(Refusal::Epoch(head)) if head.epoch == FIRST),
        "{told:?}"
    );
    assert_eq!(
        add(&*logs.there, &room, &[older]).await?,
        [Seq(1)],
        "nothing is barred"
    );
    DONE
}

pub async fn a_bar_is_over_after_a_day(mode: Mode) -> Outcome {
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    let (logs, room) = opened(mode).await?;
    let [older, refused, _] = copies();
    let refs = [(key(&refused), connection(&refused))];
    logs.here.bar(bar(&room, &refs)).await?;
    for (later_ms, wanted) in [
        (DAY_MS - 60_000, Appended::Barred),
        (3 * DAY_MS, Appended::New(Seq(1))),
    ] {
        let records = [older.clone()];
        let append = Append {
            now_ms: now_ms() + later_ms,
            ..to(&room, &records)
        };
        assert_eq!(logs.there.append(append).await?.0, [wanted], "{later_ms}");
    }
    DONE
}
