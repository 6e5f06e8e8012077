//! The stores of this run: opened as any program opens them, in a database and under names of their own, and removed at
//! the end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use atelier_shared::config::StoreConfig;
use atelier_shared::ports::{Archive, Files, Presence, Queue, Records, RoomLog, Vault};
use atelier_shared::{Backends, Mode};
use fred::prelude::*;
use fred::types::ClusterHash;
use fred::types::CustomCommand;
use futures::future::BoxFuture;
use sqlx::Postgres;
use sqlx::migrate::MigrateDatabase;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use url::Url;
use uuid::Uuid;

/// The name of all that this run makes.
static RUN: LazyLock<String> = LazyLock::new(|| format!("test_{}", Uuid::now_v7().simple()));
/// Tells the stores of one test from those of another.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Every folder of this run lies in it.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));
/// Made by the first test that needs it.
static DATABASE: OnceCell<Url> = OnceCell::const_new();
/// Of each mode, shared by the tests that need nothing of their own.
static SHARED: [OnceCell<Pods>; 2] = [OnceCell::const_new(), OnceCell::const_new()];

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

fn new_folder() -> PathBuf {
    let folder = FOLDER.path().join(Uuid::now_v7().to_string());
    std::fs::create_dir(&folder).expect("a folder");
    folder
}

async fn make_database() -> Url {
    let mut url: Url = setting("DATABASE_URL").parse().expect("a URL");
    url.set_path(&format!("atelier_{}", *RUN));
    Postgres::create_database(url.as_str())
        .await
        .expect("a database");
    let config = StoreConfig {
        database_url: Some(url.to_string()),
        ..distributed("migrate")
    };
    Backends::migrate(&config).await.expect("the schema");
    url
}

/// Distributed mode, all but the database; `word` is unique within the run.
fn distributed(word: &str) -> StoreConfig {
    let files = Url::from_directory_path(new_folder()).expect("an absolute folder");
    StoreConfig {
        redis_url: Some(setting("REDIS_URL")),
        redis_namespace: format!("{}-{word}", *RUN),
        mongo_url: Some(setting("MONGO_URL")),
        db_name: format!("atelier_{}", *RUN),
        files_url: Some(files.to_string()),
        database_pool: 4,
        ..StoreConfig::default()
    }
}

/// Settings for stores that hold nothing yet, but for Postgres and MongoDB, which all tests share.
pub async fn config(mode: Mode) -> StoreConfig {
    match mode {
        Mode::Embedded => StoreConfig {
            data_dir: new_folder(),
            ..StoreConfig::default()
        },
        Mode::Distributed => StoreConfig {
            database_url: Some(DATABASE.get_or_init(make_database).await.to_string()),
            ..distributed(&NEXT.fetch_add(1, Ordering::Relaxed).to_string())
        },
    }
}

/// Boxed: the compiler can't see everywhere that what sqlx does is `Send`.
pub fn open(config: StoreConfig) -> BoxFuture<'static, Backends> {
    Box::pin(async move {
        match Backends::open(&config).await {
            Ok(backends) => backends,
            Err(error) => panic!("{error}"),
        }
    })
}

/// Two pods on stores of their own (embedded: one process, which is both).
pub struct Pods {
    pub here: Backends,
    pub there: Backends,
    pub config: StoreConfig,
}

pub async fn pods(mode: Mode) -> Pods {
    pods_with(config(mode).await).await
}

pub async fn pods_with(config: StoreConfig) -> Pods {
    let here = open(config.clone()).await;
    let there = match here.mode {
        Mode::Embedded => here.clone(),
        Mode::Distributed => open(config.clone()).await,
    };
    Pods {
        here,
        there,
        config,
    }
}

async fn shared(mode: Mode) -> &'static Pods {
    SHARED[mode as usize]
        .get_or_init(async || pods(mode).await)
        .await
}

pub async fn records(mode: Mode) -> Arc<dyn Records> {
    shared(mode).await.here.records.clone()
}

/// Two handles on one fresh vault.
pub struct Vaults {
    pub here: Arc<dyn Vault>,
    pub there: Arc<dyn Vault>,
    pods: Pods,
}

impl Vaults {
    /// As a restart would: all that was in memory is gone.
    pub async fn reopen(self) -> Self {
        let config = self.pods.config.clone();
        drop(self);
        Self::of(pods_with(config).await)
    }

    fn of(pods: Pods) -> Self {
        Self {
            here: pods.here.vault.clone(),
            there: pods.there.vault.clone(),
            pods,
        }
    }
}

pub async fn vault(mode: Mode) -> Vaults {
    Vaults::of(pods(mode).await)
}

/// In a Redis of the test's own.
pub async fn vault_at(redis_url: &str) -> Vaults {
    Vaults::of(pods_with(queue_config_at(redis_url).await).await)
}

/// Two handles on one fresh queue.
pub struct Queues {
    pub here: Arc<dyn Queue>,
    pub there: Arc<dyn Queue>,
}

