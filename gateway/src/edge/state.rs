//! What every handler can reach.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use atelier_shared::Backends;
use atelier_shared::ports::PortError;
use chrono::{DateTime, Utc};
use thiserror::Error;
use tokio::sync::Semaphore;

use super::files::Uploads;
use super::health::Checks;
use super::memory::Memory;
use super::occupancy::Occupancy;
use super::tries::Tries;
use crate::config::{ConfigError, GatewayConfig};
use crate::identity::{Identity, Passwords, Profiles};
use crate::metrics::Metrics;
use crate::room::Rooms;
use crate::seats::Seats;

/// Streams of output that one gateway serves at a time.
const OUTPUT_READERS_MAX: usize = 2_000;
/// Locks that addresses share by hash.
const ADDRESS_LOCKS: usize = 64;

/// Files that are read whole may hold so many bytes together (and always two of the largest).
const WHOLE_FILES_MEMORY: usize = 256 << 20;
/// Each may take some hundred megabytes for a moment.
const DRAWINGS_AT_ONCE: usize = 4;

/// Why the gateway does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] PortError),
}

/// The gateway as handlers see it; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

pub struct Inner {
    pub backends: Backends,
    pub config: GatewayConfig,
    pub identity: Identity,
    pub passwords: Passwords,
    pub(super) tries: Tries,
    pub profiles: Profiles,
    pub metrics: Metrics,
    pub rooms: Rooms,
    pub occupancy: Occupancy,
    pub checks: Checks,
    pub(super) seats: Seats,
    pub uploads: Uploads,
    /// Held while this gateway's figures are reported.
    pub reporting: tokio::sync::Mutex<()>,
    pub started_at: DateTime<Utc>,
    /// Room for those who watch programs.
    pub(super) output_readers: Arc<Semaphore>,
    /// Whole drawings in memory at once: files that are read, boards that are written out.
    pub drawings: tokio::sync::Semaphore,
    /// For files that are still being read: turns are for those that are there.
    pub(super) whole_files: Memory,
    making_room: [tokio::sync::Mutex<()>; ADDRESS_LOCKS],
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    /// `config` as [`GatewayConfig::prepare`] left it.
    pub async fn start(backends: Backends, config: GatewayConfig) -> Result<Self, StartError> {
        let identity = Identity::open(&config, backends.vault.clone())?;
        let largest = config.max_import.max(config.max_file_size);
        let passwords = Passwords::new(config.password_hashes_at_once.into());
        let metrics = Metrics::new();
        let profiles = Profiles::new(backends.records.clone(), backends.vault.clone());
        let rooms = Rooms::start(
            backends.clone(),
            config.clone(),
            identity.clone(),
            profiles.clone(),
            metrics.clone(),
        )
        .await?;
        Ok(Self(Arc::new(Inner {
            occupancy: Occupancy::new(backends.presence.clone(), rooms.people_changes()),
            rooms,
            checks: Checks::new(backends.clone()),
            seats: Seats::new(
                config.max_connections as usize,
                metrics.tcp_connections.clone(),
            ),
            reporting: tokio::sync::Mutex::default(),
            uploads: Uploads::new(config.upload_memory as usize / backends.files.part_bytes()),
            identity,
            passwords,
            tries: Tries::default(),
            profiles,
            metrics,
            started_at: Utc::now(),
            output_readers: Arc::new(Semaphore::new(OUTPUT_READERS_MAX)),
            drawings: tokio::sync::Semaphore::new(DRAWINGS_AT_ONCE),
            whole_files: Memory::new(WHOLE_FILES_MEMORY.max(2 * largest as usize)),
            making_room: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            backends,
            config,
        })))
    }

    /// From now on `/readyz` says no.
    pub fn begin_drain(&self) {
        self.checks.begin_drain();
    }

    pub fn is_draining(&self) -> bool {
        self.checks.is_draining()
    }

    /// One address makes one room at a time here: more would only hold connections to the database while they wait there.
    pub(super) async fn making_room(&self, address: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = std::hash::DefaultHasher::new();
        address.hash(&mut hasher);
        let at = hasher.finish() % ADDRESS_LOCKS as u64;
        self.making_room[usize::try_from(at).unwrap_or(0)]
            .lock()
            .await
    }
}
