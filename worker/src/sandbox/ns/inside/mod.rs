//! A box from within: its first process, which builds the walls, waits for one program and obeys the helper.
//!
//! It is a clone of the helper and keeps nothing of it but one socket and the outputs. From [`walls::close`] on it has
//! no privilege left and lives under the same seccomp filter and Landlock rules as the program it starts, so a
//! program that took it over would gain nothing but lies to the helper.

mod collect;
pub mod files;
mod process;
mod syscalls;
mod walls;
mod work;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use bytes::Bytes;

use super::kind::BoxKind;
use super::wire::{self, Failure, FileHead, Filled, Inbox, Kind, StepOrder};
use crate::sandbox::landlock;
use crate::sandbox::sys;
use crate::sandbox::{ArtifactRequest, LayerReport, Limits};

pub use syscalls::Filters;
pub use walls::{capabilities_gone, drop_capabilities};

/// Descriptors of a box, the same in every one.
const SOCKET: RawFd = 3;
const STDOUT: RawFd = 4;
const STDERR: RawFd = 5;
const FIRST_OTHER: RawFd = 6;
/// A third of an ordinary process's part of a processor, where both want it.
pub const NICE: i32 = 5;
/// How long a box waits for its user to be mapped.
const ENTER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the helper prepared for a new box; lives in the copied memory.
#[derive(Debug)]
pub struct Birth<'a> {
    pub kind: BoxKind,
    /// Where its program will work.
    pub place: Place,
    /// Folders outside `/usr` that hold toolchains.
    pub toolchain_folders: &'a [String],
    /// The user it is on the host, if that is its own.
    pub host_user: u32,
    pub socket: BorrowedFd<'a>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Files into which to write ourselves, to be counted from the start.
    pub join: Vec<RawFd>,
    pub limits: Limits,
    pub filters: &'a Filters,
    /// Inodes of the helper's namespaces, to see that ours are others.
    pub helper_namespaces: &'a walls::Namespaces,
    /// Whether this box's host user is nobody else's.
    pub own_host_user: bool,
}

pub use walls::Namespaces;

/// Where a program works, and where it puts what is temporary.
#[derive(Debug, Clone)]
pub struct Place {
    pub work: String,
    pub temporary: String,
}

impl Default for Place {
    /// That of a box with file systems of its own.
    fn default() -> Self {
        Self {
            work: walls::WORK.to_owned(),
            temporary: "/tmp".to_owned(),
        }
    }
}

/// What a box needs to know of itself once it stands.
#[derive(Debug)]
pub struct Home {
    kind: BoxKind,
    place: Place,
    /// Landlock rules for the program alone, within the box's.
    inner_rules: Option<OwnedFd>,
}

/// The life of a box. Ends when the helper goes away.
pub fn live(birth: &Birth<'_>) -> ! {
    let code = match settle(birth) {
        Ok((layers, home)) => {
            process::rehearse(&home);
            match wire::message(Kind::BoxReady, &layers).and_then(|frame| say(&frame)) {
                Ok(()) => obey(&home),
                Err(_) => 1,
            }
        }
        Err(reason) => {
            // The helper may be gone; there is nobody else to tell.
            let _ = fail(None, reason);
            1
        }
    };
    sys::exit_now(code)
}

/// Takes its descriptors, waits to be mapped and builds the walls.
fn settle(birth: &Birth<'_>) -> Result<(Vec<LayerReport>, Home), String> {
    place_descriptors(birth).map_err(|error| format!("descriptors: {error}"))?;
    let mut inbox = Inbox::new(16);
    let timeout =
        rustix::event::Timespec::try_from(ENTER_TIMEOUT).map_err(|error| error.to_string())?;
    let helper = socket();
    let mut wait = [rustix::event::PollFd::new(
        &helper,
        rustix::event::PollFlags::IN,
    )];
    match rustix::event::poll(&mut wait, Some(&timeout)) {
        Ok(1) => {}
        _ => return Err("nobody mapped this box's user".into()),
    }
    match (inbox.fill(socket()), inbox.next()) {
        (Ok(Filled::Some), Ok(Some((Kind::Enter, _)))) => {}
        _ => return Err("the helper said something unexpected".into()),
    }
    let place = birth.place.clone();
    let (layers, inner_rules) = match birth.kind {
        BoxKind::Namespaces => (walls::close(birth)?, None),
        BoxKind::Landlock => {
            let closed = landlock::walls::close(birth)?;
            (closed.layers, closed.inner_rules)
        }
    };
    let home = Home {
        kind: birth.kind,
        place,
        inner_rules,
    };
    Ok((layers, home))
}

