//! How many people are in which room, across the cluster, read at most once a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::ids::RoomId;
use atelier_shared::ports::{PortError, Presence};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(1);
/// Rooms asked for at a time.
const PAGE: usize = 1_000;
/// Most rooms looked at; beyond it figures are of the first ones, by id.
const ROOMS_MAX: usize = 50_000;

/// Rooms with people in them, and how many.
pub type Occupied = Arc<BTreeMap<RoomId, usize>>;

/// A cache in front of [`Presence::occupied`]: whatever the number of callers, one reads.
pub struct Occupancy {
    presence: Arc<dyn Presence>,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    read: Option<(Instant, Occupied)>,
    failed_at: Option<Instant>,
}

impl Occupancy {
    pub fn new(presence: Arc<dyn Presence>) -> Self {
        Self {
            presence,
            last: Mutex::default(),
        }
    }

    pub async fn get(&self) -> Result<Occupied, PortError> {
        let asked_at = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((read_at, occupied)) = &last.read
            && read_at.elapsed() < FRESH
        {
            return Ok(occupied.clone());
        }
        // Whoever waited while another failed shares the failure, or they would time out one after the other.
        if last
            .failed_at
            .is_some_and(|failed_at| failed_at >= asked_at)
        {
            return Err(PortError::retry("list occupied rooms", "failed just now"));
        }
        match self.read().await {
            Ok(occupied) => {
                last.read = Some((Instant::now(), occupied.clone()));
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
