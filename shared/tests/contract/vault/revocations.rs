//! Revocations: at once for who asks, within a second for who listens.

use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::{FamilyId, UserId};
use atelier_shared::ports::{Revoked, Rotation};
use libtest_mimic::Trial;
use tokio::sync::mpsc;

use super::{GRACE, family, family_of, now, token};
use crate::fixture::redis_server::{Proxy, RedisServer, command};
use crate::fixture::{self, Outcome, both, only};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "vault",
        "a_revocation_is_seen_at_once_and_reaches_every_subscriber",
        reaches_all,
    );
    both(
        trials,
        "vault",
        "a_revocation_lapses_at_its_time_and_is_only_ever_prolonged",
        lapses,
    );
    both(
        trials,
        "vault",
        "a_person_is_logged_out_everywhere_and_nobody_else_is",
        of_a_person,
    );
    both(
        trials,
        "vault",
        "a_family_revoked_before_it_is_made_stays_revoked",
        before_creation,
    );
    both(
        trials,
        "vault",
        "a_subscriber_that_went_away_is_no_hindrance",
        gone_subscriber,
    );
    only(
        trials,
        Mode::Distributed,
        "vault",
        "a_connection_that_broke_or_fell_silent_hears_of_revocations_again",
        heard_again,
    );
}

const MINUTE: Duration = Duration::from_secs(60);
/// A second is the promise to people; this is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What one subscriber hears, in whatever order, within the promised second.
async fn heard(receiver: &mut mpsc::Receiver<Revoked>, count: usize) -> Vec<FamilyId> {
    let mut heard = Vec::new();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while heard.len() < count {
        match tokio::time::timeout_at(deadline, receiver.recv()).await {
            Ok(Some(Revoked::Family(family))) => heard.push(family),
            Ok(Some(Revoked::Missed)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    heard.sort();
    heard
}

async fn reaches_all(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let family = family();
    vault.here.create_family(&family, token("a")).await?;
    let mut subscribers = [
        vault.here.revocations().await?,
        vault.here.revocations().await?,
        vault.there.revocations().await?,
    ];
    assert!(!vault.there.is_revoked(family.id, now()).await?);
    vault.here.revoke(family.id, now() + MINUTE).await?;
    assert!(vault.there.is_revoked(family.id, now()).await?);
    for subscriber in &mut subscribers {
        assert_eq!(heard(subscriber, 1).await, [family.id]);
    }
    let rotation = vault
        .there
        .rotate(family.id, token("a"), token("b"), now(), GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Unknown);
    Ok(())
}

async fn lapses(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let family = family();
    vault.create_family(&family, token("a")).await?;
    let until = now() + MINUTE * 2;
    vault.revoke(family.id, until).await?;
    vault.revoke(family.id, now() + MINUTE).await?;
    let last = until - Duration::from_micros(1);
    assert!(vault.is_revoked(family.id, last).await?, "not shortened");
    assert!(!vault.is_revoked(family.id, until).await?);
    vault.revoke(family.id, until + MINUTE).await?;
    assert!(vault.is_revoked(family.id, until).await?, "prolonged");
    Ok(())
}

async fn of_a_person(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let user = UserId::generate();
    let mut families = [family_of(user), family_of(user), family_of(user)];
    families.sort_by_key(|family| family.id);
    let other = family();
    for family in families.iter().chain([&other]) {
        vault.here.create_family(family, token("a")).await?;
    }
    let mut subscriber = vault.there.revocations().await?;
    vault.here.revoke_user(user, now() + MINUTE).await?;
    let ids = families.each_ref().map(|family| family.id);
    assert_eq!(heard(&mut subscriber, 3).await, ids);
    for id in ids {
        assert!(vault.there.is_revoked(id, now()).await?);
        assert_eq!(vault.there.family_of(id, token("a"), now()).await?, None);
    }
    assert!(!vault.there.is_revoked(other.id, now()).await?);
    let found = vault.there.family_of(other.id, token("a"), now()).await?;
    assert_eq!(found, Some(other));
    vault
        .here
        .revoke_user(UserId::generate(), now() + MINUTE)
        .await?;
    Ok(())
}

async fn before_creation(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let family = family();
    vault.revoke(family.id, now() + MINUTE).await?;
    vault.create_family(&family, token("a")).await?;
    assert!(vault.is_revoked(family.id, now()).await?);
    let rotation = vault
        .rotate(family.id, token("a"), token("b"), now(), GRACE)
        .await?;
    assert_eq!(rotation, Rotation::Unknown);
    Ok(())
}

async fn gone_subscriber(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let gone = vault.revocations().await?;
    let mut listening = vault.revocations().await?;
    drop(gone);
    for _ in 0..2 {
        let family = family();
        vault.revoke(family.id, now() + MINUTE).await?;
        assert_eq!(heard(&mut listening, 1).await, [family.id]);
    }
    Ok(())
}

/// Cut off: closed. Silent: the network takes it away without a word.
async fn heard_again(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let proxy = Proxy::to(&server.url).await;
    let vault = fixture::vault_at(&proxy.url).await;
    let mut subscriber = vault.there.revocations().await?;
    let by_hand = server.client().await;
    for silent in [false, true] {
        if silent {
            proxy.silence();
        } else {
            command(&by_hand, &["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
        }
        let missed = async { while subscriber.recv().await != Some(Revoked::Missed) {} };
        let told = tokio::time::timeout(DEADLINE, missed).await;
        assert!(told.is_ok(), "silent: {silent}");
        // One that is published before the subscription stands again is among those that were missed.
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let family = family();
            let revoked = vault.here.revoke(family.id, now() + MINUTE).await;
            let patience = tokio::time::timeout(Duration::from_secs(2), heard(&mut subscriber, 1));
            if patience.await.is_ok_and(|heard| heard == [family.id]) {
                break;
            }
            let late = tokio::time::Instant::now() >= deadline;
            assert!(!late, "silent: {silent}, revoked: {revoked:?}");
        }
    }
    Ok(())
}
