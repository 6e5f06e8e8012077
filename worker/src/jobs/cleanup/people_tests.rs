//! Who is taken out of rooms, and whose visits end.

use std::time::Duration;

use atelier_shared::domain::cleanup::{Counts, Scope};
use atelier_shared::domain::ids::{ClientId, ConnectionId, PodId, RoomId, UserId};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::{Room, RoomChoice, RoomKind};
use atelier_shared::domain::visit::{Visit, VisitBatch};

use super::tests::{embedded, member, run};
use super::{Cleaner, now};

async fn made(cleaner: &Cleaner, kind: RoomKind) -> RoomId {
    let choice = RoomChoice {
        kind: Some(kind),
        ..RoomChoice::default()
    };
    let room = Room::new(RoomId::generate(), choice, None, None, now());
    assert!(cleaner.backends.records.create_room(&room).await.unwrap());
    room.id
}

#[test]
fn people_of_dead_gateways_are_taken_out_and_a_dry_run_only_counts_them() {
    run(async {
        let (cleaner, _folder) = embedded().await;
        let (b, name) = (
            cleaner.backends.clone(),
            made(&cleaner, RoomKind::Open).await,
        );
        let alive = PodId::generate();
        let dead = PodId::generate();
        let lease = Duration::from_secs(60);
        b.presence.renew(alive, lease).await.unwrap();
        b.presence.renew(dead, lease).await.unwrap();
        let named = |pod, name: &str| Member {
            pod,
            name: name.into(),
            ..member(UserId::generate())
        };
        let ghost = named(dead, "User123");
        for member in [&named(alive, "User7"), &named(dead, "Ben"), &ghost] {
            b.presence.enter(&name, member, None).await.unwrap();
        }
        b.presence
            .hold_name("user123", ghost.user_id, lease)
            .await
            .unwrap();
        // One person twice, where a name is one connection's.
        let twin = Member {
            name_is_exclusive: true,
            ..named(alive, "Cora")
        };
        let newer = Member {
            client_id: ClientId::generate(),
            connection: ConnectionId::generate(),
            ..twin.clone()
        };
        for member in [&twin, &newer] {
            b.presence.enter(&name, member, None).await.unwrap();
        }
        b.presence.retire(dead).await.unwrap();
        let count = async |scope, dry_run| {
            let mut counts = Counts::new();
            cleaner.people(scope, dry_run, &mut counts).await.unwrap();
            counts
        };
        let dry = count(Scope::Comprehensive, true).await;
        assert_eq!(
            (
                dry["stale_connections"],
                dry["stuck_users"],
                dry["auto_users"]
            ),
            (2, 2, 1)
        );
        assert_eq!((dry["duplicate_users"], dry["released_names"]), (1, 1));
        assert_eq!(b.presence.members(&name).await.unwrap().len(), 5);
        let auto = count(Scope::AutoUsers, false).await;
        assert_eq!((auto["auto_users"], auto["released_names"]), (1, 1));
        assert!(!b.presence.is_name_held("user123", None).await.unwrap());
        assert_eq!(b.presence.members(&name).await.unwrap().len(), 4);
        let stuck = count(Scope::StuckUsers, false).await;
        assert_eq!((stuck["stuck_users"], stuck["duplicate_users"]), (1, 1));
        let left = b.presence.members(&name).await.unwrap();
        let mut names: Vec<&str> = left.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["Cora", "User7"]);
        assert!(
            left.iter()
                .any(|member| member.connection == newer.connection)
        );
    });
}

#[test]
fn a_visit_that_nobody_ended_ends_and_whoever_is_here_stays() {
    run(async {
        let (cleaner, _folder) = embedded().await;
        let (b, room) = (
            cleaner.backends.clone(),
            made(&cleaner, RoomKind::Session).await,
        );
        let pod = PodId::generate();
        b.presence
            .renew(pod, Duration::from_secs(60))
            .await
            .unwrap();
        let here = Member {
            pod,
            ..member(UserId::generate())
        };
        b.presence.enter(&room, &here, None).await.unwrap();
        let mut batch = VisitBatch::default();
        let begun = |client_id: &ClientId, seconds_ago| Visit {
            room: room.clone(),
            client_id: client_id.clone(),
            user_id: UserId::generate(),
            name: "Ana".into(),
            color: "teal".into(),
            simulated: false,
            joined_at: now() - chrono::Duration::seconds(seconds_ago),
            left: None,
        };
        let gone = ClientId::generate();
        // Who came just now may not be in presence yet.
        for visit in [
            begun(&here.client_id, 60),
            begun(&gone, 60),
            begun(&ClientId::generate(), 0),
        ] {
            assert!(batch.begin(visit));
        }
        b.records.note_visits(&batch).await.unwrap();
        for (dry_run, ended) in [(true, 0), (false, 1)] {
            let mut counts = Counts::new();
            let people = cleaner.people(Scope::StuckUsers, dry_run, &mut counts);
            people.await.unwrap();
            assert_eq!(counts["lost_visits"], 1);
            let visits = b.records.visits(&room, None, 10).await.unwrap().items;
            let mut left = visits.iter().filter(|event| event.gone);
            assert_eq!(left.clone().count(), ended);
            assert!(left.all(|event| event.client_id == gone));
        }
    });
}
