//! The stores of this run: opened as any program opens them, in a database and under names of their own, and removed at
//! the end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use atelier_shared::config::StoreConfig;
use atelier_shared::ports::{Records, Vault};
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
/// One of each mode, shared by the tests that need nothing of their own.
static SHARED: [OnceCell<Backends>; 2] = [OnceCell::const_new(), OnceCell::const_new()];

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

/// Shared by all tests of the mode.
pub async fn backends(mode: Mode) -> Backends {
    SHARED[mode as usize]
        .get_or_init(async || open(config(mode).await).await)
        .await
        .clone()
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

pub async fn records(mode: Mode) -> Arc<dyn Records> {
    backends(mode).await.records
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

/// Removes what this run made.
pub async fn remove() {
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
