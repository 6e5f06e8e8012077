//! Rooms: ids, lists, limits.

use std::collections::HashSet;
use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::room::{Access, Activity, Retention, Role, Room, RoomChoice, RoomKind};
use atelier_shared::ports::{
    DELETED_ID_RESERVED, PAGE_MAX, Records, RoomCreation, RoomPatch, RoomQuery, RoomQuota,
    RoomVisibility, RoomsOfAddress,
};
use chrono::{DateTime, Utc};
use libtest_mimic::Trial;
use uuid::Uuid;

use super::{at_once, now, unique};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(trials, "records", "a_room_is_read_back_whole", read_back);
    both(trials, "records", "a_room_id_is_given_once", given_once);
    both(
        trials,
        "records",
        "the_maker_of_a_room_is_its_host",
        maker_is_host,
    );
    both(
        trials,
        "records",
        "a_deleted_id_stays_reserved_for_a_day",
        reserved,
    );
    both(
        trials,
        "records",
        "a_room_made_while_its_id_is_deleted_does_not_come_back",
        delete_race,
    );
    both(
        trials,
        "records",
        "a_patch_changes_what_it_names_and_nothing_else",
        update,
    );
    both(
        trials,
        "records",
        "patches_of_different_fields_at_once_all_stand",
        patches_at_once,
    );
    both(
        trials,
        "records",
        "of_twenty_rooms_made_at_once_an_address_gets_its_quota",
        quota,
    );
    both(
        trials,
        "records",
        "activity_never_moves_back",
        activity_moves_forward,
    );
    both(
        trials,
        "records",
        "pages_have_no_gap_and_no_double_while_rooms_are_made",
        pages,
    );
    both(
        trials,
        "records",
        "a_list_shows_each_reader_what_they_may_see",
        visibility,
    );
    both(
        trials,
        "records",
        "a_list_holds_what_it_was_asked_for_and_nothing_else",
        asked_for,
    );
    both(
        trials,
        "records",
        "thousands_of_rooms_are_found_at_once",
        many_rooms,
    );
    both(
        trials,
        "records",
        "rooms_of_an_address_count_while_young_or_active",
        count_of_address,
    );
}

fn room(created_by: Option<UserId>) -> Room {
    Room::new(
        RoomId::generate(),
        RoomChoice::default(),
        created_by,
        None,
        now(),
    )
}

async fn read_back(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut made = room(Some(UserId::generate()));
    made.name = "Größe 🦊 'quoted'".into();
    made.kind = RoomKind::Session;
    made.access = Access::Members;
    made.listed = false;
    made.retention = Retention::Ephemeral;
    made.allows = vec![Activity::Code, Activity::Chat];
    made.creator_address = Some("2001:db8::/64".into());
    made.project_id = Some(
        super::places::project(&*records, UserId::generate())
            .await?
            .id
            .0,
    );
    made.role_version = 7;
    made.last_activity_at = now() + Duration::from_secs(5);
    assert!(records.create_room(&made).await?);
    assert_eq!(records.room(&made.id).await?, Some(made));
    assert_eq!(records.room(&RoomId::generate()).await?, None);
    Ok(())
}

async fn given_once(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let id = RoomId::generate();
    let answers = at_once(20, |index| {
        let records = records.clone();
        let mut made = room(Some(UserId::generate()));
        made.id = id.clone();
        made.name = index.to_string();
        async move {
            records
                .create_room(&made)
                .await
                .map(|new| new.then_some(made))
        }
    })
    .await;
    let made: Vec<Room> = answers
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(records.room(&id).await?, Some(made[0].clone()));
    let members = records.members(&id, None, 10).await?.items;
    assert_eq!(
        members.len(),
        1,
        "who came too late is no host: {members:?}"
    );
    Ok(())
}

async fn maker_is_host(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let maker = UserId::generate();
    let made = room(Some(maker));
    records.create_room(&made).await?;
    assert_eq!(records.role(&made.id, maker).await?, Some(Role::Host));
    let ownerless = room(None);
    records.create_room(&ownerless).await?;
    let nobody = records.members(&ownerless.id, None, 10).await?;
    assert_eq!(nobody.items, []);
    Ok(())
}

