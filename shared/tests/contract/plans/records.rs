//! Everything that Records can be asked, asked once.

use atelier_shared::domain::cleanup::{CleanupRun, Counts, RunState, Scope};
use atelier_shared::domain::file::StoredFile;
use atelier_shared::domain::ids::{FileId, InsightId, JobId, PlaceId, RoomId, UserId};
use atelier_shared::domain::insight::Insight;
use atelier_shared::domain::invite::Invite;
use atelier_shared::domain::job::{AskedBy, Job, JobState};
use atelier_shared::domain::place::{Place, PlaceKind, PlaceRole};
use atelier_shared::domain::room::{Retention, Role, Room, RoomChoice, RoomKind};
use atelier_shared::domain::user::NewUser;
use atelier_shared::domain::visit::{VisitBatch, VisitPlace};
use atelier_shared::ports::{
    FileIs, InsightFilter, InsightPatch, JobQuery, PlacePatch, PlaceScope, Records, RestoreBegun,
    RoomPatch, RoomQuery, RoomQuota, RoomVisibility, UserPatch,
};
use chrono::{Duration, Utc};
use uuid::Uuid;

use crate::fixture::Outcome;
use crate::records::{
    account,
    jobs::job,
    now, unique,
    visits::{comes, goes},
};

/// Who and what is asked about.
pub struct Cast {
    ana: NewUser,
    ben: UserId,
    workspace: Place,
    project: Place,
    team: Place,
    room: Room,
}

impl Cast {
    pub async fn made(records: &dyn Records) -> Result<Self, libtest_mimic::Failed> {
        let ana = account(&unique("ana"));
        records.create_user(&ana).await?;
        let id = ana.user.id;
        let workspace = place(PlaceKind::Workspace, None, id);
        let project = place(PlaceKind::Project, Some(workspace.id), id);
        let team = place(PlaceKind::Team, None, id);
        for place in [&workspace, &project, &team] {
            assert!(records.create_place(place).await?);
        }
        let room = room(Some(id), Some(project.id), Retention::Keep);
        assert!(records.create_room(&room).await?);
        Ok(Self {
            ana,
            ben: UserId::generate(),
            workspace,
            project,
            team,
            room,
        })
    }
}

fn place(kind: PlaceKind, parent: Option<PlaceId>, maker: UserId) -> Place {
    Place {
        id: PlaceId::generate(),
        kind,
        parent,
        name: "P".into(),
        description: String::new(),
        created_by: Some(maker),
        created_at: now(),
    }
}

fn room(maker: Option<UserId>, project: Option<PlaceId>, retention: Retention) -> Room {
    let choice = RoomChoice {
        kind: Some(match project {
            Some(_) => RoomKind::Project,
            None => RoomKind::Open,
        }),
        project_id: project.map(|project| project.0),
        retention: Some(retention),
        ..RoomChoice::default()
    };
    let address = Some("192.0.2.1".to_owned());
    Room::new(RoomId::generate(), choice, maker, address, now())
}

pub async fn ask(records: &dyn Records, cast: &Cast) -> Outcome {
    people(records, cast).await?;
    rooms(records, cast).await?;
    removals(records).await?;
    places(records, cast).await?;
    jobs(records, cast).await?;
    small(records, cast).await?;
    visits(records, cast).await?;
    insights(records, cast).await?;
    // Whoever goes takes all of this along.
    let gone = account(&unique("gone"));
    records.create_user(&gone).await?;
    records
        .create_room(&room(Some(gone.user.id), None, Retention::Keep))
        .await?;
    records.delete_user(gone.user.id, Utc::now()).await?;
    records.deleted_users(&[gone.user.id, cast.ben]).await?;
    Ok(())
}

