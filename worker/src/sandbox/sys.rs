//! The system calls no safe crate offers, each behind a function that is safe to call. All `unsafe` of the sandbox is here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

/// The two sides of a [`clone_process`].
#[derive(Debug)]
pub enum Cloned {
    Parent { pid: Pid, pidfd: OwnedFd },
    Child,
}

/// Shows that the process has one thread, so that it may be cloned: a copied lock held by another would never open.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// # Errors
    /// In words, when there are more threads or `/proc` can't tell. Whoever holds the proof starts none.
    pub fn check() -> Result<Self, String> {
        let tasks = std::fs::read_dir("/proc/self/task")
            .map_err(|error| format!("/proc/self/task: {error}"))?;
        match tasks.count() {
            1 => Ok(Self(())),
            count => Err(format!(
                "the helper was started with {count} threads; it must be the first thing in main"
            )),
        }
    }
}

/// Clones this process into new namespaces, memory copied as by `fork(2)`.
///
/// `namespaces` are `CLONE_NEW*` flags; with `cgroup` (a version 2 folder) the child starts inside it.
///
/// # Errors
/// That of `clone3(2)`.
pub fn clone_process(
    _proof: &SingleThreaded,
    namespaces: c_int,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: c_int = -1;
    // SAFETY: clone_args is plain integers, for which zero means "not asked for".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((namespaces | libc::CLONE_PIDFD).cast_unsigned());
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    arguments.pidfd = (&raw mut pidfd) as u64;
    if let Some(folder) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(folder.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no stack and no CLONE_VM, so the child runs on a copy of this stack like after fork(2); the process has
    // one thread (`SingleThreaded`), so nothing in the copy is left locked.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match answer {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        raw => {
            // SAFETY: on success the kernel stored a new descriptor of ours in `pidfd`.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(raw).ok().and_then(Pid::from_raw);
            Ok(Cloned::Parent {
                pid: pid.ok_or_else(|| io::Error::other("clone3 answered no process id"))?,
                pidfd,
            })
        }
    }
}

/// A process about to be started by [`spawn`], with everything that allocates done beforehand.
#[derive(Debug)]
pub struct Executable {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    stdio: [RawFd; 3],
    rlimits: Vec<(u32, u64, u64)>,
    rules: RawFd,
}

impl Executable {
    /// Under these Landlock rules, beside those we are under ourselves.
    #[must_use]
    pub fn within(self, rules: Option<RawFd>) -> Self {
        Self {
            rules: rules.unwrap_or(-1),
            ..self
        }
    }

    /// `stdio` must be open descriptors above 2; `rlimits` are (resource, soft, hard).
    ///
    /// # Errors
    /// `InvalidInput` for a zero byte in a text or a descriptor that would be overwritten.
    pub fn new(
        argv: &[String],
        env: &[(String, String)],
        cwd: &str,
        stdio: [RawFd; 3],
        rlimits: Vec<(u32, u64, u64)>,
    ) -> io::Result<Self> {
        let text = |text: String| {
            CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
        };
        if argv.is_empty() || stdio.iter().any(|descriptor| *descriptor <= 2) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            argv: argv.iter().cloned().map(text).collect::<Result<_, _>>()?,
            env: env
                .iter()
                .map(|(key, value)| text(format!("{key}={value}")))
                .collect::<Result<_, _>>()?,
            cwd: text(cwd.to_owned())?,
            stdio,
            rlimits,
            rules: -1,
        })
    }
}

/// What the child of [`spawn`] reads and, when it fails, writes: it shares memory with its parent until it executes.
struct Launch {
    argv: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    stdio: [RawFd; 3],
    rlimits: *const (u32, u64, u64),
    rlimit_count: usize,
    /// A Landlock ruleset, or -1.
    rules: RawFd,
    error: c_int,
    stage: &'static CStr,
}

