//! Writing a program's files to the work folder, by the box's own user.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};

use crate::sandbox::ns::wire::{self, FileHead};

/// How a path of the box is ever resolved: inside the work folder, through no link, on one file system.
pub const WALLED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Why a program's files can't be written.
#[derive(Debug)]
pub struct Refusal {
    pub field: String,
    pub reason: String,
}

/// Opens the work folder.
pub fn open_work(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Writes all files.
pub fn write_files(work: &str, files: &[FileHead], mut contents: Bytes) -> Result<(), Refusal> {
    let work = open_work(work).map_err(|error| refusal(0, &error))?;
    for (index, file) in files.iter().enumerate() {
        let written = wire::take(&mut contents, file.length)
            .and_then(|content| write(&work, &file.path, file.executable, &content, None));
        written.map_err(|error| refusal(index, &error))?;
    }
    Ok(())
}

/// What went wrong with the file of this index, in words for whoever sent it.
pub fn refusal(index: usize, error: &io::Error) -> Refusal {
    Refusal {
        field: format!("files[{index}]"),
        reason: match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                "the files exceed `limits.disk_bytes` or `limits.inodes`".to_owned()
            }
            Some(libc::EEXIST) => "its path is that of another file".to_owned(),
            Some(libc::ENOTDIR) => "a folder of its path is another file".to_owned(),
            _ => error.to_string(),
        },
    }
}

/// Writes one file and the folders of its path, as the user we are or as `owner`.
pub fn write(
    work: &OwnedFd,
    path: &str,
    executable: bool,
    content: &[u8],
    owner: Option<u32>,
) -> io::Result<()> {
    let ids = owner.map(|user| (Uid::from_raw(user), Gid::from_raw(user)));
    for (position, _) in path.match_indices('/') {
        let folder = path.get(..position).unwrap_or_default();
        match rustix::fs::mkdirat(work, folder, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                if let Some((user, group)) = ids {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(work, folder, Some(user), Some(group), flags)?;
                }
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let target = rustix::fs::openat2(work, path, flags, mode, WALLED)?;
    if let Some((user, group)) = ids {
        rustix::fs::fchown(&target, Some(user), Some(group))?;
    }
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&target, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}
