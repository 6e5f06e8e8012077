//! The pool of Postgres connections.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::ports::{PortError, Result};

/// How long a caller waits for a connection before it hears "unavailable".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Statements are not cached by name, so that they survive PgBouncer in transaction mode.
pub async fn connect(url: &str, connections: u32) -> Result<PgPool> {
    let options: PgConnectOptions = url
        .parse()
        .map_err(|e: sqlx::Error| PortError::fatal("parse DATABASE_URL", e))?;
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options.statement_cache_capacity(0))
        .await
        .map_err(|e| PortError::retry("connect to Postgres", e))
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

/// SQLSTATE classes 08 (connection), 53 (resources), 57P0x (shutdown), 40 (serialization, deadlock).
fn is_transient(code: &str) -> bool {
    ["08", "53", "57P0", "40"]
        .iter()
        .any(|class| code.starts_with(class))
}
