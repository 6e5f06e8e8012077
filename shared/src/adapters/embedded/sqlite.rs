//! Opens one SQLite file: write-ahead log, one writer and a few readers.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::adapters::migrations::migrator;
use crate::ports::{PortError, Result};

/// A file's two doors. All writes go through `write` (one connection: SQLite has one writer, and queueing in the pool is
/// fairer than its busy loop).
#[derive(Debug, Clone)]
pub struct Sqlite {
    pub write: SqlitePool,
    pub read: SqlitePool,
}

/// Readers of one file at a time.
const READERS: u32 = 4;

/// Rows that wait between SQLite's thread and whoever reads them: a page of a list, so that the two don't wake each other
/// for every row behind the fiftieth (sqlx's own bound).
const ROWS_WAITING: usize = 256;

/// Pages (of 4 KiB) that the write-ahead log gathers before they are copied into the file, which costs two syncs and holds
/// up whoever writes: pages that change again and again are then copied once.
const CHECKPOINT_PAGES: &str = "8000";
/// What the writing connection keeps of the file in memory, KiB (negative, as SQLite tells them from pages).
const WRITER_CACHE: &str = "-8000";
/// What each reading connection keeps: what it reads again soon. The system keeps the file's pages besides.
const READER_CACHE: &str = "-500";

/// What a commit outlives, once it is answered. Both outlive kill -9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commits {
    /// The machine's death too: each is synced to the disk (`synchronous=FULL`). For what is kept for ever.
    Synced,
    /// The process's death only: the system writes it to the disk in its own time (`synchronous=NORMAL`; the file stays
    /// sound whatever happens). For what stands in Redis in distributed mode, and is made good from the synced files when it
    /// is lost.
    Written,
}

impl Sqlite {
    /// Opens or makes `folder/name`.
    pub async fn open(folder: &Path, name: &str, commits: Commits) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(name))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match commits {
                Commits::Synced => SqliteSynchronous::Full,
                Commits::Written => SqliteSynchronous::Normal,
            })
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .foreign_keys(true)
            .row_buffer_size(ROWS_WAITING)
            .busy_timeout(Duration::from_secs(10));
        let failed = |e: sqlx::Error| PortError::fatal("open SQLite file", e);
        // A connection to a file does not go stale: a question to its thread before each use would only cost.
        let pool = || SqlitePoolOptions::new().test_before_acquire(false);
        let write = pool()
            .max_connections(1)
            .connect_with(options.clone().pragma("cache_size", WRITER_CACHE))
            .await
            .map_err(failed)?;
        let read = pool()
            .max_connections(READERS)
            .connect_with(options.read_only(true).pragma("cache_size", READER_CACHE))
            .await
            .map_err(failed)?;
        Ok(Self { write, read })
    }

    /// Brings the file's schema up to date with `scripts` (see [`migrator`]). A file that a newer program wrote is refused.
    ///
    /// Boxed: the compiler can't see that sqlx's own future is `Send` from where it is awaited through a `OnceCell`.
    pub fn migrate(
        &self,
        scripts: &[(&'static str, &'static str)],
    ) -> BoxFuture<'static, Result<()>> {
        let (migrator, pool) = (migrator(scripts), self.write.clone());
        Box::pin(async move {
            migrator
                .run(&pool)
                .await
                .map_err(|e| PortError::fatal("migrate SQLite file", e))
        })
    }
}

/// Is it worth trying again? Busy and I/O trouble are; everything SQLite answered is final.
pub fn port_error(operation: &'static str, error: sqlx::Error) -> PortError {
    match error {
        sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => PortError::retry(operation, error),
        sqlx::Error::Database(ref e) if matches!(e.code().as_deref(), Some("5" | "6" | "13")) => {
            PortError::retry(operation, error)
        }
        other => PortError::fatal(operation, other),
    }
}
