//! Accounting by control groups version 1: the hierarchies `memory`, `pids` and `cpuacct`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::{Accounting, Group, Spent, files};
use crate::sandbox::{Layer, LayerReport};

/// In the order in which a box joins them.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpuacct"];

/// Of processors, for all boxes of a helper together; an ordinary group has 1024.
const SHARES: &str = "341";

/// One folder of this helper in each hierarchy.
#[derive(Debug)]
pub struct CgroupV1 {
    parents: [OwnedFd; 3],
    folders: [OwnedFd; 3],
    name: String,
}

impl CgroupV1 {
    pub fn open() -> Result<Self, String> {
        let mounts =
            std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let own =
            std::fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let mut name = String::new();
        let mut parents = Vec::new();
        let mut folders = Vec::new();
        for controller in CONTROLLERS {
            let wanted = |kind: &str, options: &str| {
                kind == "cgroup" && options.split(',').any(|option| option == controller)
            };
            let (point, root) = files::mount_of(&mounts, wanted)
                .ok_or_else(|| format!("no `{controller}` hierarchy is mounted"))?;
            let path = files::own_path(&own, controller)
                .ok_or_else(|| format!("this process is in no `{controller}` group"))?;
            let path = files::own_folder(&point, &root, &path);
            let parent = files::open_folder(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            files::sweep(parent.as_fd());
            let (claimed, folder) = files::claim(parent.as_fd())
                .map_err(|error| format!("no folder can be made in {}: {error}", path.display()))?;
            // Where the hierarchy shares out processors too.
            let _ = files::write_at(folder.as_fd(), "cpu.shares", SHARES);
            name = claimed;
            parents.push(parent);
            folders.push(folder);
        }
        let three = |list: Vec<OwnedFd>| {
            <[OwnedFd; 3]>::try_from(list).map_err(|_| "not three hierarchies".to_owned())
        };
        Ok(Self {
            parents: three(parents)?,
            folders: three(folders)?,
            name,
        })
    }
}

impl Accounting for CgroupV1 {
    fn layers(&self) -> Vec<LayerReport> {
        [
            Layer::MemoryControl,
            Layer::ProcessControl,
            Layer::CpuAccounting,
        ]
        .map(|layer| LayerReport::new(layer, Ok("cgroup v1".into())))
        .into()
    }

    fn open(&self, number: u32) -> io::Result<Box<dyn Group>> {
        let name = format!("box-{number}");
        let mut own = Vec::with_capacity(3);
        let mut parents = Vec::with_capacity(3);
        let mut join = Vec::with_capacity(3);
        for folder in &self.folders {
            let made = files::make_folder_at(folder.as_fd(), &name)?;
            join.push(files::open_for_writing_at(made.as_fd(), "cgroup.procs")?);
            own.push(made);
            parents.push(folder.try_clone()?);
        }
        let three = |list: Vec<OwnedFd>| {
            <[OwnedFd; 3]>::try_from(list).map_err(|_| io::Error::other("not three hierarchies"))
        };
        let own = three(own)?;
        let counters = Counters::open(&own)?;
        Ok(Box::new(GroupV1 {
            name,
            parents: three(parents)?,
            own,
            counters: Some(counters),
            join,
            last: Spent::default(),
        }))
    }

    fn close(&self) {
        for parent in &self.parents {
            let _ = files::remove_folder_at(parent.as_fd(), &self.name);
        }
    }
}

/// Of a program's memory, as much again may wait in its sockets; within these bounds, in bytes.
const SOCKETS_SHARE: u64 = 4;
const SOCKETS_LEAST: u64 = 4 << 20;
const SOCKETS_MOST: u64 = 64 << 20;

/// The files that are read while a program runs, held open: opening one costs more than reading it.
struct Counters {
    cpu: OwnedFd,
    peak: OwnedFd,
    kills: OwnedFd,
    /// Since Linux 6.11.
    pids_peak: Option<OwnedFd>,
}

impl Counters {
    fn open([memory, processes, cpu]: &[OwnedFd; 3]) -> io::Result<Self> {
        Ok(Self {
            cpu: files::open_counter_at(cpu.as_fd(), "cpuacct.usage")?,
            peak: files::open_counter_at(memory.as_fd(), "memory.max_usage_in_bytes")?,
            kills: files::open_counter_at(memory.as_fd(), "memory.oom_control")?,
            pids_peak: files::open_counter_at(processes.as_fd(), "pids.peak").ok(),
        })
    }
}

struct GroupV1 {
    name: String,
    parents: [OwnedFd; 3],
    own: [OwnedFd; 3],
    join: Vec<OwnedFd>,
    /// `None` once the group is being removed.
    counters: Option<Counters>,
    last: Spent,
}

impl Group for GroupV1 {
    fn join_files(&self) -> Vec<RawFd> {
        self.join.iter().map(AsRawFd::as_raw_fd).collect()
    }

    fn limit(&mut self, memory_bytes: u64, pids: u32) -> io::Result<()> {
        let [memory, processes, _] = &self.own;
        let limit = memory_bytes.to_string();
        // Memory with swap may never be below memory alone, so the order depends on which way the limit moves.
        if files::write_at(memory.as_fd(), "memory.limit_in_bytes", &limit).is_err() {
            let _ = files::write_at(memory.as_fd(), "memory.memsw.limit_in_bytes", &limit);
            files::write_at(memory.as_fd(), "memory.limit_in_bytes", &limit)?;
        }
        // What waits in sockets (TCP's and UDP's) is counted apart here, and not at all without a limit of its own. A kernel
        // that is built without it has no such file.
        let sockets = (memory_bytes / SOCKETS_SHARE).clamp(SOCKETS_LEAST, SOCKETS_MOST);
        let _ = files::write_at(
            memory.as_fd(),
            "memory.kmem.tcp.limit_in_bytes",
            &sockets.to_string(),
        );
        if files::write_at(memory.as_fd(), "memory.memsw.limit_in_bytes", &limit).is_err() {
            // Swap accounting is off: at least prefer not to swap.
            let _ = files::write_at(memory.as_fd(), "memory.swappiness", "0");
        }
        files::write_at(
            processes.as_fd(),
            "pids.max",
            &(pids.saturating_add(1)).to_string(),
        )
    }

    fn begin_step(&mut self) {
        let [memory, ..] = &self.own;
        let _ = files::write_at(memory.as_fd(), "memory.max_usage_in_bytes", "0");
        self.join.clear();
    }

    fn spent(&mut self) -> Spent {
        if let Some(counters) = &self.counters {
            let kills = files::read_counter(&counters.kills);
            self.last = Spent {
                cpu_us: files::counter(&counters.cpu).unwrap_or(0) / 1000,
                out_of_memory: kills
                    .and_then(|text| files::field(&text, "oom_kill"))
                    .unwrap_or(self.last.out_of_memory),
                memory_peak_bytes: files::counter(&counters.peak).unwrap_or(0),
                pids_peak: counters
                    .pids_peak
                    .as_ref()
                    .and_then(files::counter)
                    .unwrap_or(0)
                    .saturating_sub(1),
                too_many_files: false,
            };
        }
        self.last
    }

    fn remove(&mut self) -> io::Result<()> {
        self.join.clear();
        self.counters = None;
        for parent in &self.parents {
            files::remove_folder_at(parent.as_fd(), &self.name)?;
        }
        Ok(())
    }
}
