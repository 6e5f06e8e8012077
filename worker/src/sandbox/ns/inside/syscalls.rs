//! Which system calls a box may make: a list of what ordinary programs need, everything else answers `EPERM`.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::sandbox::ns::kind::BoxKind;
use crate::sandbox::sys;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Every way of leaving our namespaces that fits `clone(2)`.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// Three programs, compiled once by the helper: the list, the calls that must look as if the kernel had none, and those
/// that must look as if they had been carried out.
#[derive(Debug)]
pub struct Filters {
    allowed: BpfProgram,
    absent: BpfProgram,
    pretended: BpfProgram,
}

impl Filters {
    /// # Errors
    /// In words; a mistake in the lists, or an architecture without one.
    pub fn compile(kind: BoxKind) -> Result<Self, String> {
        let arch: TargetArch = std::env::consts::ARCH
            .try_into()
            .map_err(|error| format!("{error}"))?;
        let refuse = |code: libc::c_int| SeccompAction::Errno(code.cast_unsigned());
        let build = |rules, otherwise, matched| -> Result<BpfProgram, String> {
            let filter = SeccompFilter::new(rules, otherwise, matched, arch)
                .map_err(|error| error.to_string())?;
            filter
                .try_into()
                .map_err(|error: seccompiler::BackendError| error.to_string())
        };
        let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
        Ok(Self {
            allowed: build(
                allowed(kind).map_err(|error| error.to_string())?,
                refuse(libc::EPERM),
                SeccompAction::Allow,
            )?,
            absent: build(absent, SeccompAction::Allow, refuse(libc::ENOSYS))?,
            pretended: build(
                pretended().map_err(|error| error.to_string())?,
                SeccompAction::Allow,
                // An error that is none: the call answers 0.
                refuse(0),
            )?,
        })
    }

    /// Binds this process, and all it will ever start, to all three.
    pub fn install(&self) -> Result<(), String> {
        // The strictest answer wins; the list comes last as it forbids installing filters.
        seccompiler::apply_filter(&self.absent).map_err(|error| error.to_string())?;
        seccompiler::apply_filter(&self.pretended).map_err(|error| error.to_string())?;
        seccompiler::apply_filter(&self.allowed).map_err(|error| error.to_string())
    }

    /// Whether they answer as they should, tried.
    pub fn stand(&self) -> bool {
        let refused = |error: io::Error, code: i32| error.raw_os_error() == Some(code);
        sys::unshare(libc::CLONE_NEWUTS).is_err_and(|error| refused(error, libc::EPERM))
            && sys::empty_clone3().is_err_and(|error| refused(error, libc::ENOSYS))
            // A kernel that was asked would find no such file.
            && sys::sync_nothing().is_ok()
    }
}

fn allowed(kind: BoxKind) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = PLAIN
        .iter()
        .chain(LEGACY)
        .chain(ABSENT)
        .chain(PRETENDED)
        .map(|call| (*call, Vec::new()))
        .collect();
    let condition = |argument: u8, width: Width, operator: Op, value: u64| {
        SeccompCondition::new(argument, width, operator, value)
    };
    let equals = |argument: u8, value: u64| condition(argument, Width::Dword, Op::Eq, value);
    let rule = SeccompRule::new;

    // Threads and processes, but no namespaces. `clone3` keeps its flags in memory, where no filter can look.
    rules.insert(
        libc::SYS_clone,
        vec![rule(vec![condition(
            0,
            Width::Qword,
            Op::MaskedEq(NEW_NAMESPACES),
            0,
        )?])?],
    );

    let mut sockets = vec![rule(vec![equals(0, libc::AF_UNIX as u64)?])?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        // 0 is the family's own; others would make the kernel load protocol modules.
        for protocol in [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            sockets.push(rule(vec![
                equals(0, family as u64)?,
                equals(2, protocol as u64)?,
            ])?);
        }
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(
        libc::SYS_socketpair,
        vec![rule(vec![equals(0, libc::AF_UNIX as u64)?])?],
    );

    // Everything but a watch on a folder: those of toolchains are everybody's. The kernel looks at the lower half only, so do
    // we.
    rules.insert(
        libc::SYS_fcntl,
        vec![rule(vec![condition(
            1,
            Width::Dword,
            Op::Ne,
            libc::F_NOTIFY as u64,
        )?])?],
    );

    // Everything but typing into somebody's terminal.
    let unequal = |value: u64| condition(1, Width::Dword, Op::Ne, value);
    rules.insert(
        libc::SYS_ioctl,
        vec![rule(vec![unequal(libc::TIOCSTI)?, unequal(0x541c)?])?],
    );

    // Its own limits only: the box's first process runs under the same user.
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![equals(0, 0)?])?]);
    rules.insert(
        libc::SYS_prctl,
        PRCTL
            .iter()
            .map(|option| rule(vec![equals(0, *option)?]))
            .collect::<Result<_, _>>()?,
    );
    // Asking, or going back to the ordinary one.
    let personalities = [0xffff_ffff, 0].map(|value| rule(vec![equals(0, value)?]));
    rules.insert(
        libc::SYS_personality,
        personalities.into_iter().collect::<Result<_, _>>()?,
    );

    // Files, FIFOs and sockets, no devices.
    let mut nodes = Vec::new();
    let mut nodes_at = Vec::new();
    for kind in [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK] {
        let of_kind = |argument| {
            condition(
                argument,
                Width::Dword,
                Op::MaskedEq(libc::S_IFMT.into()),
                kind.into(),
            )
        };
        nodes.push(rule(vec![of_kind(1)?])?);
        nodes_at.push(rule(vec![of_kind(2)?])?);
    }
    rules.insert(libc::SYS_mknodat, nodes_at);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_mknod, nodes);
    if kind == BoxKind::Landlock {
        narrow(&mut rules)?;
    }
    Ok(rules)
}

