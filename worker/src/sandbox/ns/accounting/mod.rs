//! Who counts and limits what a box spends: cgroup version 2, version 1, or the helper itself.

mod unaided;
mod v1;
mod v2;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::kind::BoxKind;
use crate::sandbox::LayerReport;

/// Which accounting to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountingChoice {
    /// The best this machine gives.
    #[default]
    Auto,
    /// Control groups version 2, or refuse.
    CgroupV2,
    /// Control groups version 1, or refuse.
    CgroupV1,
    /// Resource limits and a watchdog: one program at a time, and a weaker tier.
    Unaided,
}

/// What a box has spent so far. Counters only grow, except the peaks, which `begin_step` resets where it can.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub cpu_us: u64,
    /// How often the kernel killed a process of the box for memory, or we found it beyond its memory.
    pub out_of_memory: u64,
    pub memory_peak_bytes: u64,
    pub pids_peak: u64,
    /// It keeps more files than it may.
    pub too_many_files: bool,
}

/// A way of counting and limiting, one per helper.
pub trait Accounting {
    /// What it gives, for the probe.
    fn layers(&self) -> Vec<LayerReport>;

    /// Makes the group of one box. `number` is unique among living boxes.
    fn open(&self, number: u32) -> io::Result<Box<dyn Group>>;

    /// Whether only one program may run at a time.
    fn one_at_a_time(&self) -> bool {
        false
    }

    /// Whether the box must hold its own data segment to its memory limit.
    fn limits_data_segment(&self) -> bool {
        false
    }

    /// Removes what the helper itself made; groups are gone by then.
    fn close(&self) {}
}

/// The group of one box.
pub trait Group {
    /// A version 2 folder to be cloned into.
    fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Open `cgroup.procs` files into which the new box writes itself, before it is anything but our own code.
    fn join_files(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// The box's first process, as the helper sees it.
    fn attach(&mut self, _init: Pid) {}

    /// The box's folders on the host, for its program and for what is temporary, where it has no file systems of its own.
    fn folders(&self) -> Option<(String, String)> {
        None
    }

    /// Sets how many bytes and names of files it may keep, where its file systems don't.
    fn limit_files(&mut self, _bytes: u64, _names: u64) {}

    /// Processes that count towards the limit of the box's user and are not its own.
    fn tasks_beside(&self) -> u64 {
        0
    }

    /// Sets the limits; `pids` counts the program's processes only.
    fn limit(&mut self, memory_bytes: u64, pids: u32) -> io::Result<()>;

    /// Resets the peaks.
    fn begin_step(&mut self);

    /// Reads the counters.
    fn spent(&mut self) -> Spent;

    /// Kills every process of the group; the box's first process is killed by the helper in any case.
    fn kill(&self) {}

    /// Removes the group.
    ///
    /// # Errors
    /// `EBUSY` while the kernel still sees a dying process in it: ask again later.
    fn remove(&mut self) -> io::Result<()>;
}

/// What the helper has to hold on to before it leaves the host's file system.
#[derive(Debug)]
pub struct HostView {
    /// The host's `/proc`.
    pub proc: OwnedFd,
}

/// Finds the accounting to use, and cleans up after helpers that were killed.
///
/// # Errors
/// In words, when `choice` asks for one that this machine doesn't give.
pub fn open(
    choice: AccountingChoice,
    kind: BoxKind,
    host: &HostView,
) -> Result<Box<dyn Accounting>, String> {
    match choice {
        AccountingChoice::CgroupV2 => Ok(Box::new(v2::CgroupV2::open()?)),
        AccountingChoice::CgroupV1 => Ok(Box::new(v1::CgroupV1::open()?)),
        AccountingChoice::Unaided => Ok(Box::new(unaided::Unaided::open(
            host,
            kind,
            "asked for by configuration",
        )?)),
        AccountingChoice::Auto => {
            let v2 = match v2::CgroupV2::open() {
                Ok(found) => return Ok(Box::new(found)),
                Err(reason) => reason,
            };
            let v1 = match v1::CgroupV1::open() {
                Ok(found) => return Ok(Box::new(found)),
                Err(reason) => reason,
            };
            Ok(Box::new(unaided::Unaided::open(
                host,
                kind,
                &format!("cgroup v2: {v2}; v1: {v1}"),
            )?))
        }
    }
}

/// Small files of the cgroup file systems, always reached from a held folder: the helper has left the host's tree.
mod files {
    use std::io::{self, Read as _, Write as _};
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::{Path, PathBuf};

    use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

    /// Folders of helpers are named so, followed by the helper's process id.
    pub const PREFIX: &str = "atelier-";

    pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(
            path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    pub fn open_folder_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(
            folder,
            name,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    pub fn make_folder_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => open_folder_at(folder, name),
            Err(error) => Err(error.into()),
        }
    }

