//! Every setting: a flag and an environment variable, with its default and its unit.

use std::path::PathBuf;

use clap::Args;

/// Which stores, and so which mode.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stores")]
pub struct StoreConfig {
    /// Postgres, for relational data. With REDIS_URL and MONGO_URL: distributed mode; with none of them: embedded mode
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
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
    #[arg(long, env = "DB_NAME", default_value = "atelier")]
    pub db_name: String,
    /// First word of every Redis key and channel, so that several installations can share one Redis
    #[arg(long, env = "REDIS_NAMESPACE", default_value = "atelier")]
    pub redis_namespace: String,
    /// Where uploaded files live: file:///folder, s3://bucket or gs://bucket; distributed mode needs it
    #[arg(long, env = "FILES_URL", hide_env_values = true)]
    pub files_url: Option<String>,
    /// Another spelling of FILES_URL=gs://NAME
    #[arg(long, env = "GCP_BUCKET_NAME")]
    pub gcp_bucket_name: Option<String>,
    /// Folder for everything that embedded mode keeps
    #[arg(long, env = "ATELIER_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Connections to Postgres, per process
    #[arg(long, env = "DATABASE_POOL", default_value_t = 16)]
    pub database_pool: u32,
    /// Entries a room's hot log may hold unarchived before appends are refused with archive_behind
    #[arg(long, env = "ROOM_TAIL_MAX", default_value_t = 100_000)]
    pub room_tail_max: u64,
}
