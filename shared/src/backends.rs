//! The only door to the adapters: configuration in, ports out.

use std::sync::Arc;

use thiserror::Error;

use crate::config::StoreConfig;
use crate::ports::{Archive, Files, PortError, Presence, Queue, Records, RoomLog, Vault};

/// Decided by configuration alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Alone: SQLite, memory and a folder.
    Embedded,
    /// Postgres, Redis, MongoDB and a bucket or shared folder.
    Distributed,
}

/// Why the stores could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(
        "{present} set but {missing} missing: set all of DATABASE_URL, REDIS_URL and MONGO_URL for distributed mode, or none for embedded mode"
    )]
    HalfConfigured { present: String, missing: String },
    #[error("{setting}: {reason}")]
    Setting {
        setting: &'static str,
        reason: String,
    },
    #[error("{store} at start: {source}")]
    Store {
        store: &'static str,
        #[source]
        source: PortError,
    },
}

/// Every port, opened.
#[derive(Clone)]
pub struct Backends {
    pub mode: Mode,
    pub log: Arc<dyn RoomLog>,
    pub presence: Arc<dyn Presence>,
    pub records: Arc<dyn Records>,
    pub archive: Arc<dyn Archive>,
    pub queue: Arc<dyn Queue>,
    pub vault: Arc<dyn Vault>,
    pub files: Arc<dyn Files>,
}

impl Mode {
    /// None of the three URLs: embedded; all: distributed; some: refused, naming what is missing.
    pub fn of(config: &StoreConfig) -> Result<Self, OpenError> {
        let urls = [
            ("DATABASE_URL", &config.database_url),
            ("REDIS_URL", &config.redis_url),
            ("MONGO_URL", &config.mongo_url),
        ];
        let names = |set: bool| -> Vec<&str> {
            urls.iter()
                .filter(|(_, url)| url.as_ref().is_some_and(|u| !u.is_empty()) == set)
                .map(|(name, _)| *name)
                .collect()
        };
        match names(true).len() {
            0 => Ok(Self::Embedded),
            3 => Ok(Self::Distributed),
            _ => Err(OpenError::HalfConfigured {
                present: names(true).join(", "),
                missing: names(false).join(", "),
            }),
        }
    }
}
