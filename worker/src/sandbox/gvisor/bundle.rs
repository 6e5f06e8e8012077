//! The OCI bundle of one step: its root, made up of mount points, and `config.json`.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::sandbox::{Limits, Step};

/// What every machine has of the host's root, as a folder or as a link into `/usr`.
const ROOT_FOLDERS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Settings of toolchains, shown where the host has them.
const SETTINGS: [&str; 3] = ["ld.so.cache", "alternatives", "perl"];
/// Folders of `/etc` that begin so are toolchains' too (`java-17-openjdk`).
const SETTINGS_BY_NAME: [&str; 2] = ["java", "php"];
/// Bytes of `/tmp` and of `/dev/shm`, each.
const TEMPORARY_BYTES: u64 = 16 * 1024 * 1024;
/// Where a program works.
pub const WORK: &str = "/box";

/// What a bundle is made for.
#[derive(Debug)]
pub struct Order<'a> {
    pub id: &'a str,
    pub step: &'a Step,
    pub limits: &'a Limits,
    /// The host's folder that is the program's `/box`.
    pub work: &'a str,
    /// The user inside, who owns that folder on the host.
    pub user: u32,
    pub toolchain_folders: &'a [String],
    /// Whether memory and processes are held by a control group.
    pub cgroups: bool,
}

/// Writes the bundle to `folder`, which must be empty.
///
/// # Errors
/// That of the file system.
pub fn write(folder: &Path, order: &Order<'_>) -> io::Result<()> {
    let root = folder.join("rootfs");
    let mut binds: Vec<(String, PathBuf)> = vec![("/usr".into(), "/usr".into())];
    for name in ["usr", "etc", "proc", "dev", "tmp", "box"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ROOT_FOLDERS {
        let host = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&host) {
            symlink(target, root.join(name))?;
        } else if host.is_dir() {
            fs::create_dir_all(root.join(name))?;
            binds.push((format!("/{name}"), host));
        }
    }
    for path in order.toolchain_folders {
        fs::create_dir_all(root.join(path.trim_start_matches('/')))?;
        binds.push((path.clone(), path.into()));
    }
    for (name, text) in [
        (
            "passwd",
            format!("box:x:{0}:{0}:box:/box:/bin/sh\n", order.user),
        ),
        ("group", format!("box:x:{}:\n", order.user)),
        ("hosts", "127.0.0.1 localhost box\n".to_owned()),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
        ),
    ] {
        fs::write(root.join("etc").join(name), text)?;
    }
    for name in settings() {
        let host = Path::new("/etc").join(&name);
        let target = root.join("etc").join(&name);
        if host.is_dir() {
            fs::create_dir_all(&target)?;
        } else {
            fs::write(&target, "")?;
        }
        binds.push((format!("/etc/{name}"), host));
    }
    let config = serde_json::to_vec_pretty(&config(order, &binds))?;
    fs::write(folder.join("config.json"), config)
}

fn settings() -> Vec<String> {
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| {
            let stem = name.split('-').next().unwrap_or(name);
            SETTINGS.contains(&name.as_str()) || SETTINGS_BY_NAME.contains(&stem)
        })
        .collect()
}

fn config(order: &Order<'_>, binds: &[(String, PathBuf)]) -> Value {
    let Limits {
        cpu_ms,
        memory_bytes,
        pids,
        disk_bytes,
        open_files,
        ..
    } = *order.limits;
    let cwd = if order.step.cwd.is_empty() {
        WORK.to_owned()
    } else {
        format!("{WORK}/{}", order.step.cwd)
    };
    let rlimit = |name: &str, value: u64| json!({"type": name, "soft": value, "hard": value});
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
        temporary("/dev/shm"),
        temporary("/tmp"),
    ];
    mounts.extend(binds.iter().map(|(destination, source)| {
        json!({
            "destination": destination, "type": "bind", "source": source,
            "options": ["rbind", "ro", "nosuid", "nodev"],
        })
    }));
    mounts.push(json!({
        "destination": WORK, "type": "bind", "source": order.work,
        "options": ["rbind", "rw", "nosuid", "nodev"],
    }));
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let mut linux = json!({ "namespaces": namespaces });
    if order.cgroups {
        linux["cgroupsPath"] = json!(format!("/atelier-gvisor/{}", order.id));
        linux["resources"] = json!({
            "memory": {"limit": memory_bytes, "swap": memory_bytes},
            // The kernel of its own has threads too.
            "pids": {"limit": u64::from(pids).saturating_add(KERNEL_TASKS)},
            // A third of an ordinary group's part of the processors, where both want them.
            "cpu": {"shares": 341},
        });
    }
    json!({
        "ociVersion": "1.0.2",
        "hostname": "box",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "terminal": false,
            "user": {"uid": order.user, "gid": order.user},
            "args": order.step.argv,
            "env": environment(order.step, &cwd),
            "cwd": cwd,
            "noNewPrivileges": true,
            // Goes before anything of the server, should the machine have no memory left.
            "oomScoreAdj": 1000,
            "capabilities": {
                "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [],
            },
            "rlimits": [
                rlimit("RLIMIT_CORE", 0),
                rlimit("RLIMIT_CPU", cpu_ms.div_ceil(1000).saturating_add(1)),
                rlimit("RLIMIT_FSIZE", disk_bytes),
                rlimit("RLIMIT_NOFILE", open_files),
                rlimit("RLIMIT_NPROC", pids.into()),
            ],
        },
        "mounts": mounts,
        "linux": linux,
    })
}

