//! Processes by descent: where there is no pid namespace, whose child one is tells what it belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::sandbox::sys::{self, Cloned, SingleThreaded};

/// Rounds in which new processes may still appear while they are stopped; pids are limited, so few do.
const ROUNDS: usize = 64;

/// Every process that descends from `roots`, these included where they live.
pub fn descendants(proc: BorrowedFd<'_>, roots: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut alive = BTreeSet::new();
    for (pid, parent) in processes(proc) {
        alive.insert(pid);
        children.entry(parent).or_default().push(pid);
    }
    let mut found: BTreeSet<u32> = roots.intersection(&alive).copied().collect();
    let mut next: Vec<u32> = roots.iter().copied().collect();
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).into_iter().flatten() {
            found.insert(child);
            next.push(child);
        }
    }
    found
}

/// Children of `parent` itself.
pub fn children(proc: BorrowedFd<'_>, parent: u32) -> BTreeSet<u32> {
    let of = |(pid, found): (u32, u32)| (found == parent).then_some(pid);
    processes(proc).filter_map(of).collect()
}

/// `(pid, parent)` of every process that is no zombie.
fn processes(proc: BorrowedFd<'_>) -> impl Iterator<Item = (u32, u32)> + '_ {
    pids(proc).filter_map(move |pid| {
        let stat = read(proc, &format!("{pid}/stat"))?;
        Some((pid, parent(&stat)?))
    })
}

fn pids(proc: BorrowedFd<'_>) -> impl Iterator<Item = u32> {
    let entries = Dir::read_from(proc).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
}

/// `None` for a zombie too: it does nothing any more, its parent has only not asked for it.
fn parent(stat: &str) -> Option<u32> {
    // The name stands in parentheses and may contain anything, so count from the last one.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

fn read(proc: BorrowedFd<'_>, path: &str) -> Option<String> {
    let file: OwnedFd =
        rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = [0; 4096];
    let length = rustix::io::read(&file, &mut bytes[..]).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

/// Processes and threads of a user, zombies counted, as the kernel counts them towards its limit.
pub fn tasks_of_user(proc: BorrowedFd<'_>, user: u32) -> u64 {
    let tasks = pids(proc).filter_map(|pid| {
        let status = read(proc, &format!("{pid}/status"))?;
        (field(&status, "Uid:")? == u64::from(user))
            .then(|| field(&status, "Threads:").unwrap_or(1))
    });
    tasks.sum()
}

/// Whether a process of this user lives; zombies don't.
pub fn lives(proc: BorrowedFd<'_>, user: u32) -> bool {
    processes(proc).any(|(pid, _)| {
        let status = read(proc, &format!("{pid}/status"));
        status.and_then(|status| field(&status, "Uid:")) == Some(user.into())
    })
}

/// The first number after `key`. The name of a process can't bring a line of its own: the kernel escapes its breaks.
fn field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Kills every process of a user in one call of the kernel's, so that none is born in between. Zombies stay until they
/// are waited for.
///
/// # Errors
/// That of `clone3(2)`.
pub fn kill_user(proof: &SingleThreaded, user: u32) -> std::io::Result<()> {
    match sys::clone_process(proof, 0, None)? {
        Cloned::Child => {
            let to = rustix::process::Uid::from_raw(user);
            if rustix::thread::set_thread_res_uid(to, to, to).is_ok() {
                // Says nothing of whether there was anybody: those that it must not kill count as well.
                let _ = sys::kill_everybody_else(Signal::KILL);
            }
            sys::exit_now(0)
        }
        Cloned::Parent { pid, .. } => {
            while matches!(
                rustix::process::waitpid(Some(pid), WaitOptions::empty()),
                Err(rustix::io::Errno::INTR)
            ) {}
            Ok(())
        }
    }
}

/// Kills a tree whose processes have no user of their own: first nobody may run, then nobody may live. Answers whether
/// there was one.
pub fn kill(proc: BorrowedFd<'_>, roots: impl Fn() -> BTreeSet<u32>) -> bool {
    let mut stopped = BTreeSet::new();
    for _ in 0..ROUNDS {
        let found = descendants(proc, &roots());
        let fresh: Vec<u32> = found.difference(&stopped).copied().collect();
        if fresh.is_empty() {
            break;
        }
        for pid in &fresh {
            signal(*pid, Signal::STOP);
        }
        stopped.extend(fresh);
    }
    for pid in &stopped {
        signal(*pid, Signal::KILL);
    }
    !stopped.is_empty()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Fails when it has ended meanwhile.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Takes the exit of whatever ended below us and nobody waits for.
pub fn reap() {
    while matches!(
        rustix::process::wait(WaitOptions::NOHANG),
        Ok(Some(_)) | Err(rustix::io::Errno::INTR)
    ) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_past_a_hostile_name_and_zombies_have_none() {
        assert_eq!(parent("7 (a) S 1 (b) S 42 7 7 0 -1"), Some(42));
        assert_eq!(parent("7 (a) Z 42 7 7 0 -1"), None);
        assert_eq!(parent(""), None);
    }

    #[test]
    fn this_process_descends_from_its_parent() {
        use std::os::fd::AsFd as _;
        let proc = std::fs::File::open("/proc").expect("/proc");
        let own = std::process::id();
        let parent = std::os::unix::process::parent_id();
        let user = rustix::process::getuid().as_raw();
        assert!(lives(proc.as_fd(), user) && tasks_of_user(proc.as_fd(), user) >= 2);
        assert!(!lives(proc.as_fd(), 4_123_456_789));
        assert!(descendants(proc.as_fd(), &BTreeSet::from([parent])).contains(&own));
        assert!(children(proc.as_fd(), parent).contains(&own));
        assert!(!descendants(proc.as_fd(), &BTreeSet::from([own])).contains(&parent));
    }
}
