//! What holds a box without namespaces together, seen from the helper: its folder, its processes, and their end.
//!
//! It stands around whatever counts memory and processes, and does what a pid namespace and a file system of its own
//! would do: nothing of a box outlives it, and it keeps no more than its limit.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::process::Pid;

use super::folder::{Folder, Folders};
use super::tree;
use crate::sandbox::LayerReport;
use crate::sandbox::ns::accounting::{Accounting, Group, HostView, Spent};
use crate::sandbox::sys::SingleThreaded;

/// Least time between two looks at a box's files; more where a look takes long.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Files that are held open and have no name any more are looked for in so many processes.
const MOST_PROCESSES: usize = 1024;

/// Around the accounting of one helper.
pub struct Fence {
    inner: Box<dyn Accounting>,
    folders: Folders,
    shared: Rc<Shared>,
}

struct Shared {
    proc: OwnedFd,
    alone: SingleThreaded,
    /// First user of boxes, where each has one of its own.
    first_user: Option<u32>,
    /// First processes of the boxes that live.
    inits: RefCell<BTreeSet<u32>>,
}

impl Fence {
    /// # Errors
    /// In words.
    pub fn open(
        inner: Box<dyn Accounting>,
        host: &HostView,
        place: Option<&str>,
        first_user: Option<u32>,
    ) -> Result<Self, String> {
        let proc = host.proc.try_clone().map_err(|error| error.to_string())?;
        Ok(Self {
            inner,
            folders: Folders::open(place)?,
            shared: Rc::new(Shared {
                proc,
                alone: SingleThreaded::check()?,
                first_user,
                inits: RefCell::default(),
            }),
        })
    }
}

impl Accounting for Fence {
    fn layers(&self) -> Vec<LayerReport> {
        self.inner.layers()
    }

    fn open(&self, number: u32) -> io::Result<Box<dyn Group>> {
        let user = self
            .shared
            .first_user
            .map(|first| first.saturating_add(number));
        if let Some(user) = user {
            // Left by a helper that was killed.
            if tree::lives(self.shared.proc.as_fd(), user) {
                tree::kill_user(&self.shared.alone, user)?;
            }
        }
        Ok(Box::new(Fenced {
            inner: self.inner.open(number)?,
            folder: self.folders.make(number, user)?,
            shared: Rc::clone(&self.shared),
            user,
            init: None,
            most: (u64::MAX, u64::MAX),
            too_much: false,
            next_look: Instant::now(),
        }))
    }

    fn one_at_a_time(&self) -> bool {
        true
    }

    fn limits_data_segment(&self) -> bool {
        self.inner.limits_data_segment()
    }

    fn close(&self) {
        self.inner.close();
        self.folders.close();
    }
}

struct Fenced {
    inner: Box<dyn Group>,
    folder: Folder,
    shared: Rc<Shared>,
    user: Option<u32>,
    init: Option<u32>,
    /// Bytes and names.
    most: (u64, u64),
    too_much: bool,
    next_look: Instant,
}

impl Fenced {
    /// Where its processes descend from: its first one, and us for those that lost it.
    fn roots(&self) -> BTreeSet<u32> {
        let inits = self.shared.inits.borrow();
        let ours = tree::children(self.shared.proc.as_fd(), std::process::id());
        let mut roots: BTreeSet<u32> = ours.difference(&inits).copied().collect();
        roots.extend(self.init);
        roots
    }

    /// Kills all that is left; answers whether there was something.
    fn kill_all(&self) -> bool {
        tree::reap();
        let killed = match self.user {
            Some(user) => {
                let proc = self.shared.proc.as_fd();
                tree::lives(proc, user) && {
                    // Not being able to is told by their living on.
                    let _ = tree::kill_user(&self.shared.alone, user);
                    true
                }
            }
            None => tree::kill(self.shared.proc.as_fd(), || self.roots()),
        };
        // Who ended after the first look does not live any more either, and nobody else asks for them.
        tree::reap();
        killed
    }

    fn look_at_files(&mut self) {
        let now = Instant::now();
        if self.too_much || now < self.next_look {
            return;
        }
        let (bytes, names) = self.most;
        let size = self.folder.measure(bytes, names);
        let held = self.held_bytes();
        self.too_much = size.unfathomable || size.names > names || size.bytes + held > bytes;
        self.next_look = Instant::now() + LOOK_EVERY.max(now.elapsed() * 10);
    }

    /// Bytes of files that have no name and are held open: deleted ones, and those that live in memory alone.
    fn held_bytes(&self) -> u64 {
        let proc = self.shared.proc.as_fd();
        let Some(init) = self.init else { return 0 };
        let mut processes = tree::descendants(proc, &BTreeSet::from([init]));
        processes.remove(&init);
        let mut seen = BTreeSet::new();
        let mut bytes = 0;
        for pid in processes.into_iter().take(MOST_PROCESSES) {
            for found in open_files(proc, pid) {
                let is_held = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
                    && found.st_nlink == 0;
                if is_held && seen.insert((found.st_dev, found.st_ino)) {
                    bytes += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
                }
            }
        }
        bytes
    }
}

fn open_files(proc: BorrowedFd<'_>, pid: u32) -> Vec<rustix::fs::Stat> {
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let folder = rustix::fs::openat(proc, format!("{pid}/fd"), flags, rustix::fs::Mode::empty());
    let Ok(folder) = folder else {
        return Vec::new();
    };
    let Ok(entries) = Dir::read_from(&folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| rustix::fs::statat(&folder, entry.file_name(), AtFlags::empty()).ok())
        .collect()
}

impl Group for Fenced {
    fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.inner.clone_into()
    }

    fn join_files(&self) -> Vec<RawFd> {
        self.inner.join_files()
    }

    fn attach(&mut self, init: Pid) {
        self.inner.attach(init);
        self.init = u32::try_from(init.as_raw_nonzero().get()).ok();
        self.shared.inits.borrow_mut().extend(self.init);
    }

    fn folders(&self) -> Option<(String, String)> {
        Some((self.folder.work.clone(), self.folder.temporary.clone()))
    }

    fn limit(&mut self, memory_bytes: u64, pids: u32) -> io::Result<()> {
        self.inner.limit(memory_bytes, pids)
    }

    fn limit_files(&mut self, bytes: u64, names: u64) {
        self.most = (bytes, names);
    }

    fn tasks_beside(&self) -> u64 {
        match self.user {
            Some(_) => 0,
            // The box's first process is among them.
            None => tree::tasks_of_user(
                self.shared.proc.as_fd(),
                rustix::process::geteuid().as_raw(),
            )
            .saturating_sub(1),
        }
    }

    fn begin_step(&mut self) {
        self.inner.begin_step();
    }

    fn spent(&mut self) -> Spent {
        self.look_at_files();
        Spent {
            too_many_files: self.too_much,
            ..self.inner.spent()
        }
    }

    fn kill(&self) {
        self.inner.kill();
        self.kill_all();
    }

    fn remove(&mut self) -> io::Result<()> {
        if let Some(init) = self.init.take() {
            self.shared.inits.borrow_mut().remove(&init);
        }
        if self.kill_all() {
            // Killed just now: the kernel has yet to let go of them.
            return Err(rustix::io::Errno::BUSY.into());
        }
        self.inner.remove()?;
        self.folder.remove()
    }
}
