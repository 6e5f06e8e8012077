//! The program as it runs: embedded in one process, or gateways and workers around shared stores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use atelier_shared::Mode;
use rustix::process::Signal;

use super::process::{self, Process, Spec};
use super::rest::Rest;
use super::stores::Stores;
use super::{Address, Door};

/// The administrator of every cluster.
pub const ADMIN_TOKEN: &str = "the-administrator-of-the-stories";
/// A process with nothing to wait for ends within this after SIGTERM.
const DRAIN_PATIENCE: Duration = Duration::from_secs(90);

/// What a cluster is made of.
pub struct Options {
    pub gateways: usize,
    pub workers: usize,
    settings: BTreeMap<String, String>,
    /// What workers are told besides.
    worker_settings: BTreeMap<String, String>,
    stores: Option<Stores>,
}

impl Default for Options {
    fn default() -> Self {
        let options = Self {
            gateways: 2,
            workers: 1,
            settings: BTreeMap::new(),
            worker_settings: BTreeMap::new(),
            stores: None,
        };
        // All clients of all stories come from one address.
        options
            .set("ROOMS_PER_ADDRESS", 1_000_000)
            .set("REGISTRATIONS_PER_ADDRESS", 100_000)
            .set("LOGIN_TRIES", 10_000)
            .set("RATE_ENTRIES", 1_000_000)
            .set("ANONYMOUS_ROOMS", true)
            .set("CLEANUP_NOTICE", 1)
            .set("ATELIER_ADMIN_TOKEN", ADMIN_TOKEN)
            // Whatever this machine's kernel gives; what each layer holds is the sandbox's own tests' business.
            .set("SANDBOX_TIER", "reduced")
            .set("CODE_CONCURRENCY", 2)
            // A story that is over should not wait for the politeness of its drain.
            .set("DRAIN_TIMEOUT", 4)
    }
}

impl Options {
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.into(), value.to_string());
        self
    }

    /// For workers alone.
    pub fn set_worker(mut self, name: &str, value: impl ToString) -> Self {
        self.worker_settings.insert(name.into(), value.to_string());
        self
    }

    pub fn unset(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    pub fn gateways(mut self, gateways: usize) -> Self {
        self.gateways = gateways;
        self
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Stores that the story made itself, to stand between them and the cluster.
    pub fn stores(mut self, stores: Stores) -> Self {
        self.stores = Some(stores);
        self
    }
}

/// Running processes; cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    gateways: Vec<Process>,
    workers: Vec<Process>,
    stores: Option<Stores>,
    /// Gone with the cluster.
    _data: tempfile::TempDir,
}

