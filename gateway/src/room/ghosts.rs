//! Ghosts of a living pod: rows in presence under its own id of connections that it has not, or has no more. A store that
//! was rolled back to a moment before they left has them again, and the pod's lease would keep them for ever.

use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::presence::Member;
use atelier_shared::ports::Result;

use super::registry::{Handle, RENEW_EVERY, Rooms};

/// Looked for at once; what is beyond is left to the cleanup.
const GHOSTS_MAX: usize = 10_000;

impl Rooms {
    /// Presence may remember what is over: what it has of this pod, and this pod does not know at two looks, is taken out. (One
    /// that is just being admitted is in presence before its socket is here.)
    pub(super) async fn take_out_ghosts(self) {
        let ghosts = match self.ghosts().await {
            Ok(ghosts) if ghosts.is_empty() => return,
            Ok(ghosts) => ghosts,
            Err(error) => {
                tracing::warn!(%error, "who is in presence and not here is left to the cleanup");
                return;
            }
        };
        tokio::time::sleep(RENEW_EVERY).await;
        for (room, member) in ghosts {
            if self.is_ghost(&room, &member)
                && let Err(error) = self.take_out(&room, member).await
            {
                tracing::warn!(%room, %error, "somebody who is not here is left to the cleanup");
            }
        }
    }

    /// Rows of this pod that it does not know.
    pub(super) async fn ghosts(&self) -> Result<Vec<(RoomId, Member)>> {
        let presence = &self.backends.presence;
        let mut rows = presence.members_of(self.pod, GHOSTS_MAX).await?;
        rows.retain(|(room, member)| self.is_ghost(room, member));
        Ok(rows)
    }

    fn is_ghost(&self, room: &RoomId, member: &Member) -> bool {
        // A live room knows its simulated people and who is on the way in, and takes out who is neither.
        let live = self.find(room);
        let is_coming = |handle: &Handle| handle.shared.coming.contains(member.connection);
        let is_known = live.is_some_and(|handle| member.simulated || is_coming(&handle));
        !is_known && !self.sockets.contains_key(&member.connection)
    }

    /// Somebody who is not here leaves, and the others hear of it once.
    pub(super) async fn take_out(&self, room: &RoomId, member: Member) -> Result<()> {
        let presence = &self.backends.presence;
        let left = presence
            .leave(room, &member.client_id, member.connection)
            .await?;
        if left {
            self.people_changed();
            self.tell_left(room, &member.client_id, member.connection, Some("lost"))
                .await?;
        }
        Ok(())
    }
}
