//! One holder at a time, attempts counted at the claim, late settling.

use std::collections::HashSet;

use super::*;

pub async fn one_holder(mode: Mode) -> Outcome {
    let (queues, queue) = open(mode).await;
    for n in 0..10 {
        queue.enqueue(Q, &job(&format!("job-{n}"))).await?;
    }
    let claimers = (0..20).map(|n| {
        let queue = if n % 2 == 0 {
            queues.here.clone()
        } else {
            queues.there.clone()
        };
        tokio::spawn(async move { try_claim(&*queue).await })
    });
    let claimed: Vec<Claimed> = futures::future::join_all(claimers)
        .await
        .into_iter()
        .filter_map(|claim| claim.expect("a claimer"))
        .collect();
    let ids: HashSet<_> = claimed.iter().map(|c| c.lease.id.clone()).collect();
    let tokens: HashSet<_> = claimed.iter().map(|c| c.lease.token).collect();
    assert_eq!(claimed.len(), 10, "every job has a holder");
    assert_eq!(
        (ids.len(), tokens.len()),
        (10, 10),
        "and only one, with a token of its own"
    );
    DONE
}

pub async fn lapsed(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue.enqueue(Q, &job("a")).await?;
    let first = claim_for(&*queue, SHORT, NO_CAP).await.expect("a job");
    let second = wait_claim(&queue, LONG).await;
    assert_eq!(second.lease.id, "a");
    assert!(
        second.lease.token > first.lease.token,
        "{} then {}",
        first.lease.token,
        second.lease.token
    );
    assert_eq!((first.attempt, second.attempt), (1, 2));
    DONE
}

pub async fn late_settling(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue.enqueue(Q, &job("a")).await?;
    let late = claim_for(&*queue, SHORT, NO_CAP).await.expect("a job");
    outwait(&*queue, &late).await;
    assert_eq!(
        queue.finish(&late.lease).await?,
        Settled::Lost,
        "lapsed, nobody else has it yet"
    );
    let present = wait_claim(&queue, LONG).await;
    for settled in [
        queue.renew(&late.lease, LONG).await?,
        queue.finish(&late.lease).await?,
        queue.retry(&late.lease, Duration::ZERO, "late").await?,
        queue.bury(&late.lease, "late").await?,
        queue.release(&late.lease).await?,
    ] {
        assert_eq!(settled, Settled::Lost);
    }
    assert_eq!(queue.stats(Q).await?.in_flight, 1, "nothing changed");
    assert!(queue.dead(Q, 10).await?.is_empty());
    assert_eq!(queue.finish(&present.lease).await?, Settled::Done);
    assert_eq!(queue.finish(&present.lease).await?, Settled::Lost, "once");
    DONE
}

pub async fn renewed(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue.enqueue(Q, &job("held")).await?;
    queue.enqueue(Q, &job("watch")).await?;
    let held = claim_for(&*queue, Duration::from_millis(500), NO_CAP)
        .await
        .expect("a job");
    assert_eq!(queue.renew(&held.lease, LONG).await?, Settled::Done);
    // A job claimed after it for as long shows when the first deadline has passed.
    let watch = claim_for(&*queue, Duration::from_millis(500), NO_CAP)
        .await
        .expect("a job");
    assert_eq!(wait_claim(&queue, LONG).await.lease.id, watch.lease.id);
    assert!(
        try_claim(&*queue).await.is_none(),
        "the renewed one is still held"
    );
    assert_eq!(queue.finish(&held.lease).await?, Settled::Done);
    DONE
}

pub async fn released(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    for id in ["a", "b", "c"] {
        queue.enqueue(Q, &job(id)).await?;
    }
    queue
        .enqueue(
            Q,
            &Enqueue {
                tenant: "other".into(),
                ..job("o")
            },
        )
        .await?;
    let a = try_claim(&*queue).await.expect("a job");
    assert_eq!(a.lease.id, "a");
    assert_eq!(queue.release(&a.lease).await?, Settled::Done);
    assert_eq!(
        queue.finish(&a.lease).await?,
        Settled::Lost,
        "no longer held"
    );
    let again = try_claim(&*queue).await.expect("a job");
    assert_eq!((again.lease.id.as_str(), again.attempt), ("a", 1));
    assert!(again.lease.token > a.lease.token);
    assert_eq!(ids_in_turn(&*queue).await, ["o", "b", "c"]);
    DONE
}

pub async fn empty_claim(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    let next = |claim: Result<Claimed, Option<Duration>>| claim.expect_err("no job");
    assert_eq!(
        next(queue.claim(Q, LONG, NO_CAP).await?),
        None,
        "nothing is delayed or leased"
    );
    queue
        .enqueue(
            Q,
            &Enqueue {
                delay: Duration::from_secs(20),
                ..job("later")
            },
        )
        .await?;
    let due = next(queue.claim(Q, LONG, NO_CAP).await?).expect("a due time");
    assert!(
        due <= Duration::from_secs(20) && due > Duration::from_secs(10),
        "{due:?}"
    );
    queue.enqueue(Q, &job("now")).await?;
    claim_for(&*queue, Duration::from_secs(5), NO_CAP)
        .await
        .expect("a job");
    let lapse = next(queue.claim(Q, LONG, NO_CAP).await?).expect("a due time");
    assert!(
        lapse <= Duration::from_secs(5),
        "the lease ends before the delay: {lapse:?}"
    );
    DONE
}

pub async fn round_trip(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    let sent = Enqueue {
        payload: "{\"text\":\"ünï\\u0000 \u{1f980}\"}".into(),
        tenant: "tenant: {7}".into(),
        max_attempts: 7,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..job("id: {x}")
    };
    let before = chrono::Utc::now();
    queue.enqueue(Q, &sent).await?;
    let got = try_claim(&*queue).await.expect("a job");
    assert_eq!(got.lease.queue, Q);
    assert_eq!(got.lease.id, sent.id);
    assert_eq!(got.payload, sent.payload);
    assert_eq!(got.tenant, sent.tenant);
    assert_eq!((got.attempt, got.max_attempts), (1, 7));
    assert_eq!(got.traceparent, sent.traceparent);
    assert!(
        (got.enqueued_at - before).num_seconds().abs() < 10,
        "{}",
        got.enqueued_at
    );
    DONE
}
