//! The read replica of Postgres: asked for what may be a little behind, and left alone for a while once it did not answer.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::PgPool;
use sqlx::{Postgres, Transaction};

use super::records::begin;

/// A replica that did not answer is not asked again before; then one caller tries, and the others don't wait for it.
const LEFT_ALONE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Replica {
    pool: PgPool,
    /// It did not answer when it was last asked.
    away_until: Mutex<Option<Instant>>,
}

impl Replica {
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            away_until: Mutex::new(None),
        }
    }

    /// `None`: it is away.
    pub async fn browse(&self) -> Option<Transaction<'static, Postgres>> {
        if !self.is_to_be_asked(Instant::now()) {
            return None;
        }
        match begin(&self.pool, "BEGIN READ ONLY").await {
            Ok(begun) => {
                *self.away_until.lock() = None;
                Some(begun)
            }
            Err(error) => {
                tracing::warn!(%error, "the read replica is away");
                *self.away_until.lock() = Some(Instant::now() + LEFT_ALONE);
                None
            }
        }
    }

    fn is_to_be_asked(&self, now: Instant) -> bool {
        let mut away_until = self.away_until.lock();
        let is_to_be_asked = away_until.is_none_or(|until| now >= until);
        if is_to_be_asked && away_until.is_some() {
            *away_until = Some(now + LEFT_ALONE);
        }
        is_to_be_asked
    }
}
