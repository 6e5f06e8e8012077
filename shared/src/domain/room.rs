//! A room: what kind it is, who may enter, what is allowed in it.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Invalid;
use super::ids::{RoomId, UserId};

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident, $field:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Invalid::new($field, format!("must be one of: {}", Self::WORDS.join(", ")))),
                }
            }
        }
    };
}
pub(crate) use word_enum;

word_enum!(
    /// What a room is for; sets the defaults of PROTOCOL.md "Kinds of room".
    RoomKind, "kind" { Open = "open", Whiteboard = "whiteboard", Session = "session", Project = "project" }
);
word_enum!(
    /// Who may enter without being a member.
    Access, "access" { Open = "open", Invite = "invite", Members = "members" }
);
word_enum!(
    /// What becomes of an empty room.
    Retention, "retention" { Keep = "keep", Ephemeral = "ephemeral" }
);
word_enum!(
    /// What may be done in a room.
    Activity, "allows" { Draw = "draw", Chat = "chat", Document = "document", Code = "code" }
);
word_enum!(
    /// What a person may do in a room. Ordered: a viewer is less than an editor is less than a host.
    Role, "role" { Viewer = "viewer", Editor = "editor", Host = "host" }
);

/// One room as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub id: RoomId,
    /// A label, not unique.
    pub name: String,
    pub kind: RoomKind,
    pub access: Access,
    pub listed: bool,
    pub retention: Retention,
    pub allows: Vec<Activity>,
    /// None: made by somebody anonymous who connected.
    pub created_by: Option<UserId>,
    /// The address that made it (IPv6: its /64), for the limit of rooms per address.
    pub creator_address: Option<String>,
    pub project_id: Option<Uuid>,
    /// Raised by every role change; the log fences writes by it.
    pub role_version: u64,
    pub created_at: DateTime<Utc>,
    pub last_activity_at: DateTime<Utc>,
}

/// What a maker may choose; the rest comes from the kind.
#[derive(Debug, Clone, Default)]
pub struct RoomChoice {
    pub name: Option<String>,
    pub kind: Option<RoomKind>,
    pub access: Option<Access>,
    pub listed: Option<bool>,
    pub retention: Option<Retention>,
    pub allows: Option<Vec<Activity>>,
    pub project_id: Option<Uuid>,
}

impl Room {
    /// A room with the defaults of its kind where `choice` is silent. `now` is truncated to microseconds.
    pub fn new(
        id: RoomId,
        choice: RoomChoice,
        created_by: Option<UserId>,
        creator_address: Option<String>,
        now: DateTime<Utc>,
    ) -> Self {
        let kind = choice.kind.unwrap_or(RoomKind::Open);
        let (allows, access, listed): (&[Activity], Access, bool) = match kind {
            RoomKind::Open => (&ALL, Access::Open, true),
            RoomKind::Whiteboard => (&[Activity::Draw], Access::Invite, false),
            RoomKind::Session => (
                &[Activity::Chat, Activity::Code, Activity::Document],
                Access::Members,
                false,
            ),
            RoomKind::Project => (&ALL, Access::Members, false),
        };
        Self {
            name: choice.name.unwrap_or_else(|| id.to_string()),
            kind,
            access: choice.access.unwrap_or(access),
            listed: choice.listed.unwrap_or(listed),
            retention: choice.retention.unwrap_or(Retention::Keep),
            allows: choice.allows.unwrap_or_else(|| allows.to_vec()),
            created_by,
            creator_address,
            project_id: choice.project_id,
            role_version: 1,
            created_at: now,
            last_activity_at: now,
            id,
        }
    }

    pub fn allows(&self, activity: Activity) -> bool {
        self.allows.contains(&activity)
    }
}

const ALL: [Activity; 4] = [
    Activity::Draw,
    Activity::Chat,
    Activity::Document,
    Activity::Code,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_ordered() {
        assert!(Role::Viewer < Role::Editor && Role::Editor < Role::Host);
    }

    #[test]
    fn kinds_set_the_defaults_of_the_protocol() {
        let choice = RoomChoice {
            kind: Some(RoomKind::Session),
            ..RoomChoice::default()
        };
        let room = Room::new(RoomId::generate(), choice, None, None, DateTime::UNIX_EPOCH);
        assert_eq!(room.access, Access::Members);
        assert!(!room.listed && !room.allows(Activity::Draw) && room.allows(Activity::Code));
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_known_ones() {
        let error = "secret".parse::<Access>().unwrap_err();
        assert_eq!(error.field, "access");
        assert!(error.reason.contains("open, invite, members"));
    }
}