    pub fn remove_folder_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn write_at(folder: BorrowedFd<'_>, name: &str, text: &str) -> io::Result<()> {
        let file = rustix::fs::openat(
            folder,
            name,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        std::fs::File::from(file).write_all(text.as_bytes())
    }

    pub fn open_for_writing_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(
            folder,
            name,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    pub fn read_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<String> {
        const LONGEST: u64 = 64 * 1024;
        let file = rustix::fs::openat(
            folder,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = String::new();
        std::fs::File::from(file)
            .take(LONGEST)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// Opens a file that [`read_counter`] reads again and again.
    pub fn open_counter_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(
            folder,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    pub fn read_counter(file: &OwnedFd) -> Option<String> {
        let mut text = [0; 512];
        let length = rustix::io::pread(file, &mut text, 0).ok()?;
        Some(std::str::from_utf8(text.get(..length)?).ok()?.to_owned())
    }

    pub fn counter(file: &OwnedFd) -> Option<u64> {
        read_counter(file)?.trim().parse().ok()
    }

    pub fn number_at(folder: BorrowedFd<'_>, name: &str) -> Option<u64> {
        read_at(folder, name).ok()?.trim().parse().ok()
    }

    /// The number after `key` in lines of `key number`.
    pub fn field(text: &str, key: &str) -> Option<u64> {
        text.lines().find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        })
    }

    /// The path of this process in hierarchy `controller` (empty for version 2) of `/proc/self/cgroup`.
    pub fn own_path(self_cgroup: &str, controller: &str) -> Option<PathBuf> {
        self_cgroup.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            controllers
                .split(',')
                .any(|name| name == controller)
                .then(|| PathBuf::from(path))
        })
    }

    /// Where a cgroup file system is mounted, and which part of its tree: (mount point, root).
    pub fn mount_of(
        mountinfo: &str,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Option<(PathBuf, PathBuf)> {
        mountinfo.lines().find_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let mut source = source.split(' ');
            let (kind, _, options) = (source.next()?, source.next()?, source.next()?);
            let mut mount = mount.split(' ').skip(3);
            let (root, point) = (mount.next()?, mount.next()?);
            wanted(kind, options).then(|| (PathBuf::from(point), PathBuf::from(root)))
        })
    }

    /// The folder in which the helper may make groups: its own cgroup, seen through a mount that may show a subtree.
    pub fn own_folder(point: &Path, root: &Path, own: &Path) -> PathBuf {
        match own.strip_prefix(root) {
            Ok(below) => point.join(below),
            // A cgroup namespace shows paths relative to its own root.
            Err(_) => point.join(own.strip_prefix("/").unwrap_or(own)),
        }
    }

    /// Makes the folder of this helper and marks it as in use for as long as the descriptor lives.
    pub fn claim(parent: BorrowedFd<'_>) -> io::Result<(String, OwnedFd)> {
        let name = format!("{PREFIX}{}", std::process::id());
        let folder = make_folder_at(parent, &name)?;
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
        Ok((name, folder))
    }

    /// Removes the folders of helpers that are gone (killed, so that they couldn't do it themselves).
    pub fn sweep(parent: BorrowedFd<'_>) {
        for name in folders(parent)
            .into_iter()
            .filter(|name| name.starts_with(PREFIX))
        {
            let Ok(folder) = open_folder_at(parent, &name) else {
                continue;
            };
            if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            for group in folders(folder.as_fd()) {
                // Still busy: processes of the box are dying. The next helper tries again.
                let _ = remove_folder_at(folder.as_fd(), &group);
            }
            let _ = remove_folder_at(parent, &name);
        }
    }

    fn folders(parent: BorrowedFd<'_>) -> Vec<String> {
        let Ok(entries) = rustix::fs::Dir::read_from(parent) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.file_type() == rustix::fs::FileType::Directory)
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name != "." && name != "..")
            .collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn own_path_is_found_per_controller_and_for_version_2() {
            let text = "4:memory:/jobs/a\n2:cpu,cpuacct:/b\n0::/c\n";
            assert_eq!(own_path(text, "memory"), Some("/jobs/a".into()));
            assert_eq!(own_path(text, "cpuacct"), Some("/b".into()));
            assert_eq!(own_path(text, ""), Some("/c".into()));
            assert_eq!(own_path(text, "pids"), None);
        }

        #[test]
        fn a_mount_that_shows_a_subtree_is_seen_through() {
            let text =
                "30 23 0:26 /docker/x /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n";
            let found = mount_of(text, |kind, _| kind == "cgroup2").expect("a cgroup2 mount");
            assert_eq!(found, ("/sys/fs/cgroup".into(), "/docker/x".into()));
            assert_eq!(
                own_folder(&found.0, &found.1, Path::new("/docker/x/y")),
                Path::new("/sys/fs/cgroup/y")
            );
            assert_eq!(
                own_folder(&found.0, &found.1, Path::new("/")),
                Path::new("/sys/fs/cgroup/")
            );
        }

        #[test]
        fn a_field_is_found_by_its_whole_name() {
            assert_eq!(field("oom 3\noom_kill 1\n", "oom_kill"), Some(1));
            assert_eq!(
                field("oom_kill_disable 0\nunder_oom 0\noom_kill 2", "oom_kill"),
                Some(2)
            );
            assert_eq!(field("", "oom"), None);
        }
    }
}
