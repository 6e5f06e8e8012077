//! The names that people go by in rooms. Those of people without an account are held while they are there, and for a while
//! afterwards. Where a name is one person's at a time, it is claimed besides, in whichever room.

use std::sync::atomic::Ordering;
use std::time::Duration;

use atelier_shared::domain::ids::{ConnectionId, UserId};
use atelier_shared::domain::names;
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::user::UserKind;
use chrono::Utc;
use futures::FutureExt;
use tokio::sync::oneshot;

use super::actor::{Actor, Done, Local};
use super::admission::{AdmissionError, CHALLENGE, NAME_LOOKS, NAME_PAUSE};
use super::json::incoming::Join;
use super::json::outgoing::ErrorFrame;
use super::registry::Rooms;

/// Most beats between two renewals; a third of a hold where that is shorter.
const HOLD_EVERY_MAX: u64 = 10;
/// A claim that is not renewed ends: its pod died.
const CLAIM: Duration = Duration::from_secs(30);

/// A join that wants a name which is one person's at a time.
pub struct NameAsked {
    pub connection: ConnectionId,
    pub join: Join,
    pub asked: Asked,
    /// It is, and stays, somebody else's.
    pub kept: bool,
    /// What else the connection sends waits for the answer.
    pub holds: bool,
}

/// Who was asked for it.
pub enum Asked {
    /// Somebody in this room who bears it, for a sign of life.
    Bearer(Box<Member>),
    /// Everywhere: it is claimed for this person now, if nobody keeps it.
    Everywhere { name: String, person: UserId },
}

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
        let held: Vec<(Member, i64)> = self.locals.values().filter_map(|l| holds(l)).collect();
        let live_ms = i64::from(self.rooms.config.heartbeat_ms) * 2;
        let now_ms = Utc::now().timestamp_millis();
        let lives = |heard_ms: i64| now_ms - heard_ms < live_ms;
        let claimed: Vec<Member> = self
            .locals
            .values()
            .filter(|local| lives(local.connection.heard_ms.load(Ordering::Relaxed)))
            .filter_map(|local| claims(local))
            .collect();
        if held.is_empty() && claimed.is_empty() {
            return;
        }
        let rooms = self.rooms.clone();
        self.rooms.tasks.spawn(async move {
            for (member, heard_ms) in held {
                hold(&rooms, &member, heard_ms).await;
            }
            for member in claimed {
                claim(&rooms, &member).await;
            }
        });
    }

    /// A hold that begins with a name, or counts from the last heartbeat of somebody who leaves.
    pub fn hold_name_of(&self, local: &Local) {
        let (held, claimed) = (holds(local), claims(local));
        if held.is_none() && claimed.is_none() {
            return;
        }
        let rooms = self.rooms.clone();
        self.rooms.tasks.spawn(async move {
            if let Some((member, heard_ms)) = held {
                hold(&rooms, &member, heard_ms).await;
            }
            if let Some(member) = claimed {
                claim(&rooms, &member).await;
            }
        });
    }

    /// A claim ends with who made it, and a made-up name is anybody's at once; other names are held for a while.
    pub fn let_go_of_name(&self, local: &Local) {
        let held = holds(local);
        let (rooms, member) = (self.rooms.clone(), local.member.clone());
        self.rooms.tasks.spawn(async move {
            rooms.release_name(&member).await;
            let key = names::key(&member.name);
            if names::is_made_up(&member.name) {
                tell(&rooms, &key, member.user_id, Duration::ZERO).await;
            } else if let Some((member, heard_ms)) = held {
                hold(&rooms, &member, heard_ms).await;
            }
        });
    }

    /// Goes by another name now: the earlier one is not claimed any more, and anybody's at once if it was made up.
    pub fn renamed(&self, before: Member, now: &str) {
        if names::key(&before.name) != names::key(now) {
            let rooms = self.rooms.clone();
            self.rooms.tasks.spawn(async move {
                rooms.release_name(&before).await;
                if names::is_made_up(&before.name) {
                    let key = names::key(&before.name);
                    tell(&rooms, &key, before.user_id, Duration::ZERO).await;
                }
            });
        }
    }

    /// Goes by the same name as another person: what the one had claimed is the other's.
    pub fn renamed_to_another(&self, before: Member, id: ConnectionId) {
        let rooms = self.rooms.clone();
        self.rooms
            .tasks
            .spawn(async move { rooms.release_name(&before).await });
        if let Some(local) = self.locals.get(&id) {
            self.hold_name_of(local);
        }
    }

    /// Where a name is one person's at a time: somebody else who bears it.
    pub fn bearer(&self, id: ConnectionId, name: &str) -> Option<Member> {
        let local = self.locals.get(&id)?;
        if !local.member.name_is_exclusive {
            return None;
        }
        let key = names::key(name);
        let others = |m: &&Member| m.user_id != local.member.user_id && names::key(&m.name) == key;
        self.members.values().map(|m| &**m).find(others).cloned()
    }

    /// Who was dropped for silence has let go of its name, and comes back under it: it may be somebody else's by now.
    pub fn name_to_take_back(&self, id: ConnectionId) -> Option<String> {
        let local = self.locals.get(&id)?;
        let takes_back = local.dropped && local.member.name_is_exclusive;
        takes_back.then(|| local.member.name.clone())
    }

    /// From here on what the connection sends waits for the answer about its name. False: it waits for something else
    /// already.
    fn hold_for_name(&mut self, id: ConnectionId) -> bool {
        self.joining.entry(id).or_default();
        let holds = self.locals.get(&id).is_some_and(|local| !local.busy);
        self.hold(id);
        holds
    }

    /// A join under somebody's name: theirs, if they show a sign of life within 2 s.
    pub fn ask_bearer(&mut self, connection: ConnectionId, join: Join, bearer: Member) {
        let (reply, answer) = oneshot::channel();
        self.challenge(bearer.connection, reply);
        let holds = self.hold_for_name(connection);
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let ask = async move {
            let kept = matches!(tokio::time::timeout(CHALLENGE, answer).await, Ok(Ok(())));
            if !kept && let Err(error) = rooms.make_way(&room, &bearer).await {
                tracing::debug!(%room, %error, "a silent bearer of a name is left to its lease");
            }
            Done::NameAsked(Box::new(NameAsked {
                connection,
                join,
                asked: Asked::Bearer(Box::new(bearer)),
                kept,
                holds,
            }))
        };
        self.work.push(ask.boxed());
    }

    /// Must this name be claimed before the connection can bear it?
    pub fn must_claim(&self, id: ConnectionId, name: &str) -> bool {
        self.locals.get(&id).is_some_and(|local| {
            let member = &local.member;
            let is_own = member.joined && names::key(&member.name) == names::key(name);
            member.name_is_exclusive && !is_own
        })
    }

    /// A join under a name that nobody bears here: theirs, unless somebody bears it elsewhere.
    pub fn ask_everywhere(&mut self, connection: ConnectionId, join: Join, name: String) {
        let Some(local) = self.locals.get(&connection) else {
            return;
        };
        let person = local.member.user_id;
        let holds = self.hold_for_name(connection);
        let rooms = self.rooms.clone();
        let ask = async move {
            let claimed = rooms.claim_name_everywhere(&name, person).await;
            if let Err(AdmissionError::Port(error)) = &claimed {
                tracing::debug!(%error, "a name is claimed with the next beat");
            }
            let kept = matches!(claimed, Err(AdmissionError::NameHeld));
            Done::NameAsked(Box::new(NameAsked {
                connection,
                join,
                asked: Asked::Everywhere { name, person },
                kept,
                holds,
            }))
        };
        self.work.push(ask.boxed());
    }

    pub fn name_asked(&mut self, asked: NameAsked) {
        let NameAsked {
            connection,
            join,
            asked,
            kept,
            holds,
        } = asked;
        if kept {
            self.refuse_name(connection);
        }
        // Replaced meanwhile by the same client's newer connection, it joins no more.
        let local = self.locals.get(&connection);
        let is_here = local.is_some_and(|local| local.parting.is_none_or(|p| !p.replaced));
        match asked {
            Asked::Bearer(_) if kept => {}
            Asked::Bearer(bearer) => {
                self.gone(&bearer.client_id, bearer.connection, Some("replaced"));
                if holds && let Some(local) = self.locals.get_mut(&connection) {
                    local.busy = false;
                }
                if is_here && !self.join(connection, join) {
                    return;
                }
            }
            Asked::Everywhere { name, person } => {
                if is_here {
                    if !kept {
                        self.joins(connection, join);
                    }
                } else if !kept {
                    let rooms = self.rooms.clone();
                    self.rooms.tasks.spawn(async move {
                        tell(&rooms, &claim_key(&name), person, Duration::ZERO).await;
                    });
                }
            }
        }
        for shown in self.joining.remove(&connection).unwrap_or_default() {
            self.ephemeral(connection, shown);
        }
        if holds {
            self.submitted(connection, None);
        }
    }

    fn refuse_name(&self, id: ConnectionId) {
        let error = ErrorFrame::new("conflict", "name: this name is somebody else's");
        self.tell_error(id, &error.field("name"));
        if let Some(local) = self.locals.get(&id) {
            // Out of sight still: what it says next asks again.
            let dropped = &local.connection.dropped;
            dropped.store(local.dropped, Ordering::Relaxed);
        }
    }
}