/// Starts a process in a session of its own with exactly three open descriptors and default signals.
///
/// The child shares our memory until it executes (as `vfork(2)`), so no page table is copied.
///
/// # Errors
/// The stage that failed and its error, `ENOENT` at `execute` for a program that isn't there.
pub fn spawn(executable: &Executable) -> Result<Pid, (&'static CStr, io::Error)> {
    const STACK_BYTES: usize = 64 * 1024;
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(&executable.argv), pointers(&executable.env));
    let mut launch = Launch {
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        cwd: executable.cwd.as_ptr(),
        stdio: executable.stdio,
        rlimits: executable.rlimits.as_ptr(),
        rlimit_count: executable.rlimits.len(),
        rules: executable.rules,
        error: 0,
        stage: c"start",
    };
    let mut stack: Vec<u128> = vec![0; STACK_BYTES / size_of::<u128>()];
    // SAFETY: the end of the allocation, where a stack that grows downwards begins; u128 keeps it aligned to 16 bytes.
    let top = unsafe { stack.as_mut_ptr().add(stack.len()) };
    // SAFETY: CLONE_VFORK stops this thread until the child has executed or ended, so `launch`, the texts and the
    // stack outlive its use of them and nobody else touches them. The child only makes system calls (see `child`).
    let raw = unsafe {
        libc::clone(
            child,
            top.cast::<c_void>(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut launch).cast::<c_void>(),
        )
    };
    let Some(pid) = Pid::from_raw(raw).filter(|_| raw > 0) else {
        return Err((c"clone", io::Error::last_os_error()));
    };
    // SAFETY: a plain read of our own variable; volatile because the child wrote it behind the compiler's back.
    let error = unsafe { ptr::read_volatile(&raw const launch.error) };
    if error == 0 {
        return Ok(pid);
    }
    // SAFETY: as above.
    let stage = unsafe { ptr::read_volatile(&raw const launch.stage) };
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    Err((stage, io::Error::from_raw_os_error(error)))
}

/// The child of [`spawn`], from its birth to its execution.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Launch`, which it leaves alone until this process has executed or ended.
    let launch = unsafe { &mut *argument.cast::<Launch>() };
    // SAFETY: system calls only, on descriptors and texts `Launch` holds; no allocation, no lock, no Rust runtime.
    unsafe {
        launch.stage = c"session";
        libc::setsid();
        // The Rust runtime ignores SIGPIPE, which would survive execution.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        for (target, source) in launch.stdio.into_iter().enumerate() {
            launch.stage = c"standard streams";
            if libc::dup2(source, target as c_int) < 0 {
                return failed(launch);
            }
        }
        launch.stage = c"rules";
        if launch.rules >= 0
            && libc::syscall(libc::SYS_landlock_restrict_self, launch.rules, 0u32) != 0
        {
            return failed(launch);
        }
        launch.stage = c"close descriptors";
        if libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) != 0 {
            return failed(launch);
        }
        launch.stage = c"work folder";
        if libc::chdir(launch.cwd) != 0 {
            return failed(launch);
        }
        launch.stage = c"limits";
        for index in 0..launch.rlimit_count {
            let (resource, soft, hard) = *launch.rlimits.add(index);
            let limit = libc::rlimit64 {
                rlim_cur: soft,
                rlim_max: hard,
            };
            if libc::syscall(
                libc::SYS_prlimit64,
                0,
                resource,
                &raw const limit,
                ptr::null_mut::<c_void>(),
            ) != 0
            {
                return failed(launch);
            }
        }
        launch.stage = c"execute";
        libc::execve(*launch.argv, launch.argv, launch.env);
    }
    failed(launch)
}

fn failed(launch: &mut Launch) -> c_int {
    // SAFETY: errno is always readable; the parent, whose errno this is, stands still.
    launch.error = unsafe { *libc::__errno_location() }.max(1);
    127
}

