//! Opens one SQLite file: write-ahead log, one writer and a few readers.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Connection as _;
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
        // A connection to a file does not go stale: a question to its thread before each use would only cost. But a full
        // disk (and other trouble) has SQLite take a transaction back by itself; sqlx's own rollback fails then, and it counts
        // that transaction as open for ever after: such a connection is opened anew.
        let pool = || {
            SqlitePoolOptions::new()
                .test_before_acquire(false)
                .before_acquire(|connection, _| {
                    let sound = !connection.is_in_transaction();
                    Box::pin(async move { Ok(sound) })
                })
        };
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

/// SQLite's primary result codes of trouble that passes: busy, locked, no memory, an I/O error, a full disk, a file that can't
/// be opened just now.
const PASSING: [u32; 6] = [5, 6, 7, 10, 13, 14];

/// Is it worth trying again? Busy and I/O trouble are; everything SQLite answered is final.
pub fn port_error(operation: &'static str, error: sqlx::Error) -> PortError {
    let passes = match &error {
        sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => true,
        sqlx::Error::Database(e) => {
            // The extended code has the primary one in its low byte.
            let code = e.code().and_then(|code| code.parse::<u32>().ok());
            code.is_some_and(|code| PASSING.contains(&(code & 0xff)))
        }
        _ => false,
    };
    if passes {
        PortError::retry(operation, error)
    } else {
        PortError::fatal(operation, error)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Executor as _};

    use super::*;

    async fn rows(file: &Sqlite) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM t");
        count.fetch_one(&file.read).await.unwrap()
    }

    async fn insert(file: &Sqlite, text: &str) -> std::result::Result<(), sqlx::Error> {
        let mut tx = file.write.begin_with("BEGIN IMMEDIATE").await?;
        let insert = sqlx::query("INSERT INTO t VALUES ($1)").bind(text);
        insert.execute(&mut *tx).await?;
        tx.commit().await
    }

    /// A limit on the file's pages is what a full disk is to SQLite.
    async fn pages_at_most(file: &Sqlite, pages: u32) {
        let pragma = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        file.write.execute(pragma).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_can_be_tried_again_and_is_forgotten_when_it_has_room() {
        let folder = tempfile::tempdir().unwrap();
        let file = Sqlite::open(folder.path(), "t.db", Commits::Synced);
        let file = file.await.unwrap();
        file.write.execute("CREATE TABLE t (x)").await.unwrap();
        pages_at_most(&file, 2).await;
        let long = "x".repeat(100_000);
        let full = port_error("insert", insert(&file, &long).await.unwrap_err());
        assert!(full.is_retryable(), "{full}");
        pages_at_most(&file, 1_000).await;
        insert(&file, &long).await.unwrap();
        assert_eq!(rows(&file).await, 1);
    }

    #[tokio::test]
    async fn a_transaction_that_sqlite_took_back_leaves_the_writer_usable() {
        let folder = tempfile::tempdir().unwrap();
        let file = Sqlite::open(folder.path(), "t.db", Commits::Synced);
        let file = file.await.unwrap();
        let table = "CREATE TABLE t (x UNIQUE ON CONFLICT ROLLBACK)";
        file.write.execute(table).await.unwrap();
        insert(&file, "once").await.unwrap();
        insert(&file, "once").await.unwrap_err();
        insert(&file, "another").await.unwrap();
        assert_eq!(rows(&file).await, 2);
    }
}
