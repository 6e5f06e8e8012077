//! Jobs: forward only, and the outbox.

use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::{JobId, RoomId, UserId};
use atelier_shared::domain::job::{AskedBy, AskedLimits, Job, JobSpec, JobState, SourceFile};
use atelier_shared::ports::JobQuery;
use chrono::{DateTime, Utc};
use libtest_mimic::Trial;
use uuid::Uuid;

use super::{at_once, now};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(trials, "records", "a_job_is_read_back_whole", read_back);
    both(trials, "records", "a_job_only_moves_forward", forward_only);
    both(
        trials,
        "records",
        "a_later_attempt_runs_a_job_again",
        attempts,
    );
    both(
        trials,
        "records",
        "of_twenty_who_finish_a_job_one_does",
        finish_race,
    );
    both(
        trials,
        "records",
        "the_outbox_holds_what_the_queue_was_not_seen_to_have",
        outbox,
    );
    both(
        trials,
        "records",
        "what_ended_and_may_not_have_been_told_is_found_again",
        ended_untold,
    );
    both(
        trials,
        "records",
        "a_job_is_cancelled_only_before_it_began",
        cancelled,
    );
    both(trials, "records", "a_dead_job_is_revived_as_new", revival);
    both(
        trials,
        "records",
        "a_persons_jobs_are_listed_newest_first_page_by_page",
        pages,
    );
    both(
        trials,
        "records",
        "a_run_asked_for_twenty_times_under_one_ref_is_stored_once",
        asked_once,
    );
    both(
        trials,
        "records",
        "a_job_asked_for_twenty_times_under_one_key_is_stored_once",
        keyed_once,
    );
    both(
        trials,
        "records",
        "only_a_finished_job_is_deleted",
        deletion,
    );
}

async fn asked_once(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let owner = UserId::generate();
    let asked = |client: &str, reference: &str| Job {
        room_id: Some("asked-once".parse().expect("a room id")),
        asked_by: Some(AskedBy {
            client_id: client.parse().expect("a client id"),
            reference: Some(reference.parse().expect("a ref")),
        }),
        ..job(owner)
    };
    let answers = at_once(20, |_| {
        let (records, job) = (records.clone(), asked("tab", "r1"));
        async move {
            records
                .create_job(&job)
                .await
                .map(|made| made.then_some(job))
        }
    })
    .await;
    let mut made = Vec::new();
    for answer in answers {
        made.extend(answer?);
    }
    assert_eq!(made.len(), 1);
    assert_eq!(records.job(made[0].id).await?.as_ref(), Some(&made[0]));
    // Another ref, client or owner is another run; what no message asked for is always made.
    assert!(records.create_job(&asked("tab", "r2")).await?);
    assert!(records.create_job(&asked("other-tab", "r1")).await?);
    let others = Job {
        owner: UserId::generate(),
        ..asked("tab", "r1")
    };
    assert!(records.create_job(&others).await?);
    for _ in 0..2 {
        let plain = Job {
            asked_by: None,
            ..asked("tab", "r1")
        };
        assert!(records.create_job(&plain).await?);
        let by = AskedBy {
            client_id: "tab".parse().expect("a client id"),
            reference: None,
        };
        let unnamed = Job {
            asked_by: Some(by),
            ..asked("tab", "r1")
        };
        assert!(records.create_job(&unnamed).await?);
        assert_eq!(records.job(unnamed.id).await?, Some(unnamed));
    }
    Ok(())
}

async fn keyed_once(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let owner = UserId::generate();
    let key = |n: u8| {
        let mut key = [n; 32];
        key[..16].copy_from_slice(owner.0.as_bytes());
        key
    };
    let since = now() - chrono::Duration::hours(24);
    let answers = at_once(20, |_| {
        let (records, job, key) = (records.clone(), job(owner), key(1));
        async move {
            let first = records.create_job_once(&job, &key, since).await;
            first.map(|first| (job, first))
        }
    })
    .await;
    let (mut made, mut found) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer? {
            (job, None) => made.push(job),
            (_, Some(first)) => found.push(first),
        }
    }
    assert_eq!((made.len(), found.len()), (1, 19));
    assert!(found.iter().all(|first| *first == made[0]));
    // As it is now.
    assert!(records.start_job(made[0].id, 1, now()).await?);
    let first = records.create_job_once(&job(owner), &key(1), since).await?;
    assert_eq!(first.map(|job| job.state), Some(JobState::Running));
    // Another key is another job; so is the same one when its time is over, and then it is that one's.
    assert_eq!(
        records.create_job_once(&job(owner), &key(2), since).await?,
        None
    );
    let later = job(owner);
    let over = made[0].created_at + chrono::Duration::seconds(1);
    let later = Job {
        created_at: over,
        ..later
    };
    assert_eq!(records.create_job_once(&later, &key(1), over).await?, None);
    let first = records.create_job_once(&job(owner), &key(1), since).await?;
    assert_eq!(first, Some(later));
    assert!(records.job(made[0].id).await?.is_some());
    Ok(())
}

