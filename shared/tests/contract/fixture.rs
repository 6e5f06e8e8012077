//! Runs one async function per promise on each mode, and opens the stores for it.

pub mod redis_server;

use std::future::Future;
use std::sync::{Arc, LazyLock};

use atelier_shared::Mode;
use atelier_shared::adapters::distributed::archive::MongoArchive;
use atelier_shared::adapters::distributed::presence::RedisPresence;
use atelier_shared::adapters::distributed::queue::RedisQueue;
use atelier_shared::adapters::distributed::redis::Redis;
use atelier_shared::adapters::distributed::room_log::RedisRoomLog;
use atelier_shared::adapters::distributed::{files as bucket, mongo};
use atelier_shared::adapters::embedded::archive::SqliteArchive;
use atelier_shared::adapters::embedded::files as folder;
use atelier_shared::adapters::embedded::presence::MemoryPresence;
use atelier_shared::adapters::embedded::queue::SqliteQueue;
use atelier_shared::adapters::embedded::room_log::SqliteRoomLog;
use atelier_shared::ports::{Archive, Files, Presence, Queue, RoomLog};
use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;

pub use crate::stores::{Vaults, records, vault};

/// At the end of the run.
pub fn remove_stores() {
    RUNTIME.block_on(crate::stores::remove());
}

/// One runtime for all tests: store drivers keep tasks on the runtime that opened them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a tokio runtime"));

pub type Outcome = Result<(), Failed>;

/// `port::promise [mode]` for each mode.
pub fn both<F, R>(trials: &mut Vec<Trial>, port: &str, promise: &str, test: F)
where
    F: Fn(Mode) -> R + Copy + Send + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    only(trials, Mode::Embedded, port, promise, test);
    only(trials, Mode::Distributed, port, promise, test);
}

/// `port::promise [mode]` for one mode: what only its technology can break.
pub fn only<F, R>(trials: &mut Vec<Trial>, mode: Mode, port: &str, promise: &str, test: F)
where
    F: Fn(Mode) -> R + Copy + Send + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    let word = match mode {
        Mode::Embedded => "embedded",
        Mode::Distributed => "distributed",
    };
    let name = format!("{port}::{promise} [{word}]");
    let available = mode == Mode::Embedded || services_are_configured() || services_are_required();
    let trial = Trial::test(name, move || {
        if mode == Mode::Distributed && !services_are_configured() {
            return Err("DATABASE_URL, REDIS_URL and MONGO_URL are not set".into());
        }
        RUNTIME.block_on(async move {
            // On a task of its own, so that a panic becomes a message and the runtime lives on.
            tokio::spawn(test(mode))
                .await
                .map_err(|e| Failed::from(e.to_string()))?
        })
    });
    trials.push(trial.with_ignored_flag(!available));
}

