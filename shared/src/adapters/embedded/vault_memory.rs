//! The part of the vault that lives in memory: one-time tickets and the tries that throttles count.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::ports::{PortError, Result, Spent, TICKETS_MAX, Throttle, Ticket};

/// Keys that are throttled at a time; beyond it, one that is not the newcomer's is forgotten.
const THROTTLED_KEYS_MAX: usize = 100_000;

/// Tickets that wait to be redeemed, and until when.
#[derive(Default)]
pub struct Tickets {
    waiting: Mutex<HashMap<[u8; 32], (Ticket, Instant)>>,
}

impl Tickets {
    pub fn put(&self, ticket: [u8; 32], claims: &Ticket, ttl: Duration) -> Result<()> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= TICKETS_MAX {
            waiting.retain(|_, (_, until)| *until > now);
        }
        if waiting.len() >= TICKETS_MAX {
            return Err(PortError::retry(
                "put a ticket",
                format!("{TICKETS_MAX} tickets wait to be redeemed already"),
            ));
        }
        waiting.insert(ticket, (claims.clone(), now + ttl));
        Ok(())
    }

    pub fn take(&self, ticket: [u8; 32]) -> Option<Ticket> {
        let (claims, until) = self.waiting.lock().remove(&ticket)?;
        (until > Instant::now()).then_some(claims)
    }
}

/// The tries of one key, oldest first.
struct Log {
    times: VecDeque<Instant>,
    /// When the last of them leaves its window.
    until: Instant,
}

/// A sliding log for each throttled key.
#[derive(Default)]
pub struct Tries {
    /// By SHA-256: keys may be of any length.
    logs: Mutex<HashMap<[u8; 32], Log>>,
}

impl Tries {
    pub fn count(&self, key: &str, limit: u32, window: Duration) -> Throttle {
        let now = Instant::now();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let key = Sha256::digest(key).into();
        let mut logs = self.logs.lock();
        if logs.len() >= THROTTLED_KEYS_MAX && !logs.contains_key(&key) {
            logs.retain(|_, log| log.until > now);
            if logs.len() >= THROTTLED_KEYS_MAX
                && let Some(other) = logs.keys().next().copied()
            {
                logs.remove(&other);
            }
        }
        let log = logs.entry(key).or_insert_with(|| Log {
            times: VecDeque::new(),
            until: now,
        });
        while log
            .times
            .front()
            .is_some_and(|first| *first + window <= now)
        {
            log.times.pop_front();
        }
        if log.times.len() < limit {
            log.times.push_back(now);
            log.until = now + window;
            return Throttle::Allowed;
        }
        // There is room again when this one has left the window.
        let wait = log
            .times
            .get(log.times.len() - limit)
            .map_or(window, |blocking| (*blocking + window) - now);
        Throttle::Wait(wait)
    }

    pub fn forget(&self, key: &str) {
        self.logs
            .lock()
            .remove::<[u8; 32]>(&Sha256::digest(key).into());
    }

    pub fn take_back(&self, key: &str) {
        let mut logs = self.logs.lock();
        if let Some(log) = logs.get_mut::<[u8; 32]>(&Sha256::digest(key).into()) {
            log.times.pop_back();
        }
    }
}

/// What was spent under one key.
#[derive(Clone, Copy)]
struct Counter {
    /// Number of the fixed window since `Spending::began`.
    window: u64,
    current: f64,
    previous: f64,
    until: Instant,
}

/// A sliding counter for each limited key, with the arithmetic of `spend.lua`.
pub struct Spending {
    began: Instant,
    counters: Mutex<HashMap<[u8; 32], Counter>>,
}

impl Default for Spending {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            counters: Mutex::default(),
        }
    }
}

impl Spending {
    pub fn spend(&self, key: &str, limit: u32, window: Duration) -> Spent {
        let now = Instant::now();
        let window = window.max(Duration::from_micros(1));
        let elapsed = (now - self.began).as_nanos();
        let index = u64::try_from(elapsed / window.as_nanos()).unwrap_or(u64::MAX);
        let whole = window.as_secs_f64();
        let into = (now - self.began).as_secs_f64() % whole;
        let limit = f64::from(limit);
        let key = Sha256::digest(key).into();
        let mut counters = self.counters.lock();
        if counters.len() >= THROTTLED_KEYS_MAX && !counters.contains_key(&key) {
            counters.retain(|_, counter| counter.until > now);
            if counters.len() >= THROTTLED_KEYS_MAX
                && let Some(other) = counters.keys().next().copied()
            {
                counters.remove(&other);
            }
        }
        let known = counters.get(&key).copied();
        let (mut current, previous) = match known {
            Some(known) if known.window == index => (known.current, known.previous),
            Some(known) if known.window + 1 == index => (0.0, known.current),
            _ => (0.0, 0.0),
        };
        let used = current + previous * (whole - into) / whole;
        if used + 1.0 > limit {
            let wait = if current + 1.0 <= limit {
                whole * (1.0 - (limit - 1.0 - current) / previous) - into
            } else {
                whole - into + whole * (1.0 - (limit - 1.0) / current.max(1.0))
            };
            return Spent {
                allowed: false,
                remaining: 0,
                reset: Duration::try_from_secs_f64(wait.max(0.000_001)).unwrap_or(window),
            };
        }
        current += 1.0;
        let counter = Counter {
            window: index,
            current,
            previous,
            until: now + 2 * window,
        };
        counters.insert(key, counter);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the limit, which is a u32"
        )]
        let remaining = (limit - used - 1.0) as u32;
        Spent {
            allowed: true,
            remaining,
            reset: Duration::try_from_secs_f64(whole - into).unwrap_or(window),
        }
    }
}
