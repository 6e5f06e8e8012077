//! Who is next: turns between tenants, priorities and arrival within one, caps.

use atelier_shared::ports::Cancelled;

use super::*;

fn of(tenant: &str, id: &str) -> Enqueue {
    Enqueue {
        tenant: tenant.into(),
        ..job(id)
    }
}

pub async fn priority(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    for (id, priority) in [
        ("low", -5),
        ("first", 0),
        ("second", 0),
        ("high", 7),
        ("lowest", i16::MIN),
        ("highest", i16::MAX),
    ] {
        queue
            .enqueue(
                Q,
                &Enqueue {
                    priority,
                    ..job(id)
                },
            )
            .await?;
    }
    // More than sixteen of one priority: order by number, not by text.
    for n in 0..20 {
        queue.enqueue(Q, &job(&format!("n{n}"))).await?;
    }
    let ids = ids_in_turn(&*queue).await;
    assert_eq!(ids[..4], ["highest", "high", "first", "second"]);
    let numbered: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    assert_eq!(ids[4..24], numbered[..]);
    assert_eq!(ids[24..], ["low", "lowest"]);
    DONE
}

pub async fn turns(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    for n in 0..50 {
        queue.enqueue(Q, &of("flood", &format!("f{n}"))).await?;
    }
    for n in 0..2 {
        queue.enqueue(Q, &of("b", &format!("b{n}"))).await?;
        queue.enqueue(Q, &of("c", &format!("c{n}"))).await?;
    }
    let ids = ids_in_turn(&*queue).await;
    assert_eq!(ids[..6], ["f0", "b0", "c0", "f1", "b1", "c1"]);
    assert_eq!(ids.len(), 54);
    DONE
}

pub async fn cap(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    for n in 0..4 {
        queue.enqueue(Q, &of("flood", &format!("f{n}"))).await?;
    }
    queue.enqueue(Q, &of("b", "b0")).await?;
    let mut held = Vec::new();
    while let Some(claimed) = claim_for(&*queue, LONG, 2).await {
        held.push(claimed);
    }
    let ids: Vec<_> = held.iter().map(|c| c.lease.id.as_str()).collect();
    assert_eq!(ids, ["f0", "b0", "f1"], "two of the flood, and the other's");
    let mut waker = queue.waker(Q).await?;
    waker.borrow_and_update();
    queue.finish(&held[0].lease).await?;
    assert!(woken(&mut waker).await, "room for one more is told");
    assert_eq!(
        claim_for(&*queue, LONG, 2)
            .await
            .expect("room for one")
            .lease
            .id,
        "f2"
    );
    assert!(claim_for(&*queue, LONG, 2).await.is_none());
    DONE
}

pub async fn cap_frees(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    for n in 0..6 {
        queue
            .enqueue(
                Q,
                &Enqueue {
                    max_attempts: 2,
                    ..of("t", &format!("t{n}"))
                },
            )
            .await?;
    }
    let one = async || claim_for(&*queue, LONG, 1).await;
    let held = one().await.expect("t0");
    assert!(one().await.is_none());
    queue.bury(&held.lease, "no use").await?;
    let held = one().await.expect("t1");
    assert!(one().await.is_none());
    queue.retry(&held.lease, LONG, "later").await?;
    let held = one().await.expect("t2");
    assert!(one().await.is_none());
    queue.release(&held.lease).await?;
    let held = claim_for(&*queue, SHORT, 1).await.expect("t2 again");
    assert_eq!(held.lease.id, "t2");
    assert!(one().await.is_none());
    outwait(&*queue, &held).await;
    let held = one().await.expect("t2 after its lease lapsed");
    assert_eq!((held.lease.id.as_str(), held.attempt), ("t2", 2));
    assert!(one().await.is_none());
    assert_eq!(queue.cancel(Q, "t3").await?, Cancelled::TakenOut);
    queue.finish(&held.lease).await?;
    assert_eq!(one().await.expect("t4").lease.id, "t4");
    assert!(one().await.is_none());
    DONE
}
