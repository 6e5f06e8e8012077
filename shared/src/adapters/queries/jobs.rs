//! Jobs: the rows and the queries of [`crate::ports::JobRecords`].

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{corrupt, parse};
use crate::domain::ids::{JobId, UserId};
use crate::domain::job::{AskedBy, Job};

#[derive(Debug, sqlx::FromRow)]
pub struct JobRow {
    id: Uuid,
    owner: Uuid,
    owner_name: String,
    room_id: Option<String>,
    project_id: Option<Uuid>,
    priority: i16,
    spec: String,
    state: String,
    attempts: i64,
    revivals: i64,
    traceparent: Option<String>,
    asked_client: Option<String>,
    asked_ref: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl JobRow {
    pub fn job(self) -> sqlx::Result<Job> {
        let asked_by = match self.asked_client {
            Some(client) => Some(AskedBy {
                client_id: parse(&client)?,
                reference: self.asked_ref.as_deref().map(parse).transpose()?,
            }),
            None => None,
        };
        Ok(Job {
            asked_by,
            id: JobId(self.id),
            owner: UserId(self.owner),
            owner_name: self.owner_name,
            room_id: self.room_id.as_deref().map(parse).transpose()?,
            project_id: self.project_id,
            priority: self.priority,
            spec: serde_json::from_str(&self.spec).map_err(corrupt)?,
            state: parse(&self.state)?,
            attempts: u32::try_from(self.attempts).map_err(corrupt)?,
            revivals: u32::try_from(self.revivals).map_err(corrupt)?,
            traceparent: self.traceparent,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
        })
    }
}

/// From being asked for to its end a job takes no longer, or is not looked for among those that ended.
pub const LONGEST: TimeDelta = TimeDelta::days(1);

/// No job made from then on has a lower id.
pub fn first_id_of(at: DateTime<Utc>) -> Uuid {
    let ms = u64::try_from(at.timestamp_millis()).unwrap_or(0);
    Uuid::from_u128(u128::from(ms) << 80)
}

macro_rules! insert_unless {
    ($taken:literal) => {
        concat!(
            "INSERT INTO jobs (id, owner, owner_name, room_id, project_id, priority, spec, state, attempts,
                 traceparent, queued, created_at, started_at, finished_at, asked_client, asked_ref, asked_key)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
             ON CONFLICT ",
            $taken,
            " DO NOTHING"
        )
    };
}
pub const INSERT_BY_REF: &str =
    insert_unless!("(room_id, owner, asked_client, asked_ref) WHERE asked_ref IS NOT NULL");
pub const INSERT_BY_KEY: &str = insert_unless!("(asked_key) WHERE asked_key IS NOT NULL");

