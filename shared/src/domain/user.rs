//! A person who has an account or came as a guest.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ids::UserId;

/// What people who deleted their accounts are called wherever they wrote something.
pub const DELETED_NAME: &str = "Deleted user";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserKind {
    /// Registered, with a password.
    Account,
    /// A name only, for the life of their tokens.
    Guest,
    /// Not even a name; known by the resume token of a connection. Never stored.
    Anonymous,
}

/// One person as stored. `username` is unique by [`super::names::key`] among accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    pub kind: UserKind,
    pub username: String,
    /// Display name, as in [`super::names::name`].
    pub name: String,
    pub email: Option<String>,
    pub avatar_url: Option<String>,
    pub is_admin: bool,
    pub created_at: DateTime<Utc>,
}

/// What a new account needs; `password_hash` is a PHC string (Argon2id).
#[derive(Debug, Clone)]
pub struct NewUser {
    pub user: User,
    pub password_hash: Option<String>,
}
