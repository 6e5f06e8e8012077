//! Work on outside bytes that somebody may have made as costly as they can: done on threads of its own, behind whatever else
//! there is to do, and waited for until it has had so much of a processor and no longer: on a busy machine sound work waits,
//! and is not refused for it. A thread can't be stopped; those that nobody waits for any more are bounded, too, and hold up
//! nobody else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::Builder;
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// What a thread's share of the processor comes to beside the server's own: about a tenth.
const NICE: i32 = 10;

/// Work that gets no processor is waited for so many times its patience.
const STARVED_MOST: u32 = 12;
/// Least time between two looks at how much of a processor it had.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One kind of such work, in the whole process.
#[derive(Debug)]
pub struct Costly {
    /// Work that somebody waits for.
    turns: Semaphore,
    /// All of it, until it ends.
    threads: Semaphore,
    patience: Duration,
}

/// Why there is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unfinished {
    /// It was not begun: there is too much of it. It can be tried again.
    #[error("too much is being worked on; try again")]
    Busy,
    /// It took more than anybody waits for, or panicked.
    #[error("it takes too long")]
    TooCostly,
}

impl Costly {
    /// So much of it is done at once; a turn is waited for as long as `patience`, and then its end until it has had the
    /// processor for as long. `threads`: with those that nobody waits for any more; beyond it all is refused until one ends.
    pub const fn new(at_once: usize, threads: usize, patience: Duration) -> Self {
        Self {
            turns: Semaphore::const_new(at_once),
            threads: Semaphore::const_new(threads),
            patience,
        }
    }

    /// # Errors
    /// See [`Unfinished`].
    pub async fn run<T: Send + 'static>(
        &'static self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let turn = timeout(self.patience, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Unfinished::Busy);
        };
        let thread = self.threads.try_acquire().map_err(|_| Unfinished::Busy)?;
        let (tell, told) = oneshot::channel();
        let thread_id = Arc::new(OnceLock::new());
        let its_id = thread_id.clone();
        let work = move || {
            let _ = its_id.set(gettid());
            // On Linux this is the calling thread's alone. Should it be refused, the work is only less polite.
            let _ = setpriority_process(None, NICE);
            let outcome = catch_unwind(AssertUnwindSafe(work));
            // Before it is told: whoever hears of it finds the place free.
            drop(thread);
            if let Ok(outcome) = outcome {
                // Nobody may be waiting any more.
                let _ = tell.send(outcome);
            }
        };
        let spawned = Builder::new().name("costly".into()).spawn(work);
        spawned.map_err(|_| Unfinished::Busy)?;
        self.wait(told, &thread_id).await
    }

    async fn wait<T>(
        &self,
        mut told: oneshot::Receiver<T>,
        thread: &OnceLock<Pid>,
    ) -> Result<T, Unfinished> {
        let began = Instant::now();
        let mut pause = self.patience;
        loop {
            match timeout(pause, &mut told).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(_)) => return Err(Unfinished::TooCostly),
                Err(_) => {}
            }
            let had = thread.get().map_or(Duration::ZERO, |id| {
                // Where it can't be told, it had what there was.
                processor_time(*id).unwrap_or_else(|| began.elapsed())
            });
            let left = self.patience.saturating_sub(had);
            if left.is_zero() || began.elapsed() >= self.patience * STARVED_MOST {
                return Err(Unfinished::TooCostly);
            }
            pause = left.max(LOOK_EVERY);
        }
    }
}

/// How long a thread of this process has been on a processor.
fn processor_time(thread: Pid) -> Option<Duration> {
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero());
    let text = std::fs::read_to_string(path).ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, TryRecvError};

    use super::*;

    /// Work that lasts until the test lets it end, and keeps a processor busy.
    fn endless() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (end, ended) = mpsc::channel::<()>();
        let work = move || {
            while ended.try_recv() == Err(TryRecvError::Empty) {
                std::hint::spin_loop();
            }
        };
        (end, work)
    }

    #[tokio::test]
    async fn what_gets_no_processor_is_waited_for() {
        static WORK: Costly = Costly::new(1, 1, Duration::from_millis(10));
        let (end, ended) = mpsc::channel::<()>();
        let work = WORK.run(move || ended.recv().map(drop));
        tokio::pin!(work);
        // Twice its patience, asleep.
        assert!(timeout(WORK.patience * 2, &mut work).await.is_err());
        end.send(()).unwrap();
        assert_eq!(work.await, Ok(Ok(())));
    }

    #[tokio::test]
    async fn what_takes_too_long_holds_up_nobody_and_is_bounded() {
        static WORK: Costly = Costly::new(1, 3, Duration::from_secs(1));
        let mut held = Vec::new();
        for _ in 0..2 {
            let (end, work) = endless();
            assert_eq!(WORK.run(work).await, Err(Unfinished::TooCostly));
            held.push(end);
        }
        assert_eq!(WORK.run(|| 7).await, Ok(7), "its turn is free again");
        let (end, work) = endless();
        assert_eq!(WORK.run(work).await, Err(Unfinished::TooCostly));
        assert_eq!(WORK.run(|| 7).await, Err(Unfinished::Busy), "three threads");
        drop((end, held));
        while WORK.threads.available_permits() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(WORK.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_turn_is_waited_for_and_then_it_is_busy() {
        static WORK: Costly = Costly::new(1, 2, Duration::from_secs(1));
        let turn = WORK.turns.acquire().await;
        assert_eq!(WORK.run(|| 7).await, Err(Unfinished::Busy));
        drop(turn);
        assert_eq!(WORK.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_is_no_outcome() {
        static WORK: Costly = Costly::new(1, 1, Duration::from_secs(60));
        let panics = || -> u32 { panic!("on purpose") };
        assert_eq!(WORK.run(panics).await, Err(Unfinished::TooCostly));
        assert_eq!(WORK.run(|| 7).await, Ok(7));
    }
}