async fn reserved(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let maker = UserId::generate();
    let mut made = room(Some(maker));
    records.create_room(&made).await?;
    let deleted_at = now();
    assert!(records.delete_room(&made.id, deleted_at).await?);
    assert!(!records.delete_room(&made.id, deleted_at).await?);
    assert_eq!(records.room(&made.id).await?, None);
    assert_eq!(records.role(&made.id, maker).await?, None);

    made.created_at = deleted_at + DELETED_ID_RESERVED - Duration::from_millis(1);
    assert!(!records.create_room(&made).await?, "still reserved");
    assert_eq!(records.room(&made.id).await?, None);
    let nobody = records.members(&made.id, None, 10).await?;
    assert_eq!(nobody.items, []);
    // Somebody else's deletion sweeps what has lapsed, not this.
    let other = room(None);
    records.create_room(&other).await?;
    records.delete_room(&other.id, made.created_at).await?;
    assert!(
        !records.create_room(&made).await?,
        "still reserved after a sweep"
    );

    made.created_at = deleted_at + DELETED_ID_RESERVED;
    assert!(records.create_room(&made).await?, "free again");
    // A second life ends with a reservation of its own.
    assert!(records.delete_room(&made.id, made.created_at).await?);
    assert!(!records.create_room(&made).await?);
    Ok(())
}

async fn delete_race(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for _ in 0..50 {
        let made = room(None);
        records.create_room(&made).await?;
        let answers = at_once(3, |index| {
            let (records, made) = (records.clone(), made.clone());
            async move {
                match index {
                    0 => records.delete_room(&made.id, now()).await,
                    _ => records.create_room(&made).await,
                }
            }
        })
        .await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        assert_eq!(answers, [true, false, false]);
        assert_eq!(records.room(&made.id).await?, None);
    }
    Ok(())
}

async fn update(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut made = room(Some(UserId::generate()));
    records.create_room(&made).await?;
    let none = RoomPatch::default();
    let unchanged = records.patch_room(&made.id, &none).await?;
    assert_eq!(unchanged.as_ref(), Some(&made));
    made.name = "renamed".into();
    made.kind = RoomKind::Whiteboard;
    made.access = Access::Invite;
    made.listed = false;
    made.retention = Retention::Ephemeral;
    made.allows = vec![];
    let patch = RoomPatch {
        name: Some(made.name.clone()),
        kind: Some(made.kind),
        access: Some(made.access),
        listed: Some(made.listed),
        retention: Some(made.retention),
        allows: Some(made.allows.clone()),
    };
    let patched = records.patch_room(&made.id, &patch).await?;
    assert_eq!(patched.as_ref(), Some(&made));
    assert_eq!(records.room(&made.id).await?, Some(made));
    let nowhere = RoomId::generate();
    assert_eq!(records.patch_room(&nowhere, &patch).await?, None);
    Ok(())
}

async fn patches_at_once(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut made = room(None);
    records.create_room(&made).await?;
    made.name = "renamed".into();
    made.access = Access::Invite;
    made.listed = !made.listed;
    made.retention = Retention::Ephemeral;
    let none = RoomPatch::default;
    let patches = [
        RoomPatch {
            name: Some(made.name.clone()),
            ..none()
        },
        RoomPatch {
            access: Some(made.access),
            ..none()
        },
        RoomPatch {
            listed: Some(made.listed),
            ..none()
        },
        RoomPatch {
            retention: Some(made.retention),
            ..none()
        },
    ];
    let (records, id) = (&records, &made.id);
    let at_once = patches.iter().map(|patch| records.patch_room(id, patch));
    for patched in futures::future::join_all(at_once).await {
        assert!(patched?.is_some());
    }
    assert_eq!(records.room(id).await?, Some(made.clone()));
    Ok(())
}

async fn quota(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (address, since) = (unique("192.0.2.8"), now());
    let quota = Some(RoomQuota { since, most: 5 });
    let mut old = room(None);
    old.creator_address = Some(address.clone());
    old.created_at = since - Duration::from_secs(1);
    let made = records.create_room_within(&old, quota).await?;
    assert_eq!(
        made,
        RoomCreation::Made,
        "it is not of the time that counts"
    );
    let wanted: Vec<Room> = (0..20)
        .map(|_| {
            let mut wanted = room(Some(UserId::generate()));
            wanted.creator_address = Some(address.clone());
            wanted.created_at = since;
            wanted
        })
        .collect();
    let at_once = wanted
        .iter()
        .map(|room| records.create_room_within(room, quota));
    let mut made = Vec::new();
    for (answer, room) in futures::future::join_all(at_once)
        .await
        .into_iter()
        .zip(&wanted)
    {
        match answer? {
            RoomCreation::Made => made.push(room),
            other => {
                assert_eq!(other, RoomCreation::Full);
                assert_eq!(records.room(&room.id).await?, None);
            }
        }
    }
    assert_eq!(made.len(), 5);
    let mut elsewhere = wanted[0].clone();
    elsewhere.id = RoomId::generate();
    elsewhere.creator_address = Some(unique("192.0.2.9"));
    let made_there = records.create_room_within(&elsewhere, quota).await?;
    assert_eq!(made_there, RoomCreation::Made, "others have their own");
    let again = Some(RoomQuota { since, most: 6 });
    let taken = records.create_room_within(made[0], again).await?;
    assert_eq!(taken, RoomCreation::Taken);
    Ok(())
}

