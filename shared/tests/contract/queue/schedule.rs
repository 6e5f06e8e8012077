//! Time: delays, wake-ups, ticks, announcements, and a mountain of due jobs.

use std::collections::HashMap;

use atelier_shared::domain::job::AskedLimits;
use atelier_shared::ports::{Cancelled, WorkerInfo};

use super::*;
use crate::fixture::redis_server::{Proxy, RedisServer, command};

pub async fn delayed(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    let begun = Instant::now();
    queue
        .enqueue(
            Q,
            &Enqueue {
                delay: SHORT * 2,
                ..job("later")
            },
        )
        .await?;
    queue
        .enqueue(
            Q,
            &Enqueue {
                delay: SHORT,
                ..job("sooner")
            },
        )
        .await?;
    assert!(try_claim(&*queue).await.is_none());
    assert_eq!(wait_claim(&queue, LONG).await.lease.id, "sooner");
    assert_eq!(wait_claim(&queue, LONG).await.lease.id, "later");
    // The store counts whole milliseconds.
    assert!(
        begun.elapsed() >= SHORT * 2 - Duration::from_millis(2),
        "{:?}",
        begun.elapsed()
    );
    DONE
}

pub async fn backoff(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue.enqueue(Q, &job("a")).await?;
    let first = try_claim(&*queue).await.expect("a job");
    let begun = Instant::now();
    queue.retry(&first.lease, SHORT, "again").await?;
    assert!(try_claim(&*queue).await.is_none());
    let second = wait_claim(&queue, LONG).await;
    assert!(
        begun.elapsed() >= SHORT - Duration::from_millis(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!((second.attempt, second.payload), (2, first.payload));
    DONE
}

pub async fn wakes(mode: Mode) -> Outcome {
    let (queues, queue) = open(mode).await;
    let mut waker = queue.waker(Q).await?;
    waker.borrow_and_update();
    queues.there.enqueue(Q, &job("a")).await?;
    assert!(woken(&mut waker).await, "by an enqueue");
    let claimed = try_claim(&*queue).await.expect("a job");
    waker.borrow_and_update();
    queues.there.release(&claimed.lease).await?;
    assert!(woken(&mut waker).await, "by a release");
    waker.borrow_and_update();
    queues
        .there
        .enqueue(
            Q,
            &Enqueue {
                delay: LONG,
                ..job("b")
            },
        )
        .await?;
    assert!(
        woken(&mut waker).await,
        "by a delay that ends before all others"
    );
    let claimed = try_claim(&*queue).await.expect("a job");
    queue.bury(&claimed.lease, "no use").await?;
    waker.borrow_and_update();
    queues.there.replay(Q, "a").await?;
    assert!(woken(&mut waker).await, "by a replay");
    DONE
}

/// Of several queues: fred mishandles a command that subscribes more than one channel.
pub async fn wakes_after_a_break(_: Mode) -> Outcome {
    const OTHERS: [&str; 3] = ["one", "two", "three"];
    let server = RedisServer::start().await;
    let proxy = Proxy::to(&server.url).await;
    let queues = crate::fixture::queue_at(&proxy.url).await;
    let queue = &queues.here;
    let mut wakers = vec![queue.waker(Q).await?];
    for other in OTHERS {
        wakers.push(queue.waker(other).await?);
    }
    for round in 0..2 {
        wakers
            .iter_mut()
            .for_each(tokio::sync::watch::Receiver::mark_unchanged);
        if round == 0 {
            let by_hand = server.client().await;
            command(&by_hand, &["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
        } else {
            proxy.silence();
        }
        for waker in &mut wakers {
            assert!(woken(waker).await, "something may have been missed");
            waker.mark_unchanged();
        }
        for (name, waker) in [Q].into_iter().chain(OTHERS).zip(&mut wakers) {
            let job = job(&format!("{name}{round}"));
            let until = tokio::time::Instant::now() + DEADLINE;
            while let Err(error) = queues.there.enqueue(name, &job).await {
                assert!(tokio::time::Instant::now() < until, "{error}");
            }
            assert!(woken(waker).await, "{name}, round {round}");
        }
    }
    DONE
}

pub async fn apart(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue.enqueue("archive", &job("a")).await?;
    queue.enqueue(Q, &job("a")).await?;
    assert_eq!(ids_in_turn(&*queue).await, ["a"]);
    assert_eq!(queue.stats("archive").await?.waiting, 1);
    assert_eq!(queue.cancel(Q, "a").await?, Cancelled::Unknown);
    DONE
}

pub async fn ticks(mode: Mode) -> Outcome {
    let (queues, queue) = open(mode).await;
    let claims = (0..10).map(|n| {
        let queue = if n % 2 == 0 {
            queues.here.clone()
        } else {
            queues.there.clone()
        };
        tokio::spawn(async move {
            queue
                .claim_tick("hourly", 42, LONG)
                .await
                .expect("claim tick")
        })
    });
    let won = futures::future::join_all(claims)
        .await
        .into_iter()
        .filter(|claim| *claim.as_ref().expect("a claimer"))
        .count();
    assert_eq!(won, 1);
    assert!(queue.claim_tick("hourly", 43, LONG).await?, "the next tick");
    assert!(
        queue.claim_tick("daily", 42, LONG).await?,
        "another schedule"
    );
    assert!(
        queue
            .claim_tick("brief", 1, Duration::from_millis(50))
            .await?
    );
    let until = Instant::now() + DEADLINE;
    while !queue.claim_tick("brief", 1, LONG).await? {
        assert!(Instant::now() < until, "remembered for ever");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    DONE
}

pub async fn workers(mode: Mode) -> Outcome {
    let (queues, queue) = open(mode).await;
    let worker = |id: &str| WorkerInfo {
        id: id.into(),
        queues: vec![Q.into()],
        languages: vec![("python".into(), "3.11.2".into())],
        sandbox_tier: "full".into(),
        ceiling: AskedLimits {
            wall_ms: Some(60_000),
            ..AskedLimits::default()
        },
    };
    let ids = async || -> Vec<String> {
        let mut ids: Vec<_> = queue
            .workers()
            .await
            .expect("workers")
            .into_iter()
            .map(|w| w.id)
            .collect();
        ids.sort();
        ids
    };
    assert!(ids().await.is_empty());
    queues.there.announce(&worker("a"), LONG).await?;
    queue.announce(&worker("a"), LONG).await?;
    queue
        .announce(&worker("b"), Duration::from_millis(200))
        .await?;
    assert!(
        queue.workers().await?.contains(&worker("a")),
        "as it was announced"
    );
    let until = Instant::now() + DEADLINE;
    while ids().await != ["a"] {
        assert!(Instant::now() < until, "still {:?}", ids().await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    queue.announce(&worker("a"), Duration::ZERO).await?;
    assert!(ids().await.is_empty(), "taken back");
    DONE
}

/// More due jobs than one claim promotes, and more than a script may walk through.
pub async fn mountain(mode: Mode) -> Outcome {
    const JOBS: usize = 10_000;
    let (queues, queue) = open(mode).await;
    let delayed = |n: usize| Enqueue {
        delay: Duration::from_millis(1),
        tenant: format!("t{}", n % 3),
        ..job(&n.to_string())
    };
    futures::stream::StreamExt::for_each_concurrent(futures::stream::iter(0..JOBS), 128, |n| {
        let queue = queue.clone();
        async move {
            queue.enqueue(Q, &delayed(n)).await.expect("enqueue");
        }
    })
    .await;
    let drains = (0..64).map(|n| {
        let queue = if n % 2 == 0 {
            queues.here.clone()
        } else {
            queues.there.clone()
        };
        tokio::spawn(async move {
            let mut done = Vec::new();
            loop {
                match queue.claim(Q, LONG, NO_CAP).await.expect("claim") {
                    Ok(claimed) => {
                        assert_eq!(
                            queue.finish(&claimed.lease).await.expect("finish"),
                            Settled::Done
                        );
                        done.push(claimed.lease.id);
                    }
                    Err(_)
                        if queue.stats(Q).await.expect("stats").finished_total as usize == JOBS =>
                    {
                        return done;
                    }
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
    });
    let drained = tokio::time::timeout(Duration::from_secs(120), futures::future::join_all(drains))
        .await
        .expect("drained in time");
    let mut times: HashMap<String, u32> = HashMap::new();
    for id in drained.into_iter().flat_map(|ids| ids.expect("a drain")) {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len(), JOBS);
    assert!(times.values().all(|times| *times == 1), "no job ran twice");
    DONE
}
