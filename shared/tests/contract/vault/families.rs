//! Families of refresh tokens: rotation, grace, reuse.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::{FamilyId, UserId};
use atelier_shared::ports::{FAMILIES_PER_USER_MAX, REPLACED_TOKENS_MAX, Revoked, Rotation};
use libtest_mimic::Trial;

use super::{GRACE, family, family_of, now, token};
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "vault",
        "a_current_token_is_replaced_by_its_successor",
        rotates,
    );
    both(
        trials,
        "vault",
        "within_the_grace_a_replaced_token_stands_for_its_family",
        grace,
    );
    both(
        trials,
        "vault",
        "a_token_whose_successor_was_used_ends_its_family_within_the_grace_too",
        spent_successor,
    );
    both(
        trials,
        "vault",
        "a_token_used_again_after_the_grace_ends_its_family",
        reuse,
    );
    both(
        trials,
        "vault",
        "of_twenty_who_present_one_token_one_rotates_it_and_the_rest_are_graced",
        rotation_race,
    );
    both(
        trials,
        "vault",
        "of_twenty_who_reuse_a_token_one_ends_the_family",
        reuse_race,
    );
    both(
        trials,
        "vault",
        "a_token_of_no_family_or_of_another_is_unknown",
        unknown,
    );
    both(trials, "vault", "a_family_ends_at_its_time", expiry);
    both(
        trials,
        "vault",
        "whoever_has_a_family_that_stands_is_logged_in",
        logged_in,
    );
    both(
        trials,
        "vault",
        "a_family_is_found_by_every_token_it_had",
        found_by_token,
    );
    both(
        trials,
        "vault",
        "families_and_revocations_survive_reopening",
        reopening,
    );
    both(
        trials,
        "vault",
        "the_oldest_replaced_tokens_are_forgotten_beyond_the_bound",
        bounded_memory,
    );
    both(
        trials,
        "vault",
        "a_login_too_many_ends_the_one_that_would_end_first",
        bounded_families,
    );
}

async fn rotates(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let family = family();
    vault.here.create_family(&family, token("a")).await?;
    for (presented, successor) in [("a", "b"), ("b", "c"), ("c", "d")] {
        let rotation = vault
            .there
            .rotate(family.id, token(presented), token(successor), now(), GRACE)
            .await?;
        assert_eq!(rotation, Rotation::Rotated(family.clone()), "{presented}");
    }
    assert!(!vault.here.is_revoked(family.id, now()).await?);
    Ok(())
}

async fn grace(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let family = family();
    vault.create_family(&family, token("a")).await?;
    let start = now();
    let rotate = async |presented: &str, successor: &str, after: Duration| {
        vault
            .rotate(
                family.id,
                token(presented),
                token(successor),
                start + after,
                GRACE,
            )
            .await
    };
    let last = GRACE - Duration::from_millis(1);
    rotate("a", "b", Duration::ZERO).await?;
    assert_eq!(
        rotate("a", "b", last).await?,
        Rotation::Grace(family.clone())
    );
    // The successor stands, and has a grace of its own.
    assert_eq!(
        rotate("b", "c", last).await?,
        Rotation::Rotated(family.clone())
    );
    assert_eq!(
        rotate("b", "c", GRACE).await?,
        Rotation::Grace(family.clone())
    );
    assert_eq!(
        rotate("b", "c", last + GRACE).await?,
        Rotation::Reused(family.clone())
    );
    Ok(())
}

async fn spent_successor(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let family = family();
    vault.here.create_family(&family, token("a")).await?;
    let start = now();
    let rotate = async |presented: &str, successor: &str| {
        vault
            .there
            .rotate(family.id, token(presented), token(successor), start, GRACE)
            .await
    };
    rotate("a", "b").await?;
    rotate("b", "c").await?;
    // Whoever has the successor has used it: this is somebody else, within the grace or not.
    assert_eq!(rotate("a", "b").await?, Rotation::Reused(family.clone()));
    assert_eq!(rotate("c", "d").await?, Rotation::Unknown);
    assert!(vault.here.is_revoked(family.id, start).await?);
    Ok(())
}

