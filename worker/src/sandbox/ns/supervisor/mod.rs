//! The helper process: one thread that keeps boxes ready, gives programs to them and watches what they spend.
//!
//! It is the only part with privilege. It opens no file a program made, reads no path inside a box, and has left the
//! host's file system before the first box is born.

mod boxes;
mod job;
mod output;
mod steps;
mod template;
mod verdict;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

use self::boxes::{Seat, State};
use self::job::Job;
use self::watch::{Source, Watch};
use super::accounting::{self, Accounting, HostView};
use super::inside::{Filters, Namespaces};
use super::kind::BoxKind;
use super::wire::{self, Configuration, Filled, Inbox, Kind, Outbox, Ready};
use crate::sandbox::landlock::fence::Fence;
use crate::sandbox::sys::{self, SingleThreaded};

pub use template::BOX_USER;

/// How often a running program's counters are read.
const TICK: Duration = Duration::from_millis(50);
/// The same without cgroups, where the reading is the limit.
const UNAIDED_TICK: Duration = Duration::from_millis(10);
/// How long after a start the next box is made, so that short programs aren't disturbed.
const REFILL_DELAY: Duration = Duration::from_millis(3);
/// Pause after a box that could not be built.
const FAILURE_DELAY: Duration = Duration::from_millis(500);
/// How long building a box may take.
const BIRTH_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before asking the kernel again to remove a group that is still busy.
const REMOVE_DELAY: Duration = Duration::from_millis(5);
/// How long the helper clears up after its worker is gone.
const FAREWELL: Duration = Duration::from_secs(3);
/// Most events taken at once.
const EVENTS: usize = 64;

/// What ends a helper before it has begun.
const STARTED_BY_HAND: i32 = 2;

/// The life of the helper.
pub fn supervise() -> ! {
    let control = sys::descriptor(0);
    if rustix::net::sockopt::socket_type(control).is_err() {
        let _ = rustix::io::write(
            sys::descriptor(2),
            b"sandbox-init is started by the worker, not by hand\n",
        );
        sys::exit_now(STARTED_BY_HAND);
    }
    let code = match Supervisor::prepare() {
        Ok(mut supervisor) => {
            supervisor.work();
            supervisor.leave();
            0
        }
        Err(reason) => {
            refuse(&reason);
            1
        }
    };
    sys::exit_now(code)
}

fn refuse(reason: &str) {
    if let Ok(frame) = wire::message(Kind::Refused, &reason) {
        let _ = rustix::io::ioctl_fionbio(sys::descriptor(0), false);
        let _ = rustix::io::write(sys::descriptor(0), &frame);
    }
}

struct Supervisor {
    configuration: Configuration,
    accounting: Box<dyn Accounting>,
    filters: Filters,
    namespaces: Namespaces,
    alone: SingleThreaded,
    /// The host's `/proc`, for mapping users.
    proc: OwnedFd,
    /// Whether we may map each box to a user of its own.
    own_users: bool,
    epoll: OwnedFd,
    control: Watch,
    control_out: Outbox,
    announced: bool,
    boxes: BTreeMap<u64, Seat>,
    jobs: BTreeMap<u64, Job>,
    /// Jobs that wait for a usual box.
    queue: VecDeque<u64>,
    /// Numbers of living boxes; a number stands for a host user and a group.
    numbers: BTreeSet<u32>,
    next: u64,
    refill_at: Option<Instant>,
    slots: usize,
}

