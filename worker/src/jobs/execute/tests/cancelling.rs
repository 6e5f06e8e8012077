//! Cancelled while nobody holds it, or under an earlier holder.

use atelier_shared::outbox;

use super::*;

/// Handed back by a worker that stopped, put off after a failure, or lost by the queue.
#[tokio::test]
async fn a_run_that_nobody_holds_is_cancelled_at_once_and_runs_no_more() {
    let bench = Bench::new(|_, _| async { Ok(exited(0, "hi\n")) }).await;
    let (records, queue) = (&*bench.execution.records, &*bench.execution.queue);
    let hour = Duration::from_secs(3_600);
    for how in ["handed back", "put off", "lost"] {
        let row = bench.submit("bash").await;
        outbox::hand_over(records, queue, &row).await.unwrap();
        let lease = queue
            .claim(QUEUE_CODE, hour, 1)
            .await
            .unwrap()
            .unwrap()
            .lease;
        assert!(records.start_job(row.id, 1, Utc::now()).await.unwrap());
        match how {
            "handed back" => queue.release(&lease).await,
            "put off" => queue.retry(&lease, hour, "a store is away").await,
            _ => queue.finish(&lease).await,
        }
        .unwrap();
        withdrawal::cancel(&bench.backends, &row).await.unwrap();
        assert_eq!(bench.state(&row).await, JobState::Cancelled, "{how}");
        let result = bench.result(&row).await.unwrap();
        assert_eq!(result.status, JobState::Cancelled, "{how}");
        assert_eq!(bench.told(&row).await, ["run_finished"], "{how}");
        assert!(queue.claim(QUEUE_CODE, hour, 1).await.unwrap().is_err());
        // Should somebody have it all the same, it is over.
        bench.run(&row, 2).await.unwrap();
        assert_eq!((bench.runs(), bench.result(&row).await), (0, Some(result)));
    }
}

#[tokio::test]
async fn a_run_that_was_cancelled_under_an_earlier_holder_is_not_begun() {
    let bench = Bench::new(|_, _| async { Ok(exited(0, "hi\n")) }).await;
    let row = bench.submit("bash").await;
    let records = &bench.execution.records;
    assert!(records.start_job(row.id, 1, Utc::now()).await.unwrap());
    let cancel = CancellationToken::new();
    cancel.cancel();
    bench.run_as(&row, 2, cancel).await.unwrap();
    let state = bench.state(&row).await;
    assert_eq!((bench.runs(), state), (0, JobState::Cancelled));
}
