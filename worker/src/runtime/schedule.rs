//! The schedule: what is done by the clock, each beat by one of all workers.
//!
//! To add something: a [`Beat`] here, and one line in [`super::Worker::run`] that hands it to [`Schedule::every`] (short
//! upkeep, done on the spot) or to [`Schedule::queue_every`] (work for a queue, with its leases, attempts and dead
//! letters). Beats are multiples of their length since 1970, the same on every worker; whoever claims one does it. A
//! claimant that dies before it is done leaves its beat undone: what is scheduled must be made good by the next.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::ports::{Enqueue, PortError, Queue};
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What happens how often. The name stands in the queue's memory of ticks, so two things never share one.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    pub name: &'static str,
    pub every: Duration,
}

/// Rows the queue was never confirmed to have.
pub const OUTBOX: Beat = Beat::new("outbox", Duration::from_secs(2));
/// Rows that are not over, offered to the queue again in case it lost its memory.
pub const OUTBOX_DOUBT: Beat = Beat::new("outbox-doubt", Duration::from_secs(30));
/// Jobs whose every attempt was lost.
pub const DEAD_LETTERS: Beat = Beat::new("dead-letters", Duration::from_secs(2));
/// Results whose time is over.
pub const RESULTS: Beat = Beat::new("results", Duration::from_secs(60));

impl Beat {
    pub const fn new(name: &'static str, every: Duration) -> Self {
        Self { name, every }
    }

    fn every_ms(self) -> i64 {
        i64::try_from(self.every.as_millis())
            .unwrap_or(i64::MAX)
            .max(1)
    }

    /// The beat under way at `now`, and how long it still lasts.
    fn at(self, now: DateTime<Utc>) -> (i64, Duration) {
        let (now_ms, every_ms) = (now.timestamp_millis(), self.every_ms());
        let rest_ms = every_ms - now_ms.rem_euclid(every_ms);
        let rest = Duration::from_millis(rest_ms.unsigned_abs());
        (now_ms.div_euclid(every_ms), rest)
    }

    /// Ticks are remembered for longer than any two clocks of an installation differ.
    fn remembered(self) -> Duration {
        (self.every * 10).max(Duration::from_secs(10 * 60))
    }
}

/// How soon work that failed is tried again within its own beat.
const AGAIN: Duration = Duration::from_secs(5);