/// Room in the control group for the threads of gVisor itself.
const KERNEL_TASKS: u64 = 256;

fn temporary(destination: &str) -> Value {
    json!({
        "destination": destination, "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "nodev", "mode=1777", format!("size={TEMPORARY_BYTES}")],
    })
}

fn environment(step: &Step, cwd: &str) -> Vec<String> {
    let usual = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", WORK),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("USER", "box"),
        ("PWD", cwd),
    ];
    let usual = usual
        .iter()
        .filter(|(name, _)| step.env.iter().all(|(given, _)| given != name))
        .map(|(name, value)| format!("{name}={value}"));
    let own = step
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    usual.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(cgroups: bool) -> Value {
        let folder = tempfile::tempdir().expect("a folder");
        let step = Step {
            argv: vec!["/usr/bin/python3".into(), "main.py".into()],
            env: vec![("HOME".into(), "/tmp".into()), ("A".into(), "1".into())],
            ..Step::default()
        };
        let order = Order {
            id: "job-1",
            step: &step,
            limits: &Limits::default(),
            work: "/srv/work",
            user: 61_003,
            toolchain_folders: &["/opt/node".to_owned()],
            cgroups,
        };
        write(folder.path(), &order).expect("a bundle");
        assert!(folder.path().join("rootfs/opt/node").is_dir());
        assert!(folder.path().join("rootfs/usr").is_dir());
        let text = fs::read(folder.path().join("config.json")).expect("config.json");
        serde_json::from_slice(&text).expect("JSON")
    }

    #[test]
    fn nothing_of_the_host_is_writable_but_the_work_folder() {
        let config = made(true);
        assert_eq!(config["root"]["readonly"], true);
        let mounts = config["mounts"].as_array().expect("mounts");
        let binds = mounts.iter().filter(|mount| mount["type"] == "bind");
        let mut writable = Vec::new();
        for bind in binds {
            let options = bind["options"].as_array().expect("options");
            assert!(options.contains(&json!("nosuid")), "{bind}");
            if !options.contains(&json!("ro")) {
                writable.push((bind["destination"].clone(), bind["source"].clone()));
            }
        }
        assert_eq!(writable, [(json!("/box"), json!("/srv/work"))]);
        let sources = mounts.iter().filter_map(|mount| mount["source"].as_str());
        for source in sources {
            let shown = ["/usr", "/opt/node", "/srv/work", "/etc/"];
            let own = ["proc", "tmpfs"].contains(&source);
            let root = ROOT_FOLDERS.iter().any(|name| source == format!("/{name}"));
            assert!(
                own || root || shown.iter().any(|path| source.starts_with(path)),
                "{source}"
            );
        }
    }

    #[test]
    fn the_process_has_no_privilege_and_its_limits() {
        let config = made(true);
        let process = &config["process"];
        assert_eq!(process["user"]["uid"], 61_003);
        assert_eq!(process["noNewPrivileges"], true);
        assert_eq!(process["oomScoreAdj"], 1000);
        let cpu = &config["linux"]["resources"]["cpu"];
        assert_eq!(cpu["shares"], 341);
        for set in [
            "bounding",
            "effective",
            "inheritable",
            "permitted",
            "ambient",
        ] {
            assert_eq!(process["capabilities"][set], json!([]), "{set}");
        }
        let env = process["env"].as_array().expect("env");
        assert!(env.contains(&json!("HOME=/tmp")) && env.contains(&json!("A=1")));
        assert!(!env.contains(&json!("HOME=/box")), "the step's own wins");
        let namespaces = config["linux"]["namespaces"].to_string();
        assert!(namespaces.contains("network") && namespaces.contains("pid"));
        let memory = &config["linux"]["resources"]["memory"]["limit"];
        assert_eq!(*memory, Limits::default().memory_bytes);
        assert!(made(false)["linux"].get("resources").is_none());
    }
}
