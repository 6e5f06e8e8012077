//! The file system every box starts from, built once: the host's tree is not in it, not even hidden.

use std::ffi::CStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::sandbox::sys;

/// Names of the host's root that lead into `/usr` on merged systems and are folders of their own on others.
const ROOT_FOLDERS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Character devices of a box: name, major, minor.
const DEVICES: [(&str, u32, u32); 5] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
];
/// Folders of `/etc` without which toolchains don't start; what not everybody may read is left out.
const CONFIGURATION: [&str; 4] = ["alternatives", "java", "php", "perl"];
/// Bounds of one such folder.
const MAX_CONFIGURATION_FILES: usize = 2000;
const MAX_CONFIGURATION_FILE_BYTES: u64 = 256 * 1024;
/// Bounds of the template's own file system.
const TEMPLATE_OPTIONS: &CStr = c"size=16m,nr_inodes=16k,mode=755";

/// The user inside a box.
pub const BOX_USER: u32 = 1000;

const PASSWD: &str = "root:x:0:0:root:/:/usr/sbin/nologin\nbox:x:1000:1000:box:/box:/bin/sh\n";
const GROUP: &str = "root:x:0:\nbox:x:1000:\n";
const HOSTS: &str = "127.0.0.1 localhost box\n::1 localhost\n";
const NSSWITCH: &str =
    "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n";

/// Moves this process into the template, which from then on is its root.
///
/// # Errors
/// In words, with the path.
pub fn enter(toolchain_folders: &[String]) -> Result<(), String> {
    let place = ["/tmp", "/mnt", "/run", "/var"]
        .into_iter()
        .find(|path| Path::new(path).is_dir());
    let place =
        Path::new(place.ok_or("no folder to mount on: /tmp, /mnt, /run and /var are missing")?);
    let step =
        |name: &str, result: io::Result<()>| result.map_err(|error| format!("{name}: {error}"));

    step("unshare mounts", sys::unshare(libc::CLONE_NEWNS))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step(
        "private mounts",
        rustix::mount::mount_change("/", private).map_err(Into::into),
    )?;
    // Sources are opened first: the mount below may cover them.
    let sources = sources(toolchain_folders)?;
    let flags = MountFlags::NOSUID;
    step(
        "mount the root",
        rustix::mount::mount("atelier", place, "tmpfs", flags, TEMPLATE_OPTIONS)
            .map_err(Into::into),
    )?;
    for (name, source) in &sources {
        let target = place.join(name);
        step(name, attach(source, &target))?;
    }
    step("links of the root", root_links(place))?;
    step("/etc", configuration(place))?;
    step("/dev", devices(place))?;
    for (name, mode) in [("proc", 0o555), ("tmp", 0o755), ("box", 0o755)] {
        step(name, folder(&place.join(name), mode))?;
    }
    keep_proc_mountable(place);
    step(
        "enter the root",
        rustix::process::chdir(place).map_err(Into::into),
    )?;
    // The new root on top of the old one, which is then taken away from below.
    step(
        "pivot",
        rustix::process::pivot_root(".", ".").map_err(Into::into),
    )?;
    step(
        "leave the host",
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(Into::into),
    )?;
    step(
        "enter the root",
        rustix::process::chdir("/").map_err(Into::into),
    )?;
    let root = rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let root = root.map_err(|error| format!("open the root: {error}"))?;
    step(
        "read-only root",
        sys::restrict_mount(
            root.as_fd(),
            // Not the mounts below: a read-only /proc would keep boxes from mounting any other kind.
            false,
            sys::MOUNT_READ_ONLY | sys::MOUNT_NO_SET_USER_ID,
        ),
    )
}

