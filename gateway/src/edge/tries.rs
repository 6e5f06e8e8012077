//! Tries of logins: counted before a password is looked at, so that many guesses at once are no more than one after the
//! other, and taken back where it was right. Who is over the limit only because of tries that are under way here waits for
//! them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atelier_shared::ports::{PortError, Throttle, Vault};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Tries under one key that this gateway has to do with.
#[derive(Default)]
struct Key {
    /// Whoever counts a try holds it: one at a time, in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    /// Counted, and not yet found right or wrong.
    under_way: AtomicUsize,
    one_ended: Notify,
    /// Those that have this; changed under the lock of the map.
    users: AtomicUsize,
}

/// The keys of all tries under way.
#[derive(Default)]
pub struct Tries(Arc<Mutex<HashMap<String, Arc<Key>>>>);

/// What became of a wish to try.
pub enum Counted {
    Allowed(Try),
    Wait(Duration),
}

/// Has to do with a key, until dropped.
struct Use {
    keys: Arc<Mutex<HashMap<String, Arc<Key>>>>,
    name: String,
    key: Arc<Key>,
}

/// A try that is counted. Dropped, it stays counted.
pub struct Try {
    of: Use,
    vault: Arc<dyn Vault>,
}

impl Tries {
    /// Counts a try under `key`, as [`Vault::throttle`] does.
    pub async fn count(
        &self,
        vault: &Arc<dyn Vault>,
        key: &str,
        limit: u32,
        window: Duration,
    ) -> Result<Counted, PortError> {
        let of = self.use_of(key);
        let turn = of.key.turn.lock().await;
        loop {
            let ended = of.key.one_ended.notified();
            let others = of.key.under_way.load(Ordering::SeqCst) > 0;
            match vault.throttle(key, limit, window).await? {
                Throttle::Allowed => break,
                Throttle::Wait(_) if others => ended.await,
                Throttle::Wait(wait) => return Ok(Counted::Wait(wait)),
            }
        }
        of.key.under_way.fetch_add(1, Ordering::SeqCst);
        drop(turn);
        let vault = vault.clone();
        Ok(Counted::Allowed(Try { of, vault }))
    }

    fn use_of(&self, name: &str) -> Use {
        let mut keys = self.0.lock();
        let key = keys.entry(name.to_owned()).or_default().clone();
        key.users.fetch_add(1, Ordering::SeqCst);
        Use {
            keys: self.0.clone(),
            name: name.to_owned(),
            key,
        }
    }
}

impl Try {
    /// It does not count.
    pub async fn take_back(self) -> Result<(), PortError> {
        self.vault.take_back(&self.of.name).await
    }

    /// Neither it nor those before it under this key count.
    pub async fn forgive(self) -> Result<(), PortError> {
        self.vault.forgive(&self.of.name).await
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.of.key.under_way.fetch_sub(1, Ordering::SeqCst);
        self.of.key.one_ended.notify_one();
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut keys = self.keys.lock();
        if self.key.users.fetch_sub(1, Ordering::SeqCst) == 1
            && let Entry::Occupied(entry) = keys.entry(std::mem::take(&mut self.name))
        {
            entry.remove();
        }
    }
}
