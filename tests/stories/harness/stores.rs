//! A story's own databases on the services that `deploy/local/services` starts, and a Redis that may be emptied.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, bail};
use fred::prelude::*;
use fred::types::CustomCommand;
use reqwest::Url;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::process::{Child, Command};

use super::fresh;
use super::story::lock;
use super::wait::{PATIENCE, until};

/// What distributed stories need in the environment.
pub const SETTINGS: [&str; 4] = ["DATABASE_URL", "REDIS_URL", "MONGO_URL", "JWT_PRIVATE_KEY"];

pub fn are_configured() -> bool {
    SETTINGS
        .iter()
        .all(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

pub fn are_required() -> bool {
    ["CI", "ATELIER_REQUIRE_SERVICES"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

fn setting(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

/// Where the processes of one cluster keep everything. The URLs may be led through a proxy.
#[derive(Debug)]
pub struct Stores {
    /// Name of the Postgres and MongoDB databases, and Redis namespace.
    pub name: String,
    pub postgres: Url,
    pub redis: Url,
    pub mongo: Url,
    pub files: tempfile::TempDir,
}

impl Stores {
    pub async fn make() -> anyhow::Result<Self> {
        let name = fresh("story").replace('-', "_");
        let admin = setting("DATABASE_URL")?;
        let mut connection = PgConnection::connect(&admin).await?;
        let create = format!("CREATE DATABASE {name}");
        connection.execute(AssertSqlSafe(create)).await?;
        connection.close().await?;
        lock(&MADE).push(name.clone());
        let mut postgres = Url::parse(&admin)?;
        postgres.set_path(&name);
        Ok(Self {
            postgres,
            redis: Url::parse(&setting("REDIS_URL")?)?,
            mongo: Url::parse(&setting("MONGO_URL")?)?,
            files: tempfile::tempdir()?,
            name,
        })
    }
}

/// Names of the databases and namespaces that were made.
static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Drops all that was made. At the end of all stories: each drop makes Postgres write everything to disk at once, and
/// who is told something meanwhile waits for it.
pub async fn drop_all() -> anyhow::Result<()> {
    let made = std::mem::take(&mut *lock(&MADE));
    if made.is_empty() {
        return Ok(());
    }
    let mut postgres = PgConnection::connect(&setting("DATABASE_URL")?).await?;
    let mongo = mongodb::Client::with_uri_str(setting("MONGO_URL")?).await?;
    for name in made {
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        postgres.execute(AssertSqlSafe(drop)).await?;
        mongo.database(&name).drop().await?;
        delete_namespace(&setting("REDIS_URL")?, &name).await?;
    }
    postgres.close().await.map_err(Into::into)
}

/// Deletes every key of a namespace, as if Redis had lost it.
pub async fn delete_namespace(redis: &str, namespace: &str) -> anyhow::Result<()> {
    const DELETE: &str = "local cursor = '0' repeat
        local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
        cursor = page[1]
        for _, key in ipairs(page[2]) do redis.call('UNLINK', key) end
    until cursor == '0' return 0";
    let client = Builder::from_config(Config::from_url(redis)?).build()?;
    client.init().await?;
    let keys: Vec<String> = Vec::new();
    let _: i64 = client
        .eval(DELETE, keys, vec![format!("{namespace}:*")])
        .await?;
    client.quit().await.map_err(Into::into)
}

/// Trims a room's log up to `seq`, which must be archived, as the archive's worker does when it is old.
pub async fn forget_log(redis: &Url, namespace: &str, room: &str, seq: u64) -> anyhow::Result<()> {
    // (A scan may show a key more than once.)
    const FORGET: &str = "local found, seen = 0, {}
    local cursor = '0' repeat
        local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1], 'COUNT', 1000)
        cursor = page[1]
        for _, key in ipairs(page[2]) do
            if key:sub(-4) == ':log' and not seen[key] then
                seen[key] = true
                redis.call('XTRIM', key, 'MINID', ARGV[2] .. '-1')
                redis.call('HSET', key:sub(1, -4) .. 'meta', 'trimmed', ARGV[2])
                found = found + 1
            end
        end
    until cursor == '0' return found";
    let client = Builder::from_config(Config::from_url(redis.as_str())?).build()?;
    client.init().await?;
    let keys: Vec<String> = Vec::new();
    let pattern = format!("{namespace}:*:room:{room}:*");
    let found: i64 = client
        .eval(FORGET, keys, vec![pattern, seq.to_string()])
        .await?;
    client.quit().await?;
    if found != 1 {
        bail!("{found} logs of {room} found");
    }
    Ok(())
}

/// A Redis of a story's own: emptied, stopped and started without touching anybody else's.
#[derive(Debug)]
pub struct OwnRedis {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl OwnRedis {
    /// Keeps nothing on disk: started again it is empty.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut tries = 0;
        loop {
            // Redis takes no port 0: a free one is looked for, and another if somebody was faster.
            let port = super::proxy::free_port()?;
            let mut child = Self::spawn(folder.path(), port)?;
            match Self::answers(&mut child, port).await {
                Ok(()) => {
                    return Ok(Self {
                        folder,
                        port,
                        child,
                    });
                }
                Err(error) if tries == 3 => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    fn spawn(folder: &Path, port: u16) -> anyhow::Result<Child> {
        let program = std::env::var("REDIS_SERVER_BIN").unwrap_or_else(|_| "redis-server".into());
        let port = port.to_string();
        let settings = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--maxmemory-policy", "noeviction"],
        ];
        let log = std::fs::File::create(folder.join("redis.log"))?;
        Command::new(program)
            .args(settings.as_flattened())
            .current_dir(folder)
            .stdin(std::process::Stdio::null())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .context("start redis-server")
    }

    async fn answers(child: &mut Child, port: u16) -> anyhow::Result<()> {
        let url = format!("redis://127.0.0.1:{port}");
        until("redis-server to answer", PATIENCE, async || {
            if let Some(status) = child.try_wait()? {
                bail!("it ended: {status}");
            }
            let client = Builder::from_config(Config::from_url(&url)?).build()?;
            client.init().await?;
            client.ping::<()>(None).await?;
            client.quit().await.map_err(anyhow::Error::from)
        })
        .await
    }

    pub fn url(&self) -> anyhow::Result<Url> {
        Ok(Url::parse(&format!("redis://127.0.0.1:{}", self.port))?)
    }

    /// All it holds is gone, as after a restart without a disk; connections stay.
    pub async fn empty(&self) -> anyhow::Result<()> {
        let client = Builder::from_config(Config::from_url(self.url()?.as_str())?).build()?;
        client.init().await?;
        client.flushall::<()>(false).await?;
        client.quit().await.map_err(Into::into)
    }

    /// `CONFIG SET`, while it runs.
    pub async fn configure(&self, setting: &str, value: &str) -> anyhow::Result<()> {
        let client = Builder::from_config(Config::from_url(self.url()?.as_str())?).build()?;
        client.init().await?;
        let command = CustomCommand::new_static("CONFIG", None::<u16>, false);
        let _: String = client.custom(command, vec!["SET", setting, value]).await?;
        client.quit().await.map_err(Into::into)
    }

    /// Killed, and started again empty.
    pub async fn lose_everything(&mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        let _ = std::fs::remove_file(self.dump());
        self.again().await
    }

    async fn again(&mut self) -> anyhow::Result<()> {
        self.child = Self::spawn(self.folder.path(), self.port)?;
        Self::answers(&mut self.child, self.port).await
    }

    fn dump(&self) -> PathBuf {
        self.folder.path().join("dump.rdb")
    }

    /// What it holds now is what [`Self::roll_back`] brings back.
    pub async fn remember(&self) -> anyhow::Result<()> {
        let client = Builder::from_config(Config::from_url(self.url()?.as_str())?).build()?;
        client.init().await?;
        let save = fred::types::CustomCommand::new_static("SAVE", None, false);
        let no_arguments: Vec<String> = Vec::new();
        client.custom::<(), _>(save, no_arguments).await?;
        client.quit().await.map_err(Into::into)
    }

    /// Killed, and started again with what it remembered: as a replica that was promoted without its tail.
    pub async fn roll_back(&mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        self.again().await
    }
}

/// A MongoDB of a story's own, and alone: no member of a replica set.
#[derive(Debug)]
pub struct OwnMongo {
    port: u16,
    _folder: tempfile::TempDir,
    _child: Child,
}

impl OwnMongo {
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = super::proxy::free_port()?;
        let program = std::env::var("MONGOD_BIN").unwrap_or_else(|_| "mongod".into());
        let log = std::fs::File::create(folder.path().join("mongod.log"))?;
        let child = Command::new(program)
            .args(["--bind_ip", "127.0.0.1", "--port", &port.to_string()])
            .args(["--wiredTigerCacheSizeGB", "0.25", "--dbpath"])
            .arg(folder.path())
            .stdin(std::process::Stdio::null())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .context("start mongod")?;
        let mongo = Self {
            port,
            _folder: folder,
            _child: child,
        };
        let client = mongodb::Client::with_uri_str(mongo.url()).await?;
        until("mongod to answer", PATIENCE, async || {
            let ping = mongodb::bson::doc! { "ping": 1 };
            let answered = client.database("admin").run_command(ping).await;
            answered.map(drop).map_err(anyhow::Error::from)
        })
        .await?;
        Ok(mongo)
    }

    pub fn url(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.port)
    }
}