pub async fn queue(mode: Mode) -> Queues {
    let pods = pods(mode).await;
    Queues {
        here: pods.here.queue,
        there: pods.there.queue,
    }
}

/// In a Redis of the test's own.
pub async fn queue_at(redis_url: &str) -> Queues {
    let pods = pods_with(queue_config_at(redis_url).await).await;
    Queues {
        here: pods.here.queue,
        there: pods.there.queue,
    }
}

/// Queues and tokens in a Redis of the test's own.
async fn queue_config_at(redis_url: &str) -> StoreConfig {
    StoreConfig {
        redis_queue_url: Some(redis_url.to_owned()),
        ..config(Mode::Distributed).await
    }
}

/// Two handles on one archive. Tests share it, and never a room.
pub struct Archives {
    pub here: Arc<dyn Archive>,
    pub there: Arc<dyn Archive>,
}

pub async fn archive(mode: Mode) -> Archives {
    let pods = shared(mode).await;
    Archives {
        here: pods.here.archive.clone(),
        there: pods.there.archive.clone(),
    }
}

/// Files in a fresh folder.
pub struct Shelf {
    pub files: Arc<dyn Files>,
    pub folder: PathBuf,
}

pub async fn files(mode: Mode) -> Shelf {
    let mut config = config(mode).await;
    if let Ok(bucket) = crate::fixture::BUCKET.try_with(String::clone) {
        config.files_url = Some(bucket);
        return Shelf {
            folder: config.data_dir.clone(),
            files: open(config).await.files,
        };
    }
    let folder = match &config.files_url {
        Some(url) => url
            .parse::<Url>()
            .ok()
            .and_then(|url| url.to_file_path().ok()),
        None => Some(config.data_dir.join("files")),
    };
    Shelf {
        files: open(config).await.files,
        folder: folder.expect("a folder"),
    }
}

/// Entries a room of a test may hold unarchived.
pub const TAIL_MAX: u64 = 5_000;

/// Two handles on the same logs, and nobody else's.
pub struct RoomLogs {
    pub here: Arc<dyn RoomLog>,
    pub there: Arc<dyn RoomLog>,
    /// First word of the keys in Redis.
    pub namespace: String,
    /// Embedded: where the journal lies.
    pub folder: PathBuf,
}

pub async fn room_logs(mode: Mode) -> RoomLogs {
    room_logs_with(config(mode).await).await
}

/// In a Redis of the test's own. Queues and tokens stay in that of all.
pub async fn room_logs_at(redis_url: &str) -> RoomLogs {
    room_logs_with(config_at(redis_url).await).await
}

async fn room_logs_with(config: StoreConfig) -> RoomLogs {
    let pods = pods_with(StoreConfig {
        room_tail_max: TAIL_MAX,
        ..config
    })
    .await;
    RoomLogs {
        here: pods.here.log,
        there: pods.there.log,
        namespace: pods.config.redis_namespace,
        folder: pods.config.data_dir,
    }
}

async fn config_at(redis_url: &str) -> StoreConfig {
    let config = config(Mode::Distributed).await;
    StoreConfig {
        redis_queue_url: config.redis_url,
        redis_url: Some(redis_url.to_owned()),
        ..config
    }
}

/// Two handles on one presence that nobody else writes to.
pub async fn presences(mode: Mode) -> [Arc<dyn Presence>; 2] {
    presences_of(pods(mode).await)
}

pub async fn presences_at(redis_url: &str) -> [Arc<dyn Presence>; 2] {
    presences_of(pods_with(config_at(redis_url).await).await)
}

fn presences_of(pods: Pods) -> [Arc<dyn Presence>; 2] {
    [pods.here.presence, pods.there.presence]
}

/// Removes what this run made.
pub async fn remove_all() {
    if let Some(url) = DATABASE.get() {
        Postgres::force_drop_database(url.as_str())
            .await
            .expect("the database is dropped");
        let mongo = mongodb::Client::with_uri_str(setting("MONGO_URL"))
            .await
            .expect("MongoDB");
        mongo
            .database(&format!("atelier_{}", *RUN))
            .drop()
            .await
            .expect("the archive is dropped");
        forget_keys().await.expect("the keys are deleted");
    }
    std::fs::remove_dir_all(FOLDER.path()).expect("the folder is removed");
}

/// Deletes every key whose name holds that of the run.
async fn forget_keys() -> Result<(), fred::error::Error> {
    let redis = Builder::from_config(Config::from_url(&setting("REDIS_URL"))?).build()?;
    redis.init().await?;
    let command = |name| CustomCommand::new_static(name, ClusterHash::Random, false);
    let mut cursor = "0".to_owned();
    loop {
        let pattern = format!("*{}*", *RUN);
        let args = vec![
            cursor,
            "MATCH".into(),
            pattern,
            "COUNT".into(),
            "1000".into(),
        ];
        let (next, keys): (String, Vec<String>) = redis.custom(command("SCAN"), args).await?;
        if !keys.is_empty() {
            redis.custom::<(), _>(command("UNLINK"), keys).await?;
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    redis.quit().await
}
