//! A worker process: a lane for each queue it serves, its place in the list of workers, and the sweeps that no job does.

mod announce;
mod dead_letters;
mod outbox;
mod results;
pub mod schedule;

use std::sync::Arc;

use apalis_core::monitor::{Monitor, MonitorError};
use atelier_shared::Backends;
use atelier_shared::domain::cleanup::{Cleanup, Scope};
use atelier_shared::domain::job::{
    AskedLimits, QUEUE_ARCHIVE, QUEUE_BACKUP, QUEUE_CALLBACK, QUEUE_CLEANUP, QUEUE_CODE,
};
use atelier_shared::outbox::{CallBack, ExecuteJob};
use atelier_shared::ports::WorkerInfo;
use atelier_shared::recovery::ArchiveWork;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::schedule::{Beat, Schedule};
use crate::bridge::{self, Lane};
use crate::config::WorkerConfig;
use crate::jobs::archive::{self, Archiver, Policy};
use crate::jobs::backup::{BackupKeeper, BackupRoom};
use crate::jobs::callback::CallBacks;
use crate::jobs::cleanup::{self, Cleaner};
use crate::jobs::execute::Execution;
use crate::sandbox::toolchains::Toolchains;
use crate::sandbox::{self, CompileCache, GvisorConfig, NsConfig, Sandbox, SandboxError};

/// Why the worker could not start, or ended by itself.
#[derive(Debug, Error)]
pub enum WorkerError {
    #[error("the queue {QUEUE_CODE} can't be served: {0}")]
    Sandbox(#[from] SandboxError),
    #[error(
        "the queue {QUEUE_CALLBACK} can't be served: set CALLBACK_SECRET, or the JWT_PRIVATE_KEY or JWT_SECRET_KEY of the gateways, to sign what is posted"
    )]
    Unsigned,
    #[error("a worker ended: {0}")]
    Ended(#[from] MonitorError),
}

/// Serves the configured queues until `shutdown`; see [`Worker`].
///
/// # Errors
/// As [`Worker::prepare`] and [`Worker::run`].
pub async fn run(
    backends: Backends,
    config: WorkerConfig,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    Worker::prepare(backends, config).await?.run(shutdown).await
}

/// A worker process that has found out what it can do.
pub struct Worker {
    backends: Backends,
    config: WorkerConfig,
    info: WorkerInfo,
    code: Option<Code>,
}

/// What serving [`QUEUE_CODE`] takes.
struct Code {
    sandbox: Arc<dyn Sandbox>,
    execution: Arc<Execution>,
}

impl Worker {
    /// Starts the sandbox and looks for languages, where code is to be run.
    ///
    /// # Errors
    /// [`WorkerError::Sandbox`]: the machine gives no sandbox, or a weaker one than configured; [`WorkerError::Unsigned`].
    pub async fn prepare(backends: Backends, config: WorkerConfig) -> Result<Self, WorkerError> {
        let mut info = WorkerInfo {
            id: Uuid::now_v7().to_string(),
            queues: config.queues.clone(),
            languages: Vec::new(),
            sandbox_tier: "none".into(),
            ceiling: AskedLimits::default(),
        };
        if config.serves(QUEUE_CALLBACK) && config.callback_secret.is_none() {
            return Err(WorkerError::Unsigned);
        }
        let mut code = None;
        if config.serves(QUEUE_CODE) {
            let sandbox = start_sandbox(&config).await?;
            let execution = execution(&backends, &config, sandbox.clone()).await?;
            info.languages = execution.toolchains.present();
            info.sandbox_tier = sandbox.tier().to_string();
            info.ceiling = config.ceiling().told();
            code = Some(Code { sandbox, execution });
        }
        Ok(Self {
            backends,
            config,
            info,
            code,
        })
    }

    /// What it tells of itself: queues, languages, sandbox.
    pub fn info(&self) -> &WorkerInfo {
        &self.info
    }

