//! Work folders of boxes that have no file systems of their own: made, measured and removed, always through descriptors
//! and never through a link.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, StatVfsMountFlags, Uid,
};

/// Folders are named so, followed by what they are for and the process they belong to.
const PREFIX: &str = "atelier-boxes-";
/// Tried in this order where no folder is configured: in memory if programs can be started there, else on a disk.
const PLACES: [&str; 4] = ["/dev/shm", "/run", "/tmp", "/var/tmp"];
/// A folder deeper than this counts as too much.
const MAX_DEPTH: usize = 128;
/// Names taken from a folder at once while it is emptied.
const NAMES: usize = 512;
/// A box's folder for its program, and the one for what is temporary.
pub const WORK: &str = "work";
const TEMPORARY: &str = "tmp";

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The folder of one helper, locked for as long as it lives.
#[derive(Debug)]
pub struct Folders {
    parent: OwnedFd,
    name: String,
    own: OwnedFd,
    path: PathBuf,
}

/// The folder of one box.
#[derive(Debug)]
pub struct Folder {
    parent: OwnedFd,
    name: String,
    own: OwnedFd,
    /// Where its program works, and where it puts what is temporary.
    pub work: String,
    pub temporary: String,
}

/// What lies in a box's folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub bytes: u64,
    /// Files and folders, and links and all else that has a name.
    pub names: u64,
    /// A folder was too deep, or could not be read.
    pub unfathomable: bool,
}

impl Folders {
    /// Makes this process's folder in `place` (or the best there is), and removes those of processes that are gone.
    ///
    /// # Errors
    /// In words, with the path.
    pub fn open(place: Option<&str>) -> Result<Self, String> {
        Self::open_as("landlock", place)
    }

    /// The same, for one of several drivers of a process.
    ///
    /// # Errors
    /// As [`Folders::open`].
    pub fn open_as(driver: &str, place: Option<&str>) -> Result<Self, String> {
        let mut reasons = Vec::new();
        let places = match place {
            Some(place) => vec![place],
            None => PLACES.into(),
        };
        for place in places {
            match Self::open_in(driver, Path::new(place)) {
                Ok(folders) => return Ok(folders),
                Err(reason) => reasons.push(format!("{place}: {reason}")),
            }
        }
        Err(format!("no work folder: {}", reasons.join("; ")))
    }