pub fn job(owner: UserId) -> Job {
    Job {
        id: JobId::generate(),
        owner,
        owner_name: "Ada".into(),
        room_id: None,
        project_id: None,
        priority: 0,
        spec: JobSpec {
            language: "python".into(),
            version: None,
            files: vec![SourceFile {
                path: "main.py".into(),
                content: "print(6*7)".into(),
                encoding: None,
            }],
            entrypoint: None,
            stdin: String::new(),
            args: vec![],
            env: Default::default(),
            limits: AskedLimits::default(),
            callback_url: None,
        },
        state: JobState::Queued,
        attempts: 0,
        revivals: 0,
        traceparent: None,
        asked_by: None,
        created_at: now(),
        started_at: None,
        finished_at: None,
    }
}

async fn cancelled(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (waits, runs) = (job(UserId::generate()), job(UserId::generate()));
    for job in [&waits, &runs] {
        records.create_job(job).await?;
    }
    assert!(records.start_job(runs.id, 1, now()).await?);
    for (id, is) in [
        (waits.id, true),
        (waits.id, false),
        (runs.id, false),
        (JobId::generate(), false),
    ] {
        assert_eq!(records.cancel_job(id, now()).await?, is);
    }
    let row = records.job(waits.id).await?.expect("the job");
    assert_eq!((row.state, row.started_at), (JobState::Cancelled, None));
    assert!(row.finished_at.is_some());
    // Nobody starts it, and nobody queues it.
    assert!(!records.start_job(waits.id, 1, now()).await?);
    let later = now() + chrono::Duration::minutes(1);
    let unqueued = records.unqueued_jobs(later, 1_000).await?;
    assert!(unqueued.iter().all(|job| job.id != waits.id));
    let state = records.job(runs.id).await?.map(|job| job.state);
    assert_eq!(state, Some(JobState::Running));
    Ok(())
}

async fn read_back(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let mut made = job(UserId::generate());
    // In no room that is stored: a run outlives its room.
    made.room_id = Some(RoomId::generate());
    made.project_id = Some(Uuid::new_v4());
    made.priority = -7;
    made.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    made.spec.stdin = "nul \0 and \u{feff} and \"quotes\" and 🦊".into();
    made.spec.env = [("A".to_owned(), "é".to_owned())].into();
    made.spec.limits.wall_ms = Some(u64::MAX);
    records.create_job(&made).await?;
    assert_eq!(records.job(made.id).await?, Some(made));
    assert_eq!(records.job(JobId::generate()).await?, None);
    Ok(())
}

async fn forward_only(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let finals = JobState::WORDS
        .iter()
        .map(|word| word.parse::<JobState>().expect("a state"))
        .filter(|state| state.is_final());
    for state in finals {
        let made = job(UserId::generate());
        records.create_job(&made).await?;
        let (started, finished) = (
            now() + Duration::from_secs(1),
            now() + Duration::from_secs(2),
        );
        assert!(records.start_job(made.id, 1, started).await?);
        assert!(records.finish_job(made.id, state, finished).await?);
        let expected = Job {
            state,
            attempts: 1,
            started_at: Some(started),
            finished_at: Some(finished),
            ..made.clone()
        };
        let later = now() + Duration::from_secs(9);
        assert!(
            !records.start_job(made.id, 2, later).await?,
            "start after {state:?}"
        );
        for other in [state, JobState::Cancelled, JobState::Succeeded] {
            assert!(!records.finish_job(made.id, other, later).await?);
        }
        assert_eq!(records.job(made.id).await?, Some(expected));
    }
    // Straight from the queue to the end.
    let cancelled = job(UserId::generate());
    records.create_job(&cancelled).await?;
    assert!(
        records
            .finish_job(cancelled.id, JobState::Cancelled, now())
            .await?
    );
    for state in [JobState::Queued, JobState::Running] {
        let error = records.finish_job(cancelled.id, state, now()).await;
        assert!(!error.expect_err("not final").is_retryable());
    }
    let unknown = JobId::generate();
    assert!(!records.start_job(unknown, 1, now()).await?);
    assert!(!records.finish_job(unknown, JobState::Failed, now()).await?);
    Ok(())
}

