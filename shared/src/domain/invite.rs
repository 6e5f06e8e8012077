//! An invitation into a room: whoever holds its code gets a role there.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::ids::{RoomId, UserId};
use super::room::Role;

/// One invitation as stored: of the code only the hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    pub id: Uuid,
    pub room: RoomId,
    /// SHA-256 of the code.
    pub code_hash: [u8; 32],
    pub role: Role,
    pub created_by: UserId,
    pub created_at: DateTime<Utc>,
    /// `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// `None`: any number.
    pub max_uses: Option<u32>,
    pub uses: u32,
}

impl Invite {
    /// May it still be used?
    pub fn stands(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|end| now < end)
            && self.max_uses.is_none_or(|max| self.uses < max)
    }
}
