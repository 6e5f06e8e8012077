//! Boxes as the helper sees them: birth, readiness, death, and how many are kept ready.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::template::BOX_USER;
use super::watch::{Source, Watch};
use super::{BIRTH_TIMEOUT, FAILURE_DELAY, REMOVE_DELAY, Supervisor};
use crate::sandbox::Limits;
use crate::sandbox::ns::accounting::{Group, Spent};
use crate::sandbox::ns::inside::{self, Birth, Place};
use crate::sandbox::ns::kind::BoxKind;
use crate::sandbox::ns::wire::{self, Failure, Inbox, Kind, MAX_REPORT_BYTES, Outbox};
use crate::sandbox::sys::{self, Cloned};

/// Where a box is in its one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Preparing,
    Ready,
    Running,
    /// Killed, or dead; waiting for the kernel to let go of it.
    Dying,
}

/// A living box.
pub struct Seat {
    pub state: State,
    pub job: Option<u64>,
    pub group: Box<dyn Group>,
    pub pidfd: OwnedFd,
    pub socket: Watch,
    pub inbox: Inbox,
    pub outbox: Outbox,
    pub stdout: Option<Watch>,
    pub stderr: Option<Watch>,
    /// Made for the job that waits for it, with disk limits of its own.
    pub made_to_measure: bool,
    /// Whether its first process has ended.
    pub ended: bool,
    /// The memory and process limits in force.
    limited: Option<(u64, u32)>,
    /// What was spent before the coming step, read ahead of time.
    before: Option<Spent>,
    end: Option<Watch>,
    number: u32,
    deadline: Option<Instant>,
}

