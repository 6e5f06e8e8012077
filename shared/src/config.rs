//! Every setting: a flag and an environment variable, with its default and its unit.

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use crate::domain::backup::Keep;

const DB_NAME: &str = "atelier";
const REDIS_NAMESPACE: &str = "atelier";
const DATA_DIR: &str = "./data";
const DATABASE_POOL: u32 = 16;
const ROOM_TAIL_MAX: u64 = 100_000;

/// Which stores, and so which mode.
#[derive(Clone, Args)]
#[command(next_help_heading = "Stores")]
pub struct StoreConfig {
    /// Postgres, for relational data. With REDIS_URL and MONGO_URL: distributed mode; with none of them: embedded mode
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// A read replica of it, for lists of jobs and insights, which may then be as late as the replica is; away, the primary
    /// answers these too
    #[arg(long, env = "DATABASE_READ_URL", hide_env_values = true)]
    pub database_read_url: Option<String>,
    /// Redis 7 or later, for room logs, presence, queues and tokens
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// A Redis of its own for queues and tokens; the same as REDIS_URL where absent
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    pub redis_queue_url: Option<String>,
    /// MongoDB replica set, for the archive and job results
    #[arg(long, env = "MONGO_URL", hide_env_values = true)]
    pub mongo_url: Option<String>,
    /// MongoDB database name
    #[arg(long, env = "DB_NAME", default_value = DB_NAME)]
    pub db_name: String,
    /// First word of every Redis key and channel, so that several installations can share one Redis
    #[arg(long, env = "REDIS_NAMESPACE", default_value = REDIS_NAMESPACE)]
    pub redis_namespace: String,
    /// Where uploaded files live: file:///folder, s3://bucket or gs://bucket; distributed mode needs it, embedded mode uses
    /// its data folder without it
    #[arg(long, env = "FILES_URL", hide_env_values = true)]
    pub files_url: Option<String>,
    /// Another spelling of FILES_URL=gs://NAME
    #[arg(long, env = "GCP_BUCKET_NAME")]
    pub gcp_bucket_name: Option<String>,
    /// Read for the sake of earlier set-ups: a bucket's name says all that is needed
    #[arg(long, env = "PROJECT_ID")]
    pub project_id: Option<String>,
    /// Folder for everything that embedded mode keeps
    #[arg(long, env = "ATELIER_DATA_DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// Connections to Postgres, per process
    #[arg(long, env = "DATABASE_POOL", default_value_t = DATABASE_POOL)]
    pub database_pool: u32,
    /// Entries a room's hot log may hold unarchived before appends are refused with archive_behind
    #[arg(long, env = "ROOM_TAIL_MAX", default_value_t = ROOM_TAIL_MAX)]
    pub room_tail_max: u64,
    /// Embedded mode: sync the disk with every commit of the room log and the queue, so that `logged` outlives a power failure
    /// too; without it it outlives the process's end in any way, and `archived` (a second later) a power failure
    #[arg(long, env = "SYNC_LOG", default_value_t = false, action = clap::ArgAction::Set)]
    pub sync_log: bool,
    /// Backups of a room that are kept: the last of each of so many minutes in which one was made
    #[arg(long, env = "BACKUP_MINUTES", default_value_t = Keep::DEFAULT.minutes, value_parser = clap::value_parser!(u16).range(1..=1_440))]
    pub backup_minutes: u16,
    /// And the last of each of so many hours
    #[arg(long, env = "BACKUP_HOURS", default_value_t = Keep::DEFAULT.hours, value_parser = clap::value_parser!(u16).range(0..=720))]
    pub backup_hours: u16,
    /// And the last of each of so many days
    #[arg(long, env = "BACKUP_DAYS", default_value_t = Keep::DEFAULT.days, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub backup_days: u16,
    /// And so many of those that somebody asked for, or that were made before a restore
    #[arg(long, env = "BACKUP_ASKED", default_value_t = Keep::DEFAULT.asked, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub backup_asked: u16,
}

impl StoreConfig {
    /// How long backups are kept.
    pub fn backup_keep(&self) -> Keep {
        Keep {
            minutes: self.backup_minutes,
            hours: self.backup_hours,
            days: self.backup_days,
            asked: self.backup_asked,
        }
    }
}

/// What an empty environment gives: embedded mode.
impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            database_url: None,
            database_read_url: None,
            redis_url: None,
            redis_queue_url: None,
            mongo_url: None,
            db_name: DB_NAME.to_owned(),
            redis_namespace: REDIS_NAMESPACE.to_owned(),
            files_url: None,
            gcp_bucket_name: None,
            project_id: None,
            data_dir: DATA_DIR.into(),
            database_pool: DATABASE_POOL,
            room_tail_max: ROOM_TAIL_MAX,
            sync_log: false,
            backup_minutes: Keep::DEFAULT.minutes,
            backup_hours: Keep::DEFAULT.hours,
            backup_days: Keep::DEFAULT.days,
            backup_asked: Keep::DEFAULT.asked,
        }
    }
}

/// Without the URLs: they hold passwords.
impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("database_url", &self.database_url.is_some())
            .field("database_read_url", &self.database_read_url.is_some())
            .field("redis_url", &self.redis_url.is_some())
            .field("redis_queue_url", &self.redis_queue_url.is_some())
            .field("mongo_url", &self.mongo_url.is_some())
            .field("db_name", &self.db_name)
            .field("redis_namespace", &self.redis_namespace)
            .field("files_url", &self.files_url.is_some())
            .field("gcp_bucket_name", &self.gcp_bucket_name)
            .field("project_id", &self.project_id)
            .field("data_dir", &self.data_dir)
            .field("database_pool", &self.database_pool)
            .field("room_tail_max", &self.room_tail_max)
            .field("sync_log", &self.sync_log)
            .field("backup_keep", &self.backup_keep())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        stores: StoreConfig,
    }

    #[test]
    fn the_defaults_are_those_of_the_command_line() {
        // Flags and not the environment, which may hold anything where tests run.
        let stores = Command::parse_from(["atelier", "--data-dir", DATA_DIR]).stores;
        let plain = StoreConfig::default();
        assert_eq!(stores.database_pool, plain.database_pool);
        assert_eq!(stores.room_tail_max, plain.room_tail_max);
        assert_eq!(stores.backup_keep(), plain.backup_keep());
        assert_eq!(stores.redis_namespace, plain.redis_namespace);
        assert_eq!(stores.data_dir, plain.data_dir);
    }

    #[test]
    fn what_is_shown_of_it_holds_no_password() {
        let config = StoreConfig {
            database_url: Some("postgres://u:sesame@h/d".into()),
            ..StoreConfig::default()
        };
        assert!(!format!("{config:?}").contains("sesame"));
    }
}
