//! Who is what in a room.

use async_trait::async_trait;

use super::{Page, Result};
use crate::domain::ids::{RoomId, UserId};
use crate::domain::room::Role;

/// Most people whose roles are asked for at once.
pub const MEMBERS_MAX: usize = 10_000;

/// A person's own standing in one room; what they inherit from its project is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub user_id: UserId,
    pub role: Role,
    /// The person's display name; `None` for people whose row is gone.
    pub name: Option<String>,
}

/// What came of a wish to set somebody's role in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleChange {
    /// There is no such room.
    Missing,
    /// They are the room's only host, and would not be any more: nothing was changed.
    LastHost,
    /// It is done, and this is the room's role version now.
    Done(u64),
}

/// Promises: a role change and the room's `role_version` change together; `set_role` leaves a room that has a host with
/// one, also where several go or are made less at the same moment.
#[async_trait]
pub trait RoleRecords: Send + Sync {
    /// The greatest of the role given in the room and those that its project and its workspace give.
    async fn role(&self, room: &RoomId, user: UserId) -> Result<Option<Role>>;

    /// As [`Self::role`], for those of `users` that have one; at most [`MEMBERS_MAX`] are asked for.
    async fn roles(&self, room: &RoomId, users: &[UserId]) -> Result<Vec<(UserId, Role)>>;

    /// A person's own standing.
    async fn member(&self, room: &RoomId, user: UserId) -> Result<Option<Membership>>;

    /// By user id, after `after`.
    async fn members(
        &self,
        room: &RoomId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Page<Membership>>;

    /// Sets or (`None`) takes away a role.
    async fn set_role(&self, room: &RoomId, user: UserId, role: Option<Role>)
    -> Result<RoleChange>;
}
