//! Who was in which room: every visit begins once and ends once, and no room keeps more than its share.

use std::collections::BTreeSet;

use atelier_shared::Mode;
use atelier_shared::domain::ids::{ClientId, RoomId, UserId};
use atelier_shared::domain::room::{Room, RoomChoice};
use atelier_shared::domain::user::DELETED_NAME;
use atelier_shared::domain::visit::{Departure, Left, Visit, VisitBatch, VisitEvent};
use atelier_shared::ports::{Records, VISITS_MAX};
use chrono::{DateTime, TimeDelta, Utc};
use libtest_mimic::Trial;
use tracing::Instrument;

use super::{account, now, unique};
use crate::fixture::{self, Outcome, both};
use crate::plans::seen::Watch;

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "records",
        "who_came_and_went_is_listed_newest_first_page_by_page",
        listed,
    );
    both(
        trials,
        "records",
        "a_visit_ends_once_also_if_its_end_is_noted_again_or_late",
        once,
    );
    both(
        trials,
        "records",
        "a_crowd_is_noted_and_of_a_room_the_latest_visits_stay",
        crowd,
    );
    both(
        trials,
        "records",
        "a_thousand_visits_are_noted_in_a_few_statements",
        few_statements,
    );
    both(
        trials,
        "records",
        "visits_go_with_their_room_and_names_with_their_people",
        gone,
    );
    both(
        trials,
        "records",
        "visits_that_nobody_ended_are_found_page_by_page",
        open,
    );
}

pub async fn room(records: &dyn Records) -> RoomId {
    let room = Room::new(RoomId::generate(), RoomChoice::default(), None, None, now());
    records.create_room(&room).await.expect("a room");
    room.id
}

pub fn comes(room: &RoomId, client: &str, at: DateTime<Utc>) -> Visit {
    Visit {
        room: room.clone(),
        client_id: client.parse().expect("a client id"),
        user_id: UserId::generate(),
        name: "Ana".into(),
        color: "teal".into(),
        simulated: false,
        joined_at: at,
        left: None,
    }
}

pub fn goes(room: &RoomId, client: &str, at: DateTime<Utc>) -> Departure {
    Departure {
        room: room.clone(),
        client_id: client.parse().expect("a client id"),
        left: Left {
            at,
            reason: Some("lost".into()),
        },
    }
}

async fn note(records: &dyn Records, visits: Vec<Visit>, departures: Vec<Departure>) -> Outcome {
    let mut batch = VisitBatch::default();
    for departure in departures {
        assert!(batch.end(departure));
    }
    for visit in visits {
        assert!(batch.begin(visit));
    }
    Ok(records.note_visits(&batch).await?)
}

async fn all(
    records: &dyn Records,
    room: &RoomId,
) -> Result<Vec<VisitEvent>, libtest_mimic::Failed> {
    Ok(records.visits(room, None, 1_000).await?.items)
}

/// Client, went?, and when.
fn told(events: &[VisitEvent]) -> Vec<(&str, bool, DateTime<Utc>)> {
    let told = |event: &'_ VisitEvent| (event.gone, event.at);
    events
        .iter()
        .map(|event| (event.client_id.as_str(), told(event)))
        .map(|(client, (gone, at))| (client, gone, at))
        .collect()
}