async fn people(records: &dyn Records, cast: &Cast) -> Outcome {
    let ana = &cast.ana.user;
    records.user(ana.id).await?;
    for login in [ana.username.as_str(), "nobody"] {
        records.user_by_login(login).await?;
        records.is_login_taken(login).await?;
    }
    let patch = UserPatch {
        email: Some(ana.email.clone()),
        ..UserPatch::default()
    };
    records.patch_user(ana.id, &patch).await?;
    records.set_password_hash(ana.id, "$argon2id$two").await?;
    records.set_admin(&ana.username, false).await?;
    let before = now() - Duration::days(1);
    for (guest, _) in records.guests(before, None, 2).await? {
        records.guests(before, Some(guest), 2).await?;
        records.forget_guest(guest).await?;
    }
    records.forget_guest(cast.ben).await?;
    Ok(())
}

async fn rooms(records: &dyn Records, cast: &Cast) -> Outcome {
    let (id, ana) = (&cast.room.id, cast.ana.user.id);
    records.room(id).await?;
    records.rooms(&[id.clone(), RoomId::generate()]).await?;
    let place = Some((cast.room.created_at, id.clone()));
    for visible in [
        RoomVisibility::All,
        RoomVisibility::Listed,
        RoomVisibility::For(ana),
        RoomVisibility::For(cast.ben),
    ] {
        let all = RoomQuery::of(visible);
        for kind in [None, Some(RoomKind::Session)] {
            for among in [None, Some([id.clone(), RoomId::generate()].into())] {
                for before in [None, place.clone()] {
                    let query = RoomQuery {
                        kind,
                        among: among.clone(),
                        before,
                        ..all.clone()
                    };
                    for limit in [50, 200] {
                        records.list_rooms(&query, limit).await?;
                    }
                }
            }
        }
    }
    records.patch_room(id, &RoomPatch::default()).await?;
    records.touch_room(id, now()).await?;
    let day = now() - Duration::days(1);
    records
        .count_rooms_of_address("192.0.2.1", day, std::slice::from_ref(id))
        .await?;
    records.role(id, ana).await?;
    records.roles(id, &[ana, cast.ben]).await?;
    records.member(id, ana).await?;
    records.members(id, None, 10).await?;
    records.members(id, Some(ana), 10).await?;
    for role in [Some(Role::Viewer), None] {
        records.set_role(id, cast.ben, role).await?;
    }
    let gone = room(Some(ana), None, Retention::Keep);
    let quota = RoomQuota {
        since: day,
        most: 1_000_000,
    };
    records.create_room_within(&gone, Some(quota)).await?;
    records.delete_room(&gone.id, now()).await?;
    assert!(records.is_room_deleted(&gone.id).await?);
    records.release_room_id(&gone.id).await?;
    Ok(())
}

async fn removals(records: &dyn Records) -> Outcome {
    let (later, worker) = (now() + Duration::hours(1), Uuid::now_v7());
    for undone in [true, false] {
        let gone = room(Some(UserId::generate()), None, Retention::Ephemeral);
        records.create_room(&gone).await?;
        let removal = records
            .remove_room(&gone.id, now() + Duration::seconds(1), now(), later)
            .await?
            .expect("removed");
        records.removal_of(&gone.id).await?;
        records.unfinished_removals(10).await?;
        records
            .claim_removal(removal.id, worker, now(), later)
            .await?;
        if undone {
            assert!(records.undo_removal(removal.id).await?);
            continue;
        }
        records.mark_kept(removal.id, worker, 1).await?;
        records.finish_removal(removal.id).await?;
        records.removal(removal.id).await?;
        records.removals(None, 10).await?;
        records.removals(Some(Uuid::nil()), 10).await?;
        records.expired_removals(now(), 10).await?;
        for _ in 0..2 {
            let begun = records.begin_restore(removal.id, &gone.id, worker, now(), later);
            assert!(matches!(begun.await?, RestoreBegun::Begun(_)));
        }
        assert!(records.finish_restore(removal.id, worker, now()).await?);
        records.delete_removal(removal.id).await?;
        records.reserve_room_id(&RoomId::generate(), now()).await?;
    }
    Ok(())
}

