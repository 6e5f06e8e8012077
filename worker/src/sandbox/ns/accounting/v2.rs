//! Accounting by control groups version 2: one folder per box, entered at birth.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Accounting, Group, Spent, files};
use crate::sandbox::{Layer, LayerReport};

/// The controllers without which version 2 is no use; CPU time is counted without one.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// Of processors, for all boxes of a helper together; an ordinary group has 100.
const WEIGHT: &str = "33";

/// The folder of this helper, below the cgroup it was started in.
#[derive(Debug)]
pub struct CgroupV2 {
    parent: OwnedFd,
    folder: OwnedFd,
    name: String,
}

impl CgroupV2 {
    pub fn open() -> Result<Self, String> {
        let mounts =
            std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let own =
            std::fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let (point, root) =
            files::mount_of(&mounts, |kind, _| kind == "cgroup2").ok_or("not mounted")?;
        let path = files::own_path(&own, "").ok_or("this process is in no group")?;
        let path = files::own_folder(&point, &root, &path);
        let parent =
            files::open_folder(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let given = files::read_at(parent.as_fd(), "cgroup.controllers")
            .map_err(|error| error.to_string())?;
        if let Some(missing) = CONTROLLERS
            .iter()
            .find(|name| !given.split_whitespace().any(|word| word == **name))
        {
            return Err(format!(
                "the `{missing}` controller is not given to {}",
                path.display()
            ));
        }
        delegate(parent.as_fd()).map_err(|error| {
            format!(
                "controllers of {} can't be handed down: {error}",
                path.display()
            )
        })?;
        files::sweep(parent.as_fd());
        let (name, folder) = files::claim(parent.as_fd())
            .map_err(|error| format!("no folder can be made in {}: {error}", path.display()))?;
        enable(folder.as_fd())
            .map_err(|error| format!("controllers can't be handed down: {error}"))?;
        // Where that controller is given.
        let _ = files::write_at(parent.as_fd(), "cgroup.subtree_control", "+cpu");
        let _ = files::write_at(folder.as_fd(), "cpu.weight", WEIGHT);
        Ok(Self {
            parent,
            folder,
            name,
        })
    }
}

fn enable(folder: BorrowedFd<'_>) -> io::Result<()> {
    let enabled = files::read_at(folder, "cgroup.subtree_control")?;
    for name in CONTROLLERS {
        if !enabled.split_whitespace().any(|word| word == name) {
            files::write_at(folder, "cgroup.subtree_control", &format!("+{name}"))?;
        }
    }
    Ok(())
}

/// Hands the controllers of our own cgroup down to its children.
///
/// A group with processes can't do that, so the worker and this helper move into a child, `service`; when anybody
/// else lives here, they are left in peace and the machine counts as one without version 2.
fn delegate(own: BorrowedFd<'_>) -> io::Result<()> {
    let Err(error) = enable(own) else {
        return Ok(());
    };
    if error.raw_os_error() != Some(libc::EBUSY) {
        return Err(error);
    }
    let helper = std::process::id();
    let worker =
        rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().cast_unsigned());
    let here = files::read_at(own, "cgroup.procs")?;
    let here: Vec<u32> = here
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    if here.iter().any(|pid| *pid != helper && *pid != worker) {
        return Err(io::Error::other(
            "it holds processes other than ours; run the worker in a cgroup of its own",
        ));
    }
    let service = files::make_folder_at(own, "service")?;
    for pid in here {
        files::write_at(service.as_fd(), "cgroup.procs", &pid.to_string())?;
    }
    enable(own)
}

impl Accounting for CgroupV2 {
    fn layers(&self) -> Vec<LayerReport> {
        [
            Layer::MemoryControl,
            Layer::ProcessControl,
            Layer::CpuAccounting,
        ]
        .map(|layer| LayerReport::new(layer, Ok("cgroup v2".into())))
        .into()
    }

    fn open(&self, number: u32) -> io::Result<Box<dyn Group>> {
        let name = format!("box-{number}");
        let own = files::make_folder_at(self.folder.as_fd(), &name)?;
        Ok(Box::new(GroupV2 {
            name,
            parent: self.folder.try_clone()?,
            own,
            peak: None,
        }))
    }

    fn close(&self) {
        let _ = files::remove_folder_at(self.parent.as_fd(), &self.name);
    }
}

struct GroupV2 {
    name: String,
    parent: OwnedFd,
    own: OwnedFd,
    /// Since Linux 6.12 a write to `memory.peak` resets it for this descriptor alone.
    peak: Option<OwnedFd>,
}

impl Group for GroupV2 {
    fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        Some(self.own.as_fd())
    }

    fn limit(&mut self, memory_bytes: u64, pids: u32) -> io::Result<()> {
        let own = self.own.as_fd();
        // Absent where the kernel has no swap.
        let _ = files::write_at(own, "memory.swap.max", "0");
        files::write_at(own, "memory.oom.group", "1")?;
        files::write_at(own, "memory.max", &memory_bytes.to_string())?;
        files::write_at(own, "pids.max", &pids.saturating_add(1).to_string())
    }

    fn begin_step(&mut self) {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let peak =
            rustix::fs::openat(&self.own, "memory.peak", flags, rustix::fs::Mode::empty()).ok();
        self.peak = peak.filter(|file| rustix::io::write(file, b"reset").is_ok());
    }

    fn spent(&mut self) -> Spent {
        let own = self.own.as_fd();
        let cpu = files::read_at(own, "cpu.stat").unwrap_or_default();
        let events = files::read_at(own, "memory.events").unwrap_or_default();
        let peak = self.peak.as_ref().and_then(files::counter);
        Spent {
            cpu_us: files::field(&cpu, "usage_usec").unwrap_or(0),
            out_of_memory: files::field(&events, "oom_kill").unwrap_or(0),
            memory_peak_bytes: peak
                .or_else(|| files::number_at(own, "memory.peak"))
                .unwrap_or(0),
            pids_peak: files::number_at(own, "pids.peak")
                .unwrap_or(0)
                .saturating_sub(1),
            too_many_files: false,
        }
    }

    fn kill(&self) {
        let _ = files::write_at(self.own.as_fd(), "cgroup.kill", "1");
    }

    fn remove(&mut self) -> io::Result<()> {
        self.peak = None;
        files::remove_folder_at(self.parent.as_fd(), &self.name)
    }
}