    /// Serves until `shutdown`; then claims no more, lets running jobs finish for as long as `worker_drain` says, and
    /// hands the others back.
    ///
    /// # Errors
    /// [`WorkerError::Ended`]: a queue's worker ended by itself.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let Self {
            backends,
            config,
            info,
            code,
        } = self;
        let stop = shutdown.child_token();
        let queue = backends.queue.clone();
        let upkeep = TaskTracker::new();
        let schedule = Schedule::new(queue.clone(), stop.clone());
        let mut lanes = Vec::new();
        let mut monitor = Monitor::new();

        if let Some(Code { execution, .. }) = &code {
            let lane = Lane::new(
                queue.clone(),
                QUEUE_CODE,
                config.lane(QUEUE_CODE),
                stop.clone(),
            );
            monitor = bridge::register::<ExecuteJob>(monitor, lane.clone(), execution.clone());
            lanes.push(lane);
            let b = backends.clone();
            schedule.every(schedule::OUTBOX, move || outbox::sweep(b.clone()));
            let b = backends.clone();
            schedule.every(schedule::OUTBOX_DOUBT, move || outbox::doubt(b.clone()));
            let b = backends.clone();
            schedule.every(schedule::RESULTS, move || results::purge(b.clone()));
            let (execution, seen) = (execution.clone(), Arc::default());
            schedule.every(schedule::DEAD_LETTERS, move || {
                dead_letters::sweep(execution.clone(), Arc::clone(&seen))
            });
        }
        if config.serves(QUEUE_ARCHIVE) {
            let archiver = Arc::new(Archiver::new(&backends, Policy::default()));
            let lane = Lane::new(
                queue.clone(),
                QUEUE_ARCHIVE,
                config.lane(QUEUE_ARCHIVE),
                stop.clone(),
            );
            monitor = bridge::register::<ArchiveWork>(monitor, lane.clone(), archiver.clone());
            lanes.push(lane);
            upkeep.spawn(archive::sweep(archiver, stop.clone()));
        }
        if config.serves(QUEUE_CLEANUP) {
            let policy = config.cleanup();
            let cleaner = Arc::new(Cleaner::new(backends.clone(), policy));
            let lane = Lane::new(
                queue.clone(),
                QUEUE_CLEANUP,
                config.lane(QUEUE_CLEANUP),
                stop.clone(),
            );
            monitor = bridge::register::<Cleanup>(monitor, lane.clone(), cleaner);
            lanes.push(lane);
            for (name, every, scope) in [
                ("cleanup-rooms", policy.rooms_every, Scope::Rooms),
                ("cleanup-people", policy.people_every, Scope::StuckUsers),
                ("cleanup-all", policy.everything_every, Scope::Comprehensive),
            ] {
                let beat = Beat::new(name, every);
                schedule.queue_every(beat, QUEUE_CLEANUP, move |_| cleanup::scheduled(scope));
            }
        }
        if let Some(secret) = config
            .callback_secret
            .clone()
            .filter(|_| config.serves(QUEUE_CALLBACK))
        {
            let callbacks = Arc::new(CallBacks {
                records: backends.records.clone(),
                archive: backends.archive.clone(),
                secret,
                allowed: config.callback_networks.clone(),
            });
            let lane = Lane::new(
                queue.clone(),
                QUEUE_CALLBACK,
                config.lane(QUEUE_CALLBACK),
                stop.clone(),
            );
            monitor = bridge::register::<CallBack>(monitor, lane.clone(), callbacks);
            lanes.push(lane);
        }
        if config.serves(QUEUE_BACKUP) {
            let keeper = Arc::new(BackupKeeper::new(&backends));
            let lane = Lane::new(
                queue.clone(),
                QUEUE_BACKUP,
                config.lane(QUEUE_BACKUP),
                stop.clone(),
            );
            monitor = bridge::register::<BackupRoom>(monitor, lane.clone(), keeper.clone());
            lanes.push(lane);
            let beat = Beat::new("backups", config.backup_interval());
            schedule.every(beat, move || {
                let keeper = keeper.clone();
                async move { keeper.queue_changed().await }
            });
        }
        tracing::info!(
            worker = info.id,
            queues = ?info.queues,
            languages = ?info.languages,
            sandbox = info.sandbox_tier,
            "worker started"
        );
        upkeep.spawn(announce::announce(queue, info, stop.clone()));
        upkeep.close();

        // On a task of its own: claims, renewals and settling must not wait for whoever polls this future.
        let served = tokio::spawn(bridge::serve(monitor, lanes, stop.clone(), config.drain()));
        let served = served.await;
        stop.cancel();
        upkeep.wait().await;
        schedule.ended().await;
        if let Some(Code { sandbox, .. }) = code {
            sandbox.shutdown().await;
        }
        match served {
            Ok(served) => Ok(served?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime itself is ending.
                Err(_) => Ok(()),
            },
        }
    }
}

async fn start_sandbox(config: &WorkerConfig) -> Result<Arc<dyn Sandbox>, SandboxError> {
    let slots = config.code_slots();
    let boxes = NsConfig {
        slots,
        warm: slots,
        first_host_user: config.sandbox_first_user,
        ceiling: config.ceiling(),
        work_folder: config.sandbox_work_dir.clone(),
        ..NsConfig::default()
    };
    let gvisor = GvisorConfig {
        runsc: config.sandbox_runsc.clone(),
        slots,
        ceiling: config.ceiling(),
        first_user: config.sandbox_first_user,
        work_folder: config.sandbox_work_dir.clone(),
    };
    sandbox::start(config.sandbox_driver, boxes, gvisor, config.policy()).await
}

async fn execution(
    backends: &Backends,
    config: &WorkerConfig,
    sandbox: Arc<dyn Sandbox>,
) -> Result<Arc<Execution>, SandboxError> {
    let toolchains = Toolchains::discover(&*sandbox).await?;
    let sandbox = match config.compile_cache() {
        Some(most_bytes) => Arc::new(CompileCache::new(sandbox, most_bytes)),
        None => sandbox,
    };
    Ok(Arc::new(Execution {
        records: backends.records.clone(),
        archive: backends.archive.clone(),
        log: backends.log.clone(),
        queue: backends.queue.clone(),
        output: backends.output.clone(),
        files: backends.files.clone(),
        presence: backends.presence.clone(),
        sandbox,
        toolchains,
        ceiling: config.ceiling(),
        keep_results: config.keep_results(),
        artifact_bytes: config.artifact_max_mib << 20,
    }))
}
