//! No-op jobs through our queue on Redis, enqueued and worked off in one process, as a program of its own: what it uses is
//! the jobs' alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use apalis_core::monitor::Monitor;
use atelier_shared::Backends;
use atelier_shared::config::StoreConfig;
use atelier_shared::ports::Enqueue;
use atelier_worker::bridge::{self, Backoff, Lane, LaneConfig};
use atelier_worker::jobs::{Attempt, Failure, Job};
use clap::Parser;
use futures::future::try_join_all;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Held at a time.
pub const CONCURRENCY: usize = 16;
/// Enqueued at a time.
pub const TOGETHER: usize = 64;

#[derive(Parser)]
struct Stores {
    #[command(flatten)]
    stores: StoreConfig,
}

#[derive(Deserialize)]
struct Noop {
    #[expect(dead_code, reason = "only there to be decoded")]
    n: usize,
}

struct Count {
    left: AtomicUsize,
    done: Notify,
}

impl Job for Noop {
    type Services = Arc<Count>;

    const QUEUE: &'static str = "noop";
    const TIMEOUT: Duration = Duration::from_secs(60);
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        most: Duration::from_secs(1),
    };

    async fn run(self, _: Attempt, count: Arc<Count>) -> Result<(), Failure> {
        if count.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            count.done.notify_one();
        }
        Ok(())
    }
}

/// The role: does `jobs` of them and prints `{"seconds", "cpu_us"}`.
pub fn run(jobs: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(measure(jobs))
}

async fn measure(jobs: usize) -> Result<()> {
    let mut stores = Stores::try_parse_from(["bench"])?.stores;
    stores.redis_namespace = format!("bench-{}", std::process::id());
    let queue = Backends::open(&stores).await?.queue;
    let stop = CancellationToken::new();
    let config = LaneConfig {
        concurrency: CONCURRENCY,
        in_flight_per_tenant: u32::MAX,
        lease: Duration::from_secs(30),
        renew_every: Duration::from_secs(10),
    };
    let count = Arc::new(Count {
        left: AtomicUsize::new(jobs),
        done: Notify::new(),
    });
    let lane = Lane::new(queue.clone(), Noop::QUEUE, config, stop.clone());
    let monitor = bridge::register::<Noop>(Monitor::new(), lane.clone(), count.clone());
    let served = bridge::serve(monitor, vec![lane], stop.clone(), Duration::from_secs(5));
    let served = tokio::spawn(served);

    let (cpu, began) = (cpu_us()?, Instant::now());
    for first in (0..jobs).step_by(TOGETHER) {
        let last = (first + TOGETHER).min(jobs);
        try_join_all((first..last).map(|n| {
            let queue = queue.clone();
            async move {
                let job = Enqueue {
                    id: n.to_string(),
                    payload: format!("{{\"n\":{n}}}"),
                    tenant: "bench".into(),
                    priority: 0,
                    delay: Duration::ZERO,
                    max_attempts: 1,
                    traceparent: None,
                    again_if_running: false,
                };
                queue.enqueue(Noop::QUEUE, &job).await
            }
        }))
        .await?;
    }
    count.done.notified().await;
    let (seconds, used) = (began.elapsed().as_secs_f64(), cpu_us()? - cpu);
    stop.cancel();
    served.await??;
    let figures = serde_json::json!({ "seconds": seconds, "cpu_us": used });
    #[expect(clippy::print_stdout, reason = "whoever started it reads this")]
    {
        println!("{figures}");
    }
    Ok(())
}

/// Of all threads, so far.
fn cpu_us() -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The command's name may hold anything, up to the last bracket; user and system time are the 14th and 15th field.
    let fields = stat.rsplit_once(')').context("a name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    // Linux counts in hundredths of a second, whatever the kernel's own clock.
    Ok(ticks * 10_000)
}
