//! A Postgres that does not answer, or that may not be written to any more: nobody waits for it without end, and its
//! connections are not used again.
//!
//! sqlx bounds no call, and TCP lets one that was taken wait for ever where the server's machine vanishes. A connection on which
//! somebody gave up would be tried again by the pool, without end too, and keep its place in it.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::Connection as _;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnection, PgPoolOptions};

/// A call unanswered for so long failed (it may have been carried out).
const CALL: Duration = Duration::from_secs(20);
/// A connection that lay idle answers sooner.
const PING: Duration = Duration::from_millis(2_500);
/// One on which a caller gave up is closed after so long.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// `read_only_sql_transaction`: the server was demoted, or its disk is full.
const READ_ONLY: &str = "25006";

/// When a server was last found silent or read-only: connections from before are not used again. One for the process: a
/// connection more that is made anew costs little.
static DOUBTED: Mutex<Option<Instant>> = Mutex::new(None);

fn doubt() {
    *DOUBTED.lock() = Some(Instant::now());
}

fn is_doubted(seen: &PoolConnectionMetadata) -> bool {
    DOUBTED
        .lock()
        .is_some_and(|since| since.elapsed() <= seen.age)
}

/// Runs one call against its time limit.
pub async fn bounded<T>(call: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let Ok(outcome) = tokio::time::timeout(CALL, call).await else {
        doubt();
        let text = format!("Postgres did not answer in {} s", CALL.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
    };
    if let Err(sqlx::Error::Database(error)) = &outcome
        && error.code().as_deref() == Some(READ_ONLY)
    {
        tracing::warn!("Postgres takes no writes here, connecting anew");
        doubt();
    }
    outcome
}

/// Has the pool look at its connections before and after they are used.
pub fn watched(options: PgPoolOptions) -> PgPoolOptions {
    options
        .test_before_acquire(false)
        .before_acquire(|connection, seen| {
            Box::pin(async move {
                if is_doubted(&seen) {
                    return Ok(false);
                }
                // It lay idle: nothing keeps it from an answer. Of the others nothing is known by that: it may be this process
                // that was held up, and to make all of them anew is work of its own.
                answers(connection, PING).await
            })
        })
        .after_release(|connection, seen| {
            Box::pin(async move {
                if is_doubted(&seen) {
                    return Ok(false);
                }
                // Left inside a transaction, or in the middle of an answer that may be long in coming.
                if connection.should_flush() {
                    return answers(connection, LAST_ANSWER).await;
                }
                Ok(true)
            })
        })
}

async fn answers(connection: &mut PgConnection, within: Duration) -> sqlx::Result<bool> {
    match tokio::time::timeout(within, connection.ping()).await {
        Ok(answered) => answered.map(|()| true),
        Err(_) => {
            let text = "Postgres does not answer on a connection";
            Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
        }
    }
}