async fn activity_moves_forward(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let made = room(None);
    records.create_room(&made).await?;
    let later = made.created_at + Duration::from_secs(60);
    records.touch_room(&made.id, later).await?;
    records.touch_room(&made.id, made.created_at).await?;
    let stored = records.room(&made.id).await?.expect("the room");
    assert_eq!(stored.last_activity_at, later);
    records.touch_room(&RoomId::generate(), later).await?;
    Ok(())
}

/// Reads the list to its end, a page at a time; after each page another room like `late` is made.
pub async fn walk(
    records: &dyn Records,
    mut query: RoomQuery,
    limit: usize,
    late: Option<&Room>,
) -> Result<Vec<Room>, libtest_mimic::Failed> {
    let mut seen = Vec::new();
    loop {
        let page = records.list_rooms(&query, limit).await?;
        assert!(page.items.len() == limit || !page.more, "a short page");
        assert!(page.items.len() <= limit);
        query.before = page.items.last().map(|r| (r.created_at, r.id.clone()));
        seen.extend(page.items);
        if !page.more {
            return Ok(seen);
        }
        if let Some(late) = late {
            let id = RoomId::generate();
            let late = Room { id, ..late.clone() };
            records.create_room(&late).await?;
        }
    }
}

async fn pages(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let reader = UserId::generate();
    // Three moments, so that most are told apart by id alone.
    let start = now();
    let mut made = Vec::new();
    for index in 0..25_u64 {
        let mut each = room(Some(reader));
        each.id = format!("{}_{index}", Uuid::new_v4())
            .parse()
            .expect("an id");
        each.listed = index % 2 == 0;
        each.created_at = start + Duration::from_micros(index % 3);
        records.create_room(&each).await?;
        made.push(each);
    }
    let mut late = room(Some(reader));
    late.created_at = start + Duration::from_secs(1);
    for visible in [RoomVisibility::For(reader), RoomVisibility::All] {
        let seen = walk(&*records, RoomQuery::of(visible), 4, Some(&late)).await?;
        assert!(
            seen.windows(2)
                .all(|w| (w[0].created_at, &w[0].id) > (w[1].created_at, &w[1].id)),
            "newest first, each once"
        );
        let ids: HashSet<&RoomId> = seen.iter().map(|r| &r.id).collect();
        for each in &made {
            assert!(ids.contains(&each.id), "{} is missing", each.id);
        }
    }
    // From beyond the times that either database knows.
    for at in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        let query = RoomQuery {
            before: Some((at, late.id.clone())),
            ..RoomQuery::of(RoomVisibility::For(reader))
        };
        let found = records.list_rooms(&query, 100).await?;
        assert_eq!(found.items.is_empty(), at < start, "{at}");
    }
    Ok(())
}

async fn visibility(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (reader, other) = (UserId::generate(), UserId::generate());
    let make = async |by: UserId, listed: bool| {
        let mut made = room(Some(by));
        made.listed = listed;
        records.create_room(&made).await.expect("a room");
        made.id
    };
    let own_hidden = make(reader, false).await;
    let own_listed = make(reader, true).await;
    let others_hidden = make(other, false).await;
    let others_listed = make(other, true).await;
    let invited = make(other, false).await;
    records
        .set_role(&invited, reader, Some(Role::Viewer))
        .await?;
    let all = [
        &own_hidden,
        &own_listed,
        &others_hidden,
        &others_listed,
        &invited,
    ];
    for (visible, expected) in [
        (RoomVisibility::Listed, vec![&own_listed, &others_listed]),
        (
            RoomVisibility::For(reader),
            vec![&own_hidden, &own_listed, &others_listed, &invited],
        ),
        (RoomVisibility::All, all.to_vec()),
    ] {
        let seen = walk(&*records, RoomQuery::of(visible), PAGE_MAX, None).await?;
        let mine: Vec<&RoomId> = all
            .into_iter()
            .filter(|id| seen.iter().any(|room| room.id == **id))
            .collect();
        assert_eq!(mine, expected, "{visible:?}");
    }
    let endless = records
        .list_rooms(&RoomQuery::of(RoomVisibility::All), usize::MAX)
        .await?;
    assert!(endless.items.len() <= PAGE_MAX);
    Ok(())
}

