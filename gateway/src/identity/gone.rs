//! People who deleted their accounts of late, known without asking anybody: frames are made where nobody can wait.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use atelier_shared::domain::ids::UserId;
use parking_lot::RwLock;

/// People remembered; one more lets go the one who went first.
const GONE_MAX: usize = 50_000;

/// A bounded set that is asked far more often than anybody goes.
#[derive(Debug, Default)]
pub struct Gone {
    anybody: AtomicBool,
    people: RwLock<People>,
}

#[derive(Debug, Default)]
struct People {
    ids: HashSet<UserId>,
    in_order: VecDeque<UserId>,
}

impl Gone {
    pub fn insert(&self, id: UserId) {
        let mut people = self.people.write();
        if people.ids.insert(id) {
            people.in_order.push_back(id);
        }
        if people.in_order.len() > GONE_MAX
            && let Some(first) = people.in_order.pop_front()
        {
            people.ids.remove(&first);
        }
        self.anybody.store(true, Ordering::Release);
    }

    pub fn contains(&self, id: UserId) -> bool {
        self.anybody.load(Ordering::Acquire) && self.people.read().ids.contains(&id)
    }

    /// Somebody is in it.
    pub fn has_any(&self) -> bool {
        self.anybody.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_went_first_is_let_go_first() {
        let gone = Gone::default();
        let ids: Vec<UserId> = (0..=GONE_MAX).map(|_| UserId::generate()).collect();
        assert!(!gone.has_any() && !gone.contains(ids[0]));
        for id in &ids {
            gone.insert(*id);
            gone.insert(*id);
        }
        assert!(gone.has_any() && !gone.contains(ids[0]));
        assert!(ids[1..].iter().all(|id| gone.contains(*id)));
    }
}
