//! Writing a program's files to the work folder, by the box's own user.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::walls::WORK;
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
pub fn open_work() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        WORK,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Writes all files.
pub fn write_files(files: &[FileHead], mut contents: Bytes) -> Result<(), Refusal> {
    let refusal = |index: usize, error: &io::Error| Refusal {
        field: format!("files[{index}]"),
        reason: match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                "the files exceed `limits.disk_bytes` or `limits.inodes`".to_owned()
            }
            Some(libc::EEXIST) => "its path is that of another file".to_owned(),
            Some(libc::ENOTDIR) => "a folder of its path is another file".to_owned(),
            _ => error.to_string(),
        },
    };
    let work = open_work().map_err(|error| refusal(0, &error))?;
    for (index, file) in files.iter().enumerate() {
        let written =
            wire::take(&mut contents, file.length).and_then(|content| write(&work, file, &content));
        written.map_err(|error| refusal(index, &error))?;
    }
    Ok(())
}

fn write(work: &OwnedFd, file: &FileHead, content: &[u8]) -> io::Result<()> {
    for (position, _) in file.path.match_indices('/') {
        let folder = file.path.get(..position).unwrap_or_default();
        match rustix::fs::mkdirat(work, folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mode = Mode::from_raw_mode(if file.executable { 0o755 } else { 0o644 });
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let target = rustix::fs::openat2(work, &file.path, flags, mode, WALLED)?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&target, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}
