//! Tickets: redeemed once, and not for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atelier_shared::Mode;
use libtest_mimic::Trial;

use super::token;
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "vault",
        "of_twenty_who_redeem_a_ticket_one_gets_it",
        redeemed_once,
    );
    both(
        trials,
        "vault",
        "a_ticket_is_worth_nothing_after_its_time",
        expires,
    );
}

async fn redeemed_once(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await;
    let claims = r#"{"sub":"Zoë","nul":"\u0000"}"#.to_owned();
    vault
        .here
        .put_ticket(token("ticket"), &claims, Duration::from_secs(30))
        .await?;
    assert_eq!(vault.there.take_ticket(token("another")).await?, None);
    let gate = Arc::new(tokio::sync::Barrier::new(20));
    let tasks: Vec<_> = (0..20)
        .map(|index| {
            let pod = [&vault.here, &vault.there][index % 2].clone();
            let gate = gate.clone();
            tokio::spawn(async move {
                gate.wait().await;
                pod.take_ticket(token("ticket")).await
            })
        })
        .collect();
    let mut got = Vec::new();
    for task in tasks {
        got.extend(task.await??);
    }
    assert_eq!(got, [claims]);
    Ok(())
}

async fn expires(mode: Mode) -> Outcome {
    let vault = fixture::vault(mode).await.here;
    let ttl = Duration::from_millis(300);
    let claims = "{}".to_owned();
    // Both made in time, so that the one taken early shows what the other one was worth then.
    vault.put_ticket(token("early"), &claims, ttl * 100).await?;
    let put = Instant::now();
    vault.put_ticket(token("late"), &claims, ttl).await?;
    assert_eq!(vault.take_ticket(token("early")).await?, Some(claims));
    tokio::time::sleep_until((put + ttl + Duration::from_millis(50)).into()).await;
    assert_eq!(vault.take_ticket(token("late")).await?, None);
    Ok(())
}
