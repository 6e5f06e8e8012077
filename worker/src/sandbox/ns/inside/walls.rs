//! The walls of a box, put up in the only order that works: mounts need privilege, privilege goes, then the rest.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::mount::MountFlags;
use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Birth, stands_behind};
use crate::sandbox::ns::supervisor::BOX_USER;
use crate::sandbox::{Layer, LayerReport, Limits, sys};

/// Bytes of `/tmp` and of `/dev/shm`, each.
const TEMPORARY_BYTES: u64 = 16 * 1024 * 1024;
const TEMPORARY_INODES: u64 = 4096;
/// The newest Landlock we know rules for; older kernels get what they understand.
const LANDLOCK: ABI = ABI::V7;
/// Highest capability number of any kernel so far, with room.
const LAST_CAPABILITY: u64 = 63;

/// The folders a program may write to.
pub const WORK: &str = "/box";
const WRITABLE: [&str; 3] = [WORK, "/tmp", "/dev/shm"];

/// Inodes of the namespaces of a process, by name in `/proc/self/ns`.
#[derive(Debug)]
pub struct Namespaces(Vec<(Layer, Option<u64>)>);

impl Namespaces {
    const NAMES: [(Layer, &'static str); 7] = [
        (Layer::UserNamespace, "user"),
        (Layer::MountNamespace, "mnt"),
        (Layer::PidNamespace, "pid"),
        (Layer::NetworkNamespace, "net"),
        (Layer::IpcNamespace, "ipc"),
        (Layer::UtsNamespace, "uts"),
        (Layer::CgroupNamespace, "cgroup"),
    ];

    /// Those of this process, as far as `/proc` shows them.
    pub fn own() -> Self {
        let inode = |name: &str| {
            fs::metadata(Path::new("/proc/self/ns").join(name))
                .ok()
                .map(|found| found.ino())
        };
        Self(Self::NAMES.map(|(layer, name)| (layer, inode(name))).into())
    }

    /// One report per namespace: whether it is another than the helper's.
    fn compare(&self, cgroup: Result<(), String>) -> Vec<LayerReport> {
        let ours = Self::own();
        let rows = self.0.iter().zip(ours.0);
        rows.map(|((layer, theirs), (_, ours))| {
            let found = match (*layer, theirs, ours) {
                (Layer::CgroupNamespace, _, None) => cgroup.clone().map(|()| String::new()),
                // Without /proc the clone's success is all there is: it makes all of them or fails.
                (_, _, None) => Ok("not looked at, no /proc".into()),
                (_, theirs, ours) if *theirs == ours => Err("it is the helper's".into()),
                _ => Ok(String::new()),
            };
            LayerReport::new(*layer, found)
        })
        .collect()
    }
}

/// Builds all walls and reports them as they are afterwards.
pub fn close(birth: &Birth<'_>) -> Result<Vec<LayerReport>, String> {
    let cgroup = sys::unshare(libc::CLONE_NEWCGROUP).map_err(|error| error.to_string());
    become_box_user().map_err(|error| format!("become the box's user: {error}"))?;
    let proc = mount(&birth.limits)?;
    rustix::system::sethostname(b"box").map_err(|error| format!("host name: {error}"))?;
    loopback().map_err(|error| format!("loopback: {error}"))?;

    let mut layers = birth.helper_namespaces.compare(cgroup);
    layers.push(own_host_user(birth.own_host_user));
    layers.push(LayerReport::new(
        Layer::PrivateProc,
        proc.map_err(|error| error.to_string()),
    ));
    drop_capabilities().map_err(|error| format!("capabilities: {error}"))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
    let landlock = restrict_files();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("dumpable: {error}"))?;
    // Changing users cleared it, so it comes last. If the helper died before this line, its socket is at its end.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("death signal: {error}"))?;
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    stands_behind();
    birth
        .filters
        .install()
        .map_err(|error| format!("seccomp: {error}"))?;

    let none = capabilities_gone()?;
    layers.push(LayerReport::new(
        Layer::NoCapabilities,
        if none {
            Ok(String::new())
        } else {
            Err("some are left".into())
        },
    ));
    let locked = rustix::thread::no_new_privs().unwrap_or(false);
    layers.push(LayerReport::new(
        Layer::NoNewPrivileges,
        if locked {
            Ok(String::new())
        } else {
            Err("it did not hold".into())
        },
    ));
    let filtered = birth.filters.stand();
    layers.push(LayerReport::new(
        Layer::Seccomp,
        if filtered {
            Ok(String::new())
        } else {
            Err("the filter did not hold".into())
        },
    ));
    layers.push(LayerReport::new(Layer::Landlock, landlock));
    Ok(layers)
}

