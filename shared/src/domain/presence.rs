//! Who is in a room right now.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Invalid;
use super::ids::{ClientId, ConnectionId, PodId, UserId};
use super::room::{Role, word_enum};
use std::str::FromStr;

word_enum!(
    /// What a person's client says they are doing.
    Status, "data.status" { Active = "active", Idle = "idle", Away = "away" }
);

/// One joined connection, as every pod knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub client_id: ClientId,
    pub connection: ConnectionId,
    pub pod: PodId,
    pub user_id: UserId,
    pub name: String,
    pub color: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    pub role: Role,
    pub status: Status,
    pub simulated: bool,
    /// Has it joined (has a name that others were told)? A connection that only watches is not announced.
    pub joined: bool,
    /// The last `cursor` position, for those who come later. (Boxes: most people are idle, and each is kept several times.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor_position: Option<Box<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Box<Value>>,
    /// The file that its last `cursor_update` or `viewport_update` named, with what that said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub viewing: Option<Box<Viewing>>,
    /// Came where a name is one person's at a time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub name_is_exclusive: bool,
}

/// Where in which file somebody is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Viewing {
    pub file: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_line: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_line: Option<u64>,
}
