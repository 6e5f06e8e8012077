//! Tells every subscriber in this process which families of tokens were revoked.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::ports::{REVOCATIONS_CAPACITY, Revoked};

/// The subscribers. The lock is never held over an await.
#[derive(Debug, Default)]
pub struct Revocations {
    subscribers: Mutex<Vec<mpsc::Sender<Revoked>>>,
}

impl Revocations {
    pub fn subscribe(&self) -> mpsc::Receiver<Revoked> {
        let (sender, receiver) = mpsc::channel(REVOCATIONS_CAPACITY);
        self.subscribers.lock().push(sender);
        receiver
    }

    /// Never waits: a subscriber that is too far behind misses it, which the port allows.
    pub fn tell(&self, revoked: Revoked) {
        self.subscribers
            .lock()
            .retain(|subscriber| match subscriber.try_send(revoked) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::warn!(
                        "a subscriber to revocations is {REVOCATIONS_CAPACITY} behind and missed one"
                    );
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            });
    }
}
