//! Throttles: a log of tries that slides.

use std::time::{Duration, Instant};

use atelier_shared::Mode;
use atelier_shared::ports::Throttle;
use libtest_mimic::Trial;

use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "vault",
        "a_throttle_lets_through_its_limit_and_says_how_long_to_wait",
        limits,
    );
    both(trials, "vault", "a_throttle_slides", slides);
    both(
        trials,
        "vault",
        "of_twenty_tries_at_once_the_limit_is_let_through",
        race,
    );
    both(
        trials,
        "vault",
        "a_throttle_forgives_one_key_at_a_time",
        forgives,
    );
    both(
        trials,
        "vault",
        "a_try_that_is_taken_back_makes_room_for_one",
        takes_back,
    );
}

const LONG: Duration = Duration::from_secs(60);

async fn limits(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    for pod in [&vault.here, &vault.there, &vault.here] {
        assert_eq!(pod.throttle("key", 3, LONG).await?, Throttle::Allowed);
    }
    for pod in [&vault.here, &vault.there] {
        let Throttle::Wait(wait) = pod.throttle("key", 3, LONG).await? else {
            return Err("a fourth try was let through".into());
        };
        assert!(
            wait > LONG / 2 && wait <= LONG,
            "the first try leaves the window in {wait:?}"
        );
    }
    // A key may be anything.
    for key in ["", "{brace}", "nul\0", &"x".repeat(100_000)] {
        assert_eq!(vault.here.throttle(key, 1, LONG).await?, Throttle::Allowed);
    }
    let never = vault.here.throttle("never", 0, LONG).await?;
    assert_eq!(never, Throttle::Wait(LONG));
    // A limit that was lowered counts what was let through before.
    let Throttle::Wait(_) = vault.here.throttle("key", 1, LONG).await? else {
        return Err("let through under a lower limit".into());
    };
    assert_eq!(
        vault.here.throttle("key", 4, LONG).await?,
        Throttle::Allowed
    );
    Ok(())
}

async fn slides(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let window = Duration::from_millis(400);
    let half = window / 2;
    let start = Instant::now();
    assert_eq!(vault.throttle("key", 2, window).await?, Throttle::Allowed);
    tokio::time::sleep(half).await;
    assert_eq!(vault.throttle("key", 2, window).await?, Throttle::Allowed);
    let mut refused = 0;
    // What was refused does not count, or this would never end.
    let waited = loop {
        match vault.throttle("key", 2, window).await? {
            Throttle::Allowed => break start.elapsed(),
            Throttle::Wait(wait) => {
                assert!(wait <= window);
                refused += 1;
                tokio::time::sleep(wait.min(Duration::from_millis(20))).await;
            }
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "never let through again"
        );
    };
    assert!(waited >= window, "let through after {waited:?}");
    assert!(refused > 0);
    // The first try has left the window, the second has not: room for one, not for two.
    if start.elapsed() < window + half {
        let after = vault.throttle("key", 2, window).await?;
        assert!(
            matches!(after, Throttle::Wait(_)) || start.elapsed() >= window + half,
            "a sliding log, not a fixed window"
        );
    }
    Ok(())
}

async fn race(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let tasks: Vec<_> = (0..20)
        .map(|index| {
            let pod = [&vault.here, &vault.there][index % 2].clone();
            tokio::spawn(async move { pod.throttle("key", 5, LONG).await })
        })
        .collect();
    let mut allowed = 0;
    for task in tasks {
        allowed += usize::from(task.await?? == Throttle::Allowed);
    }
    assert_eq!(allowed, 5);
    Ok(())
}

async fn forgives(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    for key in ["one", "two"] {
        assert_eq!(vault.throttle(key, 1, LONG).await?, Throttle::Allowed);
        assert!(matches!(
            vault.throttle(key, 1, LONG).await?,
            Throttle::Wait(_)
        ));
    }
    vault.forgive("one").await?;
    assert_eq!(vault.throttle("one", 1, LONG).await?, Throttle::Allowed);
    assert!(matches!(
        vault.throttle("two", 1, LONG).await?,
        Throttle::Wait(_)
    ));
    vault.forgive("never tried").await?;
    Ok(())
}

async fn takes_back(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    for pod in [&vault.here, &vault.there] {
        assert_eq!(pod.throttle("key", 2, LONG).await?, Throttle::Allowed);
    }
    vault.there.take_back("key").await?;
    vault.there.take_back("never tried").await?;
    let again = vault.here.throttle("key", 2, LONG).await?;
    assert_eq!(again, Throttle::Allowed);
    let third = vault.here.throttle("key", 2, LONG).await?;
    assert!(matches!(third, Throttle::Wait(_)), "{third:?}");
    for _ in 0..3 {
        vault.here.take_back("key").await?;
    }
    assert_eq!(
        vault.here.throttle("key", 1, LONG).await?,
        Throttle::Allowed,
        "more are taken back than there were: none is owed"
    );
    let second = vault.here.throttle("key", 1, LONG).await?;
    assert!(matches!(second, Throttle::Wait(_)), "{second:?}");
    Ok(())
}
