//! A Redis that is full refuses what fills it, and people log in and stay so.

use atelier_shared::Mode;
use atelier_shared::ports::{Rotation, Throttle};
use libtest_mimic::Trial;

use super::{GRACE, MONTH, family, now, token};
use crate::fixture::redis_server::{RedisServer, command};
use crate::fixture::{self, Outcome, only};

pub fn trials(trials: &mut Vec<Trial>) {
    only(
        trials,
        Mode::Distributed,
        "vault",
        "people_log_in_and_stay_so_when_memory_is_full",
        goes_on,
    );
}

async fn goes_on(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let vault = fixture::vault_at(&server.url).await.here;
    let by_hand = server.client().await;
    command(&by_hand, &["CONFIG", "SET", "maxmemory", "1"]).await?;
    let refused = command(&by_hand, &["SET", "anything", "else"]).await;
    assert!(refused.is_err_and(|error| error.details().starts_with("OOM")));

    let family = family();
    vault.create_family(&family, token("first")).await?;
    let (first, second) = (token("first"), token("second"));
    let rotated = vault.rotate(family.id, first, second, now(), GRACE).await?;
    assert!(matches!(rotated, Rotation::Rotated(_)), "{rotated:?}");
    let claims = "{}".to_owned();
    vault.put_ticket(token("ticket"), &claims, MONTH).await?;
    assert_eq!(vault.take_ticket(token("ticket")).await?, Some(claims));
    let tried = vault.throttle("login", 1, GRACE).await?;
    assert!(matches!(tried, Throttle::Allowed), "{tried:?}");
    vault.spend("requests", 1, GRACE).await?;
    vault.announce_change(family.user_id).await?;
    vault.revoke(family.id, family.expires_at).await?;
    assert!(vault.is_revoked(family.id, now()).await?);
    Ok(())
}
