//! The pool of Postgres connections, and the schema behind it.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::silence::{bounded, watched};
use crate::adapters::migrations::migrator;
use crate::ports::{PortError, Result};

/// How long a caller waits for a connection before it hears "unavailable".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A replica that takes longer is away.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(2);

/// What this program's queries were written for; embedded in the binary.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "records",
        include_str!("../../../../migrations/postgres/0001_records.sql"),
    ),
    (
        "unfinished jobs",
        include_str!("../../../../migrations/postgres/0002_unfinished_jobs.sql"),
    ),
    (
        "refs of runs",
        include_str!("../../../../migrations/postgres/0003_run_refs.sql"),
    ),
    (
        "invitations",
        include_str!("../../../../migrations/postgres/0003_invites.sql"),
    ),
    (
        "places",
        include_str!("../../../../migrations/postgres/0004_places.sql"),
    ),
    (
        "files",
        include_str!("../../../../migrations/postgres/0005_files.sql"),
    ),
    (
        "deleted people",
        include_str!("../../../../migrations/postgres/0006_deleted_people.sql"),
    ),
    (
        "cleanup",
        include_str!("../../../../migrations/postgres/0007_cleanup.sql"),
    ),
    (
        "insights",
        include_str!("../../../../migrations/postgres/0008_insights.sql"),
    ),
    (
        "removed rooms",
        include_str!("../../../../migrations/postgres/0009_removed_rooms.sql"),
    ),
    (
        "revivals",
        include_str!("../../../../migrations/postgres/0010_revivals.sql"),
    ),
    (
        "rooms of people",
        include_str!("../../../../migrations/postgres/0011_rooms_of_people.sql"),
    ),
    (
        "idle guests",
        include_str!("../../../../migrations/postgres/0012_idle_guests.sql"),
    ),
    (
        "lists of a kind",
        include_str!("../../../../migrations/postgres/0013_lists_of_a_kind.sql"),
    ),
    (
        "visits of rooms",
        include_str!("../../../../migrations/postgres/0014_room_visits.sql"),
    ),
    (
        "keys of jobs",
        include_str!("../../../../migrations/postgres/0015_job_keys.sql"),
    ),
];

/// Fit for a pooler in transaction mode (PgBouncer): no start-up parameters that it would refuse, no statements cached
/// by name. Whoever queries does it in a transaction and with unnamed statements (see `records.rs`).
fn options(url: &str) -> Result<PgConnectOptions> {
    let options: PgConnectOptions = url
        .parse()
        .map_err(|e: sqlx::Error| PortError::fatal("read the address of Postgres", e))?;
    Ok(options.statement_cache_capacity(0).extra_float_digits(None))
}

pub async fn connect(url: &str, connections: u32) -> Result<PgPool> {
    watched(PgPoolOptions::new())
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options(url)?)
        .await
        .map_err(|e| port_error("connect to Postgres", e))
}

/// As [`connect`], but nothing is asked of the server before the first query: what is read there can be read elsewhere.
pub fn connect_lazily(url: &str, connections: u32) -> Result<PgPool> {
    let pool = watched(PgPoolOptions::new())
        .max_connections(connections)
        .acquire_timeout(REPLICA_TIMEOUT);
    Ok(pool.connect_lazy_with(options(url)?))
}

/// Brings the schema up to date. Any number of programs may do it at once: one works while the others wait for its
/// advisory lock, which needs a connection of its own, not one through a pooler. A schema that is newer is left alone.
///
/// Boxed: the compiler can't see everywhere that sqlx's own future is `Send`.
pub fn migrate(url: &str) -> BoxFuture<'static, Result<()>> {
    let options = options(url);
    Box::pin(async move {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options?)
            .await
            .map_err(|e| port_error("connect to Postgres", e))?;
        let mut migrator = migrator(MIGRATIONS);
        migrator.set_ignore_missing(true);
        let migrated = migrator
            .run(&pool)
            .await
            .map_err(|e| PortError::fatal("migrate Postgres", e));
        pool.close().await;
        migrated
    })
}

/// Where the schema stands against what this program needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// As new as the program, or newer.
    Ready,
    /// The newest migration that was applied (0: none), and the one that is needed.
    Behind { applied: i64, needed: i64 },
}

pub async fn schema(pool: &PgPool) -> Result<Schema> {
    let needed = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let read = async {
        let mut tx = pool.begin_with("BEGIN READ ONLY").await?;
        let (exists,): (bool,) =
            sqlx::query_as("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
                .persistent(false)
                .fetch_one(&mut *tx)
                .await?;
        let mut applied = 0;
        if exists {
            (applied,) = sqlx::query_as(
                "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success",
            )
            .persistent(false)
            .fetch_one(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        sqlx::Result::Ok(applied)
    };
    let applied: i64 = bounded(read)
        .await
        .map_err(|e| port_error("read the schema's version", e))?;
    Ok(if applied < needed {
        Schema::Behind { applied, needed }
    } else {
        Schema::Ready
    })
}

/// Is it worth trying again? Connection trouble, shutdown, serialization failures and deadlocks are.
pub fn port_error(operation: &'static str, error: sqlx::Error) -> PortError {
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::Io(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_) => PortError::retry(operation, error),
        sqlx::Error::Database(ref e) if e.code().is_some_and(|code| is_transient(&code)) => {
            PortError::retry(operation, error)
        }
        other => PortError::fatal(operation, other),
    }
}

/// SQLSTATE classes 08 (connection), 53 (resources), 57P0x (shutdown), 40 (serialization, deadlock), and 25006 (a server that
/// may only be read, as one is that another took over from).
fn is_transient(code: &str) -> bool {
    ["08", "53", "57P0", "40", "25006"]
        .iter()
        .any(|class| code.starts_with(class))
}
