//! People change their profiles, and leave for good.

use atelier_shared::Mode;
use atelier_shared::domain::ids::{PlaceId, RoomId, UserId};
use atelier_shared::domain::place::{Place, PlaceKind, PlaceRole};
use atelier_shared::domain::room::{Role, Room, RoomChoice};
use atelier_shared::ports::{CreateUserError, PlaceChange, UserDeletion, UserPatch};
use libtest_mimic::Trial;

use super::places::project;
use super::{account, at_once, now, unique};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "records",
        "a_profile_is_changed_and_its_address_stays_unique",
        profile,
    );
    both(
        trials,
        "records",
        "a_deleted_person_is_gone_from_everywhere_and_remembered_as_deleted",
        deleted,
    );
    both(
        trials,
        "records",
        "the_last_owner_of_what_others_use_is_not_deleted",
        last_owner,
    );
    both(
        trials,
        "records",
        "of_two_owners_who_delete_themselves_at_once_one_stays",
        two_owners,
    );
}

async fn profile(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut ana = account(&unique("ana"));
    let mut ben = account(&unique("ben"));
    ben.user.email = Some(format!("{}@example.com", unique("ben")));
    records.create_user(&ana).await?;
    records.create_user(&ben).await?;
    ana.user.name = "Ana B.".into();
    ana.user.avatar_url = Some("https://example.com/a.png".into());
    ana.user.email = Some(format!("{}@Example.com", unique("ana")));
    // Each alone, at once: none undoes another.
    let patches = [
        UserPatch {
            name: Some(ana.user.name.clone()),
            ..UserPatch::default()
        },
        UserPatch {
            avatar_url: Some(ana.user.avatar_url.clone()),
            ..UserPatch::default()
        },
        UserPatch {
            email: Some(ana.user.email.clone()),
            ..UserPatch::default()
        },
    ];
    let at_once = patches
        .iter()
        .map(|patch| records.patch_user(ana.user.id, patch));
    for patched in futures::future::join_all(at_once).await {
        assert!(patched?.is_some());
    }
    assert_eq!(records.user(ana.user.id).await?, Some(ana.user.clone()));
    let none = UserPatch::default();
    let unchanged = records.patch_user(ana.user.id, &none).await?;
    assert_eq!(unchanged.as_ref(), Some(&ana.user));
    let address = ana.user.email.clone().unwrap_or_default();
    assert!(
        records
            .user_by_login(&address.to_lowercase())
            .await?
            .is_some()
    );
    assert!(records.is_login_taken(&address.to_lowercase()).await?);
    assert!(
        records
            .is_login_taken(&ben.user.username.to_uppercase())
            .await?
    );
    assert!(!records.is_login_taken(&unique("nobody")).await?);
    for taken in [ben.user.email.clone(), Some(ben.user.username.clone())] {
        let wish = UserPatch {
            email: Some(taken),
            ..UserPatch::default()
        };
        let refused = records.patch_user(ana.user.id, &wish).await;
        assert!(
            matches!(refused, Err(CreateUserError::Taken("email"))),
            "{refused:?}"
        );
    }
    assert_eq!(records.user(ana.user.id).await?, Some(ana.user.clone()));
    let without = UserPatch {
        email: Some(None),
        avatar_url: Some(None),
        name: None,
    };
    let bare = records.patch_user(ana.user.id, &without).await?;
    let bare = bare.expect("ana");
    assert_eq!((bare.email, bare.avatar_url), (None, None));
    assert_eq!(bare.name, ana.user.name);
    assert!(!records.is_login_taken(&address).await?);
    let nobody = records.patch_user(UserId::generate(), &without).await?;
    assert_eq!(nobody, None);
    Ok(())
}

fn team(owner: UserId) -> Place {
    Place {
        id: PlaceId::generate(),
        kind: PlaceKind::Team,
        parent: None,
        name: "Team".into(),
        description: String::new(),
        created_by: Some(owner),
        created_at: now(),
    }
}

