//! Relational data in Postgres.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::query::{Query, QueryAs};
use sqlx::{FromRow, Postgres, Transaction};

use super::postgres::port_error as failed;
use super::replica::Replica;
use super::silence::bounded;
use crate::adapters::queries::cleanup::cleanup_records;
use crate::adapters::queries::files::file_records;
use crate::adapters::queries::insights::insight_records;
use crate::adapters::queries::invites::invite_records;
use crate::adapters::queries::jobs::job_records;
use crate::adapters::queries::places::place_records;
use crate::adapters::queries::removal_steps::removal_steps;
use crate::adapters::queries::removals::removal_records;
use crate::adapters::queries::roles::role_records;
use crate::adapters::queries::rooms::room_records;
use crate::adapters::queries::users::user_records;
use crate::adapters::queries::visits::visit_records;
use crate::ports::{Records, Result};

#[derive(Debug, Clone)]
pub struct PostgresRecords {
    pool: PgPool,
    replica: Option<Arc<Replica>>,
}

impl PostgresRecords {
    /// `replica`: answers what may be a little behind.
    pub fn new(pool: PgPool, replica: Option<PgPool>) -> Self {
        Self {
            pool,
            replica: replica.map(|pool| Arc::new(Replica::new(pool))),
        }
    }

    /// Every call is a transaction, even a single read: a pooler in transaction mode (PgBouncer) keeps the server
    /// connection for its length, and with it the statement prepared on it.
    async fn read(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        begin(&self.pool, "BEGIN READ ONLY").await
    }

    /// As [`Self::read`], for what may be a little behind: lists that are looked at, figures.
    async fn browse(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        if let Some(replica) = &self.replica
            && let Some(begun) = replica.browse().await
        {
            return Ok(begun);
        }
        self.read().await
    }

    async fn write(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        begin(&self.pool, "BEGIN").await
    }
}

/// On a task of its own: a caller who gives up between BEGIN and its answer would hand the connection back inside a
/// transaction that sqlx does not know of (its depth is raised only by the answer), and the next caller would find itself in
/// it.
pub async fn begin(
    pool: &PgPool,
    statement: &'static str,
) -> sqlx::Result<Transaction<'static, Postgres>> {
    let pool = pool.clone();
    // Bounded here too: the task outlives its caller.
    let begun = tokio::spawn(async move { bounded(pool.begin_with(statement)).await });
    begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Unnamed (`persistent(false)`): a named statement would outlive the transaction and be met by a stranger behind a pooler.
fn statement(sql: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

/// As [`statement`], giving rows.
fn rows<R: for<'r> FromRow<'r, PgRow>>(
    sql: &'static str,
) -> QueryAs<'static, Postgres, R, PgArguments> {
    sqlx::query_as(sql).persistent(false)
}

/// Whoever else counts the rooms of this address waits until the transaction is over. (Two addresses of one hash wait for
/// each other needlessly.)
async fn lock_address(tx: &mut Transaction<'static, Postgres>, address: &str) -> sqlx::Result<()> {
    statement("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("rooms of {address}"))
        .execute(&mut **tx)
        .await
        .map(drop)
}

user_records!(PostgresRecords, Postgres);
room_records!(PostgresRecords, Postgres, room_lists::POSTGRES);
role_records!(PostgresRecords, Postgres);
place_records!(PostgresRecords, Postgres);
job_records!(PostgresRecords, Postgres);
insight_records!(PostgresRecords);
invite_records!(PostgresRecords);
file_records!(PostgresRecords);
cleanup_records!(PostgresRecords);
removal_steps!(PostgresRecords, Postgres);
removal_records!(PostgresRecords);
visit_records!(PostgresRecords, Postgres);

#[async_trait]
impl Records for PostgresRecords {
    async fn ping(&self) -> Result<()> {
        let answered = async {
            let mut tx = self.read().await?;
            statement("SELECT 1").execute(&mut *tx).await?;
            tx.commit().await
        };
        bounded(answered)
            .await
            .map_err(|e| failed("ping Postgres", e))
    }
}
