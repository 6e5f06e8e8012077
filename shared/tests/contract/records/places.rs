//! Workspaces, projects, teams: a place keeps an owner, roles are inherited, and rooms hear of every change.

use std::collections::BTreeSet;

use atelier_shared::Mode;
use atelier_shared::domain::ids::{PlaceId, RoomId, UserId};
use atelier_shared::domain::place::{Place, PlaceKind, PlaceRole};
use atelier_shared::domain::room::{Role, Room, RoomChoice, RoomKind};
use atelier_shared::ports::{
    PlaceChange, PlaceDeletion, PlacePatch, PlaceScope, PortError, Records, RoomQuery,
    RoomVisibility,
};
use libtest_mimic::Trial;

use super::{at_once, now};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "records",
        "a_place_is_read_back_changed_and_listed",
        read_back,
    );
    both(
        trials,
        "records",
        "a_place_keeps_its_last_owner_whoever_leaves_at_once",
        last_owner,
    );
    both(
        trials,
        "records",
        "a_role_that_changed_meanwhile_is_not_overwritten",
        changed_meanwhile,
    );
    both(
        trials,
        "records",
        "rooms_inherit_the_greater_role_and_their_versions_rise_with_it",
        inherited,
    );
    both(
        trials,
        "records",
        "whom_a_workspace_removes_its_projects_and_rooms_remove",
        removed,
    );
    both(
        trials,
        "records",
        "a_place_with_rooms_is_not_deleted_and_a_deleted_one_gets_none",
        deleted,
    );
    both(
        trials,
        "records",
        "rooms_made_while_their_project_is_deleted_do_not_outlive_it",
        delete_race,
    );
}

fn place(kind: PlaceKind, parent: Option<PlaceId>, maker: UserId) -> Place {
    Place {
        id: PlaceId::generate(),
        kind,
        parent,
        name: "Größe 🦊".into(),
        description: "two\nlines".into(),
        created_by: Some(maker),
        created_at: now(),
    }
}

/// A project in a workspace of its own; both of this owner.
pub async fn project(records: &dyn Records, owner: UserId) -> Result<Place, PortError> {
    let workspace = place(PlaceKind::Workspace, None, owner);
    assert!(records.create_place(&workspace).await?);
    let project = place(PlaceKind::Project, Some(workspace.id), owner);
    assert!(records.create_place(&project).await?);
    Ok(project)
}

async fn room_in(records: &dyn Records, project: &Place) -> Result<Room, PortError> {
    let choice = RoomChoice {
        kind: Some(RoomKind::Project),
        project_id: Some(project.id.0),
        ..RoomChoice::default()
    };
    let room = Room::new(RoomId::generate(), choice, None, None, now());
    assert!(records.create_room(&room).await?);
    Ok(room)
}

async fn read_back(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben) = (UserId::generate(), UserId::generate());
    let mut workspace = place(PlaceKind::Workspace, None, ana);
    assert!(records.create_place(&workspace).await?);
    assert_eq!(records.place(workspace.id).await?, Some(workspace.clone()));
    workspace.name = "Renamed".into();
    workspace.description = String::new();
    // Each alone, at once: neither undoes the other.
    let name = PlacePatch {
        name: Some(workspace.name.clone()),
        description: None,
    };
    let text = PlacePatch {
        name: None,
        description: Some(workspace.description.clone()),
    };
    let patched = futures::future::join(
        records.patch_place(workspace.id, &name),
        records.patch_place(workspace.id, &text),
    );
    let (first, second) = patched.await;
    assert!(first?.is_some() && second?.is_some());
    assert_eq!(records.place(workspace.id).await?, Some(workspace.clone()));
    let nowhere = records.patch_place(PlaceId::generate(), &name).await?;
    assert_eq!(nowhere, None);
    assert!(
        !records
            .create_place(&place(PlaceKind::Project, Some(PlaceId::generate()), ana))
            .await?,
        "a project of no workspace"
    );
    let mut projects = Vec::new();
    for _ in 0..5 {
        let project = place(PlaceKind::Project, Some(workspace.id), ana);
        assert!(records.create_place(&project).await?);
        projects.insert(0, project);
    }
    let mut listed = Vec::new();
    let mut before = None;
    loop {
        let scope = PlaceScope::In(workspace.id);
        let page = records.list_places(scope, ben, before, 2).await?;
        before = page.items.last().map(|(place, _)| place.id);
        assert!(page.items.iter().all(|(_, role)| role.is_none()));
        listed.extend(page.items.into_iter().map(|(place, _)| place));
        if !page.more {
            break;
        }
    }
    assert_eq!(listed, projects);
    let of = |person, kind| records.list_places(PlaceScope::Of(person, kind), person, None, 10);
    let mine = of(ana, PlaceKind::Workspace).await?.items;
    assert_eq!(mine, [(workspace, Some(PlaceRole::Owner))]);
    assert!(of(ana, PlaceKind::Team).await?.items.is_empty());
    assert!(of(ben, PlaceKind::Workspace).await?.items.is_empty());
    Ok(())
}