async fn attempts(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let made = job(UserId::generate());
    records.create_job(&made).await?;
    for (attempt, stored) in [(1, 1), (2, 2), (1, 2)] {
        let at = now();
        assert!(records.start_job(made.id, attempt, at).await?);
        let job = records.job(made.id).await?.expect("the job");
        assert_eq!(
            (job.state, job.attempts, job.started_at),
            (JobState::Running, stored, Some(at))
        );
    }
    Ok(())
}

async fn finish_race(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let made = job(UserId::generate());
    records.create_job(&made).await?;
    let states = [JobState::Succeeded, JobState::Cancelled];
    let answers = at_once(20, |index| {
        let (records, id) = (records.clone(), made.id);
        async move { records.finish_job(id, states[index % 2], now()).await }
    })
    .await;
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let winners: Vec<usize> = (0..20).filter(|index| answers[*index]).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let stored = records.job(made.id).await?.expect("the job");
    assert_eq!(stored.state, states[winners[0] % 2]);
    Ok(())
}

async fn outbox(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    // Other tests' jobs are of today.
    let age = |seconds| DateTime::<Utc>::UNIX_EPOCH + Duration::from_secs(seconds);
    let mut jobs = Vec::new();
    for seconds in [30, 10, 50, 20, 40, 60] {
        let mut made = job(UserId::generate());
        made.created_at = age(seconds);
        records.create_job(&made).await?;
        jobs.push(made);
    }
    jobs.sort_by_key(|job| job.created_at);
    let waiting = async |before: u64, limit: usize| -> Vec<u64> {
        let found = records.unqueued_jobs(age(before), limit).await;
        let seconds = |job: &Job| job.created_at.timestamp().unsigned_abs();
        found.expect("jobs").iter().map(seconds).collect()
    };
    assert_eq!(waiting(60, 100).await, [10, 20, 30, 40, 50]);
    assert_eq!(waiting(60, 2).await, [10, 20]);
    records.mark_queued(jobs[0].id).await?;
    records.mark_queued(jobs[0].id).await?;
    assert_eq!(waiting(60, 100).await, [20, 30, 40, 50]);
    // Begun or ended: whether it was marked does not matter any more.
    records.start_job(jobs[1].id, 1, now()).await?;
    records
        .finish_job(jobs[2].id, JobState::Cancelled, now())
        .await?;
    assert_eq!(waiting(60, 100).await, [40, 50]);
    let stored = records.job(jobs[3].id).await?;
    assert_eq!(stored, Some(jobs[3].clone()), "looking changes nothing");
    records.mark_queued(JobId::generate()).await?;
    // The queue lost its memory: those that are not over are found again, whether they waited or ran.
    assert_eq!(
        records.doubt_queued(age(35), 1).await?,
        1,
        "at most so many"
    );
    assert_eq!(waiting(60, 100).await, [10, 40, 50], "the oldest first");
    assert_eq!(records.doubt_queued(age(35), 100).await?, 1);
    assert_eq!(waiting(60, 100).await, [10, 20, 40, 50]);
    assert_eq!(records.doubt_queued(age(35), 100).await?, 0);
    Ok(())
}

