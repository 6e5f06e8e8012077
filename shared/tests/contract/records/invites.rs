//! Invitations: never more people than one says, and nobody by one that is gone.

use atelier_shared::Mode;
use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::invite::Invite;
use atelier_shared::domain::room::{Role, Room, RoomChoice};
use atelier_shared::ports::{Acceptance, Records};
use chrono::TimeDelta;
use libtest_mimic::Trial;
use uuid::Uuid;

use super::{at_once, now};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "records",
        "of_twenty_who_accept_at_once_as_many_join_as_the_invitation_says",
        counted,
    );
    both(
        trials,
        "records",
        "an_invitation_is_listed_found_by_its_hash_and_revoked",
        revoked,
    );
    both(
        trials,
        "records",
        "an_invitation_gives_more_and_never_takes_away",
        never_less,
    );
}

async fn room(records: &dyn Records) -> RoomId {
    let room = Room::new(RoomId::generate(), RoomChoice::default(), None, None, now());
    records.create_room(&room).await.expect("a room");
    room.id
}

fn invite(room: &RoomId, role: Role, max_uses: Option<u32>) -> Invite {
    let id = Uuid::now_v7();
    let mut code_hash = [7; 32];
    code_hash[..16].copy_from_slice(id.as_bytes());
    Invite {
        id,
        room: room.clone(),
        code_hash,
        role,
        created_by: UserId::generate(),
        created_at: now(),
        expires_at: Some(now() + TimeDelta::hours(1)),
        max_uses,
        uses: 0,
    }
}

async fn counted(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let room = room(&*records).await;
    let invite = invite(&room, Role::Editor, Some(3));
    assert!(records.create_invite(&invite).await?);
    let answers = at_once(20, |_| {
        let records = records.clone();
        let hash = invite.code_hash;
        async move { records.accept_invite(hash, UserId::generate(), now()).await }
    })
    .await;
    let mut versions = Vec::new();
    for answer in answers {
        match answer? {
            Acceptance::Joined { role_version, .. } => versions.push(role_version),
            other => assert_eq!(other, Acceptance::Over),
        }
    }
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4], "each with a version of its own");
    assert_eq!(records.members(&room, None, 10).await?.items.len(), 3);
    let stored = records.invite_by_code(invite.code_hash).await?;
    assert_eq!(stored.expect("still there").uses, 3);
    Ok(())
}

async fn revoked(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (here, elsewhere) = (room(&*records).await, room(&*records).await);
    let (first, second) = (
        invite(&here, Role::Viewer, None),
        invite(&here, Role::Host, Some(1)),
    );
    assert!(records.create_invite(&first).await?);
    assert!(records.create_invite(&second).await?);
    assert!(
        !records
            .create_invite(&invite(&RoomId::generate(), Role::Viewer, None))
            .await?
    );
    let all = records.invites(&here, None, 2).await?;
    assert_eq!(all.items, [second.clone(), first.clone()]);
    assert!(!all.more);
    let newest = records.invites(&here, None, 1).await?;
    assert_eq!((newest.items, newest.more), (vec![second.clone()], true));
    let older = records.invites(&here, Some(second.id), 1).await?;
    assert_eq!((older.items, older.more), (vec![first.clone()], false));
    assert_eq!(
        records.invite_by_code(first.code_hash).await?,
        Some(first.clone())
    );
    assert!(
        !records.revoke_invite(&elsewhere, first.id).await?,
        "another room's"
    );
    assert!(records.revoke_invite(&here, first.id).await?);
    assert!(!records.revoke_invite(&here, first.id).await?);
    let user = UserId::generate();
    let answer = records.accept_invite(first.code_hash, user, now()).await?;
    assert_eq!(answer, Acceptance::Unknown);
    let late = now() + TimeDelta::hours(2);
    let answer = records.accept_invite(second.code_hash, user, late).await?;
    assert_eq!(answer, Acceptance::Over);
    assert_eq!(records.role(&here, user).await?, None);
    records.delete_room(&here, now()).await?;
    assert_eq!(records.invite_by_code(second.code_hash).await?, None);
    Ok(())
}

async fn never_less(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let room = room(&*records).await;
    let (viewer, editor) = (
        invite(&room, Role::Viewer, Some(1)),
        invite(&room, Role::Editor, Some(1)),
    );
    records.create_invite(&viewer).await?;
    records.create_invite(&editor).await?;
    let user = UserId::generate();
    records.accept_invite(viewer.code_hash, user, now()).await?;
    let more = records.accept_invite(editor.code_hash, user, now()).await?;
    assert!(matches!(
        more,
        Acceptance::Joined {
            role: Role::Editor,
            ..
        }
    ));
    let before = records.room(&room).await?.expect("the room").role_version;
    for hash in [viewer.code_hash, editor.code_hash] {
        let again = records.accept_invite(hash, user, now()).await?;
        let expected = Acceptance::Member {
            room: room.clone(),
            role: Role::Editor,
        };
        assert_eq!(again, expected);
    }
    let after = records.room(&room).await?.expect("the room").role_version;
    assert_eq!(before, after, "nothing changed");
    Ok(())
}
