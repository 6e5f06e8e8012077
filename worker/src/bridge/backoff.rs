//! How long a failure waits for the next try: doubling, with jitter, up to a most.

use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer.
    pub most: Duration,
}

impl Backoff {
    /// After `failures` in a row (at least 1): between half of the doubled time and all of it, so that what failed
    /// together does not come back together.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.most);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_up_to_the_most() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            most: Duration::from_secs(2),
        };
        for (failures, whole_ms) in [
            (1, 100),
            (2, 200),
            (3, 400),
            (5, 1_600),
            (6, 2_000),
            (u32::MAX, 2_000),
        ] {
            let delay = backoff.delay(failures).as_millis();
            assert!(
                (whole_ms / 2..=whole_ms).contains(&delay),
                "{failures}: {delay}"
            );
        }
    }
}
