//! Relational data: workspaces, projects, teams, and who belongs to them.

use async_trait::async_trait;

use super::{Page, Result};
use crate::domain::ids::{PlaceId, RoomId, UserId};
use crate::domain::place::{Place, PlaceKind, PlaceRole};

/// Somebody's own standing in one place; what they inherit is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceMember {
    pub user_id: UserId,
    pub role: PlaceRole,
    /// The person's display name; `None` for people whose row is gone.
    pub name: Option<String>,
}

/// Which places a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceScope {
    /// Those of a kind that this person is a member of.
    Of(UserId, PlaceKind),
    /// The projects of a workspace.
    In(PlaceId),
    /// Every one of a kind.
    All(PlaceKind),
}

/// What is to change of a place; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacePatch {
    pub name: Option<String>,
    pub description: Option<String>,
}

/// What came of a wish to change somebody's role in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceChange {
    /// There is no such place.
    Missing,
    /// The person's role is not the one that the caller saw.
    Changed,
    /// A place keeps at least one owner.
    LastOwner,
    /// It is done, and raised the role versions of these rooms to these.
    Done(Vec<(RoomId, u64)>),
}

/// What came of a wish to delete a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceDeletion {
    Missing,
    /// There are rooms in it; nothing changed.
    HasRooms,
    Deleted,
}

/// Promises: a place that has had an owner keeps one; a change of somebody's role in a place, and of the role versions of
/// every room where that counts, is one step; changes under one workspace happen one after the other.
#[async_trait]
pub trait PlaceRecords: Send + Sync {
    /// Makes the place, and its creator (if any) owner, in one step. False: its workspace is gone.
    async fn create_place(&self, place: &Place) -> Result<bool>;

    async fn place(&self, id: PlaceId) -> Result<Option<Place>>;

    /// Changes what the patch names, and nothing else, whatever else changes at the same time. The place as it is now;
    /// `None`: no such place.
    async fn patch_place(&self, id: PlaceId, patch: &PlacePatch) -> Result<Option<Place>>;

    /// Removes the place with its projects and members, if no room is in it.
    async fn delete_place(&self, id: PlaceId) -> Result<PlaceDeletion>;

    /// Rooms of a project, or of all projects of a workspace; at most `limit`.
    async fn rooms_in(&self, id: PlaceId, limit: usize) -> Result<Vec<RoomId>>;

    /// Newest first, by id, before `before`; with each the own role of `reader`.
    async fn list_places(
        &self,
        scope: PlaceScope,
        reader: UserId,
        before: Option<PlaceId>,
        limit: usize,
    ) -> Result<Page<(Place, Option<PlaceRole>)>>;

    /// The greater of a person's own role and the one in the place's workspace.
    async fn place_role(&self, place: PlaceId, user: UserId) -> Result<Option<PlaceRole>>;

    /// A person's own standing.
    async fn place_member(&self, place: PlaceId, user: UserId) -> Result<Option<PlaceMember>>;

    /// By user id, after `after`.
    async fn place_members(
        &self,
        place: PlaceId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Page<PlaceMember>>;

    /// Sets or (`None`) takes away a person's own role, if it still is `seen`. Whom a workspace removes, its projects
    /// remove; whom nothing lets into a project any more loses the roles given in its rooms.
    async fn set_place_role(
        &self,
        place: PlaceId,
        user: UserId,
        seen: Option<PlaceRole>,
        role: Option<PlaceRole>,
    ) -> Result<PlaceChange>;
}
