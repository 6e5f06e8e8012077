//! Accounting without control groups: resource limits in the box, and the helper watching its processes.
//!
//! Weaker than a cgroup in kind: memory is seen by sampling, so a fast program overshoots until the next look, and
//! files of the box don't count (their file systems are bounded instead). Hence one program at a time.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use super::{Accounting, Group, HostView, Spent, files};
use crate::sandbox::landlock::tree;
use crate::sandbox::ns::kind::BoxKind;
use crate::sandbox::{Layer, LayerReport};

/// The watchdog.
#[derive(Debug)]
pub struct Unaided {
    kind: BoxKind,
    proc: Rc<OwnedFd>,
    reason: String,
    ticks_per_second: u64,
}

impl Unaided {
    pub fn open(host: &HostView, kind: BoxKind, reason: &str) -> Result<Self, String> {
        let proc = host.proc.try_clone().map_err(|error| error.to_string())?;
        Ok(Self {
            kind,
            proc: Rc::new(proc),
            reason: reason.to_owned(),
            ticks_per_second: crate::sandbox::sys::clock_ticks_per_second(),
        })
    }
}

impl Accounting for Unaided {
    fn layers(&self) -> Vec<LayerReport> {
        [
            Layer::MemoryControl,
            Layer::ProcessControl,
            Layer::CpuAccounting,
        ]
        .map(|layer| LayerReport::new(layer, Err(self.reason.clone())))
        .into()
    }

    fn open(&self, _number: u32) -> io::Result<Box<dyn Group>> {
        Ok(Box::new(Watched {
            proc: Rc::clone(&self.proc),
            ticks_per_second: self.ticks_per_second,
            kind: self.kind,
            members: Members::Nobody,
            memory_limit: u64::MAX,
            last: Spent::default(),
        }))
    }

    fn one_at_a_time(&self) -> bool {
        true
    }

    fn limits_data_segment(&self) -> bool {
        true
    }
}

/// How the processes of a box are told from others.
enum Members {
    Nobody,
    /// Whatever is in the pid namespace with this inode.
    Namespace(u64),
    /// Whatever descends from this process.
    Tree(u32),
}

struct Watched {
    proc: Rc<OwnedFd>,
    ticks_per_second: u64,
    kind: BoxKind,
    members: Members,
    memory_limit: u64,
    last: Spent,
}

impl Group for Watched {
    fn attach(&mut self, init: Pid) {
        let pid = init.as_raw_nonzero().get();
        let found = match self.kind {
            BoxKind::Namespaces => {
                pid_namespace(self.proc.as_fd(), &pid.to_string()).map(Members::Namespace)
            }
            BoxKind::Landlock => u32::try_from(pid).ok().map(Members::Tree),
        };
        self.members = found.unwrap_or(Members::Nobody);
    }

    fn limit(&mut self, memory_bytes: u64, _pids: u32) -> io::Result<()> {
        self.memory_limit = memory_bytes;
        Ok(())
    }

    fn begin_step(&mut self) {
        self.last.memory_peak_bytes = 0;
        self.last.pids_peak = 0;
    }

    fn spent(&mut self) -> Spent {
        let proc = self.proc.as_fd();
        let members: Vec<String> = match self.members {
            Members::Nobody => return self.last,
            Members::Namespace(inode) => processes_of(proc, inode),
            Members::Tree(init) => tree::descendants(proc, &BTreeSet::from([init]))
                .into_iter()
                .map(|pid| pid.to_string())
                .collect(),
        };
        let (mut ticks, mut resident, mut processes) = (0, 0, 0);
        for pid in members {
            ticks += files::read_at(self.proc.as_fd(), &format!("{pid}/stat"))
                .ok()
                .and_then(|text| cpu_ticks(&text))
                .unwrap_or(0);
            if let Ok(status) = files::read_at(self.proc.as_fd(), &format!("{pid}/status")) {
                resident += kibibytes(&status, "RssAnon:") + kibibytes(&status, "RssShmem:");
                processes += files::field(&status.replace(":\t", " "), "Threads").unwrap_or(1);
            }
        }
        let cpu_us = ticks.saturating_mul(1_000_000) / self.ticks_per_second;
        // A process that dies takes its time out of sight until its parent has waited for it.
        self.last.cpu_us = self.last.cpu_us.max(cpu_us);
        self.last.memory_peak_bytes = self.last.memory_peak_bytes.max(resident * 1024);
        self.last.pids_peak = self.last.pids_peak.max(u64::saturating_sub(processes, 1));
        if resident * 1024 > self.memory_limit {
            self.last.out_of_memory += 1;
        }
        self.last
    }

    fn remove(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pid_namespace(proc: BorrowedFd<'_>, pid: &str) -> Option<u64> {
    let link = rustix::fs::openat(
        proc,
        format!("{pid}/ns/pid"),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    Some(rustix::fs::fstat(link).ok()?.st_ino)
}

fn processes_of(proc: BorrowedFd<'_>, namespace: u64) -> Vec<String> {
    let Ok(entries) = rustix::fs::Dir::read_from(proc) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| pid_namespace(proc, pid) == Some(namespace))
        .collect()
}

/// User and system time of a process and the children it has waited for, from `/proc/<pid>/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name stands in parentheses and may contain anything, so count from the last one.
    let after_name = stat.rsplit_once(") ")?.1;
    Some(
        after_name
            .split(' ')
            .skip(11)
            .take(4)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum(),
    )
}

fn kibibytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_hostile_name() {
        let stat = "7 (a) R 1 (b) S 1 7 7 0 -1 4194560 1 0 0 0 10 20 3 4 20 0 1 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(37));
    }

    #[test]
    fn resident_memory_is_read_in_kibibytes() {
        assert_eq!(
            kibibytes("Name:\tx\nRssAnon:\t    1234 kB\n", "RssAnon:"),
            1234
        );
        assert_eq!(kibibytes("Name:\tx\n", "RssAnon:"), 0);
    }
}
