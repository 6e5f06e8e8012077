//! The walls of a box without namespaces, put up by its first process: the user goes first, then the rest.

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::process::{Gid, Signal, Uid};

use crate::sandbox::ns::inside::{Birth, capabilities_gone, drop_capabilities, stands_behind};
use crate::sandbox::{Layer, LayerReport, sys};

/// The newest Landlock we know rules for; older kernels get what they understand.
const LANDLOCK: ABI = ABI::V7;
/// From here on a process can be kept from signalling any outside its own rules.
const SCOPED_SIGNALS: i32 = 6;

/// What everybody may read of the host's settings: what programs are linked by, and links and settings of toolchains.
const SETTINGS: [&str; 3] = [
    "/etc/ld.so.cache",
    "/etc/alternatives",
    // Without it Node does not start.
    "/etc/ssl/openssl.cnf",
];
/// Folders of `/etc` of toolchains; `java` stands for `java-17-openjdk` and the like.
const TOOLCHAIN_SETTINGS: [&str; 3] = ["java", "php", "perl"];

/// What was put up, and what is kept for the program.
pub struct Closed {
    pub layers: Vec<LayerReport>,
    /// Rules for the program alone, within the box's: it can't signal the box's first process.
    pub inner_rules: Option<OwnedFd>,
}

/// Builds all walls and reports them as they are afterwards.
pub fn close(birth: &Birth<'_>) -> Result<Closed, String> {
    if birth.own_host_user {
        become_user(birth.host_user).map_err(|error| format!("become its own user: {error}"))?;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("subreaper: {error}"))?;
    drop_capabilities().map_err(|error| format!("capabilities: {error}"))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let inner_rules = inner_rules();
    let version = restrict(birth)?;
    let scoped = version >= SCOPED_SIGNALS;
    if !birth.own_host_user && !scoped {
        return Err(
            "the worker is not root and this kernel's Landlock can't hold back signals (Linux 6.12 can): a program could kill the worker".into(),
        );
    }
    // If the helper is killed, whoever is left of the box goes with it. From here on "everybody" is the box alone.
    sys::end_everybody_on(Signal::TERM).map_err(|error| format!("signals: {error}"))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| format!("death signal: {error}"))?;
    stands_behind();
    birth
        .filters
        .install()
        .map_err(|error| format!("seccomp: {error}"))?;

    let yes = |held: bool, otherwise: &str| {
        if held {
            Ok(String::new())
        } else {
            Err(otherwise.to_owned())
        }
    };
    let locked = rustix::thread::no_new_privs().unwrap_or(false);
    let root = rustix::process::getuid().is_root();
    let own_user = match (birth.own_host_user, root) {
        (_, true) => Err("the box is root on the host".to_owned()),
        (true, _) => Ok(String::new()),
        (false, _) => Err(
            "boxes share the worker's user; start the worker as root to give each its own".into(),
        ),
    };
    let network = sys::socket_is_refused() && version > 0;
    let layers = vec![
        LayerReport::new(Layer::OwnHostUser, own_user),
        LayerReport::new(
            Layer::NoCapabilities,
            yes(capabilities_gone()?, "some are left"),
        ),
        LayerReport::new(Layer::NoNewPrivileges, yes(locked, "it did not hold")),
        LayerReport::new(
            Layer::Seccomp,
            yes(birth.filters.stand(), "the filter did not hold"),
        ),
        LayerReport::new(Layer::Landlock, Ok(format!("ABI {version}"))),
        LayerReport::new(
            Layer::SignalScope,
            yes(scoped, "this kernel's Landlock has none"),
        ),
        LayerReport::new(Layer::NoNetwork, yes(network, "a socket could be opened")),
    ];
    Ok(Closed {
        layers,
        inner_rules: inner_rules.filter(|_| scoped),
    })
}

fn become_user(user: u32) -> std::io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Read and execute toolchains, write to two folders of its own, reach nobody by signal, socket name or TCP. Answers the
/// kernel's version of Landlock.
fn restrict(birth: &Birth<'_>) -> Result<i32, String> {
    let all = AccessFs::from_all(LANDLOCK);
    let read: BitFlags<AccessFs> = AccessFs::from_read(LANDLOCK);
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let device = AccessFs::ReadFile | AccessFs::WriteFile;
    let look = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules: Vec<(String, BitFlags<AccessFs>)> = vec![
        (birth.place.work.clone(), write),
        (birth.place.temporary.clone(), write),
    ];
    let folders = [
        "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
    ];
    rules.extend(folders.map(|path| (path.to_owned(), read)));
    rules.extend(
        birth
            .toolchain_folders
            .iter()
            .map(|path| (path.clone(), read)),
    );
    rules.extend(SETTINGS.map(|path| (path.to_owned(), look)));
    rules.extend(toolchain_settings().into_iter().map(|path| (path, look)));
    let devices = ["null", "zero", "full", "random", "urandom"];
    rules.extend(devices.map(|name| (format!("/dev/{name}"), device)));

    let mut own_folders = 0;
    let build = || -> Result<_, landlock::RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?
            .create()?;
        for (path, access) in rules {
            // What this machine has not, nobody can open. A file takes no rights of folders.
            if let Ok(opened) = PathFd::new(&path) {
                own_folders += usize::from(access == write);
                let access = if super::folder::is_folder(&path) {
                    access
                } else {
                    access & AccessFs::from_file(LANDLOCK)
                };
                ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
            }
        }
        ruleset.restrict_self()
    };
    let status = build().map_err(|error| format!("landlock: {error}"))?;
    if own_folders < 2 {
        return Err(format!(
            "{}: its own user can't get there; the folders above must let everybody pass",
            birth.place.work
        ));
    }
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => {
            Err("the kernel has no Landlock, or it is switched off".into())
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as i32),
        (_, _) => Err("Landlock does not tell its version".into()),
    }
}

fn toolchain_settings() -> Vec<String> {
    let entries = std::fs::read_dir("/etc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| {
            let stem = name.split('-').next().unwrap_or(name);
            TOOLCHAIN_SETTINGS.contains(&stem)
        })
        .map(|name| format!("/etc/{name}"))
        .collect()
}

fn inner_rules() -> Option<OwnedFd> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(LANDLOCK))
        .and_then(Ruleset::create)
        .ok()?;
    rules.into()
}