/// This worker's part in what is done by the clock.
pub struct Schedule {
    queue: Arc<dyn Queue>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Schedule {
    /// Beats until `stop`.
    pub fn new(queue: Arc<dyn Queue>, stop: CancellationToken) -> Self {
        Self {
            queue,
            stop,
            tasks: TaskTracker::new(),
        }
    }

    /// Does `work` once per beat among all workers that schedule it; the beat under way at the start is taken too, unless
    /// somebody has it. Work that fails is tried again within its beat. Work that takes longer than a beat misses beats.
    pub fn every<F>(&self, beat: Beat, mut work: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), PortError>> + Send,
    {
        let (queue, stop) = (self.queue.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let mut failed = false;
            while !stop.is_cancelled() {
                let (tick, _) = beat.at(Utc::now());
                let done = match queue.claim_tick(beat.name, tick, beat.remembered()).await {
                    Ok(true) => until_done(beat, tick, &stop, &mut work).await,
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = &done
                    && !failed
                {
                    tracing::warn!(beat = beat.name, %error, "scheduled work failed; the next beat tries again");
                }
                failed = done.is_err();
                // Not from before the work: the beat it ended in may be a later one, and that one is not over.
                let (now, rest) = beat.at(Utc::now());
                if now == tick {
                    pause(rest, &stop).await;
                }
            }
        });
    }

    /// Queues a job on `queue` once per beat among all workers that schedule it. `job` is given the beat's own time. While
    /// the last one is still waiting or running and the id is the same, nothing is added: late work does not pile up.
    pub fn queue_every(
        &self,
        beat: Beat,
        queue: &'static str,
        job: impl Fn(DateTime<Utc>) -> Enqueue + Send + Sync + 'static,
    ) {
        let (store, job) = (self.queue.clone(), Arc::new(job));
        self.every(beat, move || {
            let (store, job) = (store.clone(), job.clone());
            async move {
                let (tick, _) = beat.at(Utc::now());
                let at = DateTime::from_timestamp_millis(tick.saturating_mul(beat.every_ms()));
                store
                    .enqueue(queue, &job(at.unwrap_or_default()))
                    .await
                    .map(drop)
            }
        });
    }

    /// After the stop: waits for what is under way.
    pub async fn ended(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The beat is ours: does its work, again after a failure, while the beat lasts.
async fn until_done<F>(
    beat: Beat,
    tick: i64,
    stop: &CancellationToken,
    work: &mut impl FnMut() -> F,
) -> Result<(), PortError>
where
    F: Future<Output = Result<(), PortError>>,
{
    loop {
        let done = work().await;
        if done.is_ok() {
            return done;
        }
        pause(AGAIN, stop).await;
        if stop.is_cancelled() || beat.at(Utc::now()).0 != tick {
            return done;
        }
    }
}

async fn pause(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use atelier_shared::Backends;
    use atelier_shared::config::StoreConfig;
    use parking_lot::Mutex;

    use super::*;

    async fn queue() -> (Arc<dyn Queue>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let stores = StoreConfig {
            data_dir: folder.path().to_owned(),
            ..StoreConfig::default()
        };
        (Backends::open(&stores).await.unwrap().queue, folder)
    }

    #[tokio::test]
    async fn each_beat_is_done_by_one_of_three_workers() {
        const BEAT: Beat = Beat::new("test", Duration::from_millis(40));
        const TICKS: usize = 10;
        let (queue, _folder) = queue().await;
        let stop = CancellationToken::new();
        let done: Arc<Mutex<Vec<i64>>> = Arc::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let schedule = Schedule::new(queue.clone(), stop.clone());
                let (done, stop) = (done.clone(), stop.clone());
                // The queue's answer is what makes a beat ours; its number is asked for after it, so a slow machine may
                // see a later one, but never one twice.
                schedule.every(BEAT, move || {
                    let mut done = done.lock();
                    done.push(BEAT.at(Utc::now()).0);
                    if done.len() >= TICKS {
                        stop.cancel();
                    }
                    std::future::ready(Ok(()))
                });
                schedule
            })
            .collect();
        for worker in workers {
            worker.ended().await;
        }
        let done = done.lock();
        let beats = done.last().unwrap() - done.first().unwrap() + 1;
        assert!(done.len() >= TICKS);
        assert!(
            done.len() <= usize::try_from(beats).unwrap() + 1,
            "{} times in {beats} beats: {done:?}",
            done.len()
        );
    }

    #[tokio::test]
    async fn a_job_that_is_still_waiting_is_not_queued_twice() {
        const BEAT: Beat = Beat::new("test", Duration::from_millis(20));
        let (queue, _folder) = queue().await;
        let stop = CancellationToken::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let schedule = Schedule::new(queue.clone(), stop.clone());
        let (count, signal) = (asked.clone(), stop.clone());
        schedule.queue_every(BEAT, "scheduled", move |at| {
            if count.fetch_add(1, Ordering::SeqCst) == 4 {
                signal.cancel();
            }
            assert_eq!(at.timestamp_millis() % 20, 0);
            Enqueue {
                id: "nightly".into(),
                payload: "{}".into(),
                tenant: "installation".into(),
                priority: 0,
                delay: Duration::ZERO,
                max_attempts: 1,
                traceparent: None,
                again_if_running: false,
            }
        });
        schedule.ended().await;
        assert!(asked.load(Ordering::SeqCst) >= 5);
        assert_eq!(queue.stats("scheduled").await.unwrap().waiting, 1);
    }
}
