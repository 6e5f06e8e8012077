//! Workspaces, the projects in them, and teams: where people belong, and as what.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Invalid;
use super::ids::{PlaceId, UserId};
use super::room::{Role, word_enum};

/// Longest description of a place, in bytes.
pub const DESCRIPTION_MAX_BYTES: usize = 4_096;

word_enum!(
    /// What a place is.
    PlaceKind, "kind" { Workspace = "workspace", Project = "project", Team = "team" }
);
word_enum!(
    /// What a person may do in a place. Ordered: a viewer is less than a member, an admin less than an owner.
    PlaceRole, "role" { Viewer = "viewer", Member = "member", Admin = "admin", Owner = "owner" }
);

impl PlaceRole {
    /// What it makes of a person in the rooms of the place.
    pub fn in_rooms(self) -> Role {
        match self {
            Self::Owner | Self::Admin => Role::Host,
            Self::Member => Role::Editor,
            Self::Viewer => Role::Viewer,
        }
    }
}

/// One place as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub id: PlaceId,
    pub kind: PlaceKind,
    /// A project's workspace; `None` for the others.
    pub parent: Option<PlaceId>,
    /// A label, not unique.
    pub name: String,
    pub description: String,
    /// `None`: made with the administrator's token.
    pub created_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
}

/// Refuses a description that is too long or holds characters that nobody can read.
pub fn description(text: &str) -> Result<String, Invalid> {
    let text = text.trim();
    if text.len() > DESCRIPTION_MAX_BYTES {
        let reason = format!("must have at most {DESCRIPTION_MAX_BYTES} bytes");
        return Err(Invalid::new("description", reason));
    }
    if text
        .chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
    {
        let reason = "must not hold control characters";
        return Err(Invalid::new("description", reason));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_places_act_in_rooms_in_their_order() {
        let mut roles = [
            PlaceRole::Viewer,
            PlaceRole::Member,
            PlaceRole::Admin,
            PlaceRole::Owner,
        ];
        roles.sort();
        let in_rooms = roles.map(PlaceRole::in_rooms);
        assert_eq!(
            in_rooms,
            [Role::Viewer, Role::Editor, Role::Host, Role::Host]
        );
    }

    #[test]
    fn a_description_is_bounded_and_readable() {
        assert_eq!(description(" two\nlines ").unwrap(), "two\nlines");
        for bad in ["\u{0}", &"x".repeat(DESCRIPTION_MAX_BYTES + 1)] {
            assert_eq!(description(bad).unwrap_err().field, "description");
        }
    }
}
