//! The names that people without an account go by in rooms: held while they are there, and for a while afterwards.

use std::sync::atomic::Ordering;
use std::time::Duration;

use atelier_shared::domain::names;
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::user::UserKind;
use chrono::Utc;

use super::actor::{Actor, Local};
use super::registry::Rooms;

/// Most beats between two renewals; a third of a hold where that is shorter.
const HOLD_EVERY_MAX: u64 = 10;

impl Actor {
    /// Renews the holds of everybody here. What an account is called nobody else can be anyway.
    pub fn hold_names(&mut self) {
        let delay_s = self.rooms.config.user_release_delay().as_secs();
        if !self
            .beats
            .is_multiple_of((delay_s / 3).clamp(1, HOLD_EVERY_MAX))
        {
            return;
        }
        let held: Vec<(Member, i64)> = self.locals.values().filter_map(holds).collect();
        if held.is_empty() {
            return;
        }
        let rooms = self.rooms.clone();
        self.rooms.tasks.spawn(async move {
            for (member, heard_ms) in held {
                hold(&rooms, &member, heard_ms).await;
            }
        });
    }

    /// A hold that begins with a name, or counts from the last heartbeat of somebody who leaves.
    pub fn hold_name_of(&self, local: &Local) {
        if let Some((member, heard_ms)) = holds(local) {
            let rooms = self.rooms.clone();
            self.rooms
                .tasks
                .spawn(async move { hold(&rooms, &member, heard_ms).await });
        }
    }

    /// A made-up name is anybody's at once.
    pub fn let_go_of_name(&self, local: &Local) {
        if !names::is_made_up(&local.member.name) {
            return self.hold_name_of(local);
        }
        let (rooms, member) = (self.rooms.clone(), local.member.clone());
        self.rooms.tasks.spawn(async move {
            tell(&rooms, &member, Duration::ZERO).await;
        });
    }
}

fn holds(local: &Local) -> Option<(Member, i64)> {
    let own = local.member.joined && local.principal.kind != UserKind::Account;
    let heard_ms = local.connection.heard_ms.load(Ordering::Relaxed);
    own.then(|| (local.member.clone(), heard_ms))
}

async fn hold(rooms: &Rooms, member: &Member, heard_ms: i64) {
    let silent_ms = Utc::now().timestamp_millis().saturating_sub(heard_ms);
    let silent = Duration::from_millis(u64::try_from(silent_ms).unwrap_or(0));
    let left = rooms.config.user_release_delay().saturating_sub(silent);
    if !left.is_zero() {
        tell(rooms, member, left).await;
    }
}

async fn tell(rooms: &Rooms, member: &Member, ttl: Duration) {
    let key = names::key(&member.name);
    let presence = &rooms.backends.presence;
    if let Err(error) = presence.hold_name(&key, member.user_id, ttl).await {
        tracing::debug!(%error, "a name is held with the next beat");
    }
}
