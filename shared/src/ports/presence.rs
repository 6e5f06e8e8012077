//! Who is where, and which pods are alive.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::domain::ids::{ClientId, ConnectionId, PodId, RoomId, UserId};
use crate::domain::presence::Member;

/// What came of a wish to be `client_id` in a room.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    Entered,
    /// The same principal held it; it is the newcomer's now, and the old connection must be told (4409).
    Replaced(Box<Member>),
    /// Somebody else is connected under it. Nothing changed.
    Held(Box<Member>),
}

/// People remembered as holders of one name; beyond it those whose holds end first are forgotten.
pub const NAME_HOLDERS_MAX: usize = 64;

/// How many people are in one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomOccupancy {
    pub room: RoomId,
    pub members: usize,
}

/// What pods said of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports {
    /// The last report of every pod whose lease on it runs.
    pub live: Vec<String>,
    /// All that was ever added, by name.
    pub totals: BTreeMap<String, u64>,
}

/// Promises: `enter`, `update` and `leave` compare and write in one step; a member whose pod's lease lapsed is handed
/// out by `reap` to exactly one caller; after a stall of the store itself nobody is reaped before every live pod has
/// had a full lease of time to renew.
#[async_trait]
pub trait Presence: Send + Sync {
    async fn ping(&self) -> Result<()>;

    /// Takes `member.client_id` in the room for `member.connection`. `take_over` = the newcomer may also replace a
    /// holder that is somebody else (found dead by the caller), if it is still this connection.
    async fn enter(
        &self,
        room: &RoomId,
        member: &Member,
        take_over: Option<ConnectionId>,
    ) -> Result<Claim>;

    /// Overwrites what is known of a member, if the same connection still holds its place. False: it does not.
    async fn update(&self, room: &RoomId, member: &Member) -> Result<bool>;

    /// True: this call removed it, and the caller is the one to tell the others.
    async fn leave(
        &self,
        room: &RoomId,
        client_id: &ClientId,
        connection: ConnectionId,
    ) -> Result<bool>;

    /// Everybody in the room whose pod has not been reaped, ordered by client id.
    async fn members(&self, room: &RoomId) -> Result<Vec<Member>>;

    /// The members that came in by this pod, wherever, at most `limit`, in no order.
    async fn members_of(&self, pod: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>>;

    /// How many members each room has that has any; at most `limit` rooms, ordered by room id after `after`.
    async fn occupied(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomOccupancy>>;

    /// Says that this pod is alive for `lease` from now on the store's clock. To be called every third of a lease, and
    /// before the first `enter`: a pod whose renewals lie more than half a lease apart reaps nobody.
    ///
    /// Returns for how long the pod has renewed steadily, as far as the store remembers. Zero: this is the first time,
    /// or the pod was away for more than half a lease, or the store has lost its memory or its last moments (it was started
    /// again, or another took its place). In all of these the pod's members may be missing, and have to
    /// [`enter`](Self::enter) again.
    async fn renew(&self, pod: PodId, lease: Duration) -> Result<Duration>;

    /// What [`renew`](Self::renew) returned, and the time since; zero for a pod that is late. Asked after `members`, it
    /// tells whether the store has remembered long enough for every living pod to have entered its members again, so
    /// that who was missing there is gone.
    async fn steady(&self, pod: PodId) -> Result<Duration>;

    /// Removes the members of pods whose lease lapsed, at most `limit`, and hands them to the caller. Called by
    /// every pod on its own beat; a member is handed out once.
    async fn reap(&self, by: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>>;

    /// Whom [`reap`](Self::reap) would hand out, left where they are; at most `limit`.
    async fn lapsed(&self, by: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>>;

    /// Shares what a pod counts with the others, for `lease` from now, in the place of what it reported before; and adds to
    /// the cluster's totals, which outlive every pod (embedded: not the process). Adds twice if repeated.
    async fn report(
        &self,
        pod: PodId,
        report: &str,
        lease: Duration,
        add: &[(&'static str, u64)],
    ) -> Result<()>;

    async fn reports(&self) -> Result<Reports>;

    /// This person goes by a name (as [`crate::domain::names::key`] spells it) for `ttl` from now on the store's clock; a
    /// hold is never shortened, but zero ends it. Several people may hold one name.
    async fn hold_name(&self, key: &str, person: UserId, ttl: Duration) -> Result<()>;

    /// [`hold_name`](Self::hold_name), but only if nobody else holds the name: of several who try at once one succeeds.
    async fn take_name(&self, key: &str, person: UserId, ttl: Duration) -> Result<bool>;

    /// Does anybody but `person` hold the name now? True to the moment: nothing is swept.
    async fn is_name_held(&self, key: &str, person: Option<UserId>) -> Result<bool>;

    /// The pod ends in good order: its lease is gone at once (its members must have left already).
    async fn retire(&self, pod: PodId) -> Result<()>;
}
