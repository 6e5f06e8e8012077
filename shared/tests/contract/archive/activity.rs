//! Who did how much when: counted with the entries, once.

use std::time::{Duration, Instant};

use atelier_shared::Mode;
use atelier_shared::domain::activity::ActivityCounts;
use atelier_shared::domain::entry::{Body, Record};
use atelier_shared::domain::ids::{Epoch, JobId, MessageId, RoomId, UserId};
use atelier_shared::ports::{ActivityQuery, Archive};
use serde_json::json;

use super::{Writer, entries, opened};
use crate::fixture::{self, Outcome};

/// A minute of 2026 that is a multiple of a day.
const DAY: i64 = 20_590 * 1_440;

fn at(minute: i64, record: Record) -> Record {
    Record {
        ts_ms: minute * 60_000 + 59_999,
        ..record
    }
}

fn one_of_each(writer: &Writer, minute: i64) -> Vec<Record> {
    let draw: Body = serde_json::from_value(json!({
        "k": "draw",
        "paths": [
            {"id": "a", "width": 1.0, "color": "#000", "points": [0.0, 0.0], "ts": 1},
            {"id": "b", "width": 1.0, "color": "#000", "points": [0.0, 0.0], "ts": 1}
        ]
    }))
    .expect("a draw");
    let bodies = [
        writer.says("x").body,
        Body::DirectMessage {
            id: MessageId::generate(),
            to: UserId::generate(),
            content: "x".into(),
        },
        draw,
        Body::RunStarted {
            run_id: JobId::generate(),
            language: "c".into(),
        },
        // Written by the server: nobody's doing.
        Body::RoleChanged {
            user_id: writer.user,
            role: None,
            version: 2,
            kicked: false,
        },
    ];
    let records = bodies.into_iter();
    records
        .map(|body| at(minute, writer.record(body)))
        .collect()
}

fn query(users: &[UserId], from: i64, to: i64, slot: i64) -> ActivityQuery {
    ActivityQuery {
        users: users.to_vec(),
        from_minute: from,
        to_minute: to,
        slot_minutes: slot,
    }
}

pub async fn what_is_archived_is_counted_by_person_kind_and_minute(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (ana, ben) = (Writer::new(), Writer::new());
    let (one, two) = (opened(&*archives.here).await, opened(&*archives.here).await);
    let mut records = one_of_each(&ana, DAY + 7);
    records.extend(one_of_each(&ana, DAY + 61));
    records.extend(one_of_each(&ben, DAY + 7));
    let written = entries(1, records);
    archives.here.append(&one, Epoch(1), &written).await?;
    // The same minute in another room.
    let written = entries(1, one_of_each(&ana, DAY + 7));
    archives.here.append(&two, Epoch(1), &written).await?;

    let counts = |times| ActivityCounts {
        messages: 2 * times,
        comments: 0,
        strokes: 2 * times,
        edits: 0,
        runs: times,
    };
    let asked = query(&[ana.user, ben.user], DAY, DAY + 1_440, 60);
    let slots = archives.there.activity_of(&asked).await?;
    let mut seen: Vec<_> = slots
        .iter()
        .map(|slot| {
            (
                slot.user_id,
                slot.start_minute,
                slot.counts,
                slot.active_minutes,
            )
        })
        .collect();
    seen.sort_by_key(|(user, start, ..)| (*user != ana.user, *start));
    let expected = [
        (ana.user, DAY, counts(2), 1),
        (ana.user, DAY + 60, counts(1), 1),
        (ben.user, DAY, counts(1), 1),
    ];
    assert_eq!(seen, expected);
    let days = archives
        .there
        .activity_of(&query(&[ana.user], DAY, DAY + 1_440, 1_440))
        .await?;
    assert_eq!(
        (days.len(), days[0].active_minutes, days[0].counts),
        (1, 2, counts(3))
    );

    let rooms = [one.clone(), two.clone()];
    let mut listed = Vec::new();
    let mut before = None;
    loop {
        let page = archives.there.activity_in(&rooms, before, 2).await?;
        let Some(last) = page.last() else { break };
        before = Some((last.minute, last.user_id, last.room.clone()));
        listed.extend(
            page.into_iter()
                .map(|row| (row.minute, row.user_id, row.room)),
        );
    }
    let mut expected = vec![
        (DAY + 7, ana.user, one.clone()),
        (DAY + 61, ana.user, one.clone()),
        (DAY + 7, ben.user, one),
        (DAY + 7, ana.user, two),
    ];
    expected.sort_by(|a, b| b.cmp(a));
    assert_eq!(listed, expected);
    Ok(())
}

