//! The only door to the adapters: configuration in, ports out.

mod settings;

use std::fmt::Display;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::adapters::distributed::archive::MongoArchive;
use crate::adapters::distributed::live_output::RedisLiveOutput;
use crate::adapters::distributed::postgres::{self, Schema};
use crate::adapters::distributed::presence::RedisPresence;
use crate::adapters::distributed::queue::RedisQueue;
use crate::adapters::distributed::records::PostgresRecords;
use crate::adapters::distributed::redis::Redis;
use crate::adapters::distributed::room_log::RedisRoomLog;
use crate::adapters::distributed::vault::RedisVault;
use crate::adapters::distributed::wake::Wakers;
use crate::adapters::distributed::{self, mongo};
use crate::adapters::embedded;
use crate::adapters::embedded::archive::SqliteArchive;
use crate::adapters::embedded::live_output::MemoryLiveOutput;
use crate::adapters::embedded::presence::MemoryPresence;
use crate::adapters::embedded::queue::SqliteQueue;
use crate::adapters::embedded::records::SqliteRecords;
use crate::adapters::embedded::room_log::JournalRoomLog;
use crate::adapters::embedded::sqlite::Commits;
use crate::adapters::embedded::vault::SqliteVault;
use crate::config::StoreConfig;
use crate::domain::backup::Keep;
use crate::ports::{
    Archive, Files, LiveOutput, PortError, Presence, Queue, Records, RoomLog, Vault,
};

/// Connections of one process to each Redis, besides those that subscribe or block. Commands are pipelined, so few do.
const REDIS_CONNECTIONS: usize = 4;
/// A store that has not answered a ping by then is not healthy.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// In embedded mode one process owns the data folder; it holds a lock on this file in it.
const LOCK_FILE: &str = "atelier.lock";

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
    /// The store did not open. The cause is told here, not as a source: whoever prints a chain would say it twice.
    #[error("{setting}: {store} at start: {cause}")]
    Store {
        setting: &'static str,
        store: &'static str,
        cause: PortError,
    },
    #[error(
        "the Postgres schema is at version {applied} and this program needs {needed}: run `atelier migrate`"
    )]
    SchemaBehind { applied: i64, needed: i64 },
}

/// Every port, opened.
#[derive(Clone)]
pub struct Backends {
    pub mode: Mode,
    pub log: Arc<dyn RoomLog>,
    pub presence: Arc<dyn Presence>,
    pub records: Arc<dyn Records>,
    pub archive: Arc<dyn Archive>,
    /// How many backups of a room the archive keeps.
    pub backup_keep: Keep,
    pub queue: Arc<dyn Queue>,
    pub output: Arc<dyn LiveOutput>,
    pub vault: Arc<dyn Vault>,
    pub files: Arc<dyn Files>,
    /// Distributed mode: the Redis of the rooms, and that of queues and tokens.
    redis: Option<[Redis; 2]>,
    /// Embedded mode: the lock on the data folder, released with the last clone.
    _lock: Option<Arc<File>>,
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
                .filter(|(_, url)| given(url).is_some() == set)
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

impl Backends {
    /// Opens every store and makes sure that it can be used. Embedded: the data folder is made, and brought up to date,
    /// if need be. Distributed: a schema older than this program is refused.
    pub async fn open(config: &StoreConfig) -> Result<Self, OpenError> {
        let mode = Mode::of(config)?;
        config.check()?;
        match mode {
            Mode::Embedded => open_embedded(config).await,
            Mode::Distributed => patiently(|| open_distributed(config)).await,
        }
    }

    /// Opens the relational data alone, for administration: in embedded mode also while another process runs the system.
    pub async fn open_records(config: &StoreConfig) -> Result<Arc<dyn Records>, OpenError> {
        let mode = Mode::of(config)?;
        config.check()?;
        match mode {
            Mode::Embedded => {
                make_folder(&config.data_dir)?;
                let records = SqliteRecords::open(&config.data_dir).await;
                Ok(Arc::new(
                    records.map_err(at_start("ATELIER_DATA_DIR", "SQLite"))?,
                ))
            }
            Mode::Distributed => Ok(Arc::new(open_records(config).await?)),
        }
    }