async fn last_owner(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let people: Vec<UserId> = (0..8).map(|_| UserId::generate()).collect();
    let team = place(PlaceKind::Team, None, people[0]);
    assert!(records.create_place(&team).await?);
    for person in &people[1..] {
        let made = records
            .set_place_role(team.id, *person, None, Some(PlaceRole::Owner))
            .await?;
        assert_eq!(made, PlaceChange::Done(Vec::new()));
    }
    let answers = at_once(people.len(), |index| {
        let (records, person, team) = (records.clone(), people[index], team.id);
        let role = [None, Some(PlaceRole::Viewer)][index % 2];
        async move {
            records
                .set_place_role(team, person, Some(PlaceRole::Owner), role)
                .await
        }
    })
    .await;
    let mut refused = 0;
    for answer in answers {
        match answer? {
            PlaceChange::LastOwner => refused += 1,
            other => assert_eq!(other, PlaceChange::Done(Vec::new())),
        }
    }
    assert_eq!(refused, 1, "exactly one is left to own it");
    let members = records.place_members(team.id, None, 100).await?.items;
    let owners = members.iter().filter(|m| m.role == PlaceRole::Owner);
    assert_eq!(owners.count(), 1);
    Ok(())
}

async fn changed_meanwhile(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben) = (UserId::generate(), UserId::generate());
    let team = place(PlaceKind::Team, None, ana);
    assert!(records.create_place(&team).await?);
    let set = |seen, role| records.set_place_role(team.id, ben, seen, role);
    let (viewer, member) = (Some(PlaceRole::Viewer), Some(PlaceRole::Member));
    assert_eq!(set(None, viewer).await?, PlaceChange::Done(Vec::new()));
    assert_eq!(set(None, member).await?, PlaceChange::Changed);
    assert_eq!(set(member, None).await?, PlaceChange::Changed);
    assert_eq!(records.place_role(team.id, ben).await?, viewer);
    let nowhere = PlaceId::generate();
    let gone = records.set_place_role(nowhere, ben, None, member).await?;
    assert_eq!(gone, PlaceChange::Missing);
    Ok(())
}

async fn inherited(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben) = (UserId::generate(), UserId::generate());
    let project = project(&*records, ana).await?;
    let workspace = project.parent.expect("a workspace");
    let (room, other) = (
        room_in(&*records, &project).await?,
        room_in(&*records, &project).await?,
    );
    assert_eq!(records.role(&room.id, ana).await?, Some(Role::Host));
    assert_eq!(records.role(&room.id, ben).await?, None);
    assert_eq!(
        records.member(&room.id, ana).await?,
        None,
        "none of her own"
    );

    let change = records
        .set_place_role(workspace, ben, None, Some(PlaceRole::Viewer))
        .await?;
    let PlaceChange::Done(raised) = change else {
        return Err(format!("{change:?}").into());
    };
    let raised: BTreeSet<_> = raised.into_iter().collect();
    let expected = BTreeSet::from([(room.id.clone(), 2), (other.id.clone(), 2)]);
    assert_eq!(raised, expected);
    let stored = records.room(&room.id).await?.expect("the room");
    assert_eq!(stored.role_version, 2);
    assert_eq!(records.role(&room.id, ben).await?, Some(Role::Viewer));
    assert_eq!(
        records.place_role(project.id, ben).await?,
        Some(PlaceRole::Viewer)
    );
    assert_eq!(records.place_member(project.id, ben).await?, None);

    // The greatest of the three counts, whichever it is.
    records
        .set_place_role(project.id, ben, None, Some(PlaceRole::Member))
        .await?;
    assert_eq!(records.role(&room.id, ben).await?, Some(Role::Editor));
    records.set_role(&room.id, ben, Some(Role::Host)).await?;
    assert_eq!(records.role(&room.id, ben).await?, Some(Role::Host));
    assert_eq!(records.role(&other.id, ben).await?, Some(Role::Editor));
    records.set_role(&room.id, ana, Some(Role::Viewer)).await?;
    assert_eq!(records.role(&room.id, ana).await?, Some(Role::Host));
    let stranger = UserId::generate();
    let mut roles = records.roles(&room.id, &[stranger, ben, ana]).await?;
    roles.sort();
    let mut expected = [(ana, Role::Host), (ben, Role::Host)];
    expected.sort();
    assert_eq!(roles, expected);

    let seen_by = async |person| {
        let query = RoomQuery::of(RoomVisibility::For(person));
        records.list_rooms(&query, 100).await
    };
    let ids = |rooms: Vec<Room>| -> BTreeSet<RoomId> {
        let ours = rooms
            .into_iter()
            .filter(|r| r.project_id == Some(project.id.0));
        ours.map(|room| room.id).collect()
    };
    let both = BTreeSet::from([room.id.clone(), other.id.clone()]);
    assert_eq!(ids(seen_by(ben).await?.items), both);
    assert_eq!(ids(seen_by(stranger).await?.items), BTreeSet::new());
    Ok(())
}

