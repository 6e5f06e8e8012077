//! The promises of [`Queue`].

mod dead_letters;
mod fairness;
mod full;
mod leases;
mod order;
mod schedule;
mod unique;

use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier_shared::Mode;
use atelier_shared::ports::{Claimed, Enqueue, Queue, QueueWaker, Settled};
use libtest_mimic::Trial;

use crate::fixture::{Outcome, both, only};

pub const Q: &str = "code_execution";
/// Long enough that no test outlives it.
pub const LONG: Duration = Duration::from_secs(60);
/// Short enough to be waited out.
pub const SHORT: Duration = Duration::from_millis(150);
/// No cap that a test would reach.
pub const NO_CAP: u32 = 1_000_000;
/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(30);

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "queue",
        "a_job_has_one_holder_among_twenty_claimers",
        leases::one_holder,
    );
    both(
        trials,
        "queue",
        "a_lapsed_lease_is_claimed_again_with_a_higher_token",
        leases::lapsed,
    );
    both(
        trials,
        "queue",
        "settling_with_a_lapsed_lease_is_lost",
        leases::late_settling,
    );
    both(
        trials,
        "queue",
        "a_renewed_lease_outlives_its_first_deadline",
        leases::renewed,
    );
    both(
        trials,
        "queue",
        "a_released_job_is_next_and_its_attempt_does_not_count",
        leases::released,
    );
    both(
        trials,
        "queue",
        "an_empty_claim_says_when_to_ask_again",
        leases::empty_claim,
    );
    both(
        trials,
        "queue",
        "a_job_comes_out_as_it_went_in",
        leases::round_trip,
    );
    both(
        trials,
        "queue",
        "an_id_is_unique_until_it_is_finished",
        unique::unique,
    );
    both(
        trials,
        "queue",
        "a_change_during_the_run_runs_once_more",
        unique::again,
    );
    both(
        trials,
        "queue",
        "a_change_during_the_last_attempt_survives_its_death",
        unique::again_after_death,
    );
    both(
        trials,
        "queue",
        "a_waiting_or_delayed_job_is_cancelled_at_once",
        unique::cancel_waiting,
    );
    both(
        trials,
        "queue",
        "a_claimed_job_s_holder_sees_the_cancel",
        unique::cancel_claimed,
    );
    both(
        trials,
        "queue",
        "oversized_and_nameless_jobs_are_refused",
        unique::bounds,
    );
    both(
        trials,
        "queue",
        "greater_priority_first_then_first_in_first_out",
        order::priority,
    );
    both(trials, "queue", "tenants_take_turns", order::turns);
    both(
        trials,
        "queue",
        "a_tenant_at_its_cap_waits_and_the_others_go_on",
        order::cap,
    );
    both(
        trials,
        "queue",
        "a_cap_is_free_again_after_every_way_to_settle",
        order::cap_frees,
    );
    both(
        trials,
        "queue",
        "used_up_attempts_are_a_dead_letter_with_the_last_reason",
        dead_letters::used_up,
    );
    both(
        trials,
        "queue",
        "a_worker_that_dies_every_time_leaves_a_dead_letter",
        dead_letters::lapsed,
    );
    both(
        trials,
        "queue",
        "a_buried_job_is_dead_at_once_and_can_be_replayed",
        dead_letters::bury_and_replay,
    );
    both(
        trials,
        "queue",
        "a_replay_does_not_double_a_job_that_was_queued_anew",
        dead_letters::replay_twice,
    );
    both(
        trials,
        "queue",
        "stats_count_every_state",
        dead_letters::stats,
    );
    both(
        trials,
        "queue",
        "a_delayed_job_waits_its_time",
        schedule::delayed,
    );
    both(
        trials,
        "queue",
        "a_retry_waits_its_backoff",
        schedule::backoff,
    );
    both(
        trials,
        "queue",
        "an_enqueue_on_another_pod_wakes_the_waiting",
        schedule::wakes,
    );
    only(
        trials,
        Mode::Distributed,
        "queue",
        "the_waiting_are_woken_after_a_broken_or_silent_connection",
        schedule::wakes_after_a_break,
    );
    only(
        trials,
        Mode::Distributed,
        "queue",
        "jobs_go_on_when_memory_is_full",
        full::goes_on,
    );
    both(
        trials,
        "queue",
        "queues_do_not_see_one_another",
        schedule::apart,
    );
    both(trials, "queue", "a_tick_is_claimed_once", schedule::ticks);
    both(
        trials,
        "queue",
        "workers_are_listed_until_their_announcement_ends",
        schedule::workers,
    );
    both(
        trials,
        "queue",
        "ten_thousand_due_jobs_drain_once_each",
        schedule::mountain,
    );
    both(
        trials,
        "queue",
        "of_ten_thousand_jobs_a_flood_delays_nobody_else",
        fairness::flood,
    );
}

pub fn job(id: &str) -> Enqueue {
    Enqueue {
        id: id.into(),
        payload: format!("{{\"job\":\"{id}\"}}"),
        tenant: "tenant".into(),
        priority: 0,
        delay: Duration::ZERO,
        max_attempts: 3,
        traceparent: None,
        again_if_running: false,
    }
}

/// What is claimable right now.
pub async fn try_claim(queue: &dyn Queue) -> Option<Claimed> {
    claim_for(queue, LONG, NO_CAP).await
}

pub async fn claim_for(queue: &dyn Queue, lease: Duration, cap: u32) -> Option<Claimed> {
    queue.claim(Q, lease, cap).await.expect("claim").ok()
}

/// Asks until there is a job, as a worker does: at the time it is told, or when woken.
pub async fn wait_claim(queue: &Arc<dyn Queue>, lease: Duration) -> Claimed {
    let mut waker = queue.waker(Q).await.expect("waker");
    let until = Instant::now() + DEADLINE;
    loop {
        waker.borrow_and_update();
        match queue.claim(Q, lease, NO_CAP).await.expect("claim") {
            Ok(claimed) => return claimed,
            Err(next) => {
                assert!(Instant::now() < until, "nothing became claimable");
                let next = next.unwrap_or(DEADLINE).min(DEADLINE);
                let _ = tokio::time::timeout(next, waker.changed()).await;
            }
        }
    }
}

/// Waits until a lease of [`SHORT`] has run out by the store's clock, without claiming anything in this queue.
pub async fn outwait(queue: &dyn Queue, claimed: &Claimed) {
    let until = Instant::now() + DEADLINE;
    while queue
        .renew(&claimed.lease, Duration::from_millis(1))
        .await
        .expect("renew")
        == Settled::Done
    {
        assert!(Instant::now() < until, "the lease never lapsed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn woken(waker: &mut QueueWaker) -> bool {
    tokio::time::timeout(DEADLINE, waker.changed())
        .await
        .is_ok_and(|changed| changed.is_ok())
}

pub async fn open(mode: Mode) -> (crate::fixture::Queues, Arc<dyn Queue>) {
    let queues = crate::fixture::queue(mode).await;
    let here = queues.here.clone();
    (queues, here)
}

pub async fn ids_in_turn(queue: &dyn Queue) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some(claimed) = try_claim(queue).await {
        ids.push(claimed.lease.id.clone());
        assert_eq!(
            queue.finish(&claimed.lease).await.expect("finish"),
            Settled::Done
        );
    }
    ids
}

pub const DONE: Outcome = Ok(());