async fn listed(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, other) = (room(&*records).await, room(&*records).await);
    let start = now();
    let at = |s: i64| start + TimeDelta::seconds(s);
    let moment = vec![
        comes(&room, "a", at(1)),
        comes(&room, "b", at(1)),
        comes(&room, "c", at(2)),
        comes(&other, "a", at(1)),
    ];
    note(&*records, moment, vec![]).await?;
    let left = vec![goes(&room, "a", at(2)), goes(&room, "b", at(2))];
    note(&*records, vec![comes(&room, "d", at(2))], left).await?;
    let events = all(&*records, &room).await?;
    let wanted = [
        ("b", true, at(2)),
        ("a", true, at(2)),
        ("d", false, at(2)),
        ("c", false, at(2)),
        ("b", false, at(1)),
        ("a", false, at(1)),
    ];
    assert_eq!(told(&events), wanted);
    assert_eq!(events[0].reason.as_deref(), Some("lost"));
    assert_eq!(
        (events[2].name.as_str(), events[2].color.as_str()),
        ("Ana", "teal")
    );
    assert_eq!(events[0].user_id, events[4].user_id);
    for size in 1..=3 {
        let (mut paged, mut before) = (Vec::new(), None);
        loop {
            let page = records.visits(&room, before.as_ref(), size).await?;
            before = page.items.last().map(VisitEvent::place);
            paged.extend(page.items);
            if !page.more {
                break;
            }
        }
        assert_eq!(paged, events, "by {size}");
    }
    assert_eq!(all(&*records, &other).await?.len(), 1);
    Ok(())
}

async fn once(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let room = room(&*records).await;
    let start = now();
    let at = |s: i64| start + TimeDelta::seconds(s);
    // Noted twice, as after a lost answer; then with its end; then without.
    let visit = comes(&room, "a", at(1));
    for left in [None, None, Some(at(3)), None] {
        let left = left.map(|at| Left { at, reason: None });
        let visit = Visit {
            left,
            ..visit.clone()
        };
        note(&*records, vec![visit], vec![]).await?;
    }
    note(&*records, vec![], vec![goes(&room, "a", at(4))]).await?;
    let wanted = [("a", true, at(3)), ("a", false, at(1))];
    assert_eq!(told(&all(&*records, &room).await?), wanted);
    // Came back on another server, whose word came first; the end of the visit before is not the end of this one.
    let room = self::room(&*records).await;
    note(&*records, vec![comes(&room, "a", at(1))], vec![]).await?;
    note(&*records, vec![comes(&room, "a", at(6))], vec![]).await?;
    note(&*records, vec![], vec![goes(&room, "a", at(5))]).await?;
    let back = [("a", false, at(6)), ("a", true, at(5)), ("a", false, at(1))];
    assert_eq!(told(&all(&*records, &room).await?), back);
    // Nobody said that the first had ended: it was over where the second began, and both were there before the third.
    let room = self::room(&*records).await;
    for s in [1, 5, 9] {
        note(&*records, vec![comes(&room, "a", at(s))], vec![]).await?;
    }
    note(
        &*records,
        vec![],
        vec![goes(&room, "a", at(7)), goes(&room, "a", at(11))],
    )
    .await?;
    let ends: Vec<_> = all(&*records, &room).await?;
    let ends = ends.iter().filter(|event| event.gone).map(|event| event.at);
    assert_eq!(ends.collect::<Vec<_>>(), [at(11), at(7), at(5)]);
    Ok(())
}

async fn crowd(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, small) = (room(&*records).await, room(&*records).await);
    let start = now();
    let at = |ms: usize| start + TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(0));
    let client = |n: usize| format!("c{n:05}");
    note(&*records, vec![comes(&small, "a", at(0))], vec![]).await?;
    let many = VISITS_MAX + 500;
    let visits: Vec<Visit> = (0..many).map(|n| comes(&room, &client(n), at(n))).collect();
    note(&*records, visits, vec![]).await?;
    let departures = (0..many).map(|n| goes(&room, &client(n), at(many + n)));
    note(&*records, vec![], departures.collect()).await?;
    let (mut who, mut before) = (BTreeSet::new(), None);
    let mut count = 0;
    loop {
        let page = records.visits(&room, before.as_ref(), 700).await?;
        before = page.items.last().map(VisitEvent::place);
        count += page.items.len();
        who.extend(page.items.into_iter().map(|event| event.client_id));
        if !page.more {
            break;
        }
    }
    assert_eq!((count, who.len()), (2 * VISITS_MAX, VISITS_MAX));
    let first: ClientId = client(500).parse()?;
    assert_eq!(who.first(), Some(&first), "the oldest went");
    assert_eq!(
        all(&*records, &small).await?.len(),
        1,
        "another room's stay"
    );
    Ok(())
}

