//! Runs of the cleanup: the rows and the queries of [`crate::ports::CleanupRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{corrupt, parse};
use crate::domain::cleanup::CleanupRun;

/// Runs are kept for so long.
pub const KEPT: chrono::Duration = chrono::Duration::days(7);

#[derive(Debug, sqlx::FromRow)]
pub struct CleanupRow {
    id: Uuid,
    scope: String,
    dry_run: bool,
    state: String,
    counts: String,
    error: Option<String>,
    asked_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    next_at: Option<DateTime<Utc>>,
}

impl CleanupRow {
    pub fn run(self) -> sqlx::Result<CleanupRun> {
        Ok(CleanupRun {
            id: self.id,
            scope: parse(&self.scope)?,
            dry_run: self.dry_run,
            state: parse(&self.state)?,
            counts: serde_json::from_str(&self.counts).map_err(corrupt)?,
            error: self.error,
            asked_at: self.asked_at,
            finished_at: self.finished_at,
            next_at: self.next_at,
        })
    }
}

macro_rules! cleanup_records {
    ($adapter:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::CleanupRecords for $adapter {
            async fn save_cleanup(
                &self,
                run: &crate::domain::cleanup::CleanupRun,
            ) -> crate::ports::Result<()> {
                use crate::adapters::queries::{cleanup, corrupt, micros};

                let saved = async {
                    let counts = serde_json::to_string(&run.counts).map_err(corrupt)?;
                    let mut tx = self.write().await?;
                    statement(
                        "INSERT INTO cleanup_runs (id, scope, dry_run, state, counts, error, asked_at, finished_at, next_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                         ON CONFLICT (id) DO UPDATE SET state = excluded.state, counts = excluded.counts,
                             error = excluded.error, finished_at = excluded.finished_at, next_at = excluded.next_at",
                    )
                    .bind(run.id)
                    .bind(run.scope.as_str())
                    .bind(run.dry_run)
                    .bind(run.state.as_str())
                    .bind(counts)
                    .bind(&run.error)
                    .bind(micros(run.asked_at))
                    .bind(run.finished_at.map(micros))
                    .bind(run.next_at.map(micros))
                    .execute(&mut *tx)
                    .await?;
                    statement("DELETE FROM cleanup_runs WHERE asked_at < $1")
                        .bind(micros(run.asked_at - cleanup::KEPT))
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await
                };
                bounded(saved).await.map_err(|e| failed("keep a cleanup's run", e))
            }

            async fn cleanup(
                &self,
                id: uuid::Uuid,
            ) -> crate::ports::Result<Option<crate::domain::cleanup::CleanupRun>> {
                use crate::adapters::queries::cleanup::CleanupRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<CleanupRow> = rows("SELECT * FROM cleanup_runs WHERE id = $1")
                        .bind(id)
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(CleanupRow::run).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a cleanup's run", e))
            }

            async fn cleanups(
                &self,
                limit: usize,
            ) -> crate::ports::Result<Vec<crate::domain::cleanup::CleanupRun>> {
                use crate::adapters::queries::cleanup::CleanupRow;

                let limit = i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX);
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<CleanupRow> =
                        rows("SELECT * FROM cleanup_runs ORDER BY id DESC LIMIT +$1")
                            .bind(limit)
                            .fetch_all(&mut *tx)
                            .await?;
                    tx.commit().await?;
                    rows.into_iter().map(CleanupRow::run).collect::<sqlx::Result<Vec<_>>>()
                };
                bounded(listed).await.map_err(|e| failed("list the cleanup's runs", e))
            }
        }
    };
}
pub(crate) use cleanup_records;
