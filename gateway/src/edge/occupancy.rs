//! How many people are in which room, across the cluster, read once a second, or when somebody came or went here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atelier_shared::domain::ids::RoomId;
use atelier_shared::ports::{PortError, Presence};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(1);
/// A read that took so long is not repeated before so many times as long have passed.
const PAUSE: u32 = 4;
/// Rooms asked for at a time.
const PAGE: usize = 1_000;
/// Most rooms looked at; beyond it figures are of the first ones, by id.
const ROOMS_MAX: usize = 50_000;

/// Rooms with people in them, and how many.
pub type Occupied = Arc<BTreeMap<RoomId, usize>>;

/// A cache in front of [`Presence::occupied`]: whatever the number of callers, one reads.
pub struct Occupancy {
    presence: Arc<dyn Presence>,
    /// Rises whenever somebody came to this pod or left it.
    changes: Arc<AtomicU64>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    read: Option<Read>,
    failed_at: Option<Instant>,
}

/// What was read, and when.
struct Read {
    began: Instant,
    took: Duration,
    /// The count of changes that it has in it.
    changes: u64,
    occupied: Occupied,
}

impl Occupancy {
    pub fn new(presence: Arc<dyn Presence>, changes: Arc<AtomicU64>) -> Self {
        Self {
            presence,
            changes,
            last: Mutex::default(),
        }
    }

    /// As of the last second.
    pub async fn get(&self) -> Result<Occupied, PortError> {
        self.answer(false).await
    }

    /// With everybody who has come to this pod, and without whoever has left it; as of the last second of other pods.
    pub async fn now(&self) -> Result<Occupied, PortError> {
        self.answer(true).await
    }

    async fn answer(&self, with_changes: bool) -> Result<Occupied, PortError> {
        let asked_at = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(read) = &last.read
            && read.began.elapsed() < FRESH
        {
            if !with_changes || read.changes == self.changes.load(Ordering::Acquire) {
                return Ok(read.occupied.clone());
            }
            // Where there are very many rooms and they change all the time, this is not all that the store does.
            let pause = read.took * (PAUSE + 1);
            tokio::time::sleep_until(read.began + pause.min(FRESH)).await;
        }
        // Whoever waited while another failed shares the failure, or they would time out one after the other.
        if last
            .failed_at
            .is_some_and(|failed_at| failed_at >= asked_at)
        {
            return Err(PortError::retry("list occupied rooms", "failed just now"));
        }
        let (began, changes) = (Instant::now(), self.changes.load(Ordering::Acquire));
        match self.read().await {
            Ok(occupied) => {
                last.read = Some(Read {
                    began,
                    took: began.elapsed(),
                    changes,
                    occupied: occupied.clone(),
                });
                Ok(occupied)
            }
            Err(error) => {
                last.failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    async fn read(&self) -> Result<Occupied, PortError> {
        let mut rooms = BTreeMap::new();
        let mut after: Option<RoomId> = None;
        while rooms.len() < ROOMS_MAX {
            let page = self.presence.occupied(after.as_ref(), PAGE).await?;
            let full = page.len() == PAGE;
            after = page.last().map(|occupancy| occupancy.room.clone());
            rooms.extend(page.into_iter().map(|o| (o.room, o.members)));
            if !full {
                break;
            }
        }
        Ok(Arc::new(rooms))
    }
}
