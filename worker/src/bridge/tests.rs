//! The bridge over the SQLite queue: what becomes of jobs that return, fail, panic, hang, lose their lease, are
//! cancelled, and of those that run when the worker must end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use atelier_shared::Backends;
use atelier_shared::config::StoreConfig;
use atelier_shared::ports::{Cancelled, DeadJob, Enqueue, Queue, QueueStats, Settled};
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

type Work = Arc<dyn Fn(Attempt) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;

/// A job that does what the test says.
#[derive(Deserialize)]
struct Scripted {
    #[expect(dead_code, reason = "only there to be decoded")]
    n: u32,
}

impl Job for Scripted {
    type Services = Work;
    const QUEUE: &'static str = "scripted";
    const TIMEOUT: Duration = Duration::from_millis(1_500);
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(10),
        most: Duration::from_millis(50),
    };

    async fn run(self, attempt: Attempt, work: Work) -> Result<(), Failure> {
        work(attempt).await
    }
}

const CONFIG: LaneConfig = LaneConfig {
    concurrency: 2,
    in_flight_per_tenant: 100,
    lease: Duration::from_secs(30),
    renew_every: Duration::from_secs(10),
};

struct Bench {
    queue: Arc<dyn Queue>,
    stop: CancellationToken,
    served: JoinHandle<Result<(), MonitorError>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn start<F, R>(config: LaneConfig, drain: Duration, work: F) -> Self
    where
        F: Fn(Attempt) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let stores = StoreConfig {
            data_dir: folder.path().to_owned(),
            ..StoreConfig::default()
        };
        let queue = Backends::open(&stores).await.unwrap().queue;
        let stop = CancellationToken::new();
        let lane = Lane::new(queue.clone(), Scripted::QUEUE, config, stop.clone());
        let work: Work = Arc::new(move |attempt| Box::pin(work(attempt)));
        let monitor = register::<Scripted>(Monitor::new(), lane.clone(), work);
        let signal = stop.clone();
        let served = tokio::spawn(async move { serve(monitor, vec![lane], signal, drain).await });
        Self {
            queue,
            stop,
            served,
            _folder: folder,
        }
    }

    async fn enqueue(&self, id: &str, payload: &str, max_attempts: u32) {
        let job = Enqueue {
            id: id.into(),
            payload: payload.into(),
            tenant: "t".into(),
            priority: 0,
            delay: Duration::ZERO,
            max_attempts,
            traceparent: None,
            again_if_running: false,
        };
        self.queue.enqueue(Scripted::QUEUE, &job).await.unwrap();
    }

    async fn one(&self, max_attempts: u32) {
        self.enqueue("one", "{\"n\":1}", max_attempts).await;
    }

    async fn stats(&self) -> QueueStats {
        self.queue.stats(Scripted::QUEUE).await.unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&QueueStats) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.stats().await) {
            assert!(
                begun.elapsed() < DEADLINE,
                "never {what}: {:?}",
                self.stats().await
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn dead(&self) -> Vec<DeadJob> {
        self.until("dead", |stats| stats.dead > 0).await;
        self.queue.dead(Scripted::QUEUE, 10).await.unwrap()
    }

    /// Stops the worker and says how long that took.
    async fn end(self) -> (Arc<dyn Queue>, Duration, tempfile::TempDir) {
        let begun = Instant::now();
        self.stop.cancel();
        let served = tokio::time::timeout(DEADLINE, self.served).await;
        served.expect("it ends").unwrap().unwrap();
        (self.queue, begun.elapsed(), self._folder)
    }
}

#[tokio::test]
async fn a_job_that_returns_is_finished() {
    let bench = Bench::start(CONFIG, DEADLINE, |attempt| async move {
        assert_eq!(
            (attempt.id.as_str(), attempt.number, attempt.most),
            ("one", 1, 3)
        );
        Ok(())
    })
    .await;
    bench.one(3).await;
    bench
        .until("finished", |stats| stats.finished_total == 1)
        .await;
    assert_eq!(bench.stats().await.in_flight, 0);
    bench.end().await;
}

#[tokio::test]
async fn an_idle_worker_is_woken_at_once() {
    let (done, mut times) = mpsc::unbounded_channel();
    let bench = Bench::start(CONFIG, DEADLINE, move |_| {
        done.send(Instant::now()).unwrap();
        async { Ok(()) }
    })
    .await;
    for n in 0..3 {
        // Idle: the claimer has found nothing and waits.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let queued = Instant::now();
        bench.enqueue(&n.to_string(), "{\"n\":1}", 1).await;
        let begun = times.recv().await.unwrap();
        let took = begun.duration_since(queued);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_failing_job_is_tried_again_until_its_attempts_are_used_up() {
    let bench = Bench::start(CONFIG, DEADLINE, |attempt| async move {
        Err(Failure::Retry(format!("broken {}", attempt.number)))
    })
    .await;
    bench.one(3).await;
    let dead = bench.dead().await;
    assert_eq!((dead[0].reason.as_str(), dead[0].attempts), ("broken 3", 3));
    bench.end().await;
}

#[tokio::test]
async fn a_final_failure_is_buried_at_once() {
    let bench = Bench::start(CONFIG, DEADLINE, |_| async {
        Err(Failure::Final("no use".into()))
    })
    .await;
    bench.one(3).await;
    let dead = bench.dead().await;
    assert_eq!((dead[0].reason.as_str(), dead[0].attempts), ("no use", 1));
    bench.end().await;
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_the_worker_lives_on() {
    let bench = Bench::start(CONFIG, DEADLINE, |attempt| async move {
        assert!(attempt.number > 1, "the first time it panics");
        Ok(())
    })
    .await;
    bench.one(2).await;
    bench
        .until("finished", |stats| stats.finished_total == 1)
        .await;
    bench.end().await;
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_buried_and_the_next_is_done() {
    let bench = Bench::start(CONFIG, DEADLINE, |_| async { Ok(()) }).await;
    bench.enqueue("bad", "not json", 3).await;
    bench.one(3).await;
    let dead = bench.dead().await;
    assert_eq!(dead[0].id, "bad");
    assert!(
        dead[0].reason.starts_with("the payload can't be read"),
        "{}",
        dead[0].reason
    );
    bench
        .until("finished", |stats| stats.finished_total == 1)
        .await;
    bench.end().await;
}

#[tokio::test]
async fn a_job_that_hangs_is_stopped_at_its_timeout_and_tried_again() {
    let bench = Bench::start(CONFIG, DEADLINE, |attempt| async move {
        if attempt.number == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    })
    .await;
    bench.one(2).await;
    bench
        .until("finished", |stats| stats.finished_total == 1)
        .await;
    bench.end().await;
}

#[tokio::test]
async fn a_long_job_keeps_its_lease() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let config = LaneConfig {
        lease: Duration::from_millis(300),
        renew_every: Duration::from_millis(60),
        ..CONFIG
    };
    let bench = Bench::start(config, DEADLINE, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            Ok(())
        }
    })
    .await;
    bench.one(5).await;
    bench
        .until("finished", |stats| stats.finished_total == 1)
        .await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    bench.end().await;
}

/// Tells when it is dropped.
struct OnDrop(mpsc::UnboundedSender<u32>, u32);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

#[tokio::test]
async fn a_lost_lease_stops_its_handler_and_settles_nothing() {
    let (stopped, mut stops) = mpsc::unbounded_channel();
    let config = LaneConfig {
        lease: Duration::from_millis(200),
        // Never renewed: as if the store had been away for a whole lease.
        renew_every: DEADLINE,
        ..CONFIG
    };
    let bench = Bench::start(config, DEADLINE, move |attempt| {
        let stopped = OnDrop(stopped.clone(), attempt.number);
        async move {
            if attempt.number == 1 {
                std::future::pending::<()>().await;
            }
            drop(stopped);
            Ok(())
        }
    })
    .await;
    bench.one(5).await;
    bench
        .until("finished", |stats| stats.finished_total == 1)
        .await;
    // In either order: stopping a task and running the next are nobody's to serialise.
    let mut stopped = Vec::new();
    while stopped.len() < 2 {
        let next = tokio::time::timeout(DEADLINE, stops.recv()).await;
        stopped.extend(next.expect("the first attempt is stopped"));
    }
    stopped.sort_unstable();
    assert_eq!(stopped, [1, 2]);
    let stats = bench.stats().await;
    assert_eq!(
        (stats.in_flight, stats.dead, stats.delayed),
        (0, 0, 0),
        "the lost one settled nothing"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_cancel_reaches_the_running_job_in_good_time() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let bench = Bench::start(CONFIG, DEADLINE, move |attempt| {
        begun.send(()).unwrap();
        async move {
            attempt.cancel.cancelled().await;
            Ok(())
        }
    })
    .await;
    bench.one(1).await;
    begins.recv().await.unwrap();
    let asked = Instant::now();
    let cancelled = bench.queue.cancel(Scripted::QUEUE, "one").await.unwrap();
    assert_eq!(cancelled, Cancelled::Marked);
    bench
        .until("finished", |stats| stats.finished_total == 1)
        .await;
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    bench.end().await;
}

#[tokio::test]
async fn no_more_jobs_are_held_than_allowed() {
    let running = Arc::new(AtomicUsize::new(0));
    let bench = Bench::start(CONFIG, DEADLINE, move |_| {
        let running = running.clone();
        async move {
            assert!(running.fetch_add(1, Ordering::SeqCst) < 2, "two at a time");
            tokio::time::sleep(Duration::from_millis(10)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .await;
    for n in 0..20 {
        bench.enqueue(&n.to_string(), "{\"n\":1}", 1).await;
    }
    while bench.stats().await.finished_total < 20 {
        let stats = bench.stats().await;
        assert!(stats.in_flight <= 2, "{stats:?}");
        assert_eq!(stats.dead, 0);
        tokio::task::yield_now().await;
    }
    bench.end().await;
}

#[tokio::test]
async fn a_stopping_worker_lets_its_jobs_finish_and_claims_no_more() {
    let bench = Bench::start(CONFIG, DEADLINE, |_| async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Ok(())
    })
    .await;
    for n in 0..5 {
        bench.enqueue(&n.to_string(), "{\"n\":1}", 1).await;
    }
    bench
        .until("two in flight", |stats| stats.in_flight == 2)
        .await;
    let (queue, took, _folder) = bench.end().await;
    assert!(
        took < Duration::from_secs(5),
        "it does not wait for the whole drain: {took:?}"
    );
    let stats = queue.stats(Scripted::QUEUE).await.unwrap();
    assert_eq!(
        (stats.finished_total, stats.in_flight, stats.waiting),
        (2, 0, 3)
    );
}

#[tokio::test]
async fn what_does_not_finish_in_the_drain_is_handed_back_uncounted() {
    let (stopped, mut stops) = mpsc::unbounded_channel();
    let bench = Bench::start(CONFIG, Duration::from_millis(200), move |attempt| {
        let stopped = OnDrop(stopped.clone(), attempt.number);
        async move {
            std::future::pending::<()>().await;
            drop(stopped);
            Ok(())
        }
    })
    .await;
    bench.one(1).await;
    bench.until("in flight", |stats| stats.in_flight == 1).await;
    let (queue, took, _folder) = bench.end().await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    let stopped = tokio::time::timeout(DEADLINE, stops.recv()).await;
    assert_eq!(stopped.unwrap(), Some(1), "the handler is gone");
    let again = queue.claim(Scripted::QUEUE, DEADLINE, 10).await.unwrap();
    let again = again.expect("it waits again at once");
    assert_eq!((again.lease.id.as_str(), again.attempt), ("one", 1));
    assert_eq!(queue.finish(&again.lease).await.unwrap(), Settled::Done);
}