impl Cluster {
    /// Returns when every process is ready.
    pub async fn start(mode: Mode, folder: &Path, options: Options) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let mut settings = BTreeMap::from([(
            "ATELIER_DATA_DIR".to_owned(),
            data.path().display().to_string(),
        )]);
        let spec = |name: String, command: &str, settings: &BTreeMap<String, String>| Spec {
            name,
            arguments: vec![command.to_owned()],
            settings: {
                let mut settings = settings.clone();
                settings.insert("SANDBOX_FIRST_USER".to_owned(), own_users().to_string());
                settings
            },
            folder: folder.to_owned(),
        };
        if mode == Mode::Embedded {
            settings.extend(options.settings);
            let process = Process::start(spec("atelier".into(), "all", &settings)).await?;
            return Ok(Self(Arc::new(Inner {
                gateways: vec![process],
                workers: Vec::new(),
                stores: None,
                _data: data,
            })));
        }
        let stores = match options.stores {
            Some(stores) => stores,
            None => Stores::make().await?,
        };
        settings.extend(store_settings(&stores)?);
        settings.extend(options.settings);
        let migration = process::run(&spec("migrate".into(), "migrate", &settings)).await?;
        ensure!(migration.0.success(), "atelier migrate: {}", migration.1);
        let mut worker_settings = settings.clone();
        worker_settings.extend(options.worker_settings);
        let starts =
            |count: usize, command: &'static str, settings| {
                futures::future::try_join_all((1..=count).map(move |n| {
                    Process::start(spec(format!("{command}-{n}"), command, settings))
                }))
            };
        let (gateways, workers) = tokio::try_join!(
            starts(options.gateways, "gateway", &settings),
            starts(options.workers, "worker", &worker_settings)
        )?;
        Ok(Self(Arc::new(Inner {
            gateways,
            workers,
            stores: Some(stores),
            _data: data,
        })))
    }

    /// A gateway.
    pub fn here(&self) -> &Process {
        &self.0.gateways[0]
    }

    pub fn gateway(&self, n: usize) -> &Process {
        &self.0.gateways[n % self.0.gateways.len()]
    }

    /// Another gateway; embedded: the same one.
    pub fn there(&self) -> &Process {
        &self.0.gateways[self.0.gateways.len() - 1]
    }

    /// Where jobs run: a worker; embedded: the one process.
    pub fn worker(&self, n: usize) -> &Process {
        self.0.workers.get(n).unwrap_or(&self.0.gateways[0])
    }

    pub fn stores(&self) -> anyhow::Result<&Stores> {
        self.0
            .stores
            .as_ref()
            .context("embedded mode has no stores")
    }

    pub fn rest(&self) -> Rest {
        Rest::at(self.here())
    }

    /// [`Cluster::rest`], as the administrator.
    pub fn admin(&self) -> Rest {
        self.rest().with_token(ADMIN_TOKEN)
    }

    /// An address of [`Cluster::here`].
    pub fn door(&self, address: Address, room: &str) -> Door {
        Door::new(self.here().address(), address, room)
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.0.gateways.iter().chain(&self.0.workers)
    }

    pub fn logs(&self) -> Vec<PathBuf> {
        self.processes().map(Process::log).collect()
    }

    /// SIGTERM to all; all must end well. Then as [`Cluster::end`].
    pub async fn drain_and_end(&self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for process in self.processes() {
            if process.is_running().await {
                outcome = outcome.and(process.signal(Signal::TERM).await);
            }
        }
        for process in self.processes() {
            if process.is_running().await {
                outcome = outcome.and(ended_well(process).await);
            }
        }
        outcome.and(self.end(true).await)
    }

    /// Kills what still runs. A process that ended by itself is a failure (`gently`: tell it).
    pub async fn end(&self, gently: bool) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for process in self.processes() {
            if gently && process.crashed().await {
                outcome = Err(anyhow::anyhow!("{} ended by itself", process.name()));
            }
            process.kill().await?;
        }
        outcome
    }
}

/// Workers of one machine must not share the user ids of their boxes.
fn own_users() -> u32 {
    const RANGE: u32 = 64;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Two runs of the stories on one machine differ by their process id.
    let run = std::process::id() % 1_000 * 10_000;
    1_000_000 + run + NEXT.fetch_add(RANGE, Ordering::Relaxed)
}

async fn ended_well(process: &Process) -> anyhow::Result<()> {
    let status = process.ended(DRAIN_PATIENCE).await?;
    ensure!(
        status.success(),
        "{} was told to stop and ended with {status}\n{}",
        process.name(),
        process::tail(&process.log(), 0)
    );
    Ok(())
}

fn store_settings(stores: &Stores) -> anyhow::Result<BTreeMap<String, String>> {
    let files = reqwest::Url::from_directory_path(stores.files.path())
        .map_err(|()| anyhow::anyhow!("no URL for the folder of files"))?;
    let settings = [
        ("DATABASE_URL", stores.postgres.to_string()),
        // Its own replica: what may be read there is.
        ("DATABASE_READ_URL", stores.postgres.to_string()),
        ("REDIS_URL", stores.redis.to_string()),
        ("MONGO_URL", stores.mongo.to_string()),
        ("DB_NAME", stores.name.clone()),
        ("REDIS_NAMESPACE", stores.name.clone()),
        ("FILES_URL", files.to_string()),
        ("JWT_PRIVATE_KEY", std::env::var("JWT_PRIVATE_KEY")?),
        // Many processes share one small server.
        ("DATABASE_POOL", "5".to_owned()),
    ];
    Ok(settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}
