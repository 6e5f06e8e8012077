//! How fast a client may speak, and how often it may be refused.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::GatewayConfig;

/// Refused messages in `REFUSAL_WINDOW` before the connection is closed 4429.
const REFUSALS_MAX: usize = 20;
const REFUSAL_WINDOW: Duration = Duration::from_secs(10);

/// Messages of one connection, by a token bucket: `MESSAGE_RATE` a second, `MESSAGE_BURST` at once.
#[derive(Debug)]
pub struct Rate {
    tokens: f32,
    at: Instant,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "bounded far below 2^24")]
    pub fn new(config: &GatewayConfig) -> Self {
        Self {
            tokens: config.message_burst as f32,
            at: Instant::now(),
        }
    }

    /// Takes one token, or says in how many milliseconds there will be one.
    #[expect(clippy::cast_precision_loss, reason = "bounded far below 2^24")]
    pub fn take(&mut self, config: &GatewayConfig) -> Result<(), u64> {
        let (rate, burst) = (config.message_rate as f32, config.message_burst as f32);
        let now = Instant::now();
        let refill = now.duration_since(self.at).as_secs_f32() * rate;
        self.tokens = (self.tokens + refill).min(burst);
        self.at = now;
        if self.tokens < 1.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            return Err(((1.0 - self.tokens) / rate * 1_000.0).ceil() as u64);
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

/// When messages were refused, the last of them. Whoever was never refused anything pays a pointer for it.
#[derive(Debug, Default)]
#[expect(
    clippy::box_collection,
    reason = "8 bytes for 32 in each connection, nearly all of which hold none"
)]
pub struct Refusals(Option<Box<VecDeque<Instant>>>);

impl Refusals {
    /// One more; true: too many.
    pub fn add(&mut self) -> bool {
        self.add_at(Instant::now())
    }

    fn add_at(&mut self, now: Instant) -> bool {
        let at = self.0.get_or_insert_default();
        at.push_back(now);
        if at.len() <= REFUSALS_MAX {
            return false;
        }
        let first = at.pop_front();
        first.is_some_and(|first| now < first + REFUSAL_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_over_any_ten_seconds() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let mut at = |ms| refusals.add_at(start + Duration::from_millis(ms));
        assert!(!at(0), "whatever this one begins does not end with it");
        assert!((0..19).all(|_| !at(9_900)), "twenty are borne");
        assert!(!at(10_000), "the first is long ago by now");
        assert!(at(10_001), "and these are twenty-one");
        assert!((0..20).all(|n| !at(30_000 + n * 500)));
        assert!(!at(40_000), "as slow as this for ever");
    }
}
