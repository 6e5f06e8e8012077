//! One body of queries for two databases: each macro writes the impl of one port for an adapter, Postgres's or SQLite's.
//!
//! An adapter that instantiates them gives, in the module of the call: methods `read` and `write` that begin a
//! transaction (one that may write takes its lock at once), and functions `statement`, `rows`,
//! `lock_address`, `bounded` (a call ends, whatever becomes of the database) and `failed`. Every call is
//! one transaction. The SQL is what both databases share: `$1`, `RETURNING`, `ON CONFLICT`, row values.

pub mod cleanup;
pub mod files;
pub mod insights;
pub mod invites;
pub mod jobs;
pub mod places;
pub mod removal_steps;
pub mod removals;
pub mod roles;
pub mod room_lists;
pub mod rooms;
pub mod users;
pub mod visits;

use chrono::{DateTime, SubsecRound, Utc};
use std::str::FromStr;

/// Rows of one `IN (…)` list; SQLite takes 32,766 parameters in all, Postgres 65,535.
pub const LIST_CHUNK: usize = 1_000;

/// What both databases keep of a time.
pub fn micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// After every time that is stored: the place before the first row of a list that runs newest first.
pub fn end_of_time() -> DateTime<Utc> {
    // 9999-12-31T23:59:59Z, the last second whose text still sorts as the time does.
    DateTime::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Rows to ask for, so that one too many tells of more.
pub fn one_more(limit: usize) -> i64 {
    i64::try_from(limit.min(crate::ports::PAGE_MAX) + 1).unwrap_or(i64::MAX)
}

/// Cuts what [`one_more`] fetched to a page.
pub fn page<T>(mut items: Vec<T>, limit: usize) -> crate::ports::Page<T> {
    let limit = limit.min(crate::ports::PAGE_MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    crate::ports::Page { items, more }
}

/// Reads a stored word or id; a failure means that the row was written by something else than this program.
pub fn parse<T>(text: &str) -> sqlx::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse().map_err(corrupt)
}

pub fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// A value that the schema cannot hold.
pub fn unstorable(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Encode(what.into())
}
