//! Work on outside bytes that somebody may have made as costly as they can: done on threads of its own, behind whatever else
//! there is to do, and waited for so long and no longer. A thread can't be stopped; those that nobody waits for any more are
//! bounded, too, and hold up nobody else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;
use std::time::Duration;

use rustix::process::setpriority_process;
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// What a thread's share of the processor comes to beside the server's own: about a tenth.
const NICE: i32 = 10;

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
    /// It took longer than anybody waits, or panicked.
    #[error("it takes too long")]
    TooCostly,
}

impl Costly {
    /// So much of it is done at once; a turn, and then its end, is waited for as long as `patience`. `threads`: with those
    /// that nobody waits for any more; beyond it all is refused until one ends.
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
        let work = move || {
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
        match timeout(self.patience, told).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) | Err(_) => Err(Unfinished::TooCostly),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that lasts until the test lets it end.
    fn endless() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (end, ended) = mpsc::channel::<()>();
        (end, move || _ = ended.recv())
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
