//! People and connections: whoever is still shown in a room though their gateway died, made-up names that nobody goes by
//! any more, and one person twice where a name is one connection's. (Gateways close silent sockets themselves, and reap one
//! another; what is left to find is what a crash of all of them left.)

use std::collections::HashMap;
use std::time::Duration;

use atelier_shared::domain::cleanup::{Counts, Scope};
use atelier_shared::domain::ids::{PodId, RoomId, UserId};
use atelier_shared::domain::names;
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::signal::Signal;
use atelier_shared::domain::visit::{Departure, Left, VisitBatch};
use atelier_shared::ports::Result;
use atelier_shared::visits;

use super::{Cleaner, count};

/// A lease of our own: only who has renewed steadily for a full one may say that others are dead.
const LEASE: Duration = Duration::from_millis(3_000);
const RENEWALS: u32 = 5;
const LOOK_AT_ONCE: usize = 1_000;
/// Who came so lately may be in presence in a moment.
const VISIT_GRACE: chrono::Duration = chrono::Duration::seconds(10);

impl Cleaner {
    /// By scope: `connections` looks for dead connections and doubles, `auto-users` for dead ones under made-up names,
    /// `force-stuck-users` for all that a crash left.
    pub(super) async fn people(
        &self,
        scope: Scope,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        let presence = &self.backends.presence;
        let pod = PodId::generate();
        presence.renew(pod, LEASE).await?;
        for _ in 0..RENEWALS {
            tokio::time::sleep(LEASE / 4).await;
            presence.renew(pod, LEASE).await?;
        }
        let outcome = self.lost(pod, scope, dry_run, counts).await;
        presence.retire(pod).await?;
        outcome?;
        match scope {
            Scope::AutoUsers => Ok(()),
            _ => self.doubles(dry_run, counts).await,
        }
    }

    /// Who is dead, and then what nobody said of those who are gone.
    async fn lost(
        &self,
        pod: PodId,
        scope: Scope,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        self.dead(pod, scope, dry_run, counts).await?;
        if scope == Scope::AutoUsers {
            return Ok(());
        }
        let before = super::now() - VISIT_GRACE;
        // Else presence may have forgotten who is here.
        let steady = self.backends.presence.steady(pod).await? >= LEASE;
        let ended = match steady {
            true => visits::end_lost(&self.backends, before, dry_run).await?,
            false => 0,
        };
        count(counts, "lost_visits", ended);
        Ok(())
    }

    async fn dead(
        &self,
        pod: PodId,
        scope: Scope,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        let presence = &self.backends.presence;
        let auto_only = scope == Scope::AutoUsers;
        for what in ["auto_users", "released_names"] {
            count(counts, what, 0);
        }
        if !auto_only {
            count(counts, "stale_connections", 0);
            count(counts, "stuck_users", 0);
        }
        loop {
            presence.renew(pod, LEASE).await?;
            let found = presence.lapsed(pod, LOOK_AT_ONCE).await?;
            let (last, mut removed) = (found.len() < LOOK_AT_ONCE, 0);
            let mut ended = VisitBatch::default();
            for (room, member) in found {
                let made_up = names::is_made_up(&member.name);
                if auto_only && !made_up {
                    continue;
                }
                // Of several who clean at once, one takes it out, tells the others and counts it.
                if !dry_run && !self.take_out(&room, &member, "lost").await? {
                    continue;
                }
                removed += 1;
                if member.joined && !dry_run {
                    ended.end(departure(&room, &member, "lost"));
                }
                if !auto_only {
                    count(counts, "stale_connections", 1);
                    count(counts, "stuck_users", u64::from(member.joined));
                }
                count(counts, "auto_users", u64::from(made_up));
                if made_up {
                    self.release_name(&member, dry_run, counts).await?;
                }
            }
            self.backends.records.note_visits(&ended).await?;
            if last || dry_run || removed == 0 {
                return Ok(());
            }
        }
    }

    /// A made-up name is free as soon as nobody goes by it.
    async fn release_name(
        &self,
        member: &Member,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        let (presence, key) = (&self.backends.presence, names::key(&member.name));
        if presence.is_name_held(&key, None).await? {
            count(counts, "released_names", 1);
            if !dry_run {
                presence
                    .hold_name(&key, member.user_id, Duration::ZERO)
                    .await?;
            }
        }
        Ok(())
    }

    /// Where a name is one connection's at a time, one principal who has it twice (they came at the same moment) keeps the
    /// newer.
    async fn doubles(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        count(counts, "duplicate_users", 0);
        for room in self.occupied().await? {
            let mut members = self.backends.presence.members(&room).await?;
            members.retain(|member| member.name_is_exclusive && member.joined);
            members.sort_by_key(|member| member.connection);
            let mut newest: HashMap<(UserId, String), Member> = HashMap::new();
            for member in members {
                let whose = (member.user_id, names::key(&member.name));
                let Some(older) = newest.insert(whose, member) else {
                    continue;
                };
                if dry_run {
                    count(counts, "duplicate_users", 1);
                    continue;
                }
                let connection = older.connection;
                if self.take_out(&room, &older, "replaced").await? {
                    count(counts, "duplicate_users", 1);
                    let mut ended = VisitBatch::default();
                    ended.end(departure(&room, &older, "replaced"));
                    self.backends.records.note_visits(&ended).await?;
                    let replaced = Signal::Replaced { connection };
                    self.backends.log.publish(&room, &replaced).await?;
                }
            }
        }
        Ok(())
    }

    /// True: this call took it out, and told the room.
    async fn take_out(&self, room: &RoomId, member: &Member, reason: &str) -> Result<bool> {
        let b = &self.backends;
        let (client_id, connection) = (member.client_id.clone(), member.connection);
        if !b.presence.leave(room, &client_id, connection).await? {
            return Ok(false);
        }
        let left = Signal::Left {
            client_id,
            connection,
            reason: Some(reason.to_owned()),
        };
        b.log.publish(room, &left).await?;
        Ok(true)
    }
}

fn departure(room: &RoomId, member: &Member, reason: &str) -> Departure {
    Departure {
        room: room.clone(),
        client_id: member.client_id.clone(),
        left: Left {
            at: super::now(),
            reason: Some(reason.to_owned()),
        },
    }
}