/// Rooms of two kinds, every third of the reader's, every fifth listed, some in a project of theirs.
async fn asked_for(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (reader, other) = (UserId::generate(), UserId::generate());
    let project = super::places::project(&*records, reader).await?.id.0;
    let start = now();
    let mut made = Vec::new();
    for index in 0..60_u64 {
        let mut each = room(Some(if index % 3 == 0 { reader } else { other }));
        each.created_at = start + Duration::from_micros(index / 4);
        each.listed = index % 5 == 0;
        each.kind = if index % 2 == 0 {
            RoomKind::Session
        } else {
            RoomKind::Open
        };
        each.project_id = (index % 7 == 0).then_some(project);
        records.create_room(&each).await?;
        made.push(each);
    }
    // One becomes a session, and one ceases to be; both are the reader's.
    for (at, kind) in [(9, RoomKind::Session), (6, RoomKind::Whiteboard)] {
        made[at].kind = kind;
        let patch = RoomPatch {
            kind: Some(kind),
            ..RoomPatch::default()
        };
        let patched = records.patch_room(&made[at].id, &patch).await?;
        assert_eq!(patched.as_ref(), Some(&made[at]));
    }
    let mut ids: Vec<RoomId> = made
        .iter()
        .skip(7)
        .step_by(2)
        .map(|r| r.id.clone())
        .collect();
    ids.extend((0..2_000).map(|_| RoomId::generate()));
    let among: std::collections::BTreeSet<RoomId> = ids.into_iter().collect();
    for visible in [
        RoomVisibility::Listed,
        RoomVisibility::For(reader),
        RoomVisibility::For(UserId::generate()),
        RoomVisibility::All,
    ] {
        for kind in [None, Some(RoomKind::Session), Some(RoomKind::Project)] {
            for among in [None, Some(among.clone()), Some(Default::default())] {
                let sees = |room: &&Room| match visible {
                    RoomVisibility::All => true,
                    RoomVisibility::Listed => room.listed,
                    RoomVisibility::For(person) => {
                        let own = room.created_by == Some(person) || room.project_id.is_some();
                        room.listed || own && person == reader
                    }
                };
                let wanted = |room: &&Room| {
                    kind.is_none_or(|kind| room.kind == kind)
                        && among.as_ref().is_none_or(|among| among.contains(&room.id))
                };
                let mut expected: Vec<&Room> = made.iter().filter(sees).filter(wanted).collect();
                expected.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
                let query = RoomQuery {
                    kind,
                    among: among.clone(),
                    ..RoomQuery::of(visible)
                };
                // Other tests make rooms, too.
                let limit = if among.is_some() { 7 } else { 200 };
                let seen = walk(&*records, query.clone(), limit, None).await?;
                let ours = |room: &&Room| made.iter().any(|made| made.id == room.id);
                let seen: Vec<&Room> = seen.iter().filter(ours).collect();
                assert_eq!(seen, expected, "{query:?}");
            }
        }
    }
    Ok(())
}

async fn many_rooms(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (first, second) = (room(None), room(None));
    records.create_room(&first).await?;
    records.create_room(&second).await?;
    let mut ids = vec![first.id.clone(), second.id.clone()];
    ids.extend((0..2_500).map(|_| RoomId::generate()));
    ids.push(first.id.clone());
    let mut found = records.rooms(&ids).await?;
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let mut expected = vec![first, second];
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(found, expected);
    assert_eq!(records.rooms(&[]).await?, []);
    Ok(())
}

async fn count_of_address(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (address, since) = (unique("192.0.2.7"), now());
    let make = async |address: &str, age: Duration| {
        let mut made = room(None);
        made.creator_address = Some(address.to_owned());
        made.created_at = since - age;
        records.create_room(&made).await.expect("a room");
        made.id
    };
    let day = Duration::from_secs(86_400);
    let young = make(&address, Duration::ZERO).await;
    let old_active = make(&address, day).await;
    let _old_idle = make(&address, day).await;
    let strangers = make(&unique("198.51.100.1"), day).await;
    let mut active: Vec<RoomId> = (0..2_500).map(|_| RoomId::generate()).collect();
    active.extend([young, old_active.clone(), strangers, old_active]);
    let count = records
        .count_rooms_of_address(&address, since, &active)
        .await?;
    let both = RoomsOfAddress { young: 1, older: 1 };
    assert_eq!(count, both, "the young one, and the old one that is active");
    let count = records.count_rooms_of_address(&address, since, &[]).await?;
    assert_eq!(count, RoomsOfAddress { young: 1, older: 0 });
    Ok(())
}