/// Lets boxes mount a `/proc` of their own: in a user namespace the kernel allows it only where one is visible already.
///
/// The one here is covered in every box, by its own or by nothing at all. It shows processes only and none that are
/// not the reader's, where the kernel lets us choose; without root it is the host's. Where neither works, boxes have none.
fn keep_proc_mountable(place: &Path) {
    let proc = place.join("proc");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if rustix::mount::mount(
        "proc",
        &proc,
        "proc",
        flags,
        c"subset=pid,hidepid=invisible",
    )
    .is_ok()
    {
        return;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    if let Ok(tree) = rustix::mount::open_tree(CWD, "/proc", flags) {
        let _ = rustix::mount::move_mount(
            tree,
            "",
            CWD,
            &proc,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        );
    }
}

/// The host's folders that are shown, cloned off its tree and made read-only.
fn sources(toolchain_folders: &[String]) -> Result<Vec<(String, OwnedFd)>, String> {
    let mut wanted = vec!["usr".to_owned()];
    wanted.extend(
        ROOT_FOLDERS
            .iter()
            .filter(|name| is_folder(name))
            .map(|name| (*name).to_owned()),
    );
    for path in toolchain_folders {
        // `/opt/<name>` only; anything else is a mistake of ours.
        let name = path
            .strip_prefix("/opt/")
            .filter(|name| !name.is_empty() && !name.contains('/') && *name != "..");
        let name =
            name.ok_or_else(|| format!("{path}: toolchains are shown from /opt/<name> only"))?;
        wanted.push(format!("opt/{name}"));
    }
    let clone = |name: String| {
        let path = format!("/{name}");
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(CWD, &path, flags)
            .map_err(|error| format!("{path}: {error}"))?;
        let walls = sys::MOUNT_READ_ONLY | sys::MOUNT_NO_SET_USER_ID | sys::MOUNT_NO_DEVICES;
        sys::restrict_mount(tree.as_fd(), true, walls)
            .map_err(|error| format!("{path}: read-only: {error}"))?;
        Ok((name, tree))
    };
    wanted.into_iter().map(clone).collect()
}

fn is_folder(name: &str) -> bool {
    fs::symlink_metadata(Path::new("/").join(name)).is_ok_and(|found| found.is_dir())
}

fn attach(source: &OwnedFd, target: &Path) -> io::Result<()> {
    folder(target, 0o755)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(source, "", CWD, target, flags)?)
}

/// As a box's user may, whatever the helper's umask.
fn folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn file(path: &Path, text: &[u8]) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}

fn root_links(place: &Path) -> io::Result<()> {
    for name in ROOT_FOLDERS {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, place.join(name))?;
        }
    }
    Ok(())
}

/// An `/etc` made up for boxes. Nothing of the host's is mounted; what toolchains need is copied.
fn configuration(place: &Path) -> io::Result<()> {
    let etc = place.join("etc");
    folder(&etc, 0o755)?;
    for (name, text) in [
        ("passwd", PASSWD),
        ("group", GROUP),
        ("hosts", HOSTS),
        ("nsswitch.conf", NSSWITCH),
        ("hostname", "box\n"),
    ] {
        file(&etc.join(name), text.as_bytes())?;
    }
    copy(
        Path::new("/etc/ld.so.cache"),
        &etc.join("ld.so.cache"),
        8 * 1024 * 1024,
    )?;
    let Ok(entries) = fs::read_dir("/etc") else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        // `java` stands for `java-17-openjdk` and the like.
        let stem = name.split('-').next().unwrap_or(&name);
        if CONFIGURATION.contains(&stem) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let mut left = MAX_CONFIGURATION_FILES;
            copy_folder(&entry.path(), &etc.join(&name), &mut left)?;
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path, left: &mut usize) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    folder(to, 0o755)?;
    for entry in entries.flatten() {
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target, left)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_file() {
            copy(&entry.path(), &target, MAX_CONFIGURATION_FILE_BYTES)?;
        }
    }
    Ok(())
}

/// Copies a file that everybody may read and that is no longer than `longest`; anything else is left out.
fn copy(from: &Path, to: &Path, longest: u64) -> io::Result<()> {
    let Ok(source) = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(from)
    else {
        return Ok(());
    };
    let found = source.metadata()?;
    if !found.is_file() || found.permissions().mode() & 0o004 == 0 || found.len() > longest {
        return Ok(());
    }
    let mut content = Vec::new();
    source.take(longest).read_to_end(&mut content)?;
    file(to, &content)
}

fn devices(place: &Path) -> io::Result<()> {
    let dev = place.join("dev");
    folder(&dev, 0o755)?;
    folder(&dev.join("shm"), 0o755)?;
    for (name, target) in [
        ("fd", "self/fd"),
        ("stdin", "self/fd/0"),
        ("stdout", "self/fd/1"),
        ("stderr", "self/fd/2"),
    ] {
        symlink(Path::new("/proc").join(target), dev.join(name))?;
    }
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        let mode = Mode::from_raw_mode(0o666);
        match rustix::fs::mknodat(
            CWD,
            &path,
            FileType::CharacterDevice,
            mode,
            rustix::fs::makedev(major, minor),
        ) {
            Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?,
            // Without the right to make devices (or in a user namespace) the host's are shown one by one.
            Err(_) => {
                fs::write(&path, "")?;
                let host = Path::new("/dev").join(name);
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                let tree = rustix::mount::open_tree(CWD, host, flags)?;
                rustix::mount::move_mount(
                    tree,
                    "",
                    CWD,
                    &path,
                    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
                )?;
            }
        }
    }
    Ok(())
}
