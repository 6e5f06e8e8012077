//! Records whose append failed, so that nobody knows whether they are stored: they are tried again. Meanwhile the log may
//! say that they are, and then their ack goes out at their place; when the log answers for the second try it is not said once
//! more, behind what came after.

use std::collections::HashMap;

use atelier_shared::domain::entry::Record;
use atelier_shared::domain::ids::{ConnectionId, Ref};

/// As many as are tried again, by connection and ref; and whether each was acknowledged since.
#[derive(Debug, Default)]
pub struct Tried(HashMap<(ConnectionId, Ref), bool>);

fn key(record: &Record) -> Option<(ConnectionId, Ref)> {
    Some((record.author.connection?, record.reference.clone()?))
}

impl Tried {
    /// It may or may not be stored.
    pub fn note(&mut self, record: &Record) {
        if let Some(key) = key(record) {
            self.0.entry(key).or_default();
        }
    }

    /// It came out of the log: its sender is told its place there.
    pub fn applied(&mut self, record: &Record) {
        if !self.0.is_empty()
            && let Some(key) = key(record)
            && let Some(told) = self.0.get_mut(&key)
        {
            *told = true;
        }
    }

    /// It is settled. True: its sender was told its place.
    pub fn settle(&mut self, record: &Record) -> bool {
        !self.0.is_empty() && key(record).is_some_and(|key| self.0.remove(&key) == Some(true))
    }

    /// Another log counts now: what was told of the one before is void.
    pub fn forget(&mut self) {
        self.0.values_mut().for_each(|told| *told = false);
    }
}