fn socket() -> BorrowedFd<'static> {
    sys::descriptor(SOCKET)
}

/// Moves what the box needs to fixed numbers, joins its groups and closes everything else of the helper's.
fn place_descriptors(birth: &Birth<'_>) -> io::Result<()> {
    for file in &birth.join {
        rustix::io::write(sys::descriptor(*file), b"0")?;
    }
    goes_first();
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR,
        rustix::fs::Mode::empty(),
    )?;
    // Copies above the fixed numbers first, at numbers nobody uses, so that filling one place empties no other.
    let sources = [
        null.as_fd(),
        null.as_fd(),
        null.as_fd(),
        birth.socket,
        birth.stdout.as_fd(),
        birth.stderr.as_fd(),
    ];
    let copies = sources.map(|source| rustix::io::fcntl_dupfd_cloexec(source, FIRST_OTHER));
    for (target, copy) in (0..).zip(copies) {
        sys::place_descriptor(copy?.into_raw_fd(), target)?;
    }
    std::mem::forget(null);
    sys::close_from(FIRST_OTHER)?;
    rustix::io::ioctl_fionbio(socket(), false)?;
    Ok(())
}

/// Before anything of the server, should the machine have no memory left. Nothing is lost where the kernel won't have it:
/// the box has limits of its own. The file is closed with the helper's others.
fn goes_first() {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(
        "/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    if let Ok(file) = file {
        let _ = rustix::io::write(&file, b"1000");
        std::mem::forget(file);
    }
}

/// Comes after the server where both want a processor. No box can take it back: none has the right. Refused where the worker
/// itself stands further behind.
pub fn stands_behind() {
    let _ = rustix::process::setpriority_process(None, NICE);
}

fn say(frame: &[u8]) -> io::Result<()> {
    let mut rest = frame;
    while !rest.is_empty() {
        match rustix::io::write(socket(), rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn fail(field: Option<String>, reason: String) -> io::Result<()> {
    say(&wire::message(Kind::BoxFailed, &Failure { field, reason })?)
}

/// Does what the helper says until it goes away. Returns the exit code.
fn obey(home: &Home) -> i32 {
    let mut inbox = Inbox::new(wire::MAX_PROGRAM_BYTES);
    loop {
        match inbox.next() {
            Ok(Some((kind, body))) => match act(home, kind, body) {
                Ok(()) => continue,
                Err(_) => return 1,
            },
            Ok(None) => {}
            Err(_) => return 1,
        }
        match inbox.fill(socket()) {
            Ok(Filled::Some) => {}
            Ok(Filled::Nothing | Filled::End) | Err(_) => return 0,
        }
    }
}

fn act(home: &Home, kind: Kind, body: Bytes) -> io::Result<()> {
    match kind {
        Kind::Files => {
            let (files, contents): (Vec<FileHead>, Bytes) = wire::parse_with(body)?;
            match work::write_files(&home.place.work, &files, contents) {
                Ok(()) => Ok(()),
                Err(refusal) => {
                    fail(Some(refusal.field), refusal.reason)?;
                    Err(io::ErrorKind::Other.into())
                }
            }
        }
        Kind::Step => {
            let (order, input): (StepOrder, Bytes) = wire::parse_with(body)?;
            let end = process::run(home, &order, &input);
            say(&wire::message(Kind::StepEnd, &end)?)
        }
        Kind::Collect => {
            let request: ArtifactRequest = wire::parse(&body)?;
            let skipped = collect::collect(&home.place.work, &request, &mut |piece| match piece {
                collect::Piece::Begin(path) => say(&wire::message(Kind::ArtifactPath, &path)?),
                collect::Piece::Bytes(bytes) => say(&wire::frame(Kind::ArtifactData, &[bytes])),
            })?;
            say(&wire::message(Kind::Collected, &skipped)?)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
