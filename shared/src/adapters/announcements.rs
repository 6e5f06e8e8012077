//! Tells every subscriber in this process of what other pods announced: families of tokens that were revoked, people who
//! changed.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::ports::REVOCATIONS_CAPACITY;

/// The subscribers. The lock is never held over an await.
#[derive(Debug)]
pub struct Announcements<T> {
    subscribers: Mutex<Vec<mpsc::Sender<T>>>,
}

impl<T> Default for Announcements<T> {
    fn default() -> Self {
        Self {
            subscribers: Mutex::default(),
        }
    }
}

impl<T: Copy> Announcements<T> {
    pub fn subscribe(&self) -> mpsc::Receiver<T> {
        let (sender, receiver) = mpsc::channel(REVOCATIONS_CAPACITY);
        self.subscribers.lock().push(sender);
        receiver
    }

    /// Never waits: a subscriber that is too far behind misses it, which the port allows.
    pub fn tell(&self, what: T) {
        self.subscribers
            .lock()
            .retain(|subscriber| match subscriber.try_send(what) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::warn!(
                        "a subscriber to announcements is {REVOCATIONS_CAPACITY} behind and missed one"
                    );
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            });
    }
}