/// What is answered without asking the kernel: a program's own files are in memory or thrown away with it, and whoever asks
/// for a toolchain's file to be written makes the host's disk flush its cache for everybody.
fn pretended() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = PRETENDED.iter().map(|call| (*call, Vec::new())).collect();
    // Of a mapping too; without the flag the call writes nothing, and tells whether an address is mapped.
    let waits = SeccompCondition::new(
        2,
        Width::Dword,
        Op::MaskedEq(libc::MS_SYNC as u64),
        libc::MS_SYNC as u64,
    )?;
    rules.insert(libc::SYS_msync, vec![SeccompRule::new(vec![waits])?]);
    Ok(rules)
}

/// Takes away what namespaces make harmless: calls that reach beyond the box's own processes and folder.
fn narrow(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    for call in SHARED_WITH_THE_HOST {
        rules.remove(call);
    }
    let condition = |argument: u8, operator: Op, value: u64| {
        SeccompCondition::new(argument, Width::Dword, operator, value)
    };
    let rule = SeccompRule::new;
    // Pairs of connected sockets only. A pair of datagram sockets could be sent from to anybody.
    let types = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET].map(|kind| {
        rule(vec![
            condition(0, Op::Eq, libc::AF_UNIX as u64)?,
            condition(1, Op::MaskedEq(0xf), kind as u64)?,
        ])
    });
    rules.insert(
        libc::SYS_socketpair,
        types.into_iter().collect::<Result<_, _>>()?,
    );
    // Its own priority and processors only: without root, the worker has the same user.
    rules.insert(
        libc::SYS_setpriority,
        vec![rule(vec![
            condition(0, Op::Eq, libc::PRIO_PROCESS.into())?,
            condition(1, Op::Eq, 0)?,
        ])?],
    );
    for call in [
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
    ] {
        rules.insert(call, vec![rule(vec![condition(0, Op::Eq, 0)?])?]);
    }
    // Binds nobody but the caller, and its first process starts the program under rules of its own.
    rules.insert(libc::SYS_landlock_restrict_self, Vec::new());
    Ok(())
}

/// Sockets of all kinds, and what processes of one machine share memory and messages by.
const SHARED_WITH_THE_HOST: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_pidfd_open,
];

/// Calls libraries try first and do without when the kernel has none; `EPERM` would stop them. A watch on files that all
/// boxes share with the host would tell which program is started, when and by whomever.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_inotify_init1,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_inotify_init,
];

/// Calls that have files written to a disk, or dropped from a cache that is everybody's.
const PRETENDED: &[i64] = &[
    libc::SYS_fadvise64,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
];

/// Options of `prctl(2)` that concern nobody but the caller.
const PRCTL: &[u64] = &[
    libc::PR_SET_PDEATHSIG as u64,
    libc::PR_GET_PDEATHSIG as u64,
    libc::PR_GET_DUMPABLE as u64,
    libc::PR_SET_DUMPABLE as u64,
    libc::PR_GET_KEEPCAPS as u64,
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_GET_SECCOMP as u64,
    libc::PR_CAPBSET_READ as u64,
    libc::PR_SET_TIMERSLACK as u64,
    libc::PR_GET_TIMERSLACK as u64,
    libc::PR_SET_NO_NEW_PRIVS as u64,
    libc::PR_GET_NO_NEW_PRIVS as u64,
    libc::PR_SET_THP_DISABLE as u64,
    libc::PR_GET_THP_DISABLE as u64,
    libc::PR_SET_CHILD_SUBREAPER as u64,
    libc::PR_GET_CHILD_SUBREAPER as u64,
    libc::PR_SET_VMA as u64,
];

/// Calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[i64] = &[
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_creat,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_fork,
    libc::SYS_futimesat,
    libc::SYS_getdents,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_lchown,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_setrlimit,
    libc::SYS_signalfd,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[i64] = &[
    libc::SYS_newfstatat,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
];

/// Calls allowed with any arguments.
const PLAIN: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_chdir,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_connect,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_mempolicy,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getitimer,
    libc::SYS_getpeername,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_getxattr,
    libc::SYS_kill,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mkdirat,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pipe2,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setitimer,
    libc::SYS_setpgid,
    libc::SYS_setpriority,
    libc::SYS_setsid,
    libc::SYS_setsockopt,
    libc::SYS_setxattr,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sysinfo,
    libc::SYS_tee,
    libc::SYS_tgkill,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    libc::SYS_tkill,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];