impl Supervisor {
    fn prepare() -> Result<Self, String> {
        let alone = SingleThreaded::check()?;
        let control = sys::descriptor(0);
        let mut inbox = Inbox::new(wire::MAX_REPORT_BYTES);
        let configuration: Configuration = loop {
            match inbox.next().map_err(|error| error.to_string())? {
                Some((Kind::Configure, body)) => {
                    break wire::parse(&body).map_err(|error| error.to_string())?;
                }
                Some(_) => return Err("the worker said something unexpected".into()),
                None => {}
            }
            if inbox.fill(control).map_err(|error| error.to_string())? != Filled::Some {
                return Err("the worker went away".into());
            }
        };
        let folder = rustix::fs::OFlags::DIRECTORY
            | rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", folder, rustix::fs::Mode::empty())
            .map_err(|error| format!("/proc: {error}"))?;
        let host = HostView { proc };
        let own_users = rustix::process::geteuid().is_root();
        let kind = configuration.kind;
        let counting = accounting::open(configuration.accounting, kind, &host)?;
        let (accounting, namespaces) = match kind {
            BoxKind::Namespaces => {
                // For the case that we hang: when the worker ends, its end of the socket closes anyway. All boxes go
                // with us.
                let signal = Some(rustix::process::Signal::KILL);
                let _ = rustix::process::set_parent_process_death_signal(signal);
                if !own_users {
                    become_namespace_root(&host)?;
                }
                let namespaces = Namespaces::own();
                template::enter(&configuration.toolchain_folders)?;
                (counting, namespaces)
            }
            BoxKind::Landlock => {
                // Whoever loses their parent becomes our child; nothing else would keep hold of them.
                rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                    .map_err(|error| format!("subreaper: {error}"))?;
                let first_user = own_users.then_some(configuration.first_host_user);
                let place = configuration.work_folder.as_deref();
                let fence = Fence::open(counting, &host, place, first_user)?;
                (Box::new(fence) as Box<dyn Accounting>, Namespaces::own())
            }
        };
        let filters = Filters::compile(kind)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| format!("epoll: {error}"))?;
        rustix::io::ioctl_fionbio(control, true)
            .map_err(|error| format!("control socket: {error}"))?;
        let control = Watch::new(&epoll, control, Source::Control, epoll::EventFlags::IN)
            .map_err(|error| format!("epoll: {error}"))?;
        let slots = if accounting.one_at_a_time() {
            1
        } else {
            configuration.slots.max(1)
        };
        Ok(Self {
            configuration,
            accounting,
            filters,
            namespaces,
            alone,
            proc: host.proc,
            own_users,
            epoll,
            control,
            control_out: Outbox::default(),
            announced: false,
            boxes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            numbers: BTreeSet::new(),
            next: 1,
            refill_at: Some(Instant::now()),
            slots,
        })
    }

    fn work(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            self.act_on_time(Instant::now());
            let timeout = self.next_time().map(|time| {
                let left = time.saturating_duration_since(Instant::now());
                // Rounded up to what the kernel's clock for this call can tell, or it would spin.
                Timespec {
                    tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in events.drain(..) {
                let (id, source) = Source::decode(event.data.u64());
                match source {
                    Source::Control => {
                        if !self.hear_worker() {
                            return;
                        }
                    }
                    Source::Job => self.hear_job(id, event.flags),
                    Source::Box => self.hear_box(id),
                    Source::Stdout | Source::Stderr => self.read_output(id, source),
                    Source::End => self.box_ended(id),
                }
            }
        }
    }

    /// Takes new programs. Each comes as one byte with a socket of its own. `false` when the worker is gone.
    fn hear_worker(&mut self) -> bool {
        if self.control_out.flush(self.control.fd()).is_err() {
            return false;
        }
        if self.control_out.is_empty() {
            self.control.want(&self.epoll, epoll::EventFlags::IN);
        }
        loop {
            let mut byte = [0; 1];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(
                self.control.fd(),
                &mut [IoSliceMut::new(&mut byte)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            match received {
                Ok(message) if message.bytes == 0 => return false,
                Ok(message) => {
                    if message.flags.contains(ReturnFlags::CTRUNC) {
                        continue;
                    }
                    let sockets: Vec<OwnedFd> = ancillary
                        .drain()
                        .filter_map(|part| match part {
                            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
                            _ => None,
                        })
                        .flatten()
                        .collect();
                    for socket in sockets {
                        self.open_job(socket);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn take_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// When something has to be done even if nothing happens.
    fn next_time(&self) -> Option<Instant> {
        let jobs = self.jobs.values().filter_map(Job::next_time);
        let boxes = self.boxes.values().filter_map(Seat::next_time);
        jobs.chain(boxes).chain(self.refill_at).min()
    }

    fn act_on_time(&mut self, now: Instant) {
        let due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        let late: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| due(job.next_time()))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.look_at_job(id, now);
        }
        let late: Vec<u64> = self
            .boxes
            .iter()
            .filter(|(_, seat)| due(seat.next_time()))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.look_at_box(id, now);
        }
        if due(self.refill_at) {
            self.refill_at = None;
            self.refill();
        }
    }

    /// Says the first word once the first box stands, with what was found from inside it.
    fn announce(&mut self, mut layers: Vec<crate::sandbox::LayerReport>) {
        if self.announced {
            return;
        }
        self.announced = true;
        layers.extend(self.accounting.layers());
        if let Ok(frame) = wire::message(
            Kind::Ready,
            &Ready {
                layers,
                slots: self.slots,
            },
        ) {
            self.control_out.push(frame);
            // A failure shows as the end of the socket.
            let _ = self.control_out.flush(self.control.fd());
            if !self.control_out.is_empty() {
                self.control
                    .want(&self.epoll, epoll::EventFlags::IN | epoll::EventFlags::OUT);
            }
        }
    }

    /// Kills all boxes and removes what can be removed; what can't is swept by the next helper.
    fn leave(&mut self) {
        let until = Instant::now() + FAREWELL;
        for seat in self.boxes.values() {
            seat.kill();
        }
        for seat in self.boxes.values_mut() {
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(seat.pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
            while seat.group.remove().is_err() && Instant::now() < until {
                std::thread::sleep(REMOVE_DELAY);
            }
        }
        self.boxes.clear();
        self.accounting.close();
    }

    fn running(&self) -> usize {
        self.boxes
            .values()
            .filter(|seat| seat.state == State::Running)
            .count()
    }
}

/// Without root: a user namespace in which we may mount. Boxes are then all the worker's own user on the host.
fn become_namespace_root(host: &HostView) -> Result<(), String> {
    let (user, group) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    sys::unshare(libc::CLONE_NEWUSER)
        .map_err(|error| format!("user namespaces are refused: {error}"))?;
    let write = |name: &str, text: String| {
        boxes::write_map(host.proc.as_fd(), "self", name, &text)
            .map_err(|error| format!("{name}: {error}"))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {user} 1"))?;
    write("gid_map", format!("0 {group} 1"))
}
