//! One live job per id, one more run where asked, cancelling, and what is refused.

use atelier_shared::ports::{Cancelled, Enqueued, PAYLOAD_MAX_BYTES};

use super::*;

pub async fn unique(mode: Mode) -> Outcome {
    let (queues, queue) = open(mode).await;
    assert_eq!(queue.enqueue(Q, &job("a")).await?, Enqueued::Added);
    assert_eq!(
        queues.there.enqueue(Q, &job("a")).await?,
        Enqueued::Known,
        "waiting"
    );
    let claimed = try_claim(&*queue).await.expect("a job");
    assert_eq!(
        queue.enqueue(Q, &job("a")).await?,
        Enqueued::Known,
        "claimed"
    );
    queue.retry(&claimed.lease, LONG, "not yet").await?;
    assert_eq!(
        queue.enqueue(Q, &job("a")).await?,
        Enqueued::Known,
        "delayed"
    );
    assert!(try_claim(&*queue).await.is_none());
    assert_eq!(queue.cancel(Q, "a").await?, Cancelled::TakenOut);
    assert_eq!(queue.enqueue(Q, &job("a")).await?, Enqueued::Added, "gone");
    let claimed = try_claim(&*queue).await.expect("a job");
    queue.finish(&claimed.lease).await?;
    assert_eq!(
        queue.enqueue(Q, &job("a")).await?,
        Enqueued::Added,
        "finished"
    );
    assert_eq!(ids_in_turn(&*queue).await, ["a"]);
    DONE
}

pub async fn again(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    let change = |payload: &str| Enqueue {
        payload: payload.into(),
        again_if_running: true,
        ..job("room")
    };
    assert_eq!(queue.enqueue(Q, &change("1")).await?, Enqueued::Added);
    assert_eq!(
        queue.enqueue(Q, &change("2")).await?,
        Enqueued::Known,
        "it has not looked yet"
    );
    let first = try_claim(&*queue).await.expect("a job");
    assert_eq!(queue.enqueue(Q, &change("3")).await?, Enqueued::Again);
    assert_eq!(
        queue.enqueue(Q, &change("4")).await?,
        Enqueued::Again,
        "two changes, one more run"
    );
    assert!(try_claim(&*queue).await.is_none(), "not while it runs");
    queue.finish(&first.lease).await?;
    let second = try_claim(&*queue).await.expect("once more");
    assert_eq!((second.attempt, second.payload.as_str()), (1, "4"));
    queue.finish(&second.lease).await?;
    assert!(try_claim(&*queue).await.is_none(), "and no more");
    DONE
}

pub async fn again_after_death(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    let change = Enqueue {
        again_if_running: true,
        max_attempts: 1,
        ..job("room")
    };
    queue.enqueue(Q, &change).await?;
    let first = try_claim(&*queue).await.expect("a job");
    assert_eq!(queue.enqueue(Q, &change).await?, Enqueued::Again);
    queue.retry(&first.lease, Duration::ZERO, "broken").await?;
    assert_eq!(queue.dead(Q, 10).await?.len(), 1);
    assert_eq!(
        try_claim(&*queue)
            .await
            .expect("the change is not lost")
            .attempt,
        1
    );
    DONE
}

pub async fn cancel_waiting(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    queue.enqueue(Q, &job("waiting")).await?;
    queue
        .enqueue(
            Q,
            &Enqueue {
                delay: LONG,
                ..job("delayed")
            },
        )
        .await?;
    queue.enqueue(Q, &job("stays")).await?;
    for (id, is) in [
        ("waiting", Cancelled::TakenOut),
        ("delayed", Cancelled::TakenOut),
        // No such job any more.
        ("waiting", Cancelled::Unknown),
        ("unknown", Cancelled::Unknown),
    ] {
        assert_eq!(queue.cancel(Q, id).await?, is, "{id}");
    }
    let stats = queue.stats(Q).await?;
    assert_eq!((stats.waiting, stats.delayed), (1, 0));
    assert_eq!(ids_in_turn(&*queue).await, ["stays"]);
    DONE
}

pub async fn cancel_claimed(mode: Mode) -> Outcome {
    let (queues, queue) = open(mode).await;
    queue
        .enqueue(
            Q,
            &Enqueue {
                again_if_running: true,
                ..job("a")
            },
        )
        .await?;
    let held = claim_for(&*queue, SHORT, NO_CAP).await.expect("a job");
    queue
        .enqueue(
            Q,
            &Enqueue {
                again_if_running: true,
                ..job("a")
            },
        )
        .await?;
    assert!(!queue.is_cancelled(&held.lease).await?);
    let mut waker = queue.waker(Q).await?;
    assert!(!held.cancelled);
    assert_eq!(queues.there.cancel(Q, "a").await?, Cancelled::Marked);
    assert!(woken(&mut waker).await, "the holder is told to look");
    assert!(queue.is_cancelled(&held.lease).await?);
    // The mark outlives its holder.
    let next = wait_claim(&queue, LONG).await;
    assert!(next.cancelled && queue.is_cancelled(&next.lease).await?);
    assert!(
        !queue.is_cancelled(&held.lease).await?,
        "not the late holder's any more"
    );
    // Handed back or not.
    queue.release(&next.lease).await?;
    let next = try_claim(&*queue).await.expect("a job");
    assert!(next.cancelled);
    queue.finish(&next.lease).await?;
    assert!(
        try_claim(&*queue).await.is_none(),
        "the wish to run again is cancelled too"
    );
    queue.enqueue(Q, &job("a")).await?;
    let fresh = try_claim(&*queue).await.expect("a job");
    assert!(
        !fresh.cancelled && !queue.is_cancelled(&fresh.lease).await?,
        "the mark ends with the job"
    );
    // Handed back or put off by its holder, it is nobody's.
    queue.retry(&fresh.lease, LONG, "x").await?;
    assert_eq!(queue.cancel(Q, "a").await?, Cancelled::TakenOut);
    DONE
}

pub async fn bounds(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    let largest = Enqueue {
        payload: "x".repeat(PAYLOAD_MAX_BYTES),
        ..job("largest")
    };
    assert_eq!(queue.enqueue(Q, &largest).await?, Enqueued::Added);
    assert_eq!(
        try_claim(&*queue).await.expect("a job").payload.len(),
        PAYLOAD_MAX_BYTES
    );
    for (field, refused) in [
        (
            "payload",
            Enqueue {
                payload: "x".repeat(PAYLOAD_MAX_BYTES + 1),
                ..job("a")
            },
        ),
        (
            "id",
            Enqueue {
                id: String::new(),
                ..job("a")
            },
        ),
        (
            "id",
            Enqueue {
                id: "x".repeat(257),
                ..job("a")
            },
        ),
        (
            "tenant",
            Enqueue {
                tenant: String::new(),
                ..job("a")
            },
        ),
        (
            "max_attempts",
            Enqueue {
                max_attempts: 0,
                ..job("a")
            },
        ),
    ] {
        let error = queue.enqueue(Q, &refused).await.expect_err(field);
        assert!(!error.is_retryable(), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
    assert!(try_claim(&*queue).await.is_none());
    DONE
}
