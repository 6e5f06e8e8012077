//! Profiles shared between pods: never older than the last change that was announced.

use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::UserId;
use libtest_mimic::Trial;

use crate::fixture::{self, Outcome, both, only};

const LONG: Duration = Duration::from_secs(60);

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "vault",
        "a_profile_that_changed_is_not_cached_any_more_nor_what_was_read_before",
        never_stale,
    );
    only(
        trials,
        Mode::Distributed,
        "vault",
        "a_cached_profile_is_seen_on_every_pod_for_its_time",
        shared,
    );
}

async fn never_stale(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let (ana, ben) = (UserId::generate(), UserId::generate());
    let nothing = vault.here.cached_profile(ana).await?;
    assert_eq!(nothing.profile, None);
    // Ana changes while somebody reads her row: what they read must not be kept.
    for _ in 0..3 {
        let read = vault.here.cached_profile(ana).await?.generation;
        vault.there.announce_change(ana).await?;
        assert!(!vault.here.cache_profile(ana, "old", read, LONG).await?);
        let read = vault.there.cached_profile(ana).await?;
        assert_eq!(read.profile, None);
        vault
            .there
            .cache_profile(ana, "new", read.generation, LONG)
            .await?;
        let other = vault.there.cached_profile(ben).await?.generation;
        vault.there.cache_profile(ben, "ben", other, LONG).await?;
        vault.here.announce_change(ana).await?;
        assert_eq!(vault.there.cached_profile(ana).await?.profile, None);
    }
    Ok(())
}

async fn shared(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let ana = UserId::generate();
    let read = vault.here.cached_profile(ana).await?.generation;
    let profile = r#"{"name":"Zoë"}"#;
    assert!(vault.here.cache_profile(ana, profile, read, LONG).await?);
    let seen = vault.there.cached_profile(ana).await?;
    assert_eq!(seen.profile.as_deref(), Some(profile));
    let brief = Duration::from_millis(100);
    assert!(
        vault
            .there
            .cache_profile(ana, profile, seen.generation, brief)
            .await?
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while vault.here.cached_profile(ana).await?.profile.is_some() {
        assert!(tokio::time::Instant::now() < deadline, "kept for ever");
        tokio::time::sleep(brief / 5).await;
    }
    Ok(())
}
