//! One process of the program: started, found ready, signalled, ended; its output goes to a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::story::lock;
use super::wait::{PATIENCE, until};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_atelier");
/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 30;

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub arguments: Vec<String>,
    pub settings: BTreeMap<String, String>,
    /// Its log is `<folder>/<name>.log`.
    pub folder: PathBuf,
}

impl Spec {
    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn printed(&self) -> PathBuf {
        self.folder.join(format!("{}.out", self.name))
    }

    /// The command with nothing of this process's environment but what any program needs.
    fn command(&self, listen: &str) -> anyhow::Result<Command> {
        // The kernel ends it with us, however we end. setpriv becomes the program: the pid stays the same.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", PROGRAM]);
        command.args(&self.arguments);
        command.env_clear().envs(&self.settings);
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("ATELIER_LISTEN", listen);
        let append = |path: &Path| {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true).open(path)
        };
        command
            .stdin(std::process::Stdio::null())
            .stdout(append(&self.printed())?)
            .stderr(append(&self.log())?)
            .kill_on_drop(true);
        Ok(command)
    }
}

/// The death signal follows the thread that started the process: it must be one that lives as long as we do.
async fn spawn(mut command: Command) -> anyhow::Result<Child> {
    let spawned = tokio::spawn(async move { command.spawn() }).await?;
    spawned.context("start the program (setpriv of util-linux is needed)")
}

/// Runs a command of the program to its end.
pub async fn run(spec: &Spec) -> anyhow::Result<(ExitStatus, String)> {
    let mut child = spawn(spec.command("127.0.0.1:0")?).await?;
    let status = timeout(PATIENCE, child.wait()).await;
    let status = status.with_context(|| format!("{} did not end", spec.name))??;
    let said = std::fs::read_to_string(spec.printed())? + &std::fs::read_to_string(spec.log())?;
    Ok((status, said))
}

/// A server process, running or ended.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: tokio::sync::Mutex<Option<Child>>,
    address: Mutex<SocketAddr>,
}

impl Process {
    /// Starts it on a free port, and waits until it says that it is ready.
    pub async fn start(spec: Spec) -> anyhow::Result<Self> {
        let process = Self {
            spec,
            child: tokio::sync::Mutex::new(None),
            address: Mutex::new(SocketAddr::from(([127, 0, 0, 1], 0))),
        };
        process.restart().await?;
        Ok(process)
    }

    /// Starts it again on its old address.
    pub async fn restart(&self) -> anyhow::Result<()> {
        let mut child = self.child.lock().await;
        if child.is_some() {
            bail!("{} is running", self.spec.name);
        }
        // Truncated: the address is read from what this run prints.
        std::fs::write(self.spec.printed(), "")?;
        let listen = self.address().to_string();
        let mut started = spawn(self.spec.command(&listen)?).await?;
        let address = until("the address it listens on", PATIENCE, async || {
            if let Some(status) = started.try_wait()? {
                // Nothing more will come: the deadline need not be waited for.
                return Ok(Err(status));
            }
            let said = std::fs::read_to_string(self.spec.printed())?;
            let address = said.split("http://").nth(1).and_then(|rest| {
                rest.split(|c: char| c == '/' || c.is_whitespace())
                    .next()?
                    .parse()
                    .ok()
            });
            address
                .map(Ok)
                .with_context(|| format!("it printed {said:?}"))
        });
        let address = match address.await? {
            Ok(address) => address,
            Err(status) => bail!("{} ended at once: {status}", self.spec.name),
        };
        *lock(&self.address) = address;
        *child = Some(started);
        drop(child);
        self.wait_ready().await
    }

    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let url = self.url("/readyz");
        until(
            &format!("{} to be ready", self.name()),
            PATIENCE,
            async || {
                let answer = reqwest::get(&url).await.map_err(anyhow::Error::from)?;
                let status = answer.status();
                if status.is_success() {
                    return Ok(());
                }
                bail!("{status} {}", answer.text().await.unwrap_or_default())
            },
        )
        .await
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn address(&self) -> SocketAddr {
        *lock(&self.address)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub fn log(&self) -> PathBuf {
        self.spec.log()
    }

    /// What this run printed on standard output.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.spec.printed()).unwrap_or_default()
    }

    /// `kill -9`, and it is gone.
    pub async fn kill(&self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.lock().await.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, SIGSTOP, SIGCONT…
    pub async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.lock().await;
        let id = child.as_ref().and_then(Child::id);
        let id = id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let id = id.with_context(|| format!("{} is not running", self.spec.name))?;
        kill_process(id, signal).map_err(Into::into)
    }

    /// Waits for it to end by itself.
    pub async fn ended(&self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let child = self.child.lock().await.take();
        let mut child = child.with_context(|| format!("{} is not running", self.spec.name))?;
        match timeout(patience, child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} did not end within {patience:?}", self.spec.name),
        }
    }

    /// The command lines of its children, and theirs.
    pub async fn descendants(&self) -> anyhow::Result<Vec<String>> {
        let child = self.child.lock().await;
        let id = child.as_ref().and_then(Child::id);
        let mut found = Vec::new();
        let mut look_at = vec![id.with_context(|| format!("{} is not running", self.spec.name))?];
        while let Some(parent) = look_at.pop() {
            let threads = std::fs::read_dir(format!("/proc/{parent}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                // One that has just ended has no children any more.
                let children = std::fs::read_to_string(thread.path().join("children"));
                let children = children.unwrap_or_default();
                for child in children.split_whitespace() {
                    let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                    found.push(String::from_utf8_lossy(&line).replace('\0', " "));
                    look_at.push(child.parse()?);
                }
            }
        }
        Ok(found)
    }

    /// Did it end without being asked to?
    pub async fn crashed(&self) -> bool {
        let mut child = self.child.lock().await;
        child
            .as_mut()
            .is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    pub async fn is_running(&self) -> bool {
        self.child.lock().await.is_some()
    }
}

/// The end of a log, from `from` bytes on.
pub fn tail(path: &Path, from: u64) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(0).min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[from..]);
    let lines: Vec<&str> = text.lines().collect();
    let mut out = format!("--- the end of {}\n", path.display());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{line}");
    }
    out
}
