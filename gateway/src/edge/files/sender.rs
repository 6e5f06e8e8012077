//! Who sends a file, and into which room they may.

use atelier_shared::domain::entry::Author;
use atelier_shared::domain::ids::{RoomId, UserId};
use atelier_shared::domain::names;
use atelier_shared::domain::room::{Role, Room};

use super::super::client::may;
use super::super::members::actor;
use super::super::problem::Problem;
use super::super::state::App;
use crate::identity::{Principal, ResumeClaim};

/// Where the file is shown; whoever sends it must be allowed to draw there.
pub async fn room_of(
    app: &App,
    principal: Option<&Principal>,
    text: String,
) -> Result<Option<Room>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = text.parse::<RoomId>().map_err(Problem::from);
    let id = id.map_err(|problem| problem.at("room_id"))?;
    let allowed = may(app, &id, principal, Role::Editor).await;
    let (room, _) = allowed.map_err(|problem| problem.at("room_id"))?;
    Ok(Some(room))
}

/// Whoever sends the file, as the room sees them if they are there. Nobody is without a name.
pub async fn author(
    app: &App,
    principal: Option<&Principal>,
    stranger: Option<ResumeClaim>,
    room: Option<&RoomId>,
) -> Result<Author, Problem> {
    let person = stranger.map_or_else(UserId::generate, |claim| claim.user_id);
    let stranger = Principal::anonymous(person);
    let mut author = actor(principal.unwrap_or(&stranger))?;
    if let Some(room) = room {
        let members = app.backends.presence.members(room).await;
        let mut members = members.unwrap_or_default().into_iter();
        if let Some(seen) = members.find(|member| member.user_id == author.user_id) {
            author.color = Some(seen.color);
            author.avatar_url = seen.avatar_url;
            if author.name.is_empty() {
                author.name = seen.name;
            }
        }
    }
    if author.name.is_empty() {
        let number = author.user_id.0.as_u64_pair().1;
        author.name = names::made_up(number);
    }
    Ok(author)
}

/// A file that is in no room must be somebody's, unless strangers may do here as they please. (The room may still come
/// behind the file.)
pub fn may_upload_nowhere_yet(app: &App, principal: Option<&Principal>) -> Result<(), Problem> {
    if principal.is_some() || app.config.anonymous_rooms() {
        return Ok(());
    }
    Err(Problem::unauthenticated())
}
