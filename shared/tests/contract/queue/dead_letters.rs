//! What becomes of jobs that can't be done, and the counts.

use atelier_shared::ports::{DeadJob, Enqueued, LEASE_LAPSED, QueueStats};

use super::*;

pub async fn used_up(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue
        .enqueue(
            Q,
            &Enqueue {
                max_attempts: 2,
                ..job("a")
            },
        )
        .await?;
    let first = try_claim(&*queue).await.expect("a job");
    queue
        .retry(&first.lease, Duration::ZERO, "first reason")
        .await?;
    assert!(queue.dead(Q, 10).await?.is_empty());
    let second = try_claim(&*queue).await.expect("a second attempt");
    assert_eq!(second.attempt, 2);
    queue
        .retry(&second.lease, Duration::ZERO, "second reason")
        .await?;
    assert!(try_claim(&*queue).await.is_none());
    let letters = queue.dead(Q, 10).await?;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id, "a");
    assert_eq!(letters[0].reason, "second reason");
    assert_eq!(letters[0].attempts, 2);
    assert_eq!(letters[0].payload, job("a").payload);
    assert_eq!(letters[0].tenant, "tenant");
    assert!(
        (letters[0].died_at - chrono::Utc::now())
            .num_seconds()
            .abs()
            < 10
    );
    DONE
}

pub async fn lapsed(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue
        .enqueue(
            Q,
            &Enqueue {
                max_attempts: 2,
                ..job("poison")
            },
        )
        .await?;
    for attempt in 1..=2 {
        let claimed = wait_claim(&queue, SHORT).await;
        assert_eq!((claimed.attempt, claimed.lapses), (attempt, attempt - 1));
        outwait(&*queue, &claimed).await;
    }
    assert!(try_claim(&*queue).await.is_none());
    let letters = queue.dead(Q, 10).await?;
    assert_eq!(
        (letters[0].id.as_str(), letters[0].reason.as_str()),
        ("poison", LEASE_LAPSED)
    );
    assert_eq!(
        queue.stats(Q).await?,
        QueueStats {
            dead: 1,
            ..QueueStats::default()
        }
    );
    DONE
}

pub async fn bury_and_replay(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    for id in ["a", "b", "c"] {
        queue
            .enqueue(
                Q,
                &Enqueue {
                    priority: 3,
                    ..job(id)
                },
            )
            .await?;
    }
    let long_reason = "ü".repeat(2_000);
    for reason in ["wrong payload", "wrong payload", long_reason.as_str()] {
        let claimed = try_claim(&*queue).await.expect("a job");
        assert_eq!(queue.bury(&claimed.lease, reason).await?, Settled::Done);
        // Letters of one millisecond have no order among themselves.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let letters = queue.dead(Q, 2).await?;
    let ids: Vec<_> = letters.iter().map(|letter| letter.id.as_str()).collect();
    assert_eq!(ids, ["c", "b"], "newest first, as many as asked");
    assert_eq!(
        letters[0].reason,
        "ü".repeat(512),
        "a reason is cut to a kilobyte"
    );
    let after = |letter: &DeadJob| Some((letter.died_at, letter.id.clone()));
    let rest = queue.dead_before(Q, after(&letters[1]), 10).await?;
    let rest: Vec<_> = rest.iter().map(|letter| letter.id.as_str()).collect();
    assert_eq!(rest, ["a"], "the next page");
    assert!(queue.replay(Q, "b").await?);
    let rest = queue.dead_before(Q, after(&letters[1]), 10).await?;
    assert_eq!(rest.len(), 1, "after one that is gone");
    assert!(!queue.replay(Q, "b").await?);
    assert!(!queue.replay(Q, "unknown").await?);
    let replayed = try_claim(&*queue).await.expect("b");
    assert_eq!((replayed.lease.id.as_str(), replayed.attempt), ("b", 1));
    assert_eq!(queue.dead(Q, 10).await?.len(), 2);
    DONE
}

pub async fn replay_twice(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue.enqueue(Q, &job("a")).await?;
    let claimed = try_claim(&*queue).await.expect("a job");
    queue.bury(&claimed.lease, "no use").await?;
    assert_eq!(
        queue.enqueue(Q, &job("a")).await?,
        Enqueued::Added,
        "dead is not alive"
    );
    assert!(!queue.replay(Q, "a").await?);
    assert_eq!(ids_in_turn(&*queue).await, ["a"]);
    assert!(queue.replay(Q, "a").await?);
    assert_eq!(ids_in_turn(&*queue).await, ["a"]);
    DONE
}

pub async fn stats(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    assert_eq!(queue.stats(Q).await?, QueueStats::default());
    for id in ["finished", "dead", "claimed"] {
        queue.enqueue(Q, &job(id)).await?;
    }
    queue
        .enqueue(
            Q,
            &Enqueue {
                delay: LONG,
                ..job("delayed")
            },
        )
        .await?;
    let finished = try_claim(&*queue).await.expect("a job");
    queue.finish(&finished.lease).await?;
    let dead = try_claim(&*queue).await.expect("a job");
    queue.bury(&dead.lease, "no use").await?;
    try_claim(&*queue).await.expect("a job");
    queue.enqueue(Q, &job("waiting")).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let stats = queue.stats(Q).await?;
    assert!((20..5_000).contains(&stats.oldest_ms), "{stats:?}");
    let counted = QueueStats {
        waiting: 1,
        delayed: 1,
        in_flight: 1,
        dead: 1,
        finished_total: 1,
        finished_last_minute: 1,
        oldest_ms: stats.oldest_ms,
    };
    assert_eq!(stats, counted);
    DONE
}
