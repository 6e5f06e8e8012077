//! How full a Redis is: rooms stop filling it before it refuses everything, so that queues, tokens and presence, which may
//! lie beside them, find room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};
use tokio::task::JoinSet;

use super::redis::{Redis, field};
use super::watchdog::{ask_of, nodes};

/// How often it is asked.
const BEAT: Duration = Duration::from_secs(1);
/// Rooms may fill so many hundredths of `maxmemory`.
const FOR_ROOMS: u64 = 85;

/// Looks at a Redis until it is dropped.
#[derive(Debug)]
pub struct Memory {
    short: Arc<AtomicBool>,
    _watch: JoinSet<()>,
}

impl Memory {
    pub async fn watch(redis: Redis) -> Self {
        let short = Arc::new(AtomicBool::new(false));
        look(&redis, &short).await;
        let mut watch = JoinSet::new();
        let told = short.clone();
        watch.spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                look(&redis, &told).await;
            }
        });
        Self {
            short,
            _watch: watch,
        }
    }

    /// Is one of its nodes so full that rooms must wait for the archive?
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }
}

async fn look(redis: &Redis, told: &AtomicBool) {
    let client = redis.pool.next();
    let mut short = false;
    for node in nodes(client) {
        let command = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        let info = client.with_options(&ask_of(node));
        // While it does not answer nothing is known; nor does it take anything then.
        let Ok(info) = info.custom::<String, _>(command, vec!["memory"]).await else {
            return;
        };
        short |= is_full(&info);
    }
    if told.swap(short, Ordering::Relaxed) != short {
        if short {
            tracing::error!(
                "Redis is nearly full: rooms take nothing durable until the archive has caught up"
            );
        } else {
            tracing::info!("Redis has room again");
        }
    }
}

/// INFO's answer: no `maxmemory` is no bound.
fn is_full(info: &str) -> bool {
    let bytes = |name| field(info, name).and_then(|text| text.parse::<u64>().ok());
    let used = bytes("used_memory").unwrap_or(0);
    let used = used.saturating_sub(bytes("mem_not_counted_for_evict").unwrap_or(0));
    match bytes("maxmemory") {
        None | Some(0) => false,
        Some(most) => used.saturating_mul(100) >= most.saturating_mul(FOR_ROOMS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_what_rooms_may_fill_of_a_bound() {
        let info = |used: u64, uncounted: u64, most: u64| {
            format!(
                "# Memory\r\nused_memory:{used}\r\nused_memory_human:1M\r\nmaxmemory:{most}\r\nmem_not_counted_for_evict:{uncounted}\r\n"
            )
        };
        assert!(!is_full(&info(84, 0, 100)));
        assert!(is_full(&info(85, 0, 100)));
        assert!(!is_full(&info(95, 15, 100)), "buffers of replicas");
        assert!(!is_full(&info(u64::MAX, 0, 0)), "no bound");
        assert!(!is_full(""), "one that does not tell");
    }
}
