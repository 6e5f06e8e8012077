//! Job results: once, until they expire.

use atelier_shared::Mode;
use atelier_shared::domain::ids::JobId;
use atelier_shared::domain::job::{Artifact, CompileResult, JobResult, JobState, Usage};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;

use crate::fixture::{self, Outcome};

fn result(stdout: &str) -> JobResult {
    let at = DateTime::from_timestamp_millis(1_790_000_000_123).expect("a time");
    JobResult {
        status: JobState::Failed,
        exit_code: Some(3),
        signal: None,
        stdout: stdout.into(),
        stderr: "\u{fffd}\u{1b}[31m".into(),
        truncated: true,
        compile: Some(CompileResult::default()),
        usage: Usage {
            max_memory_bytes: 1 << 33,
            ..Usage::default()
        },
        artifacts: vec![Artifact {
            path: "out/a.png".into(),
            size: 7,
        }],
        queued_ms: 12,
        started_at: at,
        finished_at: at,
        attempts: 2,
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        progress: None,
        artifacts_skipped: Vec::new(),
        message: None,
    }
}

pub async fn a_result_is_stored_once(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let job = JobId::generate();
    let expires = Utc::now() + TimeDelta::hours(1);
    assert_eq!(archives.here.result(job, Utc::now()).await?, None);
    let stores = (0..10).map(|n| {
        let archives = &archives;
        async move {
            let stored = archives
                .there
                .put_result(job, &result(&n.to_string()), expires)
                .await;
            stored.expect("store").then_some(n)
        }
    });
    let winners: Vec<i32> = join_all(stores).await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    let kept = archives.here.result(job, Utc::now()).await?;
    assert_eq!(kept, Some(result(&winners[0].to_string())));
    assert!(
        !archives
            .here
            .put_result(job, &result("late"), expires)
            .await?
    );
    assert_eq!(archives.here.result(job, Utc::now()).await?, kept);
    Ok(())
}

pub async fn an_expired_result_is_none(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let job = JobId::generate();
    let expires = Utc::now() + TimeDelta::hours(1);
    archives.here.put_result(job, &result("x"), expires).await?;
    let just_before = expires - TimeDelta::milliseconds(1);
    assert!(archives.here.result(job, just_before).await?.is_some());
    assert_eq!(archives.here.result(job, expires).await?, None);
    // Storing another neither brings it back nor takes what still holds.
    archives
        .here
        .put_result(JobId::generate(), &result("y"), expires)
        .await?;
    assert!(archives.here.result(job, just_before).await?.is_some());
    Ok(())
}

pub async fn expired_results_stay_until_they_are_removed(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    // Long ago, so that those of other tests come after them.
    let expires = DateTime::from_timestamp_millis(1_000).expect("a time");
    let (early, late) = (JobId::generate(), JobId::generate());
    for (job, expires) in [(late, expires + TimeDelta::seconds(1)), (early, expires)] {
        archives.here.put_result(job, &result("x"), expires).await?;
    }
    let now = Utc::now();
    assert_eq!(archives.there.expired_results(now, 2).await?, [early, late]);
    assert_eq!(archives.there.expired_results(expires, 2).await?, [early]);
    archives
        .there
        .delete_results(&[early, JobId::generate()])
        .await?;
    assert_eq!(archives.here.expired_results(now, 1).await?, [late]);
    archives.here.delete_results(&[late]).await?;
    let before = expires - TimeDelta::seconds(1);
    assert_eq!(archives.there.result(late, before).await?, None);
    Ok(())
}

/// The most output that a worker may be set to (5 MiB of each step), of the bytes that take the most room.
pub async fn a_result_of_any_output_is_kept(mode: Mode) -> Outcome {
    const MOST: usize = 5 << 20;
    let archives = fixture::archive(mode).await;
    let expires = Utc::now() + TimeDelta::hours(1);
    // Without a pattern, so that nothing packs well; a generator of its own, so that it is the same each time.
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    };
    let control: String = (0..MOST).map(|_| char::from((next() % 32) as u8)).collect();
    let ascii: String = (0..MOST)
        .map(|_| char::from((next() % 128) as u8))
        .collect();
    for output in ["\0".repeat(MOST), "\u{fffd}".repeat(MOST), control, ascii] {
        let job = JobId::generate();
        let mut whole = result(&output);
        whole.compile = Some(CompileResult {
            stderr: output,
            ..CompileResult::default()
        });
        assert!(archives.here.put_result(job, &whole, expires).await?);
        let kept = archives.there.result(job, Utc::now()).await?;
        // Not assert_eq: it would print them.
        assert!(kept.as_ref() == Some(&whole));
        assert!(!archives.there.put_result(job, &whole, expires).await?);
    }
    Ok(())
}