async fn reuse(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let (family, bystander) = (family(), family());
    vault.here.create_family(&family, token("a")).await?;
    vault.here.create_family(&bystander, token("a")).await?;
    let mut heard = vault.there.revocations().await?;
    vault
        .here
        .rotate(family.id, token("a"), token("b"), now(), GRACE)
        .await?;
    let late = now() + GRACE;
    let rotation = vault
        .here
        .rotate(family.id, token("a"), token("b"), late, GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Reused(family.clone()));
    for presented in ["a", "b"] {
        let rotation = vault
            .there
            .rotate(family.id, token(presented), token("c"), late, GRACE)
            .await?;
        assert_eq!(
            rotation,
            Rotation::Unknown,
            "{presented} of an ended family"
        );
    }
    assert!(vault.there.is_revoked(family.id, late).await?);
    assert!(
        vault
            .there
            .is_revoked(family.id, family.expires_at - Duration::from_secs(1))
            .await?,
        "to its own end"
    );
    let told = tokio::time::timeout(Duration::from_secs(30), heard.recv()).await?;
    assert_eq!(told, Some(Revoked::Family(family.id)));
    let others = vault
        .here
        .rotate(bystander.id, token("a"), token("b"), late, GRACE)
        .await?;
    assert_eq!(others, Rotation::Rotated(bystander));
    Ok(())
}

async fn rotation_race(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let family = family();
    vault.here.create_family(&family, token("a")).await?;
    let rotations = race(&vault, family.id, "a", now()).await?;
    let count = |wanted: &Rotation| rotations.iter().filter(|r| *r == wanted).count();
    assert_eq!(
        count(&Rotation::Rotated(family.clone())),
        1,
        "{rotations:?}"
    );
    assert_eq!(count(&Rotation::Grace(family)), 19);
    Ok(())
}

async fn reuse_race(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let family = family();
    vault.here.create_family(&family, token("a")).await?;
    vault
        .here
        .rotate(family.id, token("a"), token("b"), now(), GRACE)
        .await?;
    let rotations = race(&vault, family.id, "a", now() + GRACE).await?;
    let count = |wanted: &Rotation| rotations.iter().filter(|r| *r == wanted).count();
    assert_eq!(count(&Rotation::Reused(family)), 1, "{rotations:?}");
    assert_eq!(count(&Rotation::Unknown), 19);
    Ok(())
}

/// Twenty present one token at once, on two pods.
async fn race(
    vault: &fixture::Vaults,
    id: FamilyId,
    presented: &str,
    at: chrono::DateTime<chrono::Utc>,
) -> Result<Vec<Rotation>, libtest_mimic::Failed> {
    let gate = Arc::new(tokio::sync::Barrier::new(20));
    let tasks: Vec<_> = (0..20)
        .map(|index| {
            let pod = [&vault.here, &vault.there][index % 2].clone();
            let (gate, presented) = (gate.clone(), token(presented));
            tokio::spawn(async move {
                gate.wait().await;
                pod.rotate(id, presented, token("successor"), at, GRACE)
                    .await
            })
        })
        .collect();
    let mut rotations = Vec::new();
    for task in tasks {
        rotations.push(task.await??);
    }
    Ok(rotations)
}

async fn unknown(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let (first, second) = (family(), family());
    vault.create_family(&first, token("first")).await?;
    vault.create_family(&second, token("second")).await?;
    for (id, presented) in [
        (first.id, "second"),
        (first.id, "never made"),
        (FamilyId::generate(), "first"),
    ] {
        let rotation = vault
            .rotate(id, token(presented), token("x"), now(), GRACE)
            .await?;
        assert_eq!(rotation, Rotation::Unknown);
        assert_eq!(vault.family_of(id, token(presented), now()).await?, None);
    }
    assert!(!vault.is_revoked(FamilyId::generate(), now()).await?);
    // None of that changed anything.
    let rotation = vault
        .rotate(first.id, token("first"), token("x"), now(), GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Rotated(first));
    Ok(())
}

async fn expiry(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let family = family();
    vault.create_family(&family, token("a")).await?;
    let last = family.expires_at - Duration::from_micros(1);
    let found = vault.family_of(family.id, token("a"), last).await?;
    assert_eq!(found, Some(family.clone()));
    let found = vault
        .family_of(family.id, token("a"), family.expires_at)
        .await?;
    assert_eq!(found, None);
    let rotation = vault
        .rotate(family.id, token("a"), token("b"), family.expires_at, GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Unknown);
    let rotation = vault
        .rotate(family.id, token("a"), token("b"), last, GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Rotated(family));
    Ok(())
}