async fn deleted(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben) = (account(&unique("ana")), account(&unique("ben")));
    records.create_user(&ana).await?;
    records.create_user(&ben).await?;
    let (ana, ben) = (ana.user, ben.user);
    let own = team(ana.id);
    assert!(records.create_place(&own).await?);
    let project = project(&*records, ben.id).await?;
    let workspace = project.parent.expect("a workspace");
    let member = Some(PlaceRole::Member);
    records
        .set_place_role(workspace, ana.id, None, member)
        .await?;
    let choice = RoomChoice {
        project_id: Some(project.id.0),
        ..RoomChoice::default()
    };
    let inherited = Room::new(RoomId::generate(), choice, None, None, now());
    let given = Room::new(
        RoomId::generate(),
        RoomChoice::default(),
        Some(ana.id),
        None,
        now(),
    );
    assert!(records.create_room(&inherited).await? && records.create_room(&given).await?);
    let UserDeletion::Done(mut raised) = records.delete_user(ana.id, now()).await? else {
        return Err("she is not deleted".into());
    };
    raised.sort();
    let mut expected = vec![(inherited.id.clone(), 2), (given.id.clone(), 2)];
    expected.sort();
    assert_eq!(raised, expected);
    assert_eq!(records.user(ana.id).await?, None);
    assert_eq!(records.user_by_login(&ana.username).await?, None);
    for room in [&inherited.id, &given.id] {
        assert_eq!(records.role(room, ana.id).await?, None::<Role>);
    }
    assert_eq!(records.place(own.id).await?, None, "nobody else was in it");
    let gone = records.deleted_users(&[ben.id, ana.id]).await?;
    assert_eq!(gone, [ana.id]);
    let again = records.delete_user(ana.id, now()).await?;
    assert_eq!(again, UserDeletion::Missing);
    // The name is free again, for a person of its own.
    records.create_user(&account(&ana.username)).await?;
    Ok(())
}

async fn last_owner(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let ana = account(&unique("ana"));
    records.create_user(&ana).await?;
    let ana = ana.user.id;
    let project = project(&*records, ana).await?;
    let workspace = project.parent.expect("a workspace");
    let ben = UserId::generate();
    records
        .set_place_role(workspace, ben, None, Some(PlaceRole::Admin))
        .await?;
    let kept = records.place(workspace).await?.expect("the workspace");
    let refused = records.delete_user(ana, now()).await?;
    assert_eq!(refused, UserDeletion::LastOwner(kept));
    assert!(records.user(ana).await?.is_some());
    records
        .set_place_role(
            workspace,
            ben,
            Some(PlaceRole::Admin),
            Some(PlaceRole::Owner),
        )
        .await?;
    let deleted = records.delete_user(ana, now()).await?;
    assert_eq!(deleted, UserDeletion::Done(Vec::new()));
    let members = records.place_members(project.id, None, 10).await?;
    assert!(members.items.is_empty(), "the workspace's owner has it");
    Ok(())
}

async fn two_owners(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for _ in 0..5 {
        let (ana, ben) = (account(&unique("ana")), account(&unique("ben")));
        records.create_user(&ana).await?;
        records.create_user(&ben).await?;
        let people = [ana.user.id, ben.user.id];
        let shared = team(people[0]);
        assert!(records.create_place(&shared).await?);
        let owner = Some(PlaceRole::Owner);
        let joined = records.set_place_role(shared.id, people[1], None, owner);
        assert_eq!(joined.await?, PlaceChange::Done(Vec::new()));
        let viewer = Some(PlaceRole::Viewer);
        records
            .set_place_role(shared.id, UserId::generate(), None, viewer)
            .await?;
        let answers = at_once(2, |index| {
            let (records, person) = (records.clone(), people[index]);
            async move { records.delete_user(person, now()).await }
        })
        .await;
        let mut stayed = 0;
        for answer in answers {
            stayed += usize::from(matches!(answer?, UserDeletion::LastOwner(_)));
        }
        assert_eq!(stayed, 1);
    }
    Ok(())
}
