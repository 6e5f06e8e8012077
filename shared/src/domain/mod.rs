//! Data and pure rules; no I/O, no clock, no randomness of its own.

pub mod activity;
pub mod backup;
pub mod board;
pub mod chat;
pub mod cleanup;
pub mod document;
pub mod drawing;
pub mod entry;
pub mod file;
pub mod ids;
pub mod insight;
pub mod invite;
pub mod job;
pub mod language;
pub mod message;
pub mod moment;
pub mod names;
pub mod objects;
pub mod place;
pub mod presence;
pub mod reactions;
pub mod removal;
pub mod room;
pub mod search;
pub mod signal;
pub mod state;
pub mod svg;
pub mod user;
pub mod visit;

use std::borrow::Cow;

use thiserror::Error;

/// A value that breaks a rule, with the field that holds it. Becomes problem+json or an `error` frame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// Wire name of the offending field, as a path where nested (`data.content`, `paths[0].ts`).
    pub field: Cow<'static, str>,
    /// What is wrong, for the person who sent it.
    pub reason: String,
}

impl Invalid {
    pub fn new(field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same of a value that stands in another.
    #[must_use]
    pub fn within(self, around: &str) -> Self {
        Self {
            field: format!("{around}.{}", self.field).into(),
            ..self
        }
    }
}
