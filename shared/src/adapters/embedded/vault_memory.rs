//! The part of the vault that lives in memory: one-time tickets and the tries that throttles count.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::ports::{PortError, Result, TICKETS_MAX, Throttle, Ticket};

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
}