/// Few rooms with much and many with little, of three people whose minutes fall together: page by page as all at once.
pub async fn minutes_of_many_rooms_are_told_in_one_order(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let people: Vec<Writer> = (0..3).map(|_| Writer::new()).collect();
    let (mut rooms, mut expected) = (Vec::new(), Vec::new());
    for n in 0..12_i64 {
        let room = opened(&*archives.here).await;
        let minutes = if n < 2 { 40 } else { n % 3 };
        let said = (0..minutes)
            .flat_map(|minute| people.iter().map(move |who| (DAY + minute * (n + 1), who)));
        let said: Vec<(i64, &Writer)> = said.collect();
        expected.extend(said.iter().map(|(at, who)| (*at, who.user, room.clone())));
        let written = entries(
            1,
            said.iter().map(|(minute, who)| at(*minute, who.says("x"))),
        );
        archives.here.append(&room, Epoch(1), &written).await?;
        rooms.push(room);
    }
    expected.sort_by(|a, b| b.cmp(a));
    for limit in [1, 7, 50, 1_000] {
        let (mut listed, mut before) = (Vec::new(), None);
        loop {
            let page = archives.there.activity_in(&rooms, before, limit).await?;
            let wanted = limit.min(expected.len() - listed.len());
            assert_eq!(page.len(), wanted, "a page is full while there are more");
            let keys = page.into_iter();
            listed.extend(keys.map(|row| (row.minute, row.user_id, row.room)));
            before = listed.last().cloned();
            if wanted < limit {
                break;
            }
        }
        assert_eq!(listed, expected, "{limit} at a time");
    }
    Ok(())
}

pub async fn an_entry_that_comes_twice_is_counted_once(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let ana = Writer::new();
    let room = opened(&*archives.here).await;
    let written = entries(1, (0..4).map(|_| at(DAY, ana.says("x"))));
    archives.here.append(&room, Epoch(1), &written[..2]).await?;
    archives.there.append(&room, Epoch(1), &written).await?;
    archives.here.append(&room, Epoch(1), &written).await?;
    let slots = archives
        .here
        .activity_of(&query(&[ana.user], DAY, DAY + 1, 1))
        .await?;
    assert_eq!(slots.len(), 1);
    assert_eq!(slots[0].counts.messages, 4);
    Ok(())
}

pub async fn a_range_holds_its_first_minute_and_not_its_last(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let ana = Writer::new();
    let room = opened(&*archives.here).await;
    let minutes = [DAY - 1, DAY, DAY + 59, DAY + 60];
    let written = entries(1, minutes.map(|minute| at(minute, ana.says("x"))));
    archives.here.append(&room, Epoch(1), &written).await?;
    let slots = archives
        .here
        .activity_of(&query(&[ana.user], DAY, DAY + 60, 60))
        .await?;
    assert_eq!(slots.len(), 1);
    assert_eq!((slots[0].counts.messages, slots[0].active_minutes), (2, 2));
    let nobody = archives
        .here
        .activity_of(&query(&[], DAY, DAY + 60, 60))
        .await?;
    assert!(nobody.is_empty());
    Ok(())
}

/// Fifty people, a month, an entry in every third minute of every working hour.
pub async fn a_month_of_many_people_adds_up(mode: Mode) -> Outcome {
    const PEOPLE: usize = 50;
    const DAYS: i64 = 30;
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let people: Vec<Writer> = (0..PEOPLE).map(|_| Writer::new()).collect();
    let mut seq = 1;
    for day in 0..DAYS {
        let minutes = (0..160).map(|n| DAY + day * 1_440 + 8 * 60 + n * 3);
        let minutes: Vec<i64> = minutes.collect();
        let records = minutes.iter().enumerate().flat_map(|(n, minute)| {
            let busy = people.iter().skip(n % 7).step_by(7);
            busy.map(|person| at(*minute, person.says("x")))
        });
        let written = entries(seq, records);
        seq += written.len() as u64;
        archives.here.append(&room, Epoch(1), &written).await?;
    }
    let users: Vec<UserId> = people.iter().map(|person| person.user).collect();
    let began = Instant::now();
    let asked = query(&users, DAY, DAY + DAYS * 1_440, 60);
    let slots = archives.here.activity_of(&asked).await?;
    let took = began.elapsed();
    let messages: u64 = slots.iter().map(|slot| slot.counts.messages).sum();
    let active: u64 = slots.iter().map(|slot| slot.active_minutes).sum();
    assert_eq!((messages, active), (seq - 1, seq - 1));
    assert!(
        took < Duration::from_secs(30),
        "{} slots took {took:?}",
        slots.len()
    );
    nothing_of_strangers(&*archives.here, &room).await
}

async fn nothing_of_strangers(archive: &dyn Archive, room: &RoomId) -> Outcome {
    let stranger = query(&[UserId::generate()], DAY, DAY + 50_000, 60);
    assert!(archive.activity_of(&stranger).await?.is_empty());
    let elsewhere = archive.activity_in(&[RoomId::generate()], None, 10).await?;
    assert!(elsewhere.is_empty());
    let here = archive
        .activity_in(std::slice::from_ref(room), None, 10)
        .await?;
    assert_eq!(here.len(), 10);
    Ok(())
}
