//! Latencies by the million in a few kilobytes: 32 buckets for every doubling, so a percentile is within 3%.

const SUB_BITS: u32 = 5;
const BUCKETS: usize = 64 << SUB_BITS;

/// Counts of durations in nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

impl Histogram {
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
    }

    /// The `part`th (0 to 1) percentile in microseconds; 0 while nothing was recorded.
    pub fn percentile_us(&self, part: f64) -> f64 {
        let wanted = (self.total as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(index) / 1_000.0;
            }
        }
        0.0
    }
}

fn bucket(ns: u64) -> usize {
    let shift = (63 - ns.max(1).leading_zeros()).saturating_sub(SUB_BITS);
    // Below 2^SUB_BITS each value has a bucket of its own, above each doubling has 2^SUB_BITS.
    ((u64::from(shift) << SUB_BITS) + (ns >> shift)) as usize
}

fn middle(index: usize) -> f64 {
    let doubling = (index >> SUB_BITS).saturating_sub(1);
    let mantissa = index - (doubling << SUB_BITS);
    (mantissa as f64 + 0.5) * (1_u64 << doubling) as f64
}
