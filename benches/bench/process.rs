//! Servers under test: started on a core of their own, their CPU time and memory read from `/proc`, ended with the run.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::CpuSet;

/// Where servers run. The load generator keeps to [`LOAD_CORE`], so that neither takes time from the other.
pub const SERVER_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;

/// What utime and stime are counted in (`USER_HZ`): 100 a second wherever Linux runs Rust programs.
const TICK_NS: u64 = 10_000_000;
/// How long a server may take to stop by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A child process that ends with its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

/// CPU time of every thread of a process, by thread.
#[derive(Debug)]
pub struct CpuTime {
    threads: HashMap<String, u64>,
    ticks_ns: u64,
}

/// `command`, to be run on one core (where there are two) and killed when this process dies.
pub fn on_core(core: Option<usize>, command: &Command) -> Result<Command> {
    let mut launcher = Command::new(std::env::current_exe()?);
    launcher.arg("on-core");
    launcher.arg(
        core.filter(|_| has_two_cores())
            .map_or("any".into(), |c| c.to_string()),
    );
    launcher.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => launcher.env(key, value),
            None => launcher.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        launcher.current_dir(folder);
    }
    Ok(launcher)
}

/// The launcher's side of [`on_core`]: becomes the command. Returns only if that fails.
pub fn become_command(core: &str, mut command: Command) -> io::Error {
    let prepared = || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Ok(core) = core.parse() {
            pin(core)?;
        }
        Ok(())
    };
    match prepared() {
        Ok(()) => command.exec(),
        Err(error) => error,
    }
}

/// Keeps the calling thread (and what it starts) on one core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Does something on one core, where there are two.
pub fn pin_while<T>(core: usize, work: impl FnOnce() -> T) -> io::Result<T> {
    if !has_two_cores() {
        return Ok(work());
    }
    let before = rustix::thread::sched_getaffinity(None)?;
    pin(core)?;
    let done = work();
    rustix::thread::sched_setaffinity(None, &before)?;
    Ok(done)
}

/// Puts the load generator on its core for as long as the guard lives.
pub struct OnLoadCore(Option<CpuSet>);

impl OnLoadCore {
    pub fn enter() -> io::Result<Self> {
        if !has_two_cores() {
            return Ok(Self(None));
        }
        let before = rustix::thread::sched_getaffinity(None)?;
        pin(LOAD_CORE)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for OnLoadCore {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = rustix::thread::sched_setaffinity(None, before);
        }
    }
}

/// Asked first before anything is pinned, and remembered.
pub fn has_two_cores() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        rustix::thread::sched_getaffinity(None)
            .is_ok_and(|set| set.is_set(SERVER_CORE) && set.is_set(LOAD_CORE))
    })
}

/// As many open files as the machine lets us have; children inherit it.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{name} could not be started"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    /// The first line of standard output; the process must have been started with it piped.
    pub fn first_line(&mut self) -> Result<String> {
        let stdout = self
            .child
            .stdout
            .take()
            .context("standard output is not piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} ended before it said anything", self.name);
        }
        Ok(line.trim().to_owned())
    }

    /// An error once the process has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    pub fn cpu_time(&self) -> Result<CpuTime> {
        let folder = format!("/proc/{}", self.child.id());
        let stat = fs::read_to_string(format!("{folder}/stat"))
            .with_context(|| format!("{} is gone", self.name))?;
        // Behind the name, which may hold anything, come the state and so on: utime and stime are the 12th and 13th.
        let (_, fields) = stat
            .rsplit_once(')')
            .context("/proc/PID/stat without a name")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let mut threads = HashMap::new();
        for thread in fs::read_dir(format!("{folder}/task"))? {
            let thread = thread?;
            // A thread may end between being listed and being read.
            if let Ok(text) = fs::read_to_string(thread.path().join("schedstat"))
                && let Some(ns) = text
                    .split_whitespace()
                    .next()
                    .and_then(|ns| ns.parse().ok())
            {
                threads.insert(thread.file_name().to_string_lossy().into_owned(), ns);
            }
        }
        Ok(CpuTime {
            threads,
            ticks_ns: ticks * TICK_NS,
        })
    }

    /// Anonymous memory in RAM, bytes.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .context("/proc/PID/status has no RssAnon")?;
        Ok(kilobytes * 1024)
    }
}

impl CpuTime {
    /// CPU time spent since `earlier`, nanoseconds.
    ///
    /// Threads know theirs to the nanosecond, but one that ended in between takes it along: then the process's own
    /// figure counts, which is exact in the long run and comes in ticks of 10 ms.
    pub fn since_ns(&self, earlier: &Self) -> u64 {
        let ended = earlier
            .threads
            .keys()
            .any(|id| !self.threads.contains_key(id));
        if ended || self.threads.is_empty() {
            return self.ticks_ns.saturating_sub(earlier.ticks_ns);
        }
        let spent = |(id, ns): (&String, &u64)| {
            ns.saturating_sub(earlier.threads.get(id).copied().unwrap_or(0))
        };
        self.threads.iter().map(spent).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), Ok(None)) = (pid, self.child.try_wait()) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
