//! Who was in a room a moment ago, without an account: they may come back, and can be spoken to until then.
//!
//! It is kept as a name is held: under a key that nobody's name is spelled like, for a bounded time. Whoever has an account, a
//! guest's token or a role is known without it.

use std::time::Duration;

use atelier_shared::Backends;
use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::ports::Result;

use super::actor::Local;
use super::dialect::Dialect;
use super::registry::Rooms;

/// Names hold no control characters.
fn key(room: &RoomId, person: UserId) -> String {
    format!("\nhere\n{room}\n{person}")
}

/// Somebody whom others may speak to by what they know of them, and whom only the room knows.
pub fn to_be_remembered(local: &Local) -> Option<UserId> {
    // What an editor shows of itself comes without a person to come back.
    let comes_back = local.connection.dialect == Dialect::Json && local.principal.is_anonymous();
    let was_seen = local.member.joined || local.dropped;
    (comes_back && was_seen).then_some(local.member.user_id)
}

impl Rooms {
    /// Before presence lets them go, so that they are known without a gap.
    pub(super) async fn remember(&self, room: &RoomId, person: UserId) {
        // As long as somebody silent keeps their place.
        let time = self.config.websocket_connection_timeout_ms;
        let time = Duration::from_millis(time.into());
        let presence = &self.backends.presence;
        if let Err(error) = presence.hold_name(&key(room, person), person, time).await {
            tracing::debug!(%room, %error, "somebody who left is not remembered");
        }
    }
}

/// Was this person here?
pub async fn was_here(b: &Backends, room: &RoomId, person: UserId) -> Result<bool> {
    b.presence.is_name_held(&key(room, person), None).await
}
