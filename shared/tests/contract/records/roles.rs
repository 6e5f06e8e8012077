//! Roles: they and the room's role version change together.

use atelier_shared::Mode;
use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::room::{Role, Room, RoomChoice};
use atelier_shared::ports::{Membership, RoleChange};
use libtest_mimic::Trial;

use super::{account, at_once, now, unique};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "records",
        "twenty_role_changes_at_once_raise_the_version_by_one_each",
        concurrent_changes,
    );
    both(
        trials,
        "records",
        "a_role_is_set_changed_and_taken_away",
        set_and_taken,
    );
    both(
        trials,
        "records",
        "of_two_hosts_who_send_each_other_away_at_once_one_stays",
        last_host,
    );
    both(
        trials,
        "records",
        "a_room_that_is_gone_has_no_roles_to_set",
        gone_room,
    );
    both(
        trials,
        "records",
        "members_are_listed_with_their_names_if_they_are_stored",
        member_names,
    );
}

fn room() -> Room {
    let id = RoomId::generate();
    Room::new(id, RoomChoice::default(), None, None, now())
}

async fn concurrent_changes(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let room = room();
    records.create_room(&room).await?;
    let user = UserId::generate();
    let answers = at_once(20, |index| {
        let (records, id) = (records.clone(), room.id.clone());
        let role = [Some(Role::Viewer), Some(Role::Editor), None][index % 3];
        async move { (records.set_role(&id, user, role).await, role) }
    })
    .await;
    let mut changes = Vec::new();
    for (change, role) in answers {
        let RoleChange::Done(version) = change? else {
            panic!("the room is there, and has no host");
        };
        changes.push((version, role));
    }
    changes.sort();
    let versions: Vec<u64> = changes.iter().map(|(version, _)| *version).collect();
    assert_eq!(versions, (2..=21).collect::<Vec<u64>>());
    let stored = records.room(&room.id).await?.expect("the room");
    assert_eq!(stored.role_version, 21);
    // Who changed last has the last word: version and role went together.
    let last = changes.last().and_then(|(_, role)| *role);
    assert_eq!(records.role(&room.id, user).await?, last);
    Ok(())
}

async fn set_and_taken(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let room = room();
    records.create_room(&room).await?;
    let (user, other) = (UserId::generate(), UserId::generate());
    let keeper = UserId::generate();
    let kept = records.set_role(&room.id, keeper, Some(Role::Host));
    assert_eq!(kept.await?, RoleChange::Done(2));
    assert_eq!(records.role(&room.id, user).await?, None);
    for (expected, role) in [
        (3, Some(Role::Viewer)),
        (4, Some(Role::Host)),
        (5, Some(Role::Editor)),
        (6, None),
    ] {
        let change = records.set_role(&room.id, user, role).await?;
        assert_eq!(change, RoleChange::Done(expected));
        assert_eq!(records.role(&room.id, user).await?, role);
        assert_eq!(records.role(&room.id, other).await?, None);
    }
    Ok(())
}

async fn last_host(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for round in 0..5 {
        let room = room();
        records.create_room(&room).await?;
        let hosts = [UserId::generate(), UserId::generate()];
        for host in hosts {
            records.set_role(&room.id, host, Some(Role::Host)).await?;
        }
        let less = [None, Some(Role::Editor)];
        let changes = at_once(2, |index| {
            let (records, id) = (records.clone(), room.id.clone());
            async move { records.set_role(&id, hosts[1 - index], less[index]).await }
        })
        .await;
        let changes: Vec<RoleChange> = changes.into_iter().collect::<Result<_, _>>()?;
        assert!(
            changes.contains(&RoleChange::Done(4)),
            "{round}: {changes:?}"
        );
        assert!(
            changes.contains(&RoleChange::LastHost),
            "{round}: {changes:?}"
        );
        let roles = records.roles(&room.id, &hosts).await?;
        let left: Vec<_> = roles
            .iter()
            .filter(|(_, role)| *role == Role::Host)
            .collect();
        assert_eq!(left.len(), 1, "{round}: {roles:?}");
        let stored = records.room(&room.id).await?.expect("the room");
        assert_eq!(stored.role_version, 4, "a change that was refused is none");
        let (last, stays) = (left[0].0, Some(Role::Host));
        let again = records.set_role(&room.id, last, stays).await?;
        assert_eq!(
            again,
            RoleChange::Done(5),
            "the last host is host as before"
        );
    }
    Ok(())
}

async fn gone_room(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (id, user) = (RoomId::generate(), UserId::generate());
    let change = records.set_role(&id, user, Some(Role::Host)).await?;
    assert_eq!(change, RoleChange::Missing);
    assert_eq!(records.role(&id, user).await?, None);
    Ok(())
}

async fn member_names(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let room = room();
    records.create_room(&room).await?;
    let known = account(&unique("member"));
    records.create_user(&known).await?;
    let unknown = UserId::generate();
    records
        .set_role(&room.id, known.user.id, Some(Role::Host))
        .await?;
    records
        .set_role(&room.id, unknown, Some(Role::Viewer))
        .await?;
    let mut expected = [
        Membership {
            user_id: known.user.id,
            role: Role::Host,
            name: Some(known.user.name),
        },
        Membership {
            user_id: unknown,
            role: Role::Viewer,
            name: None,
        },
    ];
    expected.sort_by_key(|member| member.user_id);
    let mut walked = Vec::new();
    loop {
        let after = walked.last().map(|member: &Membership| member.user_id);
        let page = records.members(&room.id, after, 1).await?;
        assert_eq!(page.items.len(), 1);
        walked.extend(page.items);
        if !page.more {
            break;
        }
    }
    assert_eq!(walked, expected);
    Ok(())
}
