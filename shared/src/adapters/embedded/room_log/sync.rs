//! Where what is acknowledged must outlive the machine (`SYNC_LOG`): many changes share one sync of the disk, and nobody hears
//! of them before.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Inner;
use crate::domain::ids::RoomId;
use crate::ports::{Delivery, PortError, Result};

/// The number of a change.
type Ticket = u64;

/// How far the disk is.
#[derive(Debug, Clone, Copy)]
enum Synced {
    UpTo(Ticket),
    /// A sync failed: what is on the disk is not known, and nothing is taken any more.
    Failed,
}

pub struct Sync {
    waiting: Mutex<Waiting>,
    wake: Arc<Notify>,
    synced: watch::Sender<Synced>,
}

/// Changes that are written and not synced.
#[derive(Default)]
struct Waiting {
    last: Ticket,
    deliveries: Vec<(RoomId, Delivery)>,
}

impl Sync {
    pub fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Arc::default(),
            synced: watch::Sender::new(Synced::UpTo(0)),
        }
    }

    pub fn end(&self) {
        self.wake.notify_one();
    }

    /// Returns when the change is on the disk.
    pub async fn wait(&self, ticket: Ticket) -> Result<()> {
        const DOING: &str = "sync the room log";
        self.wake.notify_one();
        let mut synced = self.synced.subscribe();
        let there = synced
            .wait_for(|synced| !matches!(synced, Synced::UpTo(upto) if *upto < ticket))
            .await
            .map_err(|e| PortError::retry(DOING, e))?;
        match *there {
            Synced::UpTo(_) => Ok(()),
            Synced::Failed => Err(PortError::retry(DOING, "the disk failed")),
        }
    }
}

/// What one change has to tell: at once where what is written counts, else when it is synced.
pub struct Told<'a> {
    inner: &'a Inner,
}

impl<'a> Told<'a> {
    pub fn new(inner: &'a Inner) -> Self {
        Self { inner }
    }

    pub fn tell(&mut self, room: &RoomId, delivery: Delivery) {
        match &self.inner.sync {
            None => self.inner.deliver(room, delivery),
            Some(sync) => {
                let mut waiting = sync.waiting.lock();
                waiting.deliveries.push((room.clone(), delivery));
            }
        }
    }

    /// Of the change that was made, under the same lock.
    pub fn ticket(&self) -> Ticket {
        self.inner.sync.as_ref().map_or(0, |sync| {
            let mut waiting = sync.waiting.lock();
            waiting.last += 1;
            waiting.last
        })
    }
}

/// Syncs for as long as the log lives.
pub async fn run(inner: Weak<Inner>) {
    let Some(wake) = inner
        .upgrade()
        .and_then(|i| Some(i.sync.as_ref()?.wake.clone()))
    else {
        return;
    };
    loop {
        wake.notified().await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let Some(sync) = &inner.sync else {
            return;
        };
        let (file, waiting) = {
            // Under the lock of the changes, so that a ticket's frame is written.
            let state = inner.state.lock();
            let mut waiting = sync.waiting.lock();
            let last = waiting.last;
            let taken = std::mem::replace(
                &mut *waiting,
                Waiting {
                    last,
                    deliveries: Vec::new(),
                },
            );
            (state.journal.file().clone(), taken)
        };
        let done = tokio::task::spawn_blocking(move || file.sync_data()).await;
        match done.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            Ok(()) => {
                for (room, delivery) in waiting.deliveries {
                    inner.deliver(&room, delivery);
                }
                sync.synced.send_replace(Synced::UpTo(waiting.last));
            }
            Err(error) => {
                tracing::error!(%error, "the room log can't be synced; it takes nothing any more");
                inner.state.lock().journal.break_off();
                sync.synced.send_replace(Synced::Failed);
                return;
            }
        }
    }
}