fn services_are_configured() -> bool {
    ["DATABASE_URL", "REDIS_URL", "MONGO_URL"]
        .iter()
        .all(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn services_are_required() -> bool {
    ["CI", "ATELIER_REQUIRE_SERVICES"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

/// Two handles on one fresh queue, as two pods hold them (embedded: one process, so one queue).
pub struct Queues {
    pub here: Arc<dyn Queue>,
    pub there: Arc<dyn Queue>,
    _folder: Option<tempfile::TempDir>,
}

pub async fn queue(mode: Mode) -> Queues {
    if mode == Mode::Embedded {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let queue = SqliteQueue::open(folder.path()).await.expect("queue.db");
        let queue: Arc<dyn Queue> = Arc::new(queue);
        return Queues {
            here: queue.clone(),
            there: queue,
            _folder: Some(folder),
        };
    }
    let url = std::env::var("REDIS_URL").expect("REDIS_URL");
    let namespace = format!("test-{}", uuid::Uuid::now_v7());
    let open = async || {
        let redis = Redis::connect(&url, &namespace, 4).await.expect("Redis");
        Arc::new(RedisQueue::open(redis).await.expect("a queue"))
    };
    Queues {
        here: open().await,
        there: open().await,
        _folder: None,
    }
}

/// Two handles on one archive, as two pods hold them. Tests share the database and never a room.
pub struct Archives {
    pub here: Arc<dyn Archive>,
    pub there: Arc<dyn Archive>,
    _folder: Option<tempfile::TempDir>,
}

pub async fn archive(mode: Mode) -> Archives {
    if mode == Mode::Embedded {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = SqliteArchive::open(folder.path())
            .await
            .expect("archive.db");
        let archive: Arc<dyn Archive> = Arc::new(archive);
        return Archives {
            here: archive.clone(),
            there: archive,
            _folder: Some(folder),
        };
    }
    let url = std::env::var("MONGO_URL").expect("MONGO_URL");
    let open = async || {
        let database = mongo::connect(&url, "atelier_contract")
            .await
            .expect("MongoDB");
        let archive = MongoArchive::new(database);
        archive.ensure_indexes().await.expect("indexes");
        Arc::new(archive)
    };
    Archives {
        here: open().await,
        there: open().await,
        _folder: None,
    }
}

/// Files in a fresh folder, opened as each mode opens one.
pub struct Shelf {
    pub files: Arc<dyn Files>,
    pub folder: tempfile::TempDir,
}

pub async fn files(mode: Mode) -> Shelf {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = match mode {
        Mode::Embedded => folder::open(folder.path()).await,
        Mode::Distributed => {
            let url = url::Url::from_directory_path(folder.path()).expect("an absolute path");
            bucket::open(url.as_str()).await
        }
    };
    Shelf {
        files: Arc::new(files.expect("files")),
        folder,
    }
}

/// Entries a room of a test may hold unarchived.
pub const TAIL_MAX: u64 = 5_000;

/// Two handles on the same logs, as two pods hold them (embedded: one process, so one log), and nobody else's.
pub struct RoomLogs {
    pub here: Arc<dyn RoomLog>,
    pub there: Arc<dyn RoomLog>,
    /// First word of the keys in Redis.
    pub namespace: String,
    /// Embedded: where `log.db` lies.
    pub folder: Option<tempfile::TempDir>,
}

pub async fn room_logs(mode: Mode) -> RoomLogs {
    if mode == Mode::Distributed {
        let url = std::env::var("REDIS_URL").expect("REDIS_URL");
        return room_logs_at(&url).await;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = SqliteRoomLog::open(folder.path(), TAIL_MAX)
        .await
        .expect("log.db");
    let log: Arc<dyn RoomLog> = Arc::new(log);
    RoomLogs {
        here: log.clone(),
        there: log,
        namespace: String::new(),
        folder: Some(folder),
    }
}

pub async fn room_logs_at(redis_url: &str) -> RoomLogs {
    let namespace = format!("test-{}", uuid::Uuid::now_v7());
    let open = async || {
        let redis = Redis::connect(redis_url, &namespace, 2)
            .await
            .expect("Redis");
        Arc::new(
            RedisRoomLog::open(redis, TAIL_MAX)
                .await
                .expect("a room log"),
        )
    };
    RoomLogs {
        here: open().await,
        there: open().await,
        namespace: namespace.clone(),
        folder: None,
    }
}

/// Two handles on one presence that nobody else writes to.
pub async fn presences(mode: Mode) -> [Arc<dyn Presence>; 2] {
    if mode == Mode::Distributed {
        let url = std::env::var("REDIS_URL").expect("REDIS_URL");
        return presences_at(&url).await;
    }
    let presence: Arc<dyn Presence> = Arc::new(MemoryPresence::default());
    [presence.clone(), presence]
}

pub async fn presences_at(redis_url: &str) -> [Arc<dyn Presence>; 2] {
    let namespace = format!("test-{}", uuid::Uuid::now_v7());
    let open = async || {
        let redis = Redis::connect(redis_url, &namespace, 2)
            .await
            .expect("Redis");
        Arc::new(RedisPresence::new(redis))
    };
    [open().await, open().await]
}