/// Adds attributes to a mount, and with `recursive` to all mounts below it.
///
/// # Errors
/// That of `mount_setattr(2)`, `ENOSYS` before Linux 5.12.
pub fn restrict_mount(mount: BorrowedFd<'_>, recursive: bool, attributes: u64) -> io::Result<()> {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let wanted = MountAttributes {
        set: attributes,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = (libc::AT_EMPTY_PATH | below).cast_unsigned();
    // SAFETY: the structure has the kernel's layout and its true size is given; the kernel only reads it and the path.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<MountAttributes>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `MOUNT_ATTR_*` of `mount_setattr(2)`.
pub const MOUNT_READ_ONLY: u64 = 0x1;
pub const MOUNT_NO_SET_USER_ID: u64 = 0x2;
pub const MOUNT_NO_DEVICES: u64 = 0x4;

/// Brings the loopback interface of this network namespace up.
///
/// # Errors
/// That of `ioctl(SIOCSIFFLAGS)`; wants `CAP_NET_ADMIN` in the namespace.
pub fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(*b"lo\0") {
        *slot = byte.cast_signed() as c_char;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "interface flags are 16 bits wide; these are 0x1 and 0x40"
    )]
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    let answer = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Copies `source` to the exact number `target` and closes nothing else.
///
/// # Errors
/// That of `dup2(2)`.
pub fn place_descriptor(source: RawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes any numbers; the caller (the new box, before it owns anything) knows what stood at `target`.
    if unsafe { libc::dup2(source, target) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// That of `close_range(2)`.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: only called in a new box, which never drops the owners it inherited: it ends in `_exit` or is killed.
    let answer =
        unsafe { libc::syscall(libc::SYS_close_range, first.cast_unsigned(), u32::MAX, 0u32) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Borrows a descriptor by its number for as long as the process lives.
///
/// Only for numbers that [`place_descriptor`] filled, and 0 to 2, which stay open for life.
pub fn descriptor(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: see above; nothing in the process closes these numbers.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Ends the process at once, running nothing that was inherited.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Leaves the current cgroup namespace for one rooted where this process is.
///
/// # Errors
/// That of `unshare(2)`.
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: only namespaces are unshared, never memory or descriptors; the process has one thread.
    if unsafe { libc::unshare(flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Signals every process this one may signal, except itself and the namespace's first.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn kill_everybody_else(signal: rustix::process::Signal) -> io::Result<()> {
    // SAFETY: kill takes no pointers. Only called as first process of a pid namespace, whose end is the end of our sight.
    if unsafe { libc::kill(-1, signal.as_raw()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// From now on this signal kills everybody this process may signal, and then itself.
///
/// Only for the first process of a box, when its walls stand: "everybody" is then its program.
///
/// # Errors
/// That of `sigaction(2)`.
pub fn end_everybody_on(signal: rustix::process::Signal) -> io::Result<()> {
    extern "C" fn end(_: c_int) {
        // SAFETY: both calls are safe in a signal handler (signal-safety(7)) and take no pointers.
        unsafe {
            libc::kill(-1, libc::SIGKILL);
            libc::_exit(1);
        }
    }
    // SAFETY: sigaction is plain data, for which zero is valid: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = end as *const () as usize;
    // SAFETY: `action` is whole and only read; the old one is not asked for.
    if unsafe { libc::sigaction(signal.as_raw(), &raw const action, ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether no socket can be opened, of whatever family programs reach others by.
pub fn socket_is_refused() -> bool {
    [
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_UNIX,
        libc::AF_NETLINK,
    ]
    .into_iter()
    .all(|family| {
        // SAFETY: socket takes no pointers; what it might open is closed at once.
        let opened = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if opened >= 0 {
            // SAFETY: it is ours and nobody else knows it.
            unsafe { libc::close(opened) };
        }
        opened < 0
    })
}

/// Calls `clone3(2)` in a way that can only fail, to see how.
///
/// # Errors
/// Always: `EINVAL` from a kernel, `ENOSYS` behind a filter that hides the call.
pub fn empty_clone3() -> io::Result<()> {
    // SAFETY: a structure of size 0 is refused before anything is read.
    if unsafe { libc::syscall(libc::SYS_clone3, ptr::null_mut::<c_void>(), 0usize) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Calls `fsync(2)` on no file, to see who answers.
///
/// # Errors
/// `EBADF` from a kernel, none behind a filter that answers itself.
pub fn sync_nothing() -> io::Result<()> {
    // SAFETY: fsync takes no pointers, and no file has this number.
    if unsafe { libc::fsync(-1) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The unit of times in `/proc/<pid>/stat`.
pub fn clock_ticks_per_second() -> u64 {
    // SAFETY: sysconf takes no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}
