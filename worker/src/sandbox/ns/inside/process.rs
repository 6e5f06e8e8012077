//! Running one step in a box and clearing away whatever it leaves running.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::walls::WORK;
use super::{Home, STDERR, STDOUT};
use crate::sandbox::ns::kind::BoxKind;
use crate::sandbox::ns::wire::{self, Inbox, Kind, StepEnd, StepOrder};
use crate::sandbox::{Limits, Step, sys};

/// Processes of one host user the kernel counts beside the program's: the box's first process.
const BOX_PROCESSES: u64 = 1;
const STACK_BYTES: u64 = 8 * 1024 * 1024;
const STACK_CEILING_BYTES: u64 = 64 * 1024 * 1024;
const LOCKED_MEMORY_BYTES: u64 = 64 * 1024;
const QUEUED_SIGNALS: u64 = 256;
/// What every step finds in its environment unless it brings its own; the empty ones depend on where it works.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("HOME", ""),
    ("TMPDIR", ""),
    ("LANG", "C.UTF-8"),
    ("USER", "box"),
    ("PWD", ""),
];

/// Goes through the motions of a step that can't start.
///
/// Memory of a clone is copied page by page at its first use; what a step uses is used now, while nobody waits.
pub fn rehearse(home: &Home) {
    let step = Step {
        argv: vec!["./".into(); 4],
        env: vec![("REHEARSAL".into(), "1".into())],
        ..Step::default()
    };
    let order = StepOrder {
        step,
        limits: Limits::default(),
        limit_data_segment: false,
        tasks_beside: 0,
    };
    let copy = wire::message_with(Kind::Step, &order, &[]).and_then(|frame| {
        let mut inbox = Inbox::new(wire::MAX_REPORT_BYTES);
        inbox.push(&frame);
        inbox.next()
    });
    if let Ok(Some((_, body))) = copy
        && let Ok((order, input)) = wire::parse_with::<StepOrder>(body)
    {
        // Executing a folder is refused at the very last moment.
        let end = run(home, &order, &input);
        let _ = wire::message(Kind::StepEnd, &end);
    }
}

/// Runs the step to its end. Afterwards nothing of it runs.
pub fn run(home: &Home, order: &StepOrder, input: &[u8]) -> StepEnd {
    let started = Instant::now();
    match start(home, order, input) {
        Ok(pid) => {
            let status = wait_for(pid);
            let wall_us = elapsed_us(started);
            clear_away(home.kind);
            StepEnd {
                exit_code: status.and_then(WaitStatus::exit_status),
                signal: status.and_then(WaitStatus::terminating_signal),
                refusal: None,
                wall_us,
            }
        }
        Err(refusal) => StepEnd {
            exit_code: None,
            signal: None,
            refusal: Some(refusal),
            wall_us: elapsed_us(started),
        },
    }
}

fn elapsed_us(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn start(home: &Home, order: &StepOrder, input: &[u8]) -> Result<Pid, String> {
    let step = &order.step;
    let work = &home.place.work;
    let stdin = standard_input(input).map_err(|error| format!("standard input: {error}"))?;
    let cwd = if step.cwd.is_empty() {
        work.clone()
    } else {
        format!("{work}/{}", step.cwd)
    };
    let mut env: Vec<(String, String)> = Vec::with_capacity(ENVIRONMENT.len() + step.env.len());
    env.extend(
        ENVIRONMENT
            .iter()
            .filter(|(name, _)| step.env.iter().all(|(given, _)| given != name))
            .map(|(name, value)| {
                let value = match *name {
                    "PWD" => cwd.clone(),
                    "HOME" => work.clone(),
                    "TMPDIR" => home.place.temporary.clone(),
                    _ => (*value).to_owned(),
                };
                ((*name).to_owned(), value)
            }),
    );
    env.extend(
        step.env
            .iter()
            .map(|(name, value)| (name.clone(), at_home(work, value))),
    );
    let stdio = [stdin.as_raw_fd(), STDOUT, STDERR];
    let limits = resource_limits(order);
    let executable = sys::Executable::new(&step.argv, &env, &cwd, stdio, limits)
        .map_err(|error| error.to_string())?
        .within(home.inner_rules.as_ref().map(AsRawFd::as_raw_fd));
    sys::spawn(&executable).map_err(|(stage, error)| {
        let program = step.argv.first().map_or("", String::as_str);
        match stage.to_bytes() {
            b"execute" => format!("{program}: {error}"),
            b"work folder" => format!("{cwd}: {error}"),
            stage => format!("{}: {error}", String::from_utf8_lossy(stage)),
        }
    })
}

/// `/box` is how the work folder is called wherever it is.
fn at_home(work: &str, value: &str) -> String {
    match value.strip_prefix(WORK) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{work}{rest}"),
        _ => value.to_owned(),
    }
}

/// Input is a sealed file in memory: no writer can block on it or be blocked by it.
fn standard_input(input: &[u8]) -> io::Result<OwnedFd> {
    if input.is_empty() {
        return Ok(rustix::fs::open(
            "/dev/null",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
    }
    let file = rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = input;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// A second hold behind the cgroup's; per process, except the number of processes.
fn resource_limits(order: &StepOrder) -> Vec<(u32, u64, u64)> {
    let (limits, data_segment) = (&order.limits, order.limit_data_segment);
    let fixed = |resource: u32, value: u64| (resource, value, value);
    // The kernel sends SIGXCPU at the soft limit and SIGKILL at the hard one, both in whole seconds.
    let cpu_seconds = limits.cpu_ms.div_ceil(1000).saturating_add(1);
    let mut list = vec![
        // Not 0: a core handler that is a program is started for 0, and is not for 1.
        fixed(libc::RLIMIT_CORE, 1),
        (libc::RLIMIT_CPU, cpu_seconds, cpu_seconds.saturating_add(1)),
        fixed(libc::RLIMIT_FSIZE, limits.disk_bytes),
        fixed(libc::RLIMIT_NOFILE, limits.open_files),
        fixed(
            libc::RLIMIT_NPROC,
            u64::from(limits.pids)
                .saturating_add(BOX_PROCESSES)
                .saturating_add(order.tasks_beside),
        ),
        (libc::RLIMIT_STACK, STACK_BYTES, STACK_CEILING_BYTES),
        fixed(libc::RLIMIT_MEMLOCK, LOCKED_MEMORY_BYTES),
        fixed(libc::RLIMIT_SIGPENDING, QUEUED_SIGNALS),
        fixed(libc::RLIMIT_MSGQUEUE, 0),
        fixed(libc::RLIMIT_NICE, 0),
        fixed(libc::RLIMIT_RTPRIO, 0),
    ];
    if data_segment {
        list.push(fixed(libc::RLIMIT_DATA, limits.memory_bytes));
    }
    list
}

/// Waits for the step's own process and, meanwhile, for every orphan handed to us.
fn wait_for(pid: Pid) -> Option<WaitStatus> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => return Some(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Kills what is left of the step. A fork racing us is caught by the next round: nobody leaves a pid namespace, and
/// without one whoever loses their parent becomes our child.
fn clear_away(kind: BoxKind) {
    let mut nobody_left = 0;
    loop {
        // "Everybody but me" is -1, for which there is no safe name.
        let killed = sys::kill_everybody_else(Signal::KILL);
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => nobody_left = 0,
            Err(_) => {
                nobody_left += 1;
                // Where the host's processes are in sight, those that must not be killed count as well.
                let done = match kind {
                    BoxKind::Namespaces => killed.is_err(),
                    BoxKind::Landlock => nobody_left > 1,
                };
                if done {
                    return;
                }
            }
        }
    }
}