async fn ended_untold(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    // Looked for by these times; other tests' jobs are of today.
    let made_at = |n: usize| DateTime::<Utc>::UNIX_EPOCH + Duration::from_secs(1_000 + n as u64);
    let ended = now();
    let mut jobs = Vec::new();
    for n in 0..5 {
        let mut made = job(UserId::generate());
        made.created_at = made_at(n);
        made.room_id = [0, 3].contains(&n).then(RoomId::generate);
        made.spec.callback_url = (n == 1).then(|| "https://example.org/".to_owned());
        // Not what it says it is.
        made.spec.stdin = r#"{"callback_url":"https://example.org/"}"#.into();
        assert!(records.create_job(&made).await?);
        records.mark_queued(made.id).await?;
        if n < 4 {
            let at = if n == 3 {
                ended - chrono::Duration::hours(2)
            } else {
                ended
            };
            assert!(records.finish_job(made.id, JobState::Succeeded, at).await?);
        }
        jobs.push(made.id);
    }
    let since = ended - chrono::Duration::hours(1);
    while records.doubt_ended(since, 100).await? >= 100 {}
    let found = records.unqueued_jobs(made_at(10), 1_000).await?;
    let found = |id: &JobId| found.iter().any(|job| job.id == *id);
    let found: Vec<bool> = jobs.iter().map(found).collect();
    // In a room; with a callback; with neither; ended long ago; not over.
    assert_eq!(found, [true, true, false, false, false]);
    records.mark_queued(jobs[0]).await?;
    let state = records.job(jobs[0]).await?.map(|job| job.state);
    assert_eq!(state, Some(JobState::Succeeded), "looking changes nothing");
    Ok(())
}

async fn pages(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let owner = UserId::generate();
    let mut made = Vec::new();
    for _ in 0..10 {
        let each = job(owner);
        records.create_job(&each).await?;
        made.push(each.id);
    }
    records.create_job(&job(UserId::generate())).await?;
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let query = JobQuery {
            before,
            ..JobQuery::of(owner)
        };
        let page = records.list_jobs(&query, 3).await?;
        assert!(page.items.len() <= 3);
        before = page.items.last().map(|job| job.id);
        seen.extend(page.items.iter().map(|job| job.id));
        if !page.more {
            break;
        }
        // Made meanwhile: newer than the cursor, so on no later page.
        records.create_job(&job(owner)).await?;
    }
    made.sort();
    made.reverse();
    assert_eq!(seen, made);
    // What is asked for is all that is listed.
    let (room, project) = (RoomId::generate(), Uuid::new_v4());
    let mut in_room = job(owner);
    in_room.room_id = Some(room.clone());
    let mut of_project = job(owner);
    of_project.project_id = Some(project);
    for each in [&in_room, &of_project] {
        records.create_job(each).await?;
    }
    records.start_job(in_room.id, 1, now()).await?;
    for (query, expected) in [
        (
            JobQuery {
                room: Some(room),
                ..JobQuery::of(owner)
            },
            in_room.id,
        ),
        (
            JobQuery {
                project: Some(project),
                ..JobQuery::of(owner)
            },
            of_project.id,
        ),
        (
            JobQuery {
                state: Some(JobState::Running),
                ..JobQuery::of(owner)
            },
            in_room.id,
        ),
    ] {
        let found = records.list_jobs(&query, 10).await?.items;
        let found: Vec<JobId> = found.iter().map(|job| job.id).collect();
        assert_eq!(found, [expected], "{query:?}");
    }
    Ok(())
}

async fn revival(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let made = job(UserId::generate());
    records.create_job(&made).await?;
    records.mark_queued(made.id).await?;
    records.start_job(made.id, 3, now()).await?;
    assert!(!records.revive_job(made.id).await?, "running");
    records.finish_job(made.id, JobState::Dead, now()).await?;
    assert!(records.revive_job(made.id).await?);
    assert!(!records.revive_job(made.id).await?, "waiting");
    let again = Job {
        revivals: 1,
        ..made.clone()
    };
    assert_eq!(records.job(made.id).await?, Some(again), "as new");
    let later = made.created_at + chrono::TimeDelta::seconds(1);
    let outbox = records.unqueued_jobs(later, 1_000).await?;
    assert!(outbox.iter().any(|job| job.id == made.id), "to be queued");
    records.finish_job(made.id, JobState::Failed, now()).await?;
    assert!(!records.revive_job(made.id).await?, "failed is not dead");
    Ok(())
}

async fn deletion(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let made = job(UserId::generate());
    records.create_job(&made).await?;
    assert!(!records.delete_job(made.id).await?, "queued");
    records.start_job(made.id, 1, now()).await?;
    assert!(!records.delete_job(made.id).await?, "running");
    records
        .finish_job(made.id, JobState::Succeeded, now())
        .await?;
    assert!(records.delete_job(made.id).await?);
    assert!(!records.delete_job(made.id).await?, "gone");
    assert_eq!(records.job(made.id).await?, None);
    Ok(())
}
