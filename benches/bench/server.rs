//! The contestants as servers: Atelier alone, Atelier's gateways over real stores, and the bare relay.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::bare_epoll::Writes;
use crate::process::{self, Process};

const START_PATIENCE: Duration = Duration::from_secs(30);

/// The server program, built with this benchmark.
const ATELIER: &str = env!("CARGO_BIN_EXE_atelier");

/// What distributed mode needs, as `deploy/local/services env` prints it.
const STORES: [&str; 5] = [
    "DATABASE_URL",
    "REDIS_URL",
    "MONGO_URL",
    "FILES_URL",
    "JWT_PRIVATE_KEY",
];

/// A server that answers.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    pub address: SocketAddr,
    /// Where it keeps its data; gone with it.
    data: TempDir,
}

pub fn bare(writes: Writes) -> Result<Server> {
    let mode = match writes {
        Writes::Each => "each",
        Writes::Joined => "joined",
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bare-epoll", mode]);
    let mut command = process::on_core(Some(process::SERVER_CORE), &command)?;
    let mut process = Process::start("the bare relay", command.stdout(Stdio::piped()))?;
    let address = process.first_line()?.parse()?;
    Server::of(process, address)
}

/// Atelier as it runs with nothing installed, on the servers' core.
pub fn embedded() -> Result<Server> {
    start("atelier", &["all"], &[], Some(process::SERVER_CORE))
}

/// A gateway over the stores of the environment, on any core: two of them and Redis would crowd one.
pub fn gateway(stores: &[(&'static str, String)]) -> Result<Server> {
    start("an atelier gateway", &["gateway"], stores, None)
}

/// A gateway over the stores of the environment, on the servers' core: to be compared with others there.
pub fn gateway_on_core(stores: &[(&'static str, String)]) -> Result<Server> {
    let core = Some(process::SERVER_CORE);
    start("an atelier gateway", &["gateway"], stores, core)
}

/// The program of [`bare_state`](crate::bare_state): gives everybody who asks so many bytes.
pub fn bare_state(bytes: u64) -> Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bare-state", &bytes.to_string()]);
    let mut command = process::on_core(Some(process::SERVER_CORE), &command)?;
    let mut process = Process::start("the bare server", command.stdout(Stdio::piped()))?;
    let address = process.first_line()?.parse()?;
    Server::of(process, address)
}

/// The stores of the environment; `None` if there are none.
pub fn stores() -> Result<Option<Vec<(&'static str, String)>>> {
    if std::env::var_os("REDIS_URL").is_none() {
        return Ok(None);
    }
    let value = |name| {
        Ok((
            name,
            std::env::var(name).with_context(|| format!("{name} is not set"))?,
        ))
    };
    STORES
        .into_iter()
        .map(value)
        .collect::<Result<_>>()
        .map(Some)
}

/// Brings the stores' schemas up to date.
pub fn migrate(stores: &[(&'static str, String)]) -> Result<()> {
    let data = TempDir::new()?;
    let done = atelier(data.path(), stores).arg("migrate").output()?;
    if !done.status.success() {
        bail!("atelier migrate: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

fn start(
    name: &str,
    arguments: &[&str],
    stores: &[(&'static str, String)],
    core: Option<usize>,
) -> Result<Server> {
    start_on(TempDir::new()?, name, arguments, stores, core)
}

fn start_on(
    data: TempDir,
    name: &str,
    arguments: &[&str],
    stores: &[(&'static str, String)],
    core: Option<usize>,
) -> Result<Server> {
    let address = free_address()?;
    let mut command = atelier(data.path(), stores);
    command.args(arguments);
    command.env("ATELIER_LISTEN", address.to_string());
    let mut command = process::on_core(core, &command)?;
    let process = Process::start(name, command.stdout(Stdio::null()))?;
    let mut server = Server {
        process,
        address,
        data,
    };
    server.wait_until_ready()?;
    Ok(server)
}

/// The program with a clean environment, and limits that don't stop a load generator on one address.
fn atelier(data: &Path, stores: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(ATELIER);
    for (name, _) in std::env::vars_os() {
        if name != "PATH" {
            command.env_remove(name);
        }
    }
    command.envs(stores.iter().map(|(name, value)| (name, value)));
    command.env("ATELIER_DATA_DIR", data);
    command.envs([
        ("ANONYMOUS_ROOMS", "true"),
        ("ROOMS_PER_ADDRESS", "1000000"),
        ("MESSAGE_RATE", "100000"),
        ("MESSAGE_BURST", "100000"),
        ("RATE_READS", "100000000"),
        ("RATE_WRITES", "100000000"),
        ("RATE_UPLOADS", "100000000"),
        ("RATE_ENTRIES", "100000000"),
        ("JOBS_PER_MINUTE", "100000"),
        ("LOGIN_TRIES", "10000"),
        ("DRAIN_TIMEOUT", "0"),
        ("ATELIER_LOG", "warn"),
    ]);
    command
}

impl Server {
    /// A server that is ready and keeps nothing.
    pub fn of(process: Process, address: SocketAddr) -> Result<Self> {
        Ok(Self {
            process,
            address,
            data: TempDir::new()?,
        })
    }

    /// Ends an embedded server and starts it anew with what it stored.
    pub fn restart_embedded(self) -> Result<Self> {
        let Self { process, data, .. } = self;
        drop(process);
        start_on(data, "atelier", &["all"], &[], Some(process::SERVER_CORE))
    }

    /// The folder of its data.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        while !self.is_ready() {
            self.process.check()?;
            if Instant::now() > deadline {
                bail!("{} was not ready within {START_PATIENCE:?}", self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Does `/readyz` answer 200?
    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(START_PATIENCE))?;
            let address = self.address;
            write!(
                stream,
                "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    }
}

/// A port that is free now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