macro_rules! job_records {
    ($adapter:ty, $db:ty) => {
        /// The statement that stores a job, of those above.
        fn job_row(
            insert: &'static str,
            job: &crate::domain::job::Job,
            key: Option<&[u8; 32]>,
        ) -> sqlx::Result<sqlx::query::Query<'static, $db, <$db as sqlx::Database>::Arguments>> {
            use crate::adapters::queries::{micros, unstorable};

            let asked = job.asked_by.as_ref();
            let reference = asked.and_then(|asked| asked.reference.as_ref());
            Ok(statement(insert)
                .bind(job.id.0)
                .bind(job.owner.0)
                .bind(job.owner_name.clone())
                .bind(job.room_id.as_ref().map(|room| room.as_str().to_owned()))
                .bind(job.project_id)
                .bind(job.priority)
                .bind(serde_json::to_string(&job.spec).map_err(unstorable)?)
                .bind(job.state.as_str())
                .bind(i64::from(job.attempts))
                .bind(job.traceparent.clone())
                .bind(false)
                .bind(micros(job.created_at))
                .bind(job.started_at.map(micros))
                .bind(job.finished_at.map(micros))
                .bind(asked.map(|asked| asked.client_id.as_str().to_owned()))
                .bind(reference.map(|reference| reference.as_str().to_owned()))
                .bind(key.map(|key| key.to_vec())))
        }

        impl $adapter {
            /// Gives a job its final state, also (`begun`) if it has begun. False: there is none to give it to.
            async fn close_job(
                &self,
                id: crate::domain::ids::JobId,
                state: crate::domain::job::JobState,
                at: chrono::DateTime<chrono::Utc>,
                begun: bool,
            ) -> sqlx::Result<bool> {
                use crate::domain::job::JobState;

                let mut tx = self.write().await?;
                let done = statement(
                    "UPDATE jobs SET state = $2, finished_at = $3, queued = $4
                     WHERE id = $1 AND state IN ($5, $6) AND ($7 OR started_at IS NULL)",
                )
                .bind(id.0)
                .bind(state.as_str())
                .bind(crate::adapters::queries::micros(at))
                .bind(true)
                .bind(JobState::Queued.as_str())
                .bind(if begun { JobState::Running } else { JobState::Queued }.as_str())
                .bind(begun)
                .execute(&mut *tx)
                .await?;
                tx.commit().await?;
                Ok(done.rows_affected() > 0)
            }
        }

        #[async_trait::async_trait]
        impl crate::ports::JobRecords for $adapter {
            async fn create_job(&self, job: &crate::domain::job::Job) -> crate::ports::Result<bool> {
                use crate::adapters::queries::jobs::INSERT_BY_REF;

                let made = async {
                    let mut tx = self.write().await?;
                    let made = job_row(INSERT_BY_REF, job, None)?.execute(&mut *tx).await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(made.rows_affected() == 1)
                };
                bounded(made).await.map_err(|e| failed("create a job", e))
            }

            async fn create_job_once(
                &self,
                job: &crate::domain::job::Job,
                key: &[u8; 32],
                since: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<Option<crate::domain::job::Job>> {
                use crate::adapters::queries::jobs::{INSERT_BY_KEY, JobRow};
                use crate::adapters::queries::micros;

                let made = async {
                    let mut tx = self.write().await?;
                    // Its time is over.
                    statement("UPDATE jobs SET asked_key = NULL WHERE asked_key = $1 AND created_at < $2")
                        .bind(key.to_vec())
                        .bind(micros(since))
                        .execute(&mut *tx)
                        .await?;
                    let insert = job_row(INSERT_BY_KEY, job, Some(key))?;
                    let made = insert.execute(&mut *tx).await?.rows_affected() == 1;
                    let mut first: Option<JobRow> = None;
                    if !made {
                        first = rows("SELECT * FROM jobs WHERE asked_key = $1")
                            .bind(key.to_vec())
                            .fetch_optional(&mut *tx)
                            .await?;
                    }
                    tx.commit().await?;
                    match first {
                        None if !made => Err(sqlx::Error::RowNotFound),
                        first => first.map(JobRow::job).transpose(),
                    }
                };
                bounded(made).await.map_err(|e| failed("create a job", e))
            }

            async fn job(
                &self,
                id: crate::domain::ids::JobId,
            ) -> crate::ports::Result<Option<crate::domain::job::Job>> {
                use crate::adapters::queries::jobs::JobRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<JobRow> = rows("SELECT * FROM jobs WHERE id = $1")
                        .bind(id.0)
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(JobRow::job).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a job", e))
            }

            async fn mark_queued(&self, id: crate::domain::ids::JobId) -> crate::ports::Result<()> {
                let marked = async {
                    let mut tx = self.write().await?;
                    statement("UPDATE jobs SET queued = $2 WHERE id = $1 AND NOT queued")
                        .bind(id.0)
                        .bind(true)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await
                };
                bounded(marked).await.map_err(|e| failed("mark a job queued", e))
            }

            async fn doubt_queued(
                &self,
                before: chrono::DateTime<chrono::Utc>,
                limit: usize,
            ) -> crate::ports::Result<u64> {
                use crate::adapters::queries::micros;

                let doubted = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        // Literals, as the index's condition has them: it serves no bound ones.
                        "UPDATE jobs SET queued = $1 WHERE id IN
                             (SELECT id FROM jobs WHERE queued AND state IN ('queued', 'running') AND created_at < $2
                              ORDER BY created_at LIMIT +$3)",
                    )
                    .bind(false)
                    .bind(micros(before))
                    .bind(i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX))
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected())
                };
                bounded(doubted).await.map_err(|e| failed("doubt queued jobs", e))
            }

            async fn doubt_ended(
                &self,
                since: chrono::DateTime<chrono::Utc>,
                limit: usize,
            ) -> crate::ports::Result<u64> {
                use crate::adapters::queries::jobs::{LONGEST, first_id_of};
                use crate::adapters::queries::micros;

                let doubted = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        // The specification is text: within a string a quotation mark has a backslash before it.
                        "UPDATE jobs SET queued = $1 WHERE id IN
                             (SELECT id FROM jobs WHERE id >= $4 AND queued AND finished_at >= $2
                                  AND (room_id IS NOT NULL OR spec LIKE '%\"callback_url\":\"%')
                              ORDER BY finished_at DESC LIMIT +$3)",
                    )
                    .bind(false)
                    .bind(micros(since))
                    .bind(i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX))
                    .bind(first_id_of(since - LONGEST))
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected())
                };
                bounded(doubted).await.map_err(|e| failed("doubt ended jobs", e))
            }

            async fn unqueued_jobs(
                &self,
                before: chrono::DateTime<chrono::Utc>,
                limit: usize,
            ) -> crate::ports::Result<Vec<crate::domain::job::Job>> {
                use crate::adapters::queries::{jobs::JobRow, micros};

                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<JobRow> = rows(
                        "SELECT * FROM jobs WHERE NOT queued AND created_at < $1
                         ORDER BY created_at, id LIMIT +$2",
                    )
                    .bind(micros(before))
                    .bind(i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(JobRow::job).collect::<sqlx::Result<Vec<_>>>()
                };
                bounded(listed).await.map_err(|e| failed("list unqueued jobs", e))
            }

            async fn start_job(
                &self,
                id: crate::domain::ids::JobId,
                attempt: u32,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<bool> {
                use crate::domain::job::JobState;

                let started = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        "UPDATE jobs SET state = $4, started_at = $3, queued = $5,
                             attempts = CASE WHEN attempts > $2 THEN attempts ELSE $2 END
                         WHERE id = $1 AND state IN ($6, $4)",
                    )
                    .bind(id.0)
                    .bind(i64::from(attempt))
                    .bind(crate::adapters::queries::micros(at))
                    .bind(JobState::Running.as_str())
                    .bind(true)
                    .bind(JobState::Queued.as_str())
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(started).await.map_err(|e| failed("start a job", e))
            }

            async fn finish_job(
                &self,
                id: crate::domain::ids::JobId,
                state: crate::domain::job::JobState,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<bool> {
                let finished = async {
                    if !state.is_final() {
                        let text = format!("{} is not a final state", state.as_str());
                        return Err(crate::adapters::queries::unstorable(text));
                    }
                    self.close_job(id, state, at, true).await
                };
                bounded(finished).await.map_err(|e| failed("finish a job", e))
            }

            async fn cancel_job(
                &self,
                id: crate::domain::ids::JobId,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<bool> {
                let cancelled = crate::domain::job::JobState::Cancelled;
                let closed = self.close_job(id, cancelled, at, false);
                bounded(closed).await.map_err(|e| failed("cancel a job", e))
            }

            async fn revive_job(&self, id: crate::domain::ids::JobId) -> crate::ports::Result<bool> {
                use crate::domain::job::JobState;

                let revived = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        "UPDATE jobs SET state = $2, queued = $3, attempts = 0, started_at = NULL, finished_at = NULL,
                             revivals = revivals + 1
                         WHERE id = $1 AND state = $4",
                    )
                    .bind(id.0)
                    .bind(JobState::Queued.as_str())
                    .bind(false)
                    .bind(JobState::Dead.as_str())
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(revived).await.map_err(|e| failed("revive a job", e))
            }

            async fn list_jobs(
                &self,
                query: &crate::ports::JobQuery,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::domain::job::Job>> {
                use crate::adapters::queries::{jobs::JobRow, one_more, page};

                let listed = async {
                    let mut tx = self.browse().await?;
                    // Only what is asked for is in the text, so that each kind of list has its index.
                    let mut asked = sqlx::QueryBuilder::<$db>::new("SELECT * FROM jobs WHERE owner = ");
                    asked.push_bind(query.owner.0);
                    // No job is called by the greatest UUID, so "before it" is everything.
                    let before = query.before.map_or(uuid::Uuid::max(), |id| id.0);
                    asked.push(" AND id < ").push_bind(before);
                    if let Some(room) = &query.room {
                        asked.push(" AND room_id = ").push_bind(room.as_str());
                    }
                    if let Some(project) = query.project {
                        asked.push(" AND project_id = ").push_bind(project);
                    }
                    if let Some(state) = query.state {
                        asked.push(" AND state = ").push_bind(state.as_str());
                    }
                    asked.push(" ORDER BY id DESC LIMIT +").push_bind(one_more(limit));
                    let rows: Vec<JobRow> =
                        asked.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
                    tx.commit().await?;
                    rows.into_iter().map(JobRow::job).collect::<sqlx::Result<Vec<_>>>()
                };
                let jobs = bounded(listed).await.map_err(|e| failed("list jobs", e))?;
                Ok(page(jobs, limit))
            }

            async fn delete_job(&self, id: crate::domain::ids::JobId) -> crate::ports::Result<bool> {
                use crate::domain::job::JobState;

                let deleted = async {
                    let mut tx = self.write().await?;
                    let done = statement("DELETE FROM jobs WHERE id = $1 AND state NOT IN ($2, $3)")
                        .bind(id.0)
                        .bind(JobState::Queued.as_str())
                        .bind(JobState::Running.as_str())
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(deleted).await.map_err(|e| failed("delete a job", e))
            }
        }
    };
}
pub(crate) use job_records;
