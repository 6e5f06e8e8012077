//! The only door to the adapters: configuration in, ports out.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::adapters::distributed::redis::Redis;
use crate::adapters::distributed::{self, mongo, postgres};
use crate::adapters::embedded;
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

/// Connections to Redis for ordinary commands, per process.
const REDIS_CONNECTIONS: usize = 4;
/// A store that does not answer a ping for so long is away.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

impl Backends {
    /// Opens every store of the mode that the configuration decides.
    pub async fn open(config: &StoreConfig) -> Result<Self, OpenError> {
        match Mode::of(config)? {
            Mode::Embedded => Self::open_embedded(config).await,
            Mode::Distributed => Self::open_distributed(config).await,
        }
    }

    async fn open_embedded(config: &StoreConfig) -> Result<Self, OpenError> {
        let folder = &config.data_dir;
        std::fs::create_dir_all(folder).map_err(|error| OpenError::Setting {
            setting: "ATELIER_DATA_DIR",
            reason: format!("cannot make {}: {error}", folder.display()),
        })?;
        let log = embedded::room_log::SqliteRoomLog::open(folder, config.room_tail_max);
        let files: Arc<dyn Files> = match files_url(config) {
            Some(url) => Arc::new(distributed::files::open(&url).await.map_err(at("files"))?),
            None => Arc::new(embedded::files::open(folder).await.map_err(at("files"))?),
        };
        Ok(Self {
            mode: Mode::Embedded,
            log: Arc::new(log.await.map_err(at("room log"))?),
            presence: Arc::new(embedded::presence::MemoryPresence::default()),
            records: Arc::new(
                embedded::records::SqliteRecords::open(folder)
                    .await
                    .map_err(at("records"))?,
            ),
            archive: Arc::new(
                embedded::archive::SqliteArchive::open(folder)
                    .await
                    .map_err(at("archive"))?,
            ),
            queue: Arc::new(
                embedded::queue::SqliteQueue::open(folder)
                    .await
                    .map_err(at("queue"))?,
            ),
            vault: Arc::new(
                embedded::vault::SqliteVault::open(folder)
                    .await
                    .map_err(at("vault"))?,
            ),
            files,
        })
    }

    async fn open_distributed(config: &StoreConfig) -> Result<Self, OpenError> {
        let files_url = files_url(config).ok_or(OpenError::Setting {
            setting: "FILES_URL",
            reason: "distributed mode needs storage that all pods share: file:///folder, s3://bucket or gs://bucket".into(),
        })?;
        let url = |url: &Option<String>| url.clone().unwrap_or_default();
        let redis_url = url(&config.redis_url);
        let namespace = &config.redis_namespace;
        let rooms = Redis::connect(&redis_url, namespace, REDIS_CONNECTIONS);
        let rooms = rooms.await.map_err(at("Redis"))?;
        let jobs = match &config.redis_queue_url {
            Some(own) if !own.is_empty() && *own != redis_url => {
                let jobs = Redis::connect(own, namespace, REDIS_CONNECTIONS);
                jobs.await.map_err(at("Redis (REDIS_QUEUE_URL)"))?
            }
            _ => rooms.clone(),
        };
        let database_url = url(&config.database_url);
        let pool = postgres::connect(&database_url, config.database_pool);
        let pool = pool.await.map_err(at("Postgres"))?;
        check_schema(&pool).await?;
        let mongo_url = url(&config.mongo_url);
        let mongo = mongo::connect(&mongo_url, &config.db_name);
        let archive = distributed::archive::MongoArchive::new(mongo.await.map_err(at("MongoDB"))?);
        archive.ensure_indexes().await.map_err(at("MongoDB"))?;
        let log = distributed::room_log::RedisRoomLog::open(rooms.clone(), config.room_tail_max);
        Ok(Self {
            mode: Mode::Distributed,
            log: Arc::new(log.await.map_err(at("Redis"))?),
            presence: Arc::new(distributed::presence::RedisPresence::new(rooms)),
            records: Arc::new(distributed::records::PostgresRecords::new(pool)),
            archive: Arc::new(archive),
            queue: Arc::new(
                distributed::queue::RedisQueue::open(jobs.clone())
                    .await
                    .map_err(at("Redis"))?,
            ),
            vault: Arc::new(
                distributed::vault::RedisVault::open(jobs)
                    .await
                    .map_err(at("Redis"))?,
            ),
            files: Arc::new(
                distributed::files::open(&files_url)
                    .await
                    .map_err(at("FILES_URL"))?,
            ),
        })
    }

    /// Brings the databases of distributed mode to this version's schema; embedded mode does it when it opens.
    pub async fn migrate(config: &StoreConfig) -> Result<(), OpenError> {
        if Mode::of(config)? == Mode::Embedded {
            return Self::open_embedded(config).await.map(|_| ());
        }
        let database_url = config.database_url.clone().unwrap_or_default();
        let mongo_url = config.mongo_url.clone().unwrap_or_default();
        postgres::migrate(&database_url)
            .await
            .map_err(at("Postgres"))?;
        let mongo = mongo::connect(&mongo_url, &config.db_name);
        let archive = distributed::archive::MongoArchive::new(mongo.await.map_err(at("MongoDB"))?);
        archive.ensure_indexes().await.map_err(at("MongoDB"))
    }

    /// Asks every store, all at once, for at most two seconds; under the names that `/health` shows.
    pub async fn health(&self) -> [(&'static str, Result<(), PortError>); 7] {
        let (log, presence, records, archive, queue, vault, files) = tokio::join!(
            answer(self.log.ping()),
            answer(self.presence.ping()),
            answer(self.records.ping()),
            answer(self.archive.ping()),
            answer(self.queue.ping()),
            answer(self.vault.ping()),
            answer(self.files.ping()),
        );
        [
            ("log", log),
            ("presence", presence),
            ("records", records),
            ("archive", archive),
            ("queue", queue),
            ("vault", vault),
            ("files", files),
        ]
    }
}

async fn answer(ping: impl Future<Output = Result<(), PortError>>) -> Result<(), PortError> {
    tokio::time::timeout(PING_TIMEOUT, ping)
        .await
        .unwrap_or_else(|_| Err(PortError::retry("ping", "no answer within two seconds")))
}

/// A binary that is newer than its database would fail in the middle of things: it says so at the start.
async fn check_schema(pool: &sqlx::PgPool) -> Result<(), OpenError> {
    match postgres::schema(pool).await.map_err(at("Postgres"))? {
        postgres::Schema::Ready => Ok(()),
        postgres::Schema::Behind { applied, needed } => Err(OpenError::Setting {
            setting: "DATABASE_URL",
            reason: format!(
                "the schema is at version {applied}, this program needs {needed}: run `atelier migrate`"
            ),
        }),
    }
}

/// `FILES_URL`, or its other spelling.
fn files_url(config: &StoreConfig) -> Option<String> {
    let set = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    set(&config.files_url)
        .or_else(|| set(&config.gcp_bucket_name).map(|bucket| format!("gs://{bucket}")))
}

fn at(store: &'static str) -> impl Fn(PortError) -> OpenError {
    move |source| OpenError::Store { store, source }
}