async fn removed(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben) = (UserId::generate(), UserId::generate());
    let project = project(&*records, ana).await?;
    let workspace = project.parent.expect("a workspace");
    let room = room_in(&*records, &project).await?;
    let member = Some(PlaceRole::Member);
    records.set_place_role(workspace, ben, None, member).await?;
    records
        .set_place_role(project.id, ben, None, member)
        .await?;
    records.set_role(&room.id, ben, Some(Role::Host)).await?;
    records
        .set_place_role(project.id, ben, member, None)
        .await?;
    let role = records.role(&room.id, ben).await?;
    assert_eq!(role, Some(Role::Host), "he still comes by the workspace");
    records
        .set_place_role(project.id, ben, None, member)
        .await?;
    let before = records.room(&room.id).await?.expect("the room");
    let change = records.set_place_role(workspace, ben, member, None).await?;
    assert_eq!(
        change,
        PlaceChange::Done(vec![(room.id.clone(), before.role_version + 1)])
    );
    assert_eq!(records.role(&room.id, ben).await?, None);
    assert_eq!(records.place_role(project.id, ben).await?, None);
    Ok(())
}

async fn deleted(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let project = project(&*records, UserId::generate()).await?;
    let workspace = project.parent.expect("a workspace");
    let room = room_in(&*records, &project).await?;
    for place in [project.id, workspace] {
        let refused = records.delete_place(place).await?;
        assert_eq!(refused, PlaceDeletion::HasRooms);
        assert_eq!(
            records.rooms_in(place, 10).await?,
            std::slice::from_ref(&room.id)
        );
    }
    assert!(records.delete_room(&room.id, now()).await?);
    assert_eq!(
        records.delete_place(workspace).await?,
        PlaceDeletion::Deleted
    );
    assert_eq!(records.place(project.id).await?, None);
    assert_eq!(
        records.delete_place(workspace).await?,
        PlaceDeletion::Missing
    );
    let late = Room {
        id: RoomId::generate(),
        ..room
    };
    assert!(!records.create_room(&late).await?);
    Ok(())
}

async fn delete_race(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    for _ in 0..5 {
        let project = project(&*records, UserId::generate()).await?;
        let answers = at_once(4, |index| {
            let (records, project) = (records.clone(), project.clone());
            async move {
                if index == 0 {
                    let gone = records.delete_place(project.id).await?;
                    return Ok::<_, PortError>(gone == PlaceDeletion::Deleted);
                }
                let choice = RoomChoice {
                    project_id: Some(project.id.0),
                    ..RoomChoice::default()
                };
                let room = Room::new(RoomId::generate(), choice, None, None, now());
                records.create_room(&room).await
            }
        })
        .await;
        let mut done = Vec::new();
        for answer in answers {
            done.push(answer?);
        }
        let made = done[1..].iter().any(|made| *made);
        assert_ne!(
            done[0], made,
            "either the project goes or it has rooms: {done:?}"
        );
    }
    Ok(())
}
