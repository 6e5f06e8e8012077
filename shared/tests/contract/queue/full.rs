//! A Redis that is full refuses what fills it, and jobs go on.

use atelier_shared::domain::job::AskedLimits;
use atelier_shared::ports::WorkerInfo;

use super::*;
use crate::fixture::redis_server::{RedisServer, command};

pub async fn goes_on(_: Mode) -> Outcome {
    let server = RedisServer::start().await;
    let queue = crate::fixture::queue_at(&server.url).await.here;
    queue.enqueue(Q, &job("before")).await?;
    let held = try_claim(&*queue).await.expect("a job");
    let by_hand = server.client().await;
    command(&by_hand, &["CONFIG", "SET", "maxmemory", "1"]).await?;
    let refused = command(&by_hand, &["SET", "anything", "else"]).await;
    assert!(refused.is_err_and(|error| error.details().starts_with("OOM")));

    assert_eq!(queue.renew(&held.lease, LONG).await?, Settled::Done);
    queue.enqueue(Q, &job("meanwhile")).await?;
    let next = try_claim(&*queue).await.expect("a job");
    let retried = queue.retry(&next.lease, Duration::ZERO, "again").await?;
    assert_eq!(retried, Settled::Done);
    let next = wait_claim(&queue, LONG).await;
    assert_eq!(queue.bury(&next.lease, "over").await?, Settled::Done);
    assert!(queue.replay(Q, "meanwhile").await?);
    assert_eq!(queue.finish(&held.lease).await?, Settled::Done);
    assert!(queue.claim_tick("beat", 1, LONG).await?);
    assert!(!queue.claim_tick("beat", 1, LONG).await?);
    let worker = WorkerInfo {
        id: "one".into(),
        queues: vec![Q.into()],
        languages: Vec::new(),
        sandbox_tier: "full".into(),
        ceiling: AskedLimits::default(),
    };
    queue.announce(&worker, LONG).await?;
    assert_eq!(queue.workers().await?.len(), 1);
    DONE
}
