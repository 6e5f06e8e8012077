//! The jobs that this process holds: what must be settled, or handed back at the end.

use std::collections::HashMap;

use atelier_shared::ports::Lease;
use parking_lot::Mutex;

/// By fencing token, which no two claims share.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<HashMap<u64, Holding>>);

#[derive(Debug)]
struct Holding {
    lease: Lease,
    begun: bool,
}

impl InFlight {
    /// Claimed; its handler has not begun.
    pub fn add(&self, lease: Lease) {
        let holding = Holding {
            lease,
            begun: false,
        };
        self.0.lock().insert(holding.lease.token, holding);
    }

    /// Its handler may begin. False: it was handed back meanwhile.
    pub fn begin(&self, lease: &Lease) -> bool {
        self.0.lock().get_mut(&lease.token).is_some_and(|holding| {
            holding.begun = true;
            true
        })
    }

    pub fn remove(&self, lease: &Lease) {
        self.0.lock().remove(&lease.token);
    }

    /// Those whose handlers have not begun, and now never will.
    pub fn take_waiting(&self) -> Vec<Lease> {
        let mut holdings = self.0.lock();
        let waiting = holdings.extract_if(|_, holding| !holding.begun);
        waiting.map(|(_, holding)| holding.lease).collect()
    }

    pub fn take_all(&self) -> Vec<Lease> {
        let mut holdings = self.0.lock();
        holdings.drain().map(|(_, holding)| holding.lease).collect()
    }
}
