//! Identifiers and the two numbers that order a room: `epoch` and `seq`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Invalid;

/// A room's name in URLs: 1–64 of `[A-Za-z0-9_-]`, case-sensitive. Made rooms get a UUID v7.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RoomId(Arc<str>);

/// Words that are routes and so can't be rooms (`/ws/stats`, `/ws/session/{id}`).
const RESERVED_ROOMS: [&str; 2] = ["stats", "session"];

/// Number of Redis hash-tag partitions. Frozen: a room's keys are found by it.
pub const PARTITIONS: u16 = 1024;

impl RoomId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When an id that the server chose was made; `None`: somebody else did.
    pub fn made_at(&self) -> Option<DateTime<Utc>> {
        let (seconds, nanos) = Uuid::try_parse(&self.0).ok()?.get_timestamp()?.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    }

    /// `xxh64(id, seed 0) % 1024`. Frozen, as [`PARTITIONS`] is.
    pub fn partition(&self) -> u16 {
        let hash = twox_hash::XxHash64::oneshot(0, self.0.as_bytes());
        u16::try_from(hash % u64::from(PARTITIONS)).unwrap_or(0)
    }
}

impl FromStr for RoomId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(Invalid::new(
                "room_id",
                "a room id has 1 to 64 characters of A-Z a-z 0-9 _ -",
            ));
        }
        if RESERVED_ROOMS.contains(&text) {
            return Err(Invalid::new(
                "room_id",
                format!("\"{text}\" is a reserved word"),
            ));
        }
        Ok(Self(text.into()))
    }
}

/// One connection's name, chosen by the client or made by the server: 1–64 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ClientId(Arc<str>);

impl ClientId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.len() > 64 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Invalid::new(
                "client_id",
                "a client id has 1 to 64 visible ASCII characters",
            ));
        }
        Ok(Self(text.into()))
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_id!(RoomId);
text_id!(ClientId);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new UUID v7: ids sort by the time they were made.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}
uuid_id!(
    /// A person: an account, a guest, or somebody anonymous (known only by a resume token).
    UserId
);
uuid_id!(
    /// One physical connection; never reused, unlike a [`ClientId`].
    ConnectionId
);
uuid_id!(
    /// One running gateway process.
    PodId
);
uuid_id!(
    /// A job, and the run it makes in a room.
    JobId
);
uuid_id!(
    /// A chat message or comment.
    MessageId
);
uuid_id!(
    /// An uploaded file.
    FileId
);
uuid_id!(
    /// A workspace, a project or a team.
    PlaceId
);
uuid_id!(
    /// A titled note that is shared with a team.
    InsightId
);
uuid_id!(
    /// A backup of a room.
    BackupId
);
uuid_id!(
    /// A login: the family of refresh tokens that descend from one another.
    FamilyId
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
number!(
    /// Place of an entry in its room's log. The first is 1; 0 means "before everything".
    Seq
);
number!(
    /// One unbroken life of a room's log. Raised, by the archive alone, when a log was lost or rolled back.
    /// The first is 1; 0 means "never opened".
    Epoch
);

/// What a client calls a durable message, so that a resend is stored once: 1–64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ref(Arc<str>);

/// What begins the refs of entries that the server itself makes: no client can name one, because its own have no control
/// characters.
const SERVERS: char = '\u{1}';

impl Ref {
    /// Of an entry that the server makes, in whoever's name: told once, however often that is tried, and nothing that a client
    /// sends can pass for it.
    pub fn of_server(name: std::fmt::Arguments<'_>) -> Self {
        Self(format!("{SERVERS}{name}").into())
    }

    pub fn is_of_server(&self) -> bool {
        self.0.starts_with(SERVERS)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ref {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let count = text.chars().count();
        if count == 0 || count > 64 || text.chars().any(char::is_control) {
            return Err(Invalid::new(
                "ref",
                "a ref has 1 to 64 characters and no control characters",
            ));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ids_refuse_reserved_words_and_odd_characters() {
        assert!("abc_1-X".parse::<RoomId>().is_ok());
        for bad in ["", "stats", "session", "a b", "é", &"x".repeat(65)] {
            assert_eq!(bad.parse::<RoomId>().unwrap_err().field, "room_id", "{bad}");
        }
    }

    #[test]
    fn no_client_can_name_a_ref_of_the_servers() {
        let of_server = Ref::of_server(format_args!("run:{}:finished", 1));
        assert!(of_server.is_of_server());
        assert!(of_server.as_str().parse::<Ref>().is_err());
        let clients: Ref = "run:1:finished".parse().unwrap();
        assert!(!clients.is_of_server() && clients != of_server);
    }

    #[test]
    fn partitions_are_frozen() {
        let partition = |id: &str| id.parse::<RoomId>().unwrap().partition();
        assert_eq!(partition("abc123"), partition("abc123"));
        assert!(partition("abc123") < PARTITIONS);
    }
}
