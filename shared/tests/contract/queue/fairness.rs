//! A tenant's flood is its own to wait for.

use futures::{StreamExt, TryStreamExt, stream};

use super::*;

const FLOOD: usize = 9_600;
const OTHERS: usize = 200;
/// Calls under way at a time.
const AT_ONCE: usize = 64;

async fn enqueue(queue: &dyn Queue, tenant: &str, jobs: usize) -> Outcome {
    stream::iter(0..jobs)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, |n| async move {
            let job = Enqueue {
                tenant: tenant.into(),
                ..job(&format!("{tenant}-{n}"))
            };
            queue.enqueue(Q, &job).await.map(drop)
        })
        .await
        .map_err(Into::into)
}

/// Told in turns, not in time: with an empty queue the n-th job of a tenant has the n-th turn; beside two others it may
/// wait for three times as many, whatever the others' number.
pub async fn flood(mode: Mode) -> Outcome {
    let (_queues, queue) = open(mode).await;
    enqueue(&*queue, "flood", FLOOD).await?;
    for tenant in ["ana", "ben"] {
        enqueue(&*queue, tenant, OTHERS).await?;
    }
    let (mut turn, mut served) = (0_usize, [0_usize; 2]);
    while served != [OTHERS; 2] {
        let claimed = try_claim(&*queue).await.expect("a job");
        turn += 1;
        if let Some(who) = ["ana", "ben"]
            .iter()
            .position(|name| claimed.tenant == *name)
        {
            served[who] += 1;
            let n = served[who];
            assert!(
                turn <= 3 * n + 2,
                "job {n} of {} had turn {turn}",
                claimed.tenant
            );
        }
        assert_eq!(queue.finish(&claimed.lease).await?, Settled::Done);
    }
    assert_eq!(
        queue.stats(Q).await?.waiting as usize,
        FLOOD + 2 * OTHERS - turn,
        "the flood's own jobs still wait"
    );
    DONE
}