    /// Brings the schemas up to date. Any number of processes may do it at once.
    pub async fn migrate(config: &StoreConfig) -> Result<(), OpenError> {
        let mode = Mode::of(config)?;
        config.check()?;
        match mode {
            // Opening does it.
            Mode::Embedded => open_embedded(config).await.map(|_| ()),
            Mode::Distributed => {
                patiently(|| async {
                    postgres::migrate(url(&config.database_url))
                        .await
                        .map_err(at_start("DATABASE_URL", "Postgres"))?;
                    open_archive(config).await.map(|_| ())
                })
                .await
            }
        }
    }

    /// Asks every store at once whether it is there, under the names that `/health` shows; each has two seconds to
    /// answer.
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

impl Backends {
    /// Which Redis (`rooms`, `queues`) may throw data away to make room. Left out are those that don't tell or don't answer;
    /// embedded mode has none.
    pub async fn redis_that_may_evict(&self) -> Vec<(&'static str, bool)> {
        let Some([rooms, queues]) = &self.redis else {
            return Vec::new();
        };
        let ask = |redis: Redis| async move {
            tokio::time::timeout(PING_TIMEOUT, redis.may_evict())
                .await
                .ok()
                .and_then(Result::ok)
                .flatten()
        };
        let (of_rooms, of_queues) = tokio::join!(ask(rooms.clone()), ask(queues.clone()));
        [("rooms", of_rooms), ("queues", of_queues)]
            .into_iter()
            .filter_map(|(name, answer)| Some((name, answer?)))
            .collect()
    }
}

/// How long a start waits for stores that are not there yet: programs and stores are often started together.
const START_PATIENCE: Duration = Duration::from_secs(20);
const START_PAUSE: Duration = Duration::from_millis(500);

/// Tries again while a store is away, for [`START_PATIENCE`]; what is wrong with the configuration is told at once.
async fn patiently<T, F>(open: impl Fn() -> F) -> Result<T, OpenError>
where
    F: Future<Output = Result<T, OpenError>>,
{
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        match open().await {
            Err(OpenError::Store {
                setting,
                store,
                cause,
            }) if cause.is_retryable() && Instant::now() < deadline => {
                tracing::warn!(setting, store, error = %cause, "a store is not there yet");
                tokio::time::sleep(START_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn answer(ping: impl Future<Output = Result<(), PortError>>) -> Result<(), PortError> {
    tokio::time::timeout(PING_TIMEOUT, ping)
        .await
        .unwrap_or_else(|_| {
            let late = format!("no answer within {} s", PING_TIMEOUT.as_secs());
            Err(PortError::retry("ping", late))
        })
}

/// A variable that is set to nothing is not set.
fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|text| !text.is_empty())
}

/// A URL that [`Mode::of`] found.
fn url(value: &Option<String>) -> &str {
    given(value).unwrap_or_default()
}

/// `setting` says which store it is, and how to reach it.
fn at_start(setting: &'static str, store: &'static str) -> impl Fn(PortError) -> OpenError {
    move |cause| OpenError::Store {
        setting,
        store,
        cause,
    }
}

async fn open_embedded(config: &StoreConfig) -> Result<Backends, OpenError> {
    let folder = config.data_dir.as_path();
    make_folder(folder)?;
    let lock = lock_folder(folder)?;
    let failed = at_start("ATELIER_DATA_DIR", "SQLite");
    // What Redis holds in distributed mode.
    let commits = if config.sync_log {
        Commits::Synced
    } else {
        Commits::Written
    };
    let files = match config.files_url()? {
        Some(url) => distributed::files::open(&url)
            .await
            .map_err(at_start(config.files_setting(), "files"))?,
        None => embedded::files::open(folder)
            .await
            .map_err(at_start("ATELIER_DATA_DIR", "files"))?,
    };
    Ok(Backends {
        mode: Mode::Embedded,
        log: Arc::new(
            JournalRoomLog::open(folder, commits, config.room_tail_max)
                .await
                .map_err(&failed)?,
        ),
        presence: Arc::new(MemoryPresence::default()),
        records: Arc::new(SqliteRecords::open(folder).await.map_err(&failed)?),
        archive: Arc::new(SqliteArchive::open(folder).await.map_err(&failed)?),
        backup_keep: config.backup_keep(),
        queue: Arc::new(SqliteQueue::open(folder, commits).await.map_err(&failed)?),
        output: Arc::new(MemoryLiveOutput::default()),
        vault: Arc::new(SqliteVault::open(folder).await.map_err(&failed)?),
        files: Arc::new(files),
        redis: None,
        _lock: Some(Arc::new(lock)),
    })
}

fn refuse_folder(folder: &Path, reason: impl Display) -> OpenError {
    OpenError::Setting {
        setting: "ATELIER_DATA_DIR",
        reason: format!("{}: {reason}", folder.display()),
    }
}

/// For the owner's eyes only.
fn make_folder(folder: &Path) -> Result<(), OpenError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|e| refuse_folder(folder, e))
}

/// Two processes on one folder would each think that their memory is the whole truth.
fn lock_folder(folder: &Path) -> Result<File, OpenError> {
    let lock = File::create(folder.join(LOCK_FILE)).map_err(|e| refuse_folder(folder, e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(refuse_folder(folder, "another process is using it")),
        Err(TryLockError::Error(e)) => Err(refuse_folder(folder, e)),
    }
}

async fn open_distributed(config: &StoreConfig) -> Result<Backends, OpenError> {
    let Some(files_url) = config.files_url()? else {
        return Err(OpenError::Setting {
            setting: "FILES_URL",
            reason: "distributed mode needs storage that all processes share: file:///folder, s3://bucket or gs://bucket".to_owned(),
        });
    };
    let (records, redis, archive, files) = tokio::try_join!(
        open_records(config),
        open_redis(config),
        open_archive(config),
        async {
            distributed::files::open(&files_url)
                .await
                .map_err(at_start(config.files_setting(), "files"))
        },
    )?;
    let (rooms, queues) = redis;
    let of_rooms = at_start("REDIS_URL", "Redis");
    let of_queues = at_start(config.queue_setting(), "Redis");
    let wakers = Arc::new(Wakers::start(&queues).await.map_err(&of_queues)?);
    Ok(Backends {
        mode: Mode::Distributed,
        log: Arc::new(
            RedisRoomLog::open(rooms.clone(), config.room_tail_max)
                .await
                .map_err(of_rooms)?,
        ),
        presence: Arc::new(RedisPresence::new(rooms.clone())),
        records: Arc::new(records),
        archive: Arc::new(archive),
        backup_keep: config.backup_keep(),
        queue: Arc::new(RedisQueue::new(queues.clone(), wakers.clone())),
        output: Arc::new(RedisLiveOutput::new(queues.clone(), wakers)),
        vault: Arc::new(RedisVault::open(queues.clone()).await.map_err(of_queues)?),
        files: Arc::new(files),
        redis: Some([rooms, queues]),
        _lock: None,
    })
}

async fn open_records(config: &StoreConfig) -> Result<PostgresRecords, OpenError> {
    let failed = at_start("DATABASE_URL", "Postgres");
    let pool = postgres::connect(url(&config.database_url), config.database_pool)
        .await
        .map_err(&failed)?;
    let replica = given(&config.database_read_url)
        .map(|url| postgres::connect_lazily(url, config.database_pool))
        .transpose()
        .map_err(at_start("DATABASE_READ_URL", "Postgres"))?;
    match postgres::schema(&pool).await.map_err(&failed)? {
        Schema::Ready => Ok(PostgresRecords::new(pool, replica)),
        Schema::Behind { applied, needed } => Err(OpenError::SchemaBehind { applied, needed }),
    }
}

/// For rooms, and for queues and tokens: one and the same unless `REDIS_QUEUE_URL` names another.
async fn open_redis(config: &StoreConfig) -> Result<(Redis, Redis), OpenError> {
    let connect = async |url, setting| {
        Redis::connect(url, &config.redis_namespace, REDIS_CONNECTIONS)
            .await
            .map_err(at_start(setting, "Redis"))
    };
    let rooms = connect(url(&config.redis_url), "REDIS_URL").await?;
    let queues = match config.own_queue_url() {
        Some(own) => connect(own, config.queue_setting()).await?,
        None => rooms.clone(),
    };
    Ok((rooms, queues))
}

/// Collections and indexes are made where they are missing, which is quick where they are not.
async fn open_archive(config: &StoreConfig) -> Result<MongoArchive, OpenError> {
    let failed = at_start("MONGO_URL", "MongoDB");
    let database = mongo::connect(url(&config.mongo_url), &config.db_name)
        .await
        .map_err(&failed)?;
    let archive = MongoArchive::new(database);
    archive.ensure_indexes().await.map_err(&failed)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[&str]) -> StoreConfig {
        let mut config = StoreConfig::default();
        for name in set {
            let url = |scheme: &str| Some(format!("{scheme}://y"));
            match *name {
                "DATABASE_URL" => config.database_url = url("postgres"),
                "REDIS_URL" => config.redis_url = url("redis"),
                "MONGO_URL" => config.mongo_url = url("mongodb"),
                other => panic!("{other}"),
            }
        }
        config
    }

    #[test]
    fn none_of_the_urls_is_embedded_and_all_are_distributed() {
        assert_eq!(Mode::of(&with(&[])).unwrap(), Mode::Embedded);
        let all = with(&["DATABASE_URL", "REDIS_URL", "MONGO_URL"]);
        assert_eq!(Mode::of(&all).unwrap(), Mode::Distributed);
        let mut emptied = all;
        emptied.database_url = Some(String::new());
        emptied.redis_url = Some(String::new());
        emptied.mongo_url = Some(String::new());
        assert_eq!(Mode::of(&emptied).unwrap(), Mode::Embedded);
    }

    #[test]
    fn half_a_configuration_is_refused_and_told_what_is_missing() {
        for (set, missing) in [
            (vec!["REDIS_URL"], "DATABASE_URL, MONGO_URL missing"),
            (vec!["DATABASE_URL", "MONGO_URL"], "REDIS_URL missing"),
        ] {
            let error = Mode::of(&with(&set)).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
            assert!(error.starts_with(&set.join(", ")), "{error}");
        }
    }

    #[tokio::test]
    async fn distributed_mode_needs_shared_files() {
        let config = with(&["DATABASE_URL", "REDIS_URL", "MONGO_URL"]);
        let Err(error) = Backends::open(&config).await else {
            panic!("opened without FILES_URL");
        };
        assert!(error.to_string().starts_with("FILES_URL"), "{error}");
    }

    #[tokio::test]
    async fn a_data_folder_has_one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            data_dir: folder.path().join("made/here"),
            ..StoreConfig::default()
        };
        let first = Backends::open(&config).await.unwrap();
        let Err(error) = Backends::open(&config).await else {
            panic!("opened twice");
        };
        let error = error.to_string();
        assert!(error.starts_with("ATELIER_DATA_DIR"), "{error}");
        assert!(error.ends_with("another process is using it"), "{error}");
        for (store, answer) in first.health().await {
            assert!(answer.is_ok(), "{store}: {answer:?}");
        }
        Backends::open_records(&config)
            .await
            .unwrap()
            .ping()
            .await
            .unwrap();
        drop(first);
        Backends::open(&config).await.unwrap();
    }
}
