//! Limits: a counter that slides.

use std::time::Duration;

use atelier_shared::Mode;
use libtest_mimic::Trial;

use crate::archive::promises;
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    use crate::vault::spending;
    promises!(trials, "vault":
        spending::a_limit_is_spent_one_by_one_and_says_what_is_left,
        spending::of_many_at_once_the_limit_is_let_through,
        spending::what_was_spent_comes_back_as_the_window_slides,
    );
}

const LONG: Duration = Duration::from_secs(3_600);

pub async fn a_limit_is_spent_one_by_one_and_says_what_is_left(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    for (pod, left) in [&vault.here, &vault.there, &vault.here]
        .into_iter()
        .zip([2, 1, 0])
    {
        let spent = pod.spend("key", 3, LONG).await?;
        assert!(spent.allowed && spent.remaining == left, "{spent:?}");
        assert!(spent.reset <= LONG && !spent.reset.is_zero(), "{spent:?}");
    }
    let refused = vault.there.spend("key", 3, LONG).await?;
    assert!(!refused.allowed && refused.remaining == 0, "{refused:?}");
    assert!(
        refused.reset <= 2 * LONG && !refused.reset.is_zero(),
        "{refused:?}"
    );
    assert!(vault.here.spend("other", 1, LONG).await?.allowed);
    assert!(
        vault.here.spend("key", 4, LONG).await?.allowed,
        "a raised limit counts at once"
    );
    Ok(())
}

pub async fn of_many_at_once_the_limit_is_let_through(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let calls = (0..40).map(|n| {
        let pod = if n % 2 == 0 {
            vault.here.clone()
        } else {
            vault.there.clone()
        };
        tokio::spawn(async move {
            pod.spend("crowd", 7, LONG)
                .await
                .expect("an answer")
                .allowed
        })
    });
    let mut allowed = 0;
    for call in calls.collect::<Vec<_>>() {
        allowed += usize::from(call.await?);
    }
    assert_eq!(allowed, 7);
    Ok(())
}

pub async fn what_was_spent_comes_back_as_the_window_slides(mode: Mode) -> Outcome {
    const SHORT: Duration = Duration::from_millis(500);
    let vault = fixture::vault(mode).await;
    let mut allowed = 0;
    let refused = loop {
        let spent = vault.here.spend("brief", 3, SHORT).await?;
        if !spent.allowed {
            break spent;
        }
        allowed += 1;
        assert!(allowed < 10_000, "never refused");
    };
    assert!(allowed >= 3);
    tokio::time::sleep(refused.reset + Duration::from_millis(5)).await;
    assert!(
        vault.there.spend("brief", 3, SHORT).await?.allowed,
        "{refused:?}"
    );
    Ok(())
}
