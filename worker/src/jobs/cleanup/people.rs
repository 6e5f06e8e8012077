//! People and connections: whoever is still shown in a room though their gateway died. (Gateways close silent sockets
//! themselves, and free names when they are asked for; what is left to find is what a crash left.)

use std::time::Duration;

use atelier_shared::domain::cleanup::Counts;
use atelier_shared::domain::ids::PodId;
use atelier_shared::domain::names;
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::Result;

use super::{Cleaner, count};

/// A lease of our own: only who has renewed steadily for a full one may say that others are dead.
const LEASE: Duration = Duration::from_millis(3_000);
const RENEWALS: u32 = 5;
const REAP_AT_ONCE: usize = 1_000;

impl Cleaner {
    /// Takes the members of gateways whose lease lapsed out of their rooms, and tells the rooms. A dry run counts nothing:
    /// who is dead is only known by taking them out.
    pub(super) async fn people(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        if dry_run {
            return Ok(());
        }
        let presence = &self.backends.presence;
        let pod = PodId::generate();
        presence.renew(pod, LEASE).await?;
        for _ in 0..RENEWALS {
            tokio::time::sleep(LEASE / 4).await;
            presence.renew(pod, LEASE).await?;
        }
        let outcome = self.reap(pod, counts).await;
        presence.retire(pod).await?;
        outcome
    }

    async fn reap(&self, pod: PodId, counts: &mut Counts) -> Result<()> {
        let presence = &self.backends.presence;
        count(counts, "stuck_users", 0);
        count(counts, "auto_users", 0);
        loop {
            presence.renew(pod, LEASE).await?;
            let reaped = presence.reap(pod, REAP_AT_ONCE).await?;
            if reaped.is_empty() {
                return Ok(());
            }
            for (room, member) in reaped {
                count(counts, "stuck_users", 1);
                count(
                    counts,
                    "auto_users",
                    u64::from(names::is_made_up(&member.name)),
                );
                let left = Signal::Left {
                    client_id: member.client_id,
                    connection: member.connection,
                    reason: Some("lost".into()),
                };
                self.backends.log.publish(&room, &left).await?;
            }
        }
    }
}
