//! Idempotency keys: one request of many is carried out, and the others get its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier_shared::Mode;
use atelier_shared::ports::{ANSWER_MAX_BYTES, ANSWERS_MAX, Once, OnceKey, PortError};
use libtest_mimic::Trial;

use super::token;
use crate::fixture::{self, Outcome, both, only};

const LEASE: Duration = Duration::from_secs(30);
const KEEP: Duration = Duration::from_secs(60);

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "vault",
        "of_twenty_requests_with_one_key_one_begins",
        one_begins,
    );
    both(
        trials,
        "vault",
        "an_answer_is_told_to_whoever_asks_again",
        answered,
    );
    both(
        trials,
        "vault",
        "a_request_that_went_silent_frees_its_key_and_answers_too_late",
        lapsed,
    );
    only(
        trials,
        Mode::Distributed,
        "vault",
        "beyond_its_bound_the_answer_that_ends_first_is_forgotten",
        bounded,
    );
}

/// What SQLite does is tested beside it: its commits are synced, and these are twenty thousand.
async fn bounded(mode: Mode) -> Outcome {
    use futures::{StreamExt, TryStreamExt};

    let vault = fixture::vault(mode).await;
    let in_flight = once("ana", "in flight");
    assert_eq!(
        vault.here.begin_once(&in_flight, KEEP * 20).await?,
        Once::Begun
    );
    answer_later(&vault, 0).await?;
    futures::stream::iter(1..ANSWERS_MAX - 1)
        .map(|n| answer_later(&vault, n))
        .buffer_unordered(64)
        .try_collect::<()>()
        .await?;
    let asked = async |n: usize| {
        vault
            .there
            .begin_once(&once("ana", &format!("key {n}")), LEASE)
            .await
    };
    assert_eq!(asked(0).await?, Once::Answered("x".into()), "there is room");
    answer_later(&vault, ANSWERS_MAX).await?;
    assert_eq!(asked(0).await?, Once::Begun, "the first made room for it");
    assert_eq!(asked(ANSWERS_MAX).await?, Once::Answered("x".into()));
    let held = vault
        .there
        .begin_once(&once("ana", "in flight"), LEASE)
        .await?;
    assert_eq!(held, Once::InFlight, "what is in flight is not forgotten");
    Ok(())
}

/// The greater `n` the longer it is remembered.
async fn answer_later(vault: &fixture::Vaults, n: usize) -> Result<(), PortError> {
    let once = once("ana", &format!("key {n}"));
    assert_eq!(vault.here.begin_once(&once, LEASE).await?, Once::Begun);
    let keep = KEEP * 10 + Duration::from_millis(n as u64);
    assert!(vault.here.answer_once(&once, "x", keep).await?);
    Ok(())
}

fn once(owner: &str, key: &str) -> OnceKey {
    OnceKey {
        owner: token(owner),
        key: token(key),
        request: uuid::Uuid::new_v4().into_bytes(),
    }
}

async fn one_begins(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let gate = Arc::new(tokio::sync::Barrier::new(20));
    let tasks: Vec<_> = (0..20)
        .map(|index| {
            let pod = [&vault.here, &vault.there][index % 2].clone();
            let gate = gate.clone();
            tokio::spawn(async move {
                gate.wait().await;
                pod.begin_once(&once("ana", "key"), LEASE).await
            })
        })
        .collect();
    let mut begun = 0;
    for task in tasks {
        match task.await?? {
            Once::Begun => begun += 1,
            other => assert_eq!(other, Once::InFlight),
        }
    }
    assert_eq!(begun, 1);
    // Neither another's key nor another key of the same owner is touched.
    let begin = |owner, key| {
        let vault = vault.there.clone();
        async move { vault.begin_once(&once(owner, key), LEASE).await }
    };
    assert_eq!(begin("ben", "key").await?, Once::Begun);
    assert_eq!(begin("ana", "other").await?, Once::Begun);
    Ok(())
}

async fn answered(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let first = once("ana", "key");
    assert_eq!(vault.here.begin_once(&first, LEASE).await?, Once::Begun);
    let answer = r#"{"status":202,"nul":"\u0000","name":"Zoë"}"#;
    let too_long = "x".repeat(ANSWER_MAX_BYTES + 1);
    assert!(
        vault
            .here
            .answer_once(&first, &too_long, KEEP)
            .await
            .is_err()
    );
    assert!(vault.here.answer_once(&first, answer, KEEP).await?);
    let again = vault.there.begin_once(&once("ana", "key"), LEASE).await?;
    assert_eq!(again, Once::Answered(answer.to_owned()));
    // What was answered is not taken back.
    vault.here.forget_once(&first).await?;
    let again = vault.there.begin_once(&once("ana", "key"), LEASE).await?;
    assert_eq!(again, Once::Answered(answer.to_owned()));
    // What came to nothing is.
    let second = once("ana", "second");
    assert_eq!(vault.here.begin_once(&second, LEASE).await?, Once::Begun);
    vault.there.forget_once(&once("ana", "second")).await?;
    let held = vault
        .there
        .begin_once(&once("ana", "second"), LEASE)
        .await?;
    assert_eq!(held, Once::InFlight, "only its holder frees it");
    vault.here.forget_once(&second).await?;
    let free = vault
        .there
        .begin_once(&once("ana", "second"), LEASE)
        .await?;
    assert_eq!(free, Once::Begun);
    Ok(())
}

async fn lapsed(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let lease = Duration::from_millis(200);
    let (late, next) = (once("ana", "key"), once("ana", "key"));
    assert_eq!(vault.here.begin_once(&late, lease).await?, Once::Begun);
    let begun = Instant::now();
    tokio::time::sleep_until((begun + lease + Duration::from_millis(50)).into()).await;
    assert_eq!(vault.there.begin_once(&next, LEASE).await?, Once::Begun);
    assert!(!vault.here.answer_once(&late, "late", KEEP).await?);
    assert!(vault.there.answer_once(&next, "next", KEEP).await?);
    let told = vault.here.begin_once(&once("ana", "key"), LEASE).await?;
    assert_eq!(told, Once::Answered("next".to_owned()));
    // Nor is an answer told for ever.
    let brief = once("ana", "brief");
    assert_eq!(vault.here.begin_once(&brief, LEASE).await?, Once::Begun);
    assert!(vault.here.answer_once(&brief, "brief", lease).await?);
    let kept = Instant::now();
    tokio::time::sleep_until((kept + lease + Duration::from_millis(50)).into()).await;
    let free = vault.there.begin_once(&once("ana", "brief"), LEASE).await?;
    assert_eq!(free, Once::Begun);
    Ok(())
}