async fn places(records: &dyn Records, cast: &Cast) -> Outcome {
    let (ana, ben, workspace) = (cast.ana.user.id, cast.ben, &cast.workspace);
    records.place(workspace.id).await?;
    let patch = PlacePatch::default();
    records.patch_place(workspace.id, &patch).await?;
    records.rooms_in(workspace.id, 10).await?;
    for scope in [
        PlaceScope::Of(ana, PlaceKind::Team),
        PlaceScope::In(workspace.id),
        PlaceScope::All(PlaceKind::Workspace),
    ] {
        records.list_places(scope, ana, None, 10).await?;
        records
            .list_places(scope, ana, Some(PlaceId::generate()), 10)
            .await?;
    }
    for place in [workspace.id, cast.project.id] {
        records.place_role(place, ana).await?;
        records.place_member(place, ana).await?;
        records.place_members(place, Some(ana), 10).await?;
        let member = Some(PlaceRole::Member);
        records.set_place_role(place, ben, None, member).await?;
        records
            .set_place_role(place, ben, member, Some(PlaceRole::Owner))
            .await?;
        records
            .set_place_role(place, ben, Some(PlaceRole::Owner), None)
            .await?;
    }
    let gone = place(PlaceKind::Project, Some(workspace.id), ana);
    records.create_place(&gone).await?;
    records.delete_place(gone.id).await?;
    Ok(())
}

async fn jobs(records: &dyn Records, cast: &Cast) -> Outcome {
    let owner = cast.ana.user.id;
    let asked = Job {
        room_id: Some(cast.room.id.clone()),
        asked_by: Some(AskedBy {
            client_id: "tab".parse().expect("a client id"),
            reference: Some("r1".parse().expect("a ref")),
        }),
        ..job(owner)
    };
    assert!(records.create_job(&asked).await?);
    assert!(
        !records
            .create_job(&Job {
                id: JobId::generate(),
                ..asked.clone()
            })
            .await?
    );
    records.job(asked.id).await?;
    records.unqueued_jobs(now(), 10).await?;
    records.mark_queued(asked.id).await?;
    records.doubt_queued(now(), 10).await?;
    // Not `doubt_ended`: it asks for the last hour's rows by their key, which here are all there are, and Postgres then
    // rightly reads them in one go. It runs once after a queue was emptied.
    for _ in 0..2 {
        let once = Job {
            id: JobId::generate(),
            asked_by: None,
            ..asked.clone()
        };
        records.create_job_once(&once, &[7; 32], now()).await?;
    }
    records.cancel_job(JobId::generate(), now()).await?;
    records.start_job(asked.id, 1, now()).await?;
    records.finish_job(asked.id, JobState::Dead, now()).await?;
    records.revive_job(asked.id).await?;
    records
        .finish_job(asked.id, JobState::Succeeded, now())
        .await?;
    let all = JobQuery::of(owner);
    let before = Some(JobId::generate());
    for query in [
        all.clone(),
        JobQuery {
            before,
            ..all.clone()
        },
        JobQuery {
            state: Some(JobState::Dead),
            ..all.clone()
        },
        JobQuery {
            room: Some(cast.room.id.clone()),
            ..all.clone()
        },
        JobQuery {
            project: Some(cast.project.id.0),
            ..all.clone()
        },
        JobQuery {
            state: Some(JobState::Failed),
            room: Some(cast.room.id.clone()),
            project: Some(cast.project.id.0),
            before,
            ..all.clone()
        },
    ] {
        records.list_jobs(&query, 10).await?;
    }
    records.delete_job(asked.id).await?;
    Ok(())
}

async fn visits(records: &dyn Records, cast: &Cast) -> Outcome {
    let room = &cast.room.id;
    let mut batch = VisitBatch::default();
    assert!(batch.end(goes(room, "a", now())));
    assert!(batch.begin(comes(room, "b", now())));
    records.note_visits(&batch).await?;
    let place = VisitPlace::at(now());
    for before in [None, Some(&place)] {
        records.visits(room, before, 50).await?;
    }
    let key = (room.clone(), "b".parse().expect("a client id"), now());
    for after in [None, Some(&key)] {
        records.open_visits(now(), after, 50).await?;
    }
    Ok(())
}

