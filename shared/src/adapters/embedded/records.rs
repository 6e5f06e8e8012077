//! Relational data in `records.db`.

use std::path::Path;

use async_trait::async_trait;
use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{FromRow, Sqlite as Db, Transaction};

use super::sqlite::{Commits, Sqlite, port_error as failed};
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

/// The twins of those of Postgres.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "records",
        include_str!("../../../../migrations/sqlite/records/0001_records.sql"),
    ),
    (
        "unfinished jobs",
        include_str!("../../../../migrations/sqlite/records/0002_unfinished_jobs.sql"),
    ),
    (
        "refs of runs",
        include_str!("../../../../migrations/sqlite/records/0003_run_refs.sql"),
    ),
    (
        "invitations",
        include_str!("../../../../migrations/sqlite/records/0003_invites.sql"),
    ),
    (
        "places",
        include_str!("../../../../migrations/sqlite/records/0004_places.sql"),
    ),
    (
        "files",
        include_str!("../../../../migrations/sqlite/records/0005_files.sql"),
    ),
    (
        "deleted people",
        include_str!("../../../../migrations/sqlite/records/0006_deleted_people.sql"),
    ),
    (
        "cleanup",
        include_str!("../../../../migrations/sqlite/records/0007_cleanup.sql"),
    ),
    (
        "insights",
        include_str!("../../../../migrations/sqlite/records/0008_insights.sql"),
    ),
    (
        "removed rooms",
        include_str!("../../../../migrations/sqlite/records/0009_removed_rooms.sql"),
    ),
    (
        "revivals",
        include_str!("../../../../migrations/sqlite/records/0010_revivals.sql"),
    ),
    (
        "rooms of people",
        include_str!("../../../../migrations/sqlite/records/0011_rooms_of_people.sql"),
    ),
    (
        "idle guests",
        include_str!("../../../../migrations/sqlite/records/0012_idle_guests.sql"),
    ),
    (
        "lists of a kind",
        include_str!("../../../../migrations/sqlite/records/0013_lists_of_a_kind.sql"),
    ),
    (
        "visits of rooms",
        include_str!("../../../../migrations/sqlite/records/0014_room_visits.sql"),
    ),
    (
        "keys of jobs",
        include_str!("../../../../migrations/sqlite/records/0015_job_keys.sql"),
    ),
];

/// A call of the disk ends.
async fn bounded<T>(call: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    call.await
}

#[derive(Debug, Clone)]
pub struct SqliteRecords {
    file: Sqlite,
}

impl SqliteRecords {
    /// Opens or makes `records.db` in `folder` and brings its schema up to date.
    pub async fn open(folder: &Path) -> Result<Self> {
        let file = Sqlite::open(folder, "records.db", Commits::Synced).await?;
        file.migrate(MIGRATIONS).await?;
        Ok(Self { file })
    }

    async fn read(&self) -> sqlx::Result<Transaction<'static, Db>> {
        self.file.read.begin().await
    }

    /// There is one file, and it is never behind.
    async fn browse(&self) -> sqlx::Result<Transaction<'static, Db>> {
        self.read().await
    }

    /// Takes the write lock at once: one that began as a reader could not become a writer while another writes.
    async fn write(&self) -> sqlx::Result<Transaction<'static, Db>> {
        self.file.write.begin_with("BEGIN IMMEDIATE").await
    }
}

fn statement(sql: &'static str) -> Query<'static, Db, SqliteArguments> {
    sqlx::query(sql)
}

fn rows<R: for<'r> FromRow<'r, SqliteRow>>(
    sql: &'static str,
) -> QueryAs<'static, Db, R, SqliteArguments> {
    sqlx::query_as(sql)
}

/// Whoever writes is alone already.
#[expect(clippy::unused_async, reason = "the twin of Postgres's")]
async fn lock_address(_: &mut Transaction<'static, Db>, _: &str) -> sqlx::Result<()> {
    Ok(())
}

user_records!(SqliteRecords, Db);
room_records!(SqliteRecords, Db, room_lists::SQLITE);
role_records!(SqliteRecords, Db);
place_records!(SqliteRecords, Db);
job_records!(SqliteRecords, Db);
insight_records!(SqliteRecords);
invite_records!(SqliteRecords);
file_records!(SqliteRecords);
cleanup_records!(SqliteRecords);
removal_steps!(SqliteRecords, Db);
removal_records!(SqliteRecords);
visit_records!(SqliteRecords, Db);

#[async_trait]
impl Records for SqliteRecords {
    async fn ping(&self) -> Result<()> {
        statement("SELECT 1")
            .execute(&self.file.read)
            .await
            .map(|_| ())
            .map_err(|e| failed("ping records.db", e))
    }
}
