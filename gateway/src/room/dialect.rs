//! The wire forms that a room's frames have, and who reads which.

use std::sync::Arc;

use atelier_shared::domain::ids::{ConnectionId, RoomId, UserId};
use bytes::Bytes;

use super::yjs::{hocuspocus, message};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Json,
    Yjs,
    Hocuspocus,
}

/// How many there are; a dialect as a number counts from 0.
pub const DIALECTS: usize = 3;

pub const ALL: [Dialect; DIALECTS] = [Dialect::Json, Dialect::Yjs, Dialect::Hocuspocus];

/// A frame in the binary dialects, each made once however many read it; empty where nobody here speaks it.
#[derive(Debug, Clone, Default)]
pub struct Binary {
    pub yjs: Bytes,
    pub hocuspocus: Bytes,
}

/// How many connections of a room speak each dialect.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spoken([usize; DIALECTS]);

impl Spoken {
    pub fn add(&mut self, dialect: Dialect) {
        self.0[dialect as usize] += 1;
    }

    pub fn remove(&mut self, dialect: Dialect) {
        self.0[dialect as usize] = self.0[dialect as usize].saturating_sub(1);
    }

    pub fn is(&self, dialect: Dialect) -> bool {
        self.0[dialect as usize] > 0
    }

    pub fn is_binary(&self) -> bool {
        self.is(Dialect::Yjs) || self.is(Dialect::Hocuspocus)
    }

    /// The message in each form that somebody here reads. `None`: nobody reads any.
    pub fn binary(&self, room: &RoomId, message: impl FnOnce() -> Vec<u8>) -> Option<Arc<Binary>> {
        if !self.is_binary() {
            return None;
        }
        let message = message();
        let mut binary = Binary::default();
        if self.is(Dialect::Yjs) {
            binary.yjs = message::frame(&message);
        }
        if self.is(Dialect::Hocuspocus) {
            binary.hocuspocus = message::frame(&hocuspocus::wrap(room.as_str(), &message));
        }
        Some(Arc::new(binary))
    }
}

impl Binary {
    /// The form for this reader; `None`: nothing.
    pub fn of(&self, reader: &Reader<'_>) -> Option<Bytes> {
        let bytes = match reader.dialect {
            Dialect::Json => return None,
            Dialect::Yjs => &self.yjs,
            Dialect::Hocuspocus => &self.hocuspocus,
        };
        (!bytes.is_empty()).then(|| reader.addressed(bytes))
    }
}

/// Who reads a room's feed, and how.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    pub connection: ConnectionId,
    pub person: UserId,
    pub dialect: Dialect,
    /// Hocuspocus with a session's name: frames come under this key instead of the room's id.
    pub key: Option<&'a str>,
}

impl Reader<'_> {
    fn addressed(&self, frame: &Bytes) -> Bytes {
        match self.key {
            None => frame.clone(),
            Some(key) => hocuspocus::readdress(frame, key),
        }
    }
}
