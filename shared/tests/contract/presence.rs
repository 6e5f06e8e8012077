//! The promises of [`Presence`].

mod claims;
mod leases;
mod names;
mod redis;
mod reports;
mod rooms;

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::{ClientId, ConnectionId, PodId, RoomId, UserId};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::room::Role;
use atelier_shared::ports::{Claim, Presence};
use libtest_mimic::Trial;
use tokio_util::task::AbortOnDropHandle;

use crate::fixture::{Outcome, both, only, presences};

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(30);
/// Short enough to be waited out, long enough to be renewed on a busy machine.
const LEASE: Duration = Duration::from_millis(900);
const DONE: Outcome = Ok(());

/// Registers test functions, named by their promise, for both modes or for one.
macro_rules! promises {
    ($trials:ident, $($file:ident: $($promise:ident),+;)+) => {
        $($(both($trials, "presence", stringify!($promise), $file::$promise);)+)+
    };
    ($trials:ident only $mode:expr, $($file:ident: $($promise:ident),+;)+) => {
        $($(only($trials, $mode, "presence", stringify!($promise), $file::$promise);)+)+
    };
}

pub fn trials(trials: &mut Vec<Trial>) {
    promises!(trials,
        claims: a_free_client_id_is_entered, the_same_connection_may_ask_twice, the_same_principal_replaces_itself,
            somebody_elses_client_id_is_held, a_dead_holder_is_taken_over_if_it_is_still_that_connection,
            of_many_strangers_one_enters, of_many_tabs_the_last_holds_and_each_other_is_told_once,
            a_member_leaves_once, a_replaced_connection_cannot_leave_or_update_for_its_successor,
            an_update_is_seen_by_all;
        rooms: members_come_in_the_order_of_their_client_ids, rooms_keep_their_members_apart,
            a_pods_members_are_found_wherever_they_are,
            occupied_rooms_are_counted_and_paged, crowded_partitions_are_paged_in_order,
            an_empty_room_is_not_occupied;
        reports: a_report_stands_for_its_lease_and_totals_stay;
        names: a_name_is_held_for_its_time_and_not_longer, several_people_may_hold_a_name_and_each_lets_go_alone,
            a_shorter_hold_does_not_shorten_a_longer_one, a_crowd_under_one_name_is_bounded,
            of_many_who_take_a_name_at_once_one_has_it, who_holds_a_name_takes_it_again_and_others_when_it_is_over;
        leases: a_lapsed_pods_members_are_handed_out_once, a_live_pod_is_not_reaped, reaping_keeps_its_limit,
            who_just_came_reaps_nobody, who_stopped_renewing_reaps_nobody, a_pod_that_renews_again_is_safe,
            a_retired_pod_is_lapsed_at_once, a_reaped_member_may_enter_again,
            a_member_that_moved_to_a_live_pod_is_not_reaped, whom_reaping_would_hand_out_is_listed_and_left, a_pod_is_told_for_how_long_it_was_steady;
    );
    promises!(trials only Mode::Distributed,
        redis: a_stall_of_redis_reaps_nobody, who_was_steady_starts_anew_when_redis_forgets,
            who_was_steady_starts_anew_when_redis_was_rolled_back,
            malformed_data_is_an_error_that_names_its_room,
            a_malformed_place_does_not_stop_reaping, a_malformed_name_does_not_hide_other_rooms,
            a_cluster_serves_the_rooms_of_all_its_nodes;
    );
}

fn member(client: &str, pod: PodId) -> Member {
    Member {
        client_id: client.parse().expect("a client id"),
        connection: ConnectionId::generate(),
        pod,
        user_id: UserId::generate(),
        name: "Ada".into(),
        color: "#123456".into(),
        avatar_url: None,
        role: Role::Editor,
        status: Status::Active,
        simulated: false,
        joined: true,
        cursor_position: Some(Box::new(
            serde_json::json!({"x": 1.5, "deep": [null, {"connection": "x"}]}),
        )),
        selection: None,
        viewing: None,
        name_is_exclusive: false,
    }
}

/// The same person on a new connection.
fn again(member: &Member) -> Member {
    Member {
        connection: ConnectionId::generate(),
        ..member.clone()
    }
}

/// Keeps a pod alive until it is dropped. Returns when the first lease stands.
async fn alive(presence: &Arc<dyn Presence>, pod: PodId) -> AbortOnDropHandle<()> {
    presence.renew(pod, LEASE).await.expect("a renewal");
    let presence = presence.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(LEASE / 6).await;
            // Failures are what some tests provoke.
            let _ = presence.renew(pod, LEASE).await;
        }
    }))
}

/// Reaps on a beat until `count` members are handed out.
async fn reaped(presence: &dyn Presence, by: PodId, count: usize) -> Vec<(RoomId, Member)> {
    let mut all = Vec::new();
    let reaping = async {
        while all.len() < count {
            all.extend(presence.reap(by, 1_000).await.expect("a beat"));
            tokio::time::sleep(LEASE / 20).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, reaping).await;
    assert!(in_time.is_ok(), "{} of {count} were reaped", all.len());
    all
}
