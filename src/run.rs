//! What each command does, and how it ends: SIGTERM and Ctrl-C drain.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use atelier_shared::config::StoreConfig;
use atelier_shared::domain::job::QUEUE_CODE;
use atelier_shared::{Backends, Mode};
use atelier_worker::{Worker, WorkerConfig, WorkerError};
use rustix::process::{Resource, Rlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command};
use crate::telemetry::Telemetry;
use crate::{admin, banner};

/// Connections that wait to be accepted: a crowd that comes back at once (the system may allow fewer).
const BACKLOG: u32 = 8_192;

pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let telemetry = Telemetry::start(&cli.process)?;
    let outcome = command(cli).await;
    telemetry.stop();
    outcome
}

async fn command(cli: Cli) -> anyhow::Result<()> {
    if cli.command != Command::Admin && !cli.arguments.is_empty() {
        bail!("unexpected argument \"{}\"", cli.arguments[0]);
    }
    match cli.command {
        Command::Openapi => say(&atelier_gateway::openapi()),
        Command::Migrate => {
            Backends::migrate(&cli.stores).await?;
            match Mode::of(&cli.stores)? {
                Mode::Distributed => say("the databases are at this version's schema\n"),
                Mode::Embedded => say(&format!(
                    "embedded mode (no DATABASE_URL, REDIS_URL, MONGO_URL): the files in {} are at this version's schema\n",
                    cli.stores.data_dir.display()
                )),
            }
        }
        Command::Admin if cli.arguments == ["callback-secret"] => {
            let mut cli = cli;
            settle(&mut cli)?;
            let secret = cli.worker.callback_secret;
            say(&format!(
                "{}\n",
                secret.context(
                    "CALLBACK_SECRET, JWT_PRIVATE_KEY and JWT_SECRET_KEY are all absent"
                )?
            ))
        }
        Command::Admin => {
            let records = Backends::open_records(&cli.stores)
                .await
                .context("cannot open the stores")?;
            say(&admin::run(&*records, &cli.arguments).await?)
        }
        Command::All | Command::Gateway | Command::Worker => serve(cli).await,
        Command::SandboxInit => bail!("sandbox-init is started by the worker itself"),
    }
}

async fn open(stores: &StoreConfig) -> anyhow::Result<Backends> {
    Backends::open(stores)
        .await
        .context("cannot open the stores")
}

async fn serve(mut cli: Cli) -> anyhow::Result<()> {
    let mode = Mode::of(&cli.stores)?;
    if mode == Mode::Embedded && cli.command != Command::All {
        let word = if cli.command == Command::Gateway {
            "gateway"
        } else {
            "worker"
        };
        bail!(
            "`atelier {word}` alone needs distributed mode: set DATABASE_URL, REDIS_URL and MONGO_URL, or run `atelier` for everything in one process"
        );
    }
    settle(&mut cli)?;
    raise_open_files();
    // Bound before the stores are opened: a port that is taken is told at once.
    let listener = listen(cli.process.listen)
        .with_context(|| format!("ATELIER_LISTEN: cannot listen on {}", cli.process.listen))?;
    let address = listener.local_addr()?;
    let backends = open(&cli.stores).await?;
    let shutdown = CancellationToken::new();
    let ended = CancellationToken::new();
    tokio::spawn(stop_on_signal(shutdown.clone(), ended.clone()));
    let outcome = match cli.command {
        Command::Gateway => {
            say(&banner::gateway(address, mode, &cli))?;
            let gateway = atelier_gateway::serve(backends, cli.gateway, listener, shutdown);
            gateway.await.map_err(Into::into)
        }
        Command::Worker => {
            let worker = Worker::prepare(backends.clone(), cli.worker).await?;
            say(&banner::worker(address, &worker))?;
            let operations =
                atelier_gateway::serve_operations(backends, listener, shutdown.clone());
            // Health is answered for as long as the worker drains.
            tokio::select! {
                worker = worker.run(shutdown) => worker.map_err(Into::into),
                operations = operations => operations.map_err(Into::into),
            }
        }
        _ => {
            let worker = worker_of_all(&backends, &cli.worker).await?;
            say(&banner::all(address, mode, &cli, &worker))?;
            let gateway = atelier_gateway::serve(backends, cli.gateway, listener, shutdown.clone());
            // If one part cannot go on, the other ends in good order too.
            let (gateway, worker) = tokio::join!(
                stopping(gateway, shutdown.clone()),
                stopping(worker.run(shutdown.clone()), shutdown.clone())
            );
            gateway
                .map_err(anyhow::Error::from)
                .and(worker.map_err(Into::into))
        }
    };
    ended.cancel();
    outcome
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // As the standard library binds; only the backlog is longer.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A connection is an open file, and most shells begin with 1,024 of them: takes as many as the system lets it have.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays as it is");
    }
}

/// Settles what depends on the mode, and what of the worker's settings depends on the gateway's.
fn settle(cli: &mut Cli) -> anyhow::Result<()> {
    let mode = Mode::of(&cli.stores)?;
    // A worker alone needs no keys: it checks no tokens.
    if mode == Mode::Embedded || matches!(cli.command, Command::All | Command::Gateway) {
        cli.gateway.prepare(mode, &cli.stores.data_dir)?;
    }
    let secret = &mut cli.worker.callback_secret;
    if secret.as_ref().is_some_and(|text| text.trim().is_empty()) {
        *secret = None;
    }
    if secret.is_none() {
        *secret = cli.gateway.callback_secret()?;
    }
    Ok(())
}

/// Where this machine gives no sandbox that may run code, everything else still works; jobs say that nobody takes them.
async fn worker_of_all(backends: &Backends, config: &WorkerConfig) -> anyhow::Result<Worker> {
    match Worker::prepare(backends.clone(), config.clone()).await {
        Err(error @ WorkerError::Sandbox(_)) => {
            tracing::warn!(%error, "code is not run here");
            let mut config = config.clone();
            config.queues.retain(|queue| queue != QUEUE_CODE);
            Ok(Worker::prepare(backends.clone(), config).await?)
        }
        worker => Ok(worker?),
    }
}

async fn stopping<T>(part: impl Future<Output = T>, shutdown: CancellationToken) -> T {
    let outcome = part.await;
    shutdown.cancel();
    outcome
}

/// The first signal drains; a second one ends the process at once.
async fn stop_on_signal(shutdown: CancellationToken, ended: CancellationToken) {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        tracing::error!("cannot listen for signals");
        return;
    };
    for first in [true, false] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = ended.cancelled() => return,
        }
        if first {
            tracing::info!("draining; a second signal ends at once");
            shutdown.cancel();
        }
    }
    std::process::exit(130);
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush().map_err(Into::into)
}