async fn few_statements(mode: Mode) -> Outcome {
    const VISITS: usize = 1_000;
    let records = fixture::records(mode).await;
    let room = room(&*records).await;
    let start = now();
    let client = |n: usize| format!("c{n:04}");
    let visits = (0..VISITS).map(|n| comes(&room, &client(n), start));
    let visits: Vec<Visit> = visits.collect();
    let later = start + TimeDelta::seconds(1);
    let departures = (0..VISITS).map(|n| goes(&room, &client(n), later));
    let departures: Vec<Departure> = departures.collect();
    let watch = Watch::begin();
    for (visits, departures) in [(visits, vec![]), (vec![], departures)] {
        note(&*records, visits, departures)
            .instrument(watch.span.clone())
            .await?;
        let mut sent = watch.take();
        sent.retain(|text| text.contains("room_visits"));
        // The rows, and what of the room is too old.
        assert!((1..=3).contains(&sent.len()), "{} statements", sent.len());
    }
    let (mut before, mut count) = (None, 0);
    loop {
        let page = records.visits(&room, before.as_ref(), VISITS).await?;
        count += page.items.len();
        before = page.items.last().map(VisitEvent::place);
        if !page.more {
            break;
        }
    }
    assert_eq!(count, 2 * VISITS);
    Ok(())
}

async fn gone(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, other) = (room(&*records).await, room(&*records).await);
    let ana = account(&unique("ana"));
    records.create_user(&ana).await?;
    let hers = |room: &RoomId| Visit {
        user_id: ana.user.id,
        ..comes(room, "a", now())
    };
    note(
        &*records,
        vec![hers(&room), hers(&other), comes(&other, "b", now())],
        vec![],
    )
    .await?;
    records.delete_room(&room, now()).await?;
    assert!(all(&*records, &room).await?.is_empty());
    // Of a room that is gone nothing is noted, and of the others all the same.
    note(
        &*records,
        vec![comes(&room, "c", now()), comes(&other, "c", now())],
        vec![goes(&room, "a", now())],
    )
    .await?;
    assert!(all(&*records, &room).await?.is_empty());
    records.delete_user(ana.user.id, now()).await?;
    let events = all(&*records, &other).await?;
    let mut names: Vec<(&str, &str)> = events
        .iter()
        .map(|event| (event.client_id.as_str(), event.name.as_str()))
        .collect();
    names.sort_unstable();
    assert_eq!(names, [("a", DELETED_NAME), ("b", "Ana"), ("c", "Ana")]);
    Ok(())
}

async fn open(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (room, other) = (room(&*records).await, room(&*records).await);
    // Long before what other tests do in the same database.
    let start = now() - TimeDelta::days(900);
    let at = |s: i64| start + TimeDelta::seconds(s);
    let visits = vec![
        comes(&room, "a", at(1)),
        comes(&room, "b", at(2)),
        comes(&other, "a", at(3)),
        comes(&other, "late", at(9)),
    ];
    note(&*records, visits, vec![]).await?;
    note(&*records, vec![], vec![goes(&room, "b", at(4))]).await?;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = records.open_visits(at(9), after.as_ref(), 1).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        found.extend(page);
    }
    found.retain(|(of, _, _)| [&room, &other].contains(&of));
    let clients: Vec<_> = found
        .iter()
        .map(|(of, client, at)| (of, client.as_str(), *at))
        .collect();
    let mut wanted = vec![(&room, "a", at(1)), (&other, "a", at(3))];
    wanted.sort_unstable();
    assert_eq!(clients, wanted);
    Ok(())
}