/// Invitations, files, runs of the cleanup.
async fn small(records: &dyn Records, cast: &Cast) -> Outcome {
    let id = Uuid::now_v7();
    let mut code_hash = [7; 32];
    code_hash[..16].copy_from_slice(id.as_bytes());
    let invite = Invite {
        id,
        room: cast.room.id.clone(),
        code_hash,
        role: Role::Viewer,
        created_by: cast.ana.user.id,
        created_at: now(),
        expires_at: None,
        max_uses: None,
        uses: 0,
    };
    assert!(records.create_invite(&invite).await?);
    records.invites(&cast.room.id, None, 10).await?;
    records
        .invites(&cast.room.id, Some(Uuid::nil()), 10)
        .await?;
    records.invite_by_code(code_hash).await?;
    records
        .accept_invite(code_hash, UserId::generate(), now())
        .await?;
    records.revoke_invite(&cast.room.id, id).await?;

    let file = StoredFile {
        id: FileId::generate(),
        room: None,
        uploader: None,
        uploader_name: "Ana".into(),
        name: "a".into(),
        content_type: "image/png".into(),
        size: 1,
        sha256: String::new(),
        created_at: now(),
    };
    records.create_file(&file, None).await?;
    records.file(file.id).await?;
    records.attach_file(file.id, &cast.room.id).await?;
    for after in [None, Some(file.id)] {
        records.files_of_room(&cast.room.id, after, 10).await?;
        records.files_after(after, 10).await?;
    }
    for only in [
        FileIs::InNoRoom,
        FileIs::In(&RoomId::generate()),
        FileIs::Anywhere,
    ] {
        records.delete_file(file.id, only).await?;
    }
    let file = StoredFile {
        id: FileId::generate(),
        room: Some(cast.room.id.clone()),
        ..file
    };
    records
        .create_file(&file, Some(cast.room.created_at))
        .await?;

    let run = CleanupRun {
        id: Uuid::now_v7(),
        scope: Scope::Rooms,
        dry_run: true,
        state: RunState::Succeeded,
        counts: Counts::new(),
        error: None,
        asked_at: now(),
        finished_at: None,
        next_at: None,
    };
    records.save_cleanup(&run).await?;
    records.cleanup(run.id).await?;
    records.cleanups(10).await?;
    records.ping().await?;
    Ok(())
}

async fn insights(records: &dyn Records, cast: &Cast) -> Outcome {
    let ana = cast.ana.user.id;
    let insight = |team| Insight {
        id: InsightId::generate(),
        team,
        author: ana,
        title: "T".into(),
        body: String::new(),
        tags: vec![],
        links: vec![],
        created_at: now(),
        updated_at: now(),
    };
    let (own, shared) = (insight(None), insight(Some(cast.team.id)));
    for insight in [&own, &shared] {
        assert!(records.create_insight(insight).await?);
        records.insight(insight.id, ana).await?;
        records.vote(insight.id, ana, true).await?;
        records.vote(insight.id, ana, false).await?;
        let patch = InsightPatch::default();
        records.patch_insight(insight.id, &patch, now()).await?;
    }
    let filter = InsightFilter::default();
    for filter in [
        InsightFilter {
            search: "t".into(),
            ..filter.clone()
        },
        InsightFilter {
            tag: "t".into(),
            ..filter.clone()
        },
        InsightFilter {
            team: Some(cast.team.id),
            ..filter.clone()
        },
        filter,
    ] {
        records.list_insights(ana, &filter, None, 10).await?;
        records
            .list_insights(ana, &filter, Some(own.id), 10)
            .await?;
    }
    records.delete_insight(own.id).await?;
    Ok(())
}
