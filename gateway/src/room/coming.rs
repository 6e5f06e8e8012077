//! Who is being let in: in presence already, or about to be, and not in the hands of the room's task yet. What that hears of
//! them meanwhile is kept for when they come.

use std::collections::HashMap;
use std::sync::Arc;

use atelier_shared::domain::ids::ConnectionId;
use parking_lot::Mutex;

use super::registry::Shared;

/// What a room heard of somebody who was still on the way in.
#[derive(Debug, Default, Clone, Copy)]
pub struct Heard {
    /// The same client came again: the newer connection has the place.
    pub replaced: bool,
    /// Somebody wants to know whether it is alive.
    pub challenged: bool,
}

/// Those who are on the way into one room of this pod.
#[derive(Debug, Default)]
pub struct Coming(Mutex<HashMap<ConnectionId, Heard>>);

impl Coming {
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub fn contains(&self, connection: ConnectionId) -> bool {
        self.0.lock().contains_key(&connection)
    }

    pub fn replaced(&self, connection: ConnectionId) {
        if let Some(heard) = self.0.lock().get_mut(&connection) {
            heard.replaced = true;
        }
    }

    pub fn challenged(&self, connection: ConnectionId) {
        if let Some(heard) = self.0.lock().get_mut(&connection) {
            heard.challenged = true;
        }
    }
}

/// Kept by whoever is being let in, until the room's task has them or they give up.
#[derive(Debug)]
pub struct OnTheWay {
    room: Arc<Shared>,
    connection: ConnectionId,
}

impl OnTheWay {
    pub fn new(room: Arc<Shared>, connection: ConnectionId) -> Self {
        room.coming.0.lock().insert(connection, Heard::default());
        Self { room, connection }
    }

    /// The room's task has them: what it heard of them.
    pub fn arrives(self) -> Heard {
        let heard = self.room.coming.0.lock().remove(&self.connection);
        heard.unwrap_or_default()
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.room.coming.0.lock().remove(&self.connection);
    }
}