impl Rooms {
    /// Nobody else goes by a claimed name, in whichever room. Somebody who is just leaving is waited for.
    pub async fn claim_name_everywhere(
        &self,
        name: &str,
        person: UserId,
    ) -> Result<(), AdmissionError> {
        let key = claim_key(name);
        let presence = &self.backends.presence;
        for _ in 0..NAME_LOOKS {
            // First the claim, then the look: of two at the same moment, not both can get it.
            presence.hold_name(&key, person, CLAIM).await?;
            if !presence.is_name_held(&key, Some(person)).await? {
                return Ok(());
            }
            presence.hold_name(&key, person, Duration::ZERO).await?;
            tokio::time::sleep(NAME_PAUSE).await;
        }
        Err(AdmissionError::NameHeld)
    }

    /// What a member who goes had claimed.
    pub async fn release_name(&self, member: &Member) {
        if member.name_is_exclusive && member.joined {
            let key = claim_key(&member.name);
            tell(self, &key, member.user_id, Duration::ZERO).await;
        }
    }
}

/// No name is spelled like this: they hold no control characters.
pub fn claim_key(name: &str) -> String {
    format!("\n{}", names::key(name))
}

fn claims(local: &Local) -> Option<Member> {
    let member = &local.member;
    (member.joined && member.name_is_exclusive).then(|| member.clone())
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
        tell(rooms, &names::key(&member.name), member.user_id, left).await;
    }
}

/// Makes or renews a claim. Who left meanwhile may have let go of it already: it must not come back behind that.
async fn claim(rooms: &Rooms, member: &Member) {
    tell(rooms, &claim_key(&member.name), member.user_id, CLAIM).await;
    if !rooms.sockets.contains_key(&member.connection) {
        rooms.release_name(member).await;
    }
}

async fn tell(rooms: &Rooms, key: &str, person: UserId, ttl: Duration) {
    let presence = &rooms.backends.presence;
    if let Err(error) = presence.hold_name(key, person, ttl).await {
        tracing::debug!(%error, "a name is held with the next beat");
    }
}