fn become_box_user() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(BOX_USER), Gid::from_raw(BOX_USER));
    // Refused in a rootless user namespace, where the groups are the worker's own and give nothing more.
    let _ = rustix::thread::set_thread_groups(&[]);
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Mounts what is this box's alone. `/proc` may be refused where the host's is masked; the box does without it.
fn mount(limits: &Limits) -> Result<io::Result<String>, String> {
    let tmpfs = |path: &str, options: String, flags: MountFlags| {
        let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
        let flags = flags | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("box", path, "tmpfs", flags, options.as_c_str())
            .map_err(|error| format!("{path}: {error}"))
    };
    let temporary =
        |mode: &str| format!("size={TEMPORARY_BYTES},nr_inodes={TEMPORARY_INODES},mode={mode}");
    // The folder itself takes one inode.
    let inodes = limits.inodes.saturating_add(1);
    tmpfs(
        WORK,
        format!("size={},nr_inodes={inodes},mode=755", limits.disk_bytes),
        MountFlags::empty(),
    )?;
    tmpfs("/tmp", temporary("1777"), MountFlags::empty())?;
    tmpfs("/dev/shm", temporary("1777"), MountFlags::NOEXEC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let hidden = rustix::mount::mount(
        "proc",
        "/proc",
        "proc",
        flags,
        c"subset=pid,hidepid=invisible",
    );
    if let Err(error) = hidden {
        // What lies there in the template is not for boxes to see.
        tmpfs(
            "/proc",
            "size=4k,nr_inodes=1,mode=555".into(),
            MountFlags::RDONLY,
        )?;
        return Ok(Err(error.into()));
    }
    Ok(Ok("processes only".into()))
}

fn loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sys::loopback_up(std::os::fd::AsFd::as_fd(&socket))
}

/// Whether the host sees this box as a user that is neither root nor anybody else's.
fn own_host_user(own: bool) -> LayerReport {
    let mapped = fs::read_to_string("/proc/self/uid_map").ok();
    let outside = mapped.and_then(|text| text.split_whitespace().nth(1)?.parse::<u32>().ok());
    let found = match (own, outside) {
        (_, Some(0)) => Err("the box is root on the host".into()),
        (true, _) => Ok(String::new()),
        (false, _) => Err(
            "boxes share the worker's user; start the worker as root to give each its own".into(),
        ),
    };
    LayerReport::new(Layer::OwnHostUser, found)
}

/// Whether this process holds none.
pub fn capabilities_gone() -> Result<bool, String> {
    let held =
        rustix::thread::capabilities(None).map_err(|error| format!("capabilities: {error}"))?;
    Ok(held.effective.is_empty() && held.permitted.is_empty() && held.inheritable.is_empty())
}

/// Gives all of them up, for good.
pub fn drop_capabilities() -> io::Result<()> {
    let _ = rustix::thread::clear_ambient_capability_set();
    for number in 0..=LAST_CAPABILITY {
        // Ends at the first number this kernel doesn't know.
        if rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            1 << number,
        ))
        .is_err()
        {
            break;
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, none)?)
}

/// Landlock: read and execute what is shown, write to three folders, reach nobody outside by signal or socket name.
fn restrict_files() -> Result<String, String> {
    let all = AccessFs::from_all(LANDLOCK);
    let read: BitFlags<AccessFs> = AccessFs::from_read(LANDLOCK);
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let device = AccessFs::ReadFile | AccessFs::WriteFile;
    let look = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules: Vec<(&str, BitFlags<AccessFs>)> =
        WRITABLE.iter().map(|path| (*path, write)).collect();
    rules.extend(
        [
            "/usr", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
        ]
        .map(|path| (path, read)),
    );
    rules.extend([
        ("/", AccessFs::ReadDir.into()),
        ("/etc", look),
        ("/proc", look),
    ]);
    rules.extend(
        [
            "/dev/null",
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
        ]
        .map(|path| (path, device)),
    );

    let build = || -> Result<_, landlock::RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        for (path, access) in rules {
            // A folder this machine has not is a folder nobody can open.
            if let Ok(folder) = PathFd::new(path) {
                ruleset = ruleset.add_rule(PathBeneath::new(folder, access))?;
            }
        }
        ruleset.restrict_self()
    };
    let status = build().map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => {
            Err("the kernel has no Landlock, or it is switched off".into())
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(format!("ABI {}", effective_abi as i32))
        }
        (_, _) => Ok(String::new()),
    }
}
