//! A room that the cleanup removed, as far as it can be brought back.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Invalid;
use super::ids::{RoomId, UserId};
use super::room::{Role, Room, word_enum};

word_enum!(
    /// Where a removal stands.
    RemovalState, "state" {
        /// The room's row is gone; its content is being kept aside. It can be undone.
        Removing = "removing",
        /// Its content is kept aside; what the room itself has of it follows.
        Kept = "kept",
        /// All of it is gone but what is kept aside.
        Removed = "removed",
        /// It is being brought back.
        Restoring = "restoring",
    }
);

/// A room's row, and who was a member of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub room: Room,
    pub members: Vec<(UserId, Role)>,
}

/// One removal. Its content is kept under [`Removal::kept_under`] until `expires_at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub id: Uuid,
    pub room: RoomId,
    pub state: RemovalState,
    pub snapshot: Snapshot,
    /// Entries of the room's log that are kept.
    pub entries: u64,
    /// Files that are kept.
    pub files: u64,
    /// The id under which it is being brought back.
    pub target: Option<RoomId>,
    pub removed_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

impl Removal {
    /// The name under which its backups and files lie, apart from whatever room has the old name since. Nobody enters it:
    /// there is no such row.
    pub fn kept_under(&self) -> RoomId {
        kept_under(self.id)
    }
}

/// [`Removal::kept_under`] of a removal by its id.
pub fn kept_under(id: Uuid) -> RoomId {
    // A UUID is a valid room id.
    id.to_string()
        .parse()
        .unwrap_or_else(|_| RoomId::generate())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_lies_under_the_removal_s_own_id() {
        let id = Uuid::now_v7();
        assert_eq!(kept_under(id).as_str(), id.to_string());
    }
}