async fn logged_in(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let (standing, ended, stranger) = (family(), family(), UserId::generate());
    // Two logins of one person, of which one is ended.
    let other = family_of(standing.user_id);
    for (family, word) in [(&standing, "a"), (&ended, "b"), (&other, "c")] {
        vault.create_family(family, token(word)).await?;
    }
    for family in [&ended, &other] {
        vault.revoke(family.id, now()).await?;
    }
    let people = [standing.user_id, ended.user_id, stranger];
    assert_eq!(vault.logged_in(&people, now()).await?, [standing.user_id]);
    let over = vault.logged_in(&people, standing.expires_at).await?;
    assert_eq!(over, []);
    assert_eq!(vault.logged_in(&[], now()).await?, []);
    Ok(())
}

async fn found_by_token(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let family = family();
    vault.create_family(&family, token("a")).await?;
    vault
        .rotate(family.id, token("a"), token("b"), now(), GRACE)
        .await?;
    for presented in ["a", "b"] {
        let found = vault.family_of(family.id, token(presented), now()).await?;
        assert_eq!(found, Some(family.clone()), "{presented}");
    }
    assert_eq!(vault.family_of(family.id, token("c"), now()).await?, None);
    vault.revoke(family.id, now() + MINUTE).await?;
    assert_eq!(vault.family_of(family.id, token("b"), now()).await?, None);
    Ok(())
}

const MINUTE: Duration = Duration::from_secs(60);

async fn reopening(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let (kept, ended) = (family(), family());
    vault.here.create_family(&kept, token("a")).await?;
    vault.here.create_family(&ended, token("a")).await?;
    vault
        .here
        .rotate(kept.id, token("a"), token("b"), now(), GRACE)
        .await?;
    let until = now() + MINUTE;
    vault.here.revoke(ended.id, until).await?;
    let vault = vault.reopen().await.here;
    assert!(vault.is_revoked(ended.id, now()).await?);
    assert!(!vault.is_revoked(ended.id, until).await?);
    let rotation = vault
        .rotate(kept.id, token("b"), token("c"), now(), GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Rotated(kept.clone()));
    let rotation = vault
        .rotate(kept.id, token("a"), token("b"), now() + GRACE, GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Reused(kept));
    Ok(())
}

async fn bounded_memory(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let family = family();
    vault.create_family(&family, token("0")).await?;
    let start = now();
    for index in 0..=REPLACED_TOKENS_MAX {
        let at = start + Duration::from_secs(u64::try_from(index)?);
        let (presented, successor) = (index.to_string(), (index + 1).to_string());
        let rotation = vault
            .rotate(family.id, token(&presented), token(&successor), at, GRACE)
            .await?;
        assert_eq!(rotation, Rotation::Rotated(family.clone()), "{index}");
    }
    let late = start + MINUTE * 60;
    for (presented, expected) in [
        ("0", Rotation::Unknown),
        ("1", Rotation::Reused(family.clone())),
    ] {
        let rotation = vault
            .rotate(family.id, token(presented), token("x"), late, GRACE)
            .await?;
        assert_eq!(rotation, expected, "{presented}");
    }
    Ok(())
}

async fn bounded_families(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let user = UserId::generate();
    let mut families = Vec::new();
    for index in 0..=FAMILIES_PER_USER_MAX {
        let mut each = family_of(user);
        // The first to end is neither the first nor the last that is made.
        let place = (index + FAMILIES_PER_USER_MAX / 2) % (FAMILIES_PER_USER_MAX + 1);
        each.expires_at += Duration::from_secs(u64::try_from(place)?);
        vault.create_family(&each, token("a")).await?;
        families.push(each);
    }
    families.sort_by_key(|family| family.expires_at);
    for (place, family) in families.iter().enumerate() {
        let ended = place == 0;
        assert_eq!(
            vault.is_revoked(family.id, now()).await?,
            ended,
            "place {place}"
        );
        let found = vault.family_of(family.id, token("a"), now()).await?;
        assert_eq!(found.is_none(), ended, "place {place}");
    }
    Ok(())
}
