//! The `runsc` program: how it is called, and what it says of a running container.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::sandbox::ns::inside::NICE;

/// Executes a program further behind; the process stays the same.
const NICE_PROGRAM: &str = "/usr/bin/nice";
/// How long a call that starts nothing may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// One installation, and the state folder that its containers of ours are listed in.
#[derive(Debug, Clone)]
pub struct Runsc {
    pub program: PathBuf,
    pub state: PathBuf,
    /// Memory and processes are held by the host's control groups.
    pub cgroups: bool,
}

/// What a container has used so far, as `runsc events --stats` tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_us: u64,
    pub memory_bytes: u64,
    pub pids: u64,
}

impl Runsc {
    /// A call with the flags of all calls, nothing of our environment in it.
    pub fn command(&self) -> Command {
        self.finish(Command::new(&self.program))
    }

    fn finish(&self, mut command: Command) -> Command {
        command.env_clear().env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.arg("--root").arg(&self.state).arg("--network=none");
        if !self.cgroups {
            command.arg("--ignore-cgroups");
        }
        command.stdin(Stdio::null());
        command
    }

    /// `runsc run`, ready to be started; it comes after the server where both want a processor.
    pub fn run(&self, bundle: &Path, id: &str) -> Command {
        let mut command = if Path::new(NICE_PROGRAM).exists() {
            let mut command = Command::new(NICE_PROGRAM);
            command.arg("-n").arg(NICE.to_string()).arg(&self.program);
            self.finish(command)
        } else {
            self.command()
        };
        command.arg("run").arg("--bundle").arg(bundle).arg(id);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// The version it tells; its first line.
    ///
    /// # Errors
    /// In words, when it can't be started or fails.
    pub async fn version(&self) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.arg("--version").stdin(Stdio::null());
        let said = call(command).await?;
        if !said.status.success() {
            return Err(format!("--version: {}", said.status));
        }
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(said.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Kills every process of a container. One that is gone is no error.
    pub async fn kill(&self, id: &str) {
        let mut command = self.command();
        command.args(["kill", "--all", id, "KILL"]);
        if let Err(error) = call(command).await {
            tracing::debug!(id, error, "runsc kill");
        }
    }

    /// Forgets a container, killing what is left of it. One that is gone is no error.
    pub async fn delete(&self, id: &str) {
        let mut command = self.command();
        command.args(["delete", "--force", id]);
        match call(command).await {
            Ok(said) if said.status.success() => {}
            Ok(said) => {
                let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
                tracing::warn!(id, said, "runsc delete");
            }
            Err(error) => tracing::warn!(id, error, "runsc delete"),
        }
    }

    /// `None`: it is not running (yet, or any more).
    pub async fn stats(&self, id: &str) -> Option<Stats> {
        let mut command = self.command();
        command.args(["events", "--stats", id]);
        let said = call(command).await.ok()?;
        read_stats(&said.stdout)
    }
}

async fn call(mut command: Command) -> Result<Output, String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    match timeout(CALL_TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {CALL_TIMEOUT:?}")),
    }
}

fn read_stats(text: &[u8]) -> Option<Stats> {
    #[derive(Deserialize)]
    struct Event {
        data: Data,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Data {
        cpu: Cpu,
        memory: Memory,
        pids: Pids,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Cpu {
        usage: CpuUsage,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct CpuUsage {
        /// Nanoseconds.
        total: u64,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Memory {
        usage: MemoryUsage,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct MemoryUsage {
        usage: u64,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Pids {
        current: u64,
    }
    let Data { cpu, memory, pids } = serde_json::from_slice::<Event>(text).ok()?.data;
    Some(Stats {
        cpu_us: cpu.usage.total / 1000,
        memory_bytes: memory.usage.usage,
        pids: pids.current,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_read_as_runsc_prints_them() {
        let text = br#"{"type":"stats","id":"a","data":{"cpu":{"usage":{"kernel":0,"user":0,"total":1500000}},
            "memory":{"usage":{"usage":1048576}},"pids":{"current":3}}}"#;
        let stats = Stats {
            cpu_us: 1500,
            memory_bytes: 1 << 20,
            pids: 3,
        };
        assert_eq!(read_stats(text), Some(stats));
        assert_eq!(read_stats(br#"{"data":{}}"#), Some(Stats::default()));
        assert_eq!(read_stats(b"container not found"), None);
    }
}
