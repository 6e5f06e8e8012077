//! How fast a client may speak, and how often it may be refused.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::GatewayConfig;

/// Refused messages in `REFUSAL_WINDOW` before the connection is closed 4429.
const REFUSALS_MAX: u32 = 20;
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

/// Refusals of the present window.
#[derive(Debug)]
pub struct Refusals {
    count: u32,
    since: Instant,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            count: 0,
            since: Instant::now(),
        }
    }
}

impl Refusals {
    /// One more; true: too many.
    pub fn add(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.since + REFUSAL_WINDOW {
            self.count = 0;
            self.since = now;
        }
        self.count += 1;
        self.count > REFUSALS_MAX
    }
}