    fn open_in(driver: &str, place: &Path) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let words = |error: rustix::io::Errno| error.to_string();
        let parent = rustix::fs::open(place, FOLDER, Mode::empty()).map_err(words)?;
        let mounted = rustix::fs::fstatvfs(&parent).map_err(words)?;
        if mounted
            .f_flag
            .intersects(StatVfsMountFlags::NOEXEC | StatVfsMountFlags::RDONLY)
        {
            return Err("programs can't be started there".into());
        }
        sweep(&parent);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{driver}-{}-{number}", std::process::id());
        rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o711)).map_err(words)?;
        let own = rustix::fs::openat(&parent, &name, FOLDER, Mode::empty()).map_err(words)?;
        rustix::fs::flock(&own, FlockOperation::NonBlockingLockExclusive).map_err(words)?;
        // Whatever the umask: boxes pass through it.
        rustix::fs::fchmod(&own, Mode::from_raw_mode(0o711)).map_err(words)?;
        Ok(Self {
            path: place.join(&name),
            parent,
            name,
            own,
        })
    }

    /// Makes the folder of a box, which only `user` can enter.
    ///
    /// # Errors
    /// That of the calls.
    pub fn make(&self, number: u32, user: Option<u32>) -> io::Result<Folder> {
        let name = number.to_string();
        // Left by a box that was never finished.
        if rustix::fs::statat(&self.own, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            let old = std::ffi::CString::new(name.as_str())?;
            empty_into(&self.own, &old, &mut 0)?;
        }
        let make = |parent: &OwnedFd, name: &str| -> io::Result<OwnedFd> {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
            let made = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o700))?;
            if let Some(user) = user {
                rustix::fs::fchown(&made, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?;
            }
            Ok(made)
        };
        let own = make(&self.own, &name)?;
        make(&own, WORK)?;
        make(&own, TEMPORARY)?;
        let path = self.path.join(&name);
        Ok(Folder {
            parent: self.own.try_clone()?,
            name,
            own,
            work: path.join(WORK).to_string_lossy().into_owned(),
            temporary: path.join(TEMPORARY).to_string_lossy().into_owned(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes this process's folder and whatever is left in it.
    pub fn close(&self) {
        let _ = empty(&self.own);
        let _ = rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Removes the folders of helpers that were killed.
fn sweep(parent: &OwnedFd) {
    let Ok(entries) = Dir::read_from(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Ok(folder) = rustix::fs::openat(parent, entry.file_name(), FOLDER, Mode::empty())
        else {
            continue;
        };
        let lock = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive);
        if lock.is_ok() && empty(&folder).is_ok() {
            let _ = rustix::fs::unlinkat(parent, entry.file_name(), AtFlags::REMOVEDIR);
        }
    }
}

impl Folder {
    /// Counts what lies in it, up to just beyond these bounds. Its program may be at work meanwhile.
    pub fn measure(&self, most_bytes: u64, most_names: u64) -> Size {
        let mut size = Size::default();
        let mut path = Vec::new();
        match self.own.try_clone() {
            Ok(own) => path.push(own),
            Err(_) => size.unfathomable = true,
        }
        // One descriptor for each level, and never two for one.
        let mut waiting: Vec<Vec<std::ffi::CString>> = Vec::new();
        while let Some(folder) = path.last() {
            if waiting.len() < path.len() {
                match measure_one(folder, &mut size, most_names) {
                    Some(inner) => waiting.push(inner),
                    None => return size,
                }
            }
            if size.bytes > most_bytes || size.names > most_names.saturating_add(2) {
                return size;
            }
            let Some(next) = waiting.last_mut().and_then(Vec::pop) else {
                waiting.pop();
                path.pop();
                continue;
            };
            if path.len() >= MAX_DEPTH {
                size.unfathomable = true;
                return size;
            }
            match rustix::fs::openat(folder, &next, FOLDER, Mode::empty()) {
                Ok(inner) => path.push(inner),
                // Gone, or another thing by now: the next look sees what it is.
                Err(
                    rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP,
                ) => {}
                Err(_) => {
                    size.unfathomable = true;
                    return size;
                }
            }
        }
        // The two folders every box begins with are nobody's.
        size.names = size.names.saturating_sub(2);
        size
    }

    /// Removes it with all that is in it. Nothing of its program may be alive.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn remove(&self) -> io::Result<()> {
        empty(&self.own)?;
        match rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Adds up one folder and names the folders in it. `None`: it was too much.
fn measure_one(
    folder: &OwnedFd,
    size: &mut Size,
    most_names: u64,
) -> Option<Vec<std::ffi::CString>> {
    let mut inner = Vec::new();
    let Ok(entries) = Dir::read_from(folder) else {
        size.unfathomable = true;
        return None;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        size.names += 1;
        if size.names > most_names.saturating_add(2) {
            return None;
        }
        if entry.file_type() == FileType::Directory {
            inner.push(name.to_owned());
        } else if let Ok(found) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            size.bytes += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        }
    }
    Some(inner)
}

/// Empties a folder however deep it is: folders in it are moved up to it one by one, so that no path grows.
fn empty(top: &OwnedFd) -> io::Result<()> {
    let mut moved: u64 = 0;
    loop {
        let names = names_of(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for (name, is_folder) in names {
            if is_folder {
                empty_into(top, &name, &mut moved)?;
            } else {
                remove(top, &name, AtFlags::empty())?;
            }
        }
    }
}

/// Removes one folder of `top`; the folders in it become folders of `top`.
fn empty_into(top: &OwnedFd, name: &std::ffi::CStr, moved: &mut u64) -> io::Result<()> {
    let open = || rustix::fs::openat(top, name, FOLDER, Mode::empty());
    let folder = match open() {
        Err(rustix::io::Errno::ACCESS) => {
            open_to_us(top, name)?;
            open()?
        }
        found => found?,
    };
    // A folder that can't be written can't be emptied, and one whose parent it must forget can't be moved.
    let _ = rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o700));
    loop {
        let inner = names_of(&folder)?;
        if inner.is_empty() {
            return remove(top, name, AtFlags::REMOVEDIR);
        }
        for (inner, is_folder) in inner {
            if !is_folder {
                remove(&folder, &inner, AtFlags::empty())?;
                continue;
            }
            loop {
                *moved += 1;
                let target = format!(".moved-{moved}");
                match rustix::fs::renameat(&folder, &inner, top, target) {
                    Ok(()) => break,
                    // The program has used this name; one of the next is free.
                    Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => {}
                    Err(rustix::io::Errno::NOTDIR) => {}
                    Err(rustix::io::Errno::ACCESS) => open_to_us(&folder, &inner)?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Makes a folder of our own user's one that we may read. Nothing runs that could put a link in its place.
fn open_to_us(parent: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o700);
    Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?)
}

fn names_of(folder: &OwnedFd) -> io::Result<Vec<(std::ffi::CString, bool)>> {
    let entries = Dir::read_from(folder)?.flatten();
    let entries = entries.filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
    let named = entries.take(NAMES).map(|entry| {
        let is_folder = entry.file_type() == FileType::Directory;
        (entry.file_name().to_owned(), is_folder)
    });
    Ok(named.collect())
}

fn remove(folder: impl AsFd, name: &std::ffi::CStr, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, flags) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a path is a folder, followed through links.
pub fn is_folder(path: &str) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::empty())
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folders, Folder) {
        let place = tempfile::tempdir().expect("a folder");
        let folders = Folders::open(place.path().to_str()).expect("folders");
        let folder = folders.make(7, None).expect("a folder");
        (place, folders, folder)
    }

    #[test]
    fn what_lies_in_a_folder_is_counted_and_links_are_not_followed() {
        let (_place, _folders, folder) = folder();
        assert_eq!(folder.measure(100, 100), Size::default());
        let work = Path::new(&folder.work);
        std::fs::write(work.join("a"), vec![1; 100_000]).expect("write");
        std::fs::create_dir_all(work.join("b/c")).expect("folders");
        std::fs::write(work.join("b/c/d"), vec![1; 50_000]).expect("write");
        std::os::unix::fs::symlink("/usr", work.join("link")).expect("a link");
        let size = folder.measure(1 << 30, 1000);
        assert_eq!((size.names, size.unfathomable), (5, false));
        assert!((150_000..400_000).contains(&size.bytes), "{size:?}");
        // A hole takes no place.
        let sparse = std::fs::File::create(work.join("sparse")).expect("a file");
        sparse.set_len(1 << 40).expect("a length");
        assert!(folder.measure(1 << 30, 1000).bytes < 400_000);
        assert!(folder.measure(1 << 30, 3).names > 3, "cut short, beyond");
    }

    #[test]
    fn a_folder_of_ten_thousand_levels_is_too_deep_and_goes_all_the_same() {
        let (place, folders, folder) = folder();
        let mut at = rustix::fs::open(folder.work.as_str(), FOLDER, Mode::empty()).expect("open");
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&at, ".moved-1", Mode::from_raw_mode(0o700)).expect("mkdir");
            at = rustix::fs::openat(&at, ".moved-1", FOLDER, Mode::empty()).expect("open");
        }
        assert!(folder.measure(u64::MAX, 100_000).unfathomable);
        drop(at);
        folder.remove().expect("removed");
        folders.close();
        assert_eq!(std::fs::read_dir(place.path()).expect("read").count(), 0);
    }

    #[test]
    fn folders_that_nobody_may_read_go_too_and_what_links_lead_to_stays() {
        use std::os::unix::fs::PermissionsExt as _;
        let (place, folders, folder) = folder();
        let kept = tempfile::tempdir().expect("a folder");
        std::fs::write(kept.path().join("file"), "kept").expect("write");
        let work = Path::new(&folder.work);
        std::fs::create_dir_all(work.join("shut/inner/most")).expect("folders");
        std::fs::write(work.join("shut/inner/most/file"), "x").expect("write");
        std::os::unix::fs::symlink(kept.path(), work.join("shut/link")).expect("a link");
        for name in ["shut/inner/most", "shut/inner", "shut"] {
            let none = std::fs::Permissions::from_mode(0o000);
            std::fs::set_permissions(work.join(name), none).expect("modes");
        }
        folder.remove().expect("removed");
        folders.close();
        assert_eq!(std::fs::read_dir(place.path()).expect("read").count(), 0);
        assert!(kept.path().join("file").exists());
    }

    #[test]
    fn folders_of_a_process_that_is_gone_are_swept() {
        let place = tempfile::tempdir().expect("a folder");
        let old = place.path().join(format!("{PREFIX}1"));
        std::fs::create_dir_all(old.join("3/work/x")).expect("folders");
        let folders = Folders::open(place.path().to_str()).expect("folders");
        assert!(!old.exists());
        // One that is in use is left alone.
        drop(rustix::fs::openat(
            &folders.parent,
            &folders.name,
            FOLDER,
            Mode::empty(),
        ));
        sweep(&folders.parent);
        assert!(folders.path.exists());
    }
}
