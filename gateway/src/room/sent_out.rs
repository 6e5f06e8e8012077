//! Who was sent out of a room that is open to all stays out for a while, on every pod, or until a host gives them a role.
//!
//! It is kept as a name is held: under a key that nobody's name is spelled like, for a bounded time.

use std::fmt::Display;
use std::time::Duration;

use atelier_shared::Backends;
use atelier_shared::domain::ids::{ClientId, RoomId, UserId};
use atelier_shared::ports::Result;

/// For so long the room does not let them in again.
const STAYS_OUT: Duration = Duration::from_secs(600);

/// Names hold no control characters.
fn key(room: &RoomId, who: impl Display) -> String {
    format!("\nout\n{room}\n{who}")
}

/// A host sends this person out: they stay out, and whoever comes with nothing but the client id of one of their connections.
pub async fn send_out(b: &Backends, room: &RoomId, person: UserId) -> Result<()> {
    let presence = &b.presence;
    presence
        .hold_name(&key(room, person), person, STAYS_OUT)
        .await?;
    let members = presence.members(room).await?;
    for member in members.iter().filter(|member| member.user_id == person) {
        let key = key(room, &member.client_id);
        presence.hold_name(&key, person, STAYS_OUT).await?;
    }
    Ok(())
}

/// A host has given them a role.
pub async fn let_in_again(b: &Backends, room: &RoomId, person: UserId) -> Result<()> {
    let key = key(room, person);
    b.presence.hold_name(&key, person, Duration::ZERO).await
}

/// Does this person have to stay out?
pub async fn is_sent_out(b: &Backends, room: &RoomId, person: UserId) -> Result<bool> {
    b.presence.is_name_held(&key(room, person), None).await
}

/// Did this client id belong to somebody who has to stay out? It is all that a page knows of itself which keeps no resume
/// token.
pub async fn is_client_sent_out(b: &Backends, room: &RoomId, client: &ClientId) -> Result<bool> {
    b.presence.is_name_held(&key(room, client), None).await
}