impl Seat {
    pub fn next_time(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sets the limits of what may come next. Done while a box waits, it costs the program nothing.
    fn prepare_for(&mut self, limits: &Limits) -> io::Result<()> {
        let wanted = (limits.memory_bytes, limits.pids);
        if self.limited != Some(wanted) {
            self.group.limit(limits.memory_bytes, limits.pids)?;
            self.limited = Some(wanted);
        }
        if self.before.is_none() {
            self.group.begin_step();
            self.before = Some(self.group.spent());
        }
        Ok(())
    }

    /// Sets the limits of a step and says what was spent before it.
    pub fn begin_step(&mut self, limits: &Limits) -> io::Result<Spent> {
        self.prepare_for(limits)?;
        self.group.limit_files(limits.disk_bytes, limits.inodes);
        Ok(self.before.take().unwrap_or_default())
    }

    /// Kills every process in the box; the end is reported by its pidfd.
    pub fn kill(&self) {
        self.group.kill();
        // Fails only when it is dead already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Supervisor {
    /// Makes boxes until enough are ready or on their way.
    pub(super) fn refill(&mut self) {
        let coming = self.boxes.values().filter(|seat| {
            matches!(seat.state, State::Preparing | State::Ready) && !seat.made_to_measure
        });
        let missing = self
            .configuration
            .warm
            .max(1)
            .saturating_sub(coming.count());
        for _ in 0..missing {
            if let Err(error) = self.give_birth(self.configuration.usual, None) {
                self.birth_failed(&error.to_string());
                return;
            }
        }
    }

    /// Starts building a box. It says by itself when it stands.
    pub(super) fn give_birth(&mut self, limits: Limits, job: Option<u64>) -> io::Result<u64> {
        let number = (0..)
            .find(|number| !self.numbers.contains(number))
            .ok_or(io::ErrorKind::QuotaExceeded)?;
        let group = self.accounting.open(number)?;
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let (stdout, stdout_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let user = self.configuration.first_host_user.saturating_add(number);
        if self.own_users {
            // So that a program may open its own /dev/stdout.
            for pipe in [&stdout_end, &stderr_end] {
                rustix::fs::fchown(pipe, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?;
            }
        }
        let kind = self.configuration.kind;
        let birth = Birth {
            kind,
            place: group
                .folders()
                .map_or_else(Place::default, |(work, temporary)| Place {
                    work,
                    temporary,
                }),
            toolchain_folders: &self.configuration.toolchain_folders,
            host_user: user,
            socket: theirs.as_fd(),
            stdout: stdout_end,
            stderr: stderr_end,
            join: group.join_files(),
            limits,
            filters: &self.filters,
            helper_namespaces: &self.namespaces,
            own_host_user: self.own_users,
        };
        let (pid, pidfd) =
            match sys::clone_process(&self.alone, kind.namespaces(), group.clone_into())? {
                Cloned::Child => inside::live(&birth),
                Cloned::Parent { pid, pidfd } => (pid, pidfd),
            };
        drop(birth);
        drop(theirs);
        let id = self.take_id();
        let seat = self.seat(id, number, group, pid, pidfd, [ours, stdout, stderr]);
        let mut seat = match seat.and_then(|seat| self.map_user(pid, user).map(|()| seat)) {
            Ok(seat) => seat,
            Err(error) => {
                // Nobody holds its pidfd any more, but its socket is at its end and it leaves.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                return Err(error);
            }
        };
        seat.job = job;
        seat.made_to_measure = job.is_some();
        seat.outbox.push(wire::frame(Kind::Enter, &[]));
        seat.outbox.flush(seat.socket.fd())?;
        self.numbers.insert(number);
        self.boxes.insert(id, seat);
        Ok(id)
    }

    fn seat(
        &self,
        id: u64,
        number: u32,
        mut group: Box<dyn Group>,
        pid: Pid,
        pidfd: OwnedFd,
        [socket, stdout, stderr]: [OwnedFd; 3],
    ) -> io::Result<Seat> {
        for fd in [&socket, &stdout, &stderr] {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        group.attach(pid);
        let watch = |fd: OwnedFd, source: Source| {
            Watch::owning(&self.epoll, fd, id, source, EventFlags::IN)
        };
        Ok(Seat {
            state: State::Preparing,
            job: None,
            group,
            end: Some(watch(pidfd.try_clone()?, Source::End)?),
            pidfd,
            socket: watch(socket, Source::Box)?,
            inbox: Inbox::new(MAX_REPORT_BYTES),
            outbox: Outbox::default(),
            stdout: Some(watch(stdout, Source::Stdout)?),
            stderr: Some(watch(stderr, Source::Stderr)?),
            made_to_measure: false,
            ended: false,
            limited: None,
            before: None,
            number,
            deadline: Some(Instant::now() + BIRTH_TIMEOUT),
        })
    }

    fn map_user(&self, pid: Pid, user: u32) -> io::Result<()> {
        if self.configuration.kind == BoxKind::Landlock {
            // It has no users of its own, and becomes its host user by itself.
            return Ok(());
        }
        let pid = pid.as_raw_nonzero().to_string();
        let outside = if self.own_users { user } else { 0 };
        let map = format!("{BOX_USER} {outside} 1");
        if !self.own_users {
            write_map(self.proc.as_fd(), &pid, "setgroups", "deny")?;
        }
        write_map(self.proc.as_fd(), &pid, "gid_map", &map)?;
        write_map(self.proc.as_fd(), &pid, "uid_map", &map)
    }

    /// A box could not be built: whoever waits is told, and the next try is later.
    fn birth_failed(&mut self, reason: &str) {
        if !self.announced {
            super::refuse(&format!("a box can't be built: {reason}"));
            self.leave();
            sys::exit_now(1);
        }
        for job in std::mem::take(&mut self.queue) {
            self.fail_job(
                job,
                Failure {
                    field: None,
                    reason: format!("a box can't be built: {reason}"),
                },
            );
        }
        self.refill_at = Some(Instant::now() + FAILURE_DELAY);
    }

    /// Something came from a box's first process.
    pub(super) fn hear_box(&mut self, id: u64) {
        let Some(seat) = self.boxes.get_mut(&id) else {
            return;
        };
        if seat.ended {
            return;
        }
        // What it said before it closed its end counts, whatever became of what was still to be written to it.
        let unheard = seat.outbox.flush(seat.socket.fd()).is_err();
        let unread = seat.inbox.fill(seat.socket.fd()).is_err();
        if !(unheard || unread) {
            self.set_interest(id);
        }
        loop {
            let Some(seat) = self.boxes.get_mut(&id) else {
                return;
            };
            match seat.inbox.next() {
                Ok(Some((kind, body))) => self.obey_box(id, kind, body),
                Ok(None) if !(unheard || unread) => return,
                Ok(None) | Err(_) => {
                    self.discard(id);
                    return;
                }
            }
        }
    }

    fn obey_box(&mut self, id: u64, kind: Kind, body: bytes::Bytes) {
        let Some(seat) = self.boxes.get_mut(&id) else {
            return;
        };
        match (seat.state, kind) {
            (State::Preparing, Kind::BoxReady) => {
                let Ok(layers) = wire::parse(&body) else {
                    return self.discard(id);
                };
                // A failure shows again, and is told, when a program comes.
                let _ = seat.prepare_for(&self.configuration.usual);
                seat.state = State::Ready;
                seat.deadline = None;
                let job = seat.job;
                self.announce(layers);
                match job {
                    Some(job) => self.start_job(job, id),
                    None => self.start_waiting(),
                }
            }
            (State::Preparing, Kind::BoxFailed) => {
                let reason = wire::parse::<Failure>(&body)
                    .map_or_else(|error| error.to_string(), |failure| failure.reason);
                let job = seat.job.take();
                self.discard(id);
                match job {
                    Some(job) => self.fail_job(
                        job,
                        Failure {
                            field: None,
                            reason,
                        },
                    ),
                    None => self.birth_failed(&reason),
                }
            }
            (State::Running, kind) => self.job_hears(id, kind, body),
            // A box that speaks out of turn is not ours any more.
            (State::Dying, _) => {}
            (_, _) => self.discard(id),
        }
    }

    /// Kills a box that is no use any more. Its job, if it has one, ends when the box has.
    pub(super) fn discard(&mut self, id: u64) {
        if let Some(seat) = self.boxes.get_mut(&id) {
            seat.kill();
            if seat.state != State::Running {
                seat.state = State::Dying;
                seat.deadline = None;
            }
        }
    }

    /// The first process of a box ended, and with it everything in its pid namespace.
    pub(super) fn box_ended(&mut self, id: u64) {
        let Some(seat) = self.boxes.get_mut(&id) else {
            return;
        };
        if seat.ended {
            return;
        }
        let reaped = rustix::process::waitid(
            WaitId::PidFd(seat.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        if matches!(reaped, Ok(None)) {
            return;
        }
        // Its last words, if nobody has read them yet: why it would not run the program.
        self.hear_box(id);
        let Some(seat) = self.boxes.get_mut(&id) else {
            return;
        };
        seat.ended = true;
        seat.end = None;
        let was = seat.state;
        if was == State::Running {
            self.job_lost_its_box(id);
        }
        let Some(seat) = self.boxes.get_mut(&id) else {
            return;
        };
        seat.state = State::Dying;
        seat.stdout = None;
        seat.stderr = None;
        let job = seat.job.take();
        self.remove_box(id);
        if was == State::Preparing {
            let reason = "it died while it was built";
            match job {
                Some(job) => self.fail_job(
                    job,
                    Failure {
                        field: None,
                        reason: reason.into(),
                    },
                ),
                None => self.birth_failed(reason),
            }
        }
        if self.refill_at.is_none() {
            self.refill_at = Some(Instant::now());
        }
    }

    fn remove_box(&mut self, id: u64) {
        let Some(seat) = self.boxes.get_mut(&id) else {
            return;
        };
        match seat.group.remove() {
            Ok(()) => {
                if let Some(seat) = self.boxes.remove(&id) {
                    self.numbers.remove(&seat.number);
                }
            }
            Err(_) => seat.deadline = Some(Instant::now() + REMOVE_DELAY),
        }
    }

    pub(super) fn look_at_box(&mut self, id: u64, _now: Instant) {
        let Some(seat) = self.boxes.get_mut(&id) else {
            return;
        };
        if seat.ended {
            self.remove_box(id);
        } else {
            // Too long in building; its end is handled as that of any box that died in it.
            seat.deadline = None;
            seat.kill();
        }
    }
}

/// Writes one of `uid_map`, `gid_map` and `setgroups`, which take their text in one write.
pub fn write_map(proc: BorrowedFd<'_>, pid: &str, name: &str, text: &str) -> io::Result<()> {
    let file = rustix::fs::openat(
        proc,
        format!("{pid}/{name}"),
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::write(&file, text.as_bytes())?;
    debug_assert!(file.as_raw_fd() > 2, "the standard streams are open");
    Ok(())
}
