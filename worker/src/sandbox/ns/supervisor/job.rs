//! One program on its way through a box: files, steps (see `steps.rs`), artifacts, and the report at the end.

use std::os::fd::OwnedFd;
use std::time::Instant;

use bytes::Bytes;
use rustix::event::epoll::EventFlags;

use super::boxes::State;
use super::verdict::Running;
use super::watch::{Source, Watch};
use super::{REFILL_DELAY, Supervisor};
use crate::sandbox::ns::kind::BoxKind;
use crate::sandbox::ns::wire::{
    self, Done, Failure, Filled, Inbox, Kind, MAX_PROGRAM_BYTES, Outbox, ProgramHead, StepEnd,
    StepReport,
};
use crate::sandbox::{Skipped, StepKind, Verdict};

/// Bytes waiting for a slow worker beyond which a box's output is left in its pipe.
const BACKLOG_BYTES: usize = 512 * 1024;
/// Where a program is.
pub enum Phase {
    /// Its frame is still coming in.
    Arriving,
    /// For a box.
    Waiting,
    /// In a step.
    Step(Running),
    /// Its files are brought out.
    Collecting { deadline: Instant },
    /// Its last frame is going out.
    Leaving,
}

/// One program.
pub struct Job {
    stream: Watch,
    inbox: Inbox,
    pub outbox: Outbox,
    pub phase: Phase,
    /// Whether the worker has closed its side: it wants the end, whatever it is.
    pub cancelled: bool,
    pub program: Option<(ProgramHead, Bytes)>,
    pub seat: Option<u64>,
    pub compile: Option<StepReport>,
    pub run: Option<StepReport>,
    pub skipped: Vec<Skipped>,
}

impl Job {
    pub fn next_time(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Step(step) if step.verdict.is_none() => Some(step.deadline.min(step.next_tick)),
            Phase::Collecting { deadline } => Some(*deadline),
            _ => None,
        }
    }

    fn throttled(&self) -> bool {
        self.outbox.len() > BACKLOG_BYTES
    }
}

impl Supervisor {
    /// A new program's socket.
    pub(super) fn open_job(&mut self, socket: OwnedFd) {
        let id = self.take_id();
        let stream = rustix::io::ioctl_fionbio(&socket, true)
            .map_err(Into::into)
            .and_then(|()| Watch::owning(&self.epoll, socket, id, Source::Job, EventFlags::IN));
        // Without a place in the loop it is closed, which the worker takes for a lost program.
        let Ok(stream) = stream else { return };
        self.jobs.insert(
            id,
            Job {
                stream,
                inbox: Inbox::new(MAX_PROGRAM_BYTES),
                outbox: Outbox::default(),
                phase: Phase::Arriving,
                cancelled: false,
                program: None,
                seat: None,
                compile: None,
                run: None,
                skipped: Vec::new(),
            },
        );
        self.hear_job(id, EventFlags::IN);
    }

    /// The program's socket can be read or written.
    pub(super) fn hear_job(&mut self, id: u64, flags: EventFlags) {
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            // Nobody is left to hear the end.
            return self.drop_job(id);
        }
        if flags.contains(EventFlags::OUT) {
            self.send(id);
        }
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        while !job.cancelled {
            match job.inbox.fill(job.stream.fd()) {
                Ok(Filled::Some) => {}
                Ok(Filled::Nothing) => break,
                Ok(Filled::End) | Err(_) => job.cancelled = true,
            }
        }
        if matches!(job.phase, Phase::Arriving) {
            match job.inbox.next() {
                Ok(Some((Kind::Program, body))) => match wire::parse_with::<ProgramHead>(body) {
                    Ok(program) => {
                        job.program = Some(program);
                        job.phase = Phase::Waiting;
                        self.find_box(id);
                    }
                    Err(_) => return self.drop_job(id),
                },
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return self.drop_job(id),
            }
        }
        self.cancel_if_asked(id);
        self.refresh(id);
    }

    fn cancel_if_asked(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if !job.cancelled {
            return;
        }
        match &mut job.phase {
            Phase::Arriving => self.drop_job(id),
            Phase::Waiting => {
                self.queue.retain(|waiting| *waiting != id);
                self.finish_job(id);
            }
            Phase::Step(_) => self.stop(id, Verdict::Cancelled),
            Phase::Collecting { .. } => self.finish_job(id),
            Phase::Leaving => {}
        }
    }

    fn find_box(&mut self, id: u64) {
        let Some((program, _)) = self.jobs.get(&id).and_then(|job| job.program.as_ref()) else {
            return;
        };
        let (limits, usual) = (program.limits, self.configuration.usual);
        // Only a box with a file system of its own has its size from birth.
        let any_box_will_do = self.configuration.kind == BoxKind::Landlock;
        if any_box_will_do || limits.disk_bytes == usual.disk_bytes && limits.inodes == usual.inodes
        {
            self.queue.push_back(id);
            return self.start_waiting();
        }
        match self.give_birth(limits, Some(id)) {
            Ok(seat) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.seat = Some(seat);
                }
            }
            Err(error) => self.fail_job(
                id,
                Failure {
                    field: None,
                    reason: format!("a box can't be built: {error}"),
                },
            ),
        }
    }

    /// Gives waiting programs to ready boxes.
    pub(super) fn start_waiting(&mut self) {
        while !self.queue.is_empty() && self.running() < self.slots {
            let ready = self
                .boxes
                .iter()
                .find(|(_, seat)| seat.state == State::Ready && !seat.made_to_measure);
            let Some((&seat, _)) = ready else {
                self.refill_at = Some(Instant::now());
                return;
            };
            if let Some(job) = self.queue.pop_front() {
                self.start_job(job, seat);
            }
        }
    }

    /// Sends the files and the first step to a box.
    pub(super) fn start_job(&mut self, id: u64, seat_id: u64) {
        let Some(seat) = self.boxes.get_mut(&seat_id) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&id) else {
            // Cancelled while its box was made.
            return self.discard(seat_id);
        };
        let Some((program, contents)) = &mut job.program else {
            return;
        };
        seat.state = State::Running;
        seat.job = Some(id);
        job.seat = Some(seat_id);
        let files =
            contents.slice((program.compile_input + program.run_input).min(contents.len())..);
        if !program.files.is_empty() {
            match wire::message_with(Kind::Files, &program.files, &[&files]) {
                Ok(frame) => seat.outbox.push(frame),
                Err(_) => return self.drop_job(id),
            }
            contents.truncate(program.compile_input + program.run_input);
        }
        let first = if program.compile.is_some() {
            StepKind::Compile
        } else {
            StepKind::Run
        };
        self.start_step(id, first);
        self.refill_at = Some(
            self.refill_at
                .unwrap_or_else(|| Instant::now() + REFILL_DELAY),
        );
    }

    /// A box with a program in it says something.
    pub(super) fn job_hears(&mut self, seat_id: u64, kind: Kind, body: Bytes) {
        let Some(id) = self.boxes.get(&seat_id).and_then(|seat| seat.job) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        match (&job.phase, kind) {
            (Phase::Step(_), Kind::StepEnd) => match wire::parse::<StepEnd>(&body) {
                Ok(end) => self.end_step(seat_id, id, Some(end)),
                Err(_) => self.discard(seat_id),
            },
            (Phase::Step(_), Kind::BoxFailed) => match wire::parse::<Failure>(&body) {
                Ok(failure) => self.fail_job(id, failure),
                Err(_) => self.discard(seat_id),
            },
            (Phase::Collecting { .. }, Kind::ArtifactPath | Kind::ArtifactData) => {
                job.outbox.push(wire::frame(kind, &[&body]));
                self.send(id);
                self.refresh(id);
            }
            (Phase::Collecting { .. }, Kind::Collected) => {
                job.skipped = wire::parse(&body).unwrap_or_default();
                self.finish_job(id);
            }
            _ => self.discard(seat_id),
        }
    }

    /// A box died under its program: because we killed it, because the kernel did, or for no reason we know.
    pub(super) fn job_lost_its_box(&mut self, seat_id: u64) {
        let Some(id) = self.boxes.get(&seat_id).and_then(|seat| seat.job) else {
            return;
        };
        match self.jobs.get(&id).map(|job| &job.phase) {
            Some(Phase::Step(_)) => self.end_step(seat_id, id, None),
            Some(Phase::Collecting { .. }) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.skipped.push(Skipped {
                        path: String::new(),
                        reason: "the box ended before its files were out".into(),
                    });
                }
                self.finish_job(id);
            }
            _ => {}
        }
    }

    /// Sends the report and lets the box go.
    pub(super) fn finish_job(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let done = Done {
            compile: job.compile.take(),
            run: job.run.take(),
            skipped: std::mem::take(&mut job.skipped),
        };
        match wire::message(Kind::Done, &done) {
            Ok(frame) => self.say_goodbye(id, frame),
            Err(_) => self.drop_job(id),
        }
    }

    pub(super) fn fail_job(&mut self, id: u64, failure: Failure) {
        match wire::message(Kind::Failed, &failure) {
            Ok(frame) => self.say_goodbye(id, frame),
            Err(_) => self.drop_job(id),
        }
    }

    fn say_goodbye(&mut self, id: u64, frame: Vec<u8>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        job.outbox.push(frame);
        job.phase = Phase::Leaving;
        let seat = job.seat.take();
        // The answer first, the clearing up after.
        self.send(id);
        self.release(seat);
    }

    fn drop_job(&mut self, id: u64) {
        self.queue.retain(|waiting| *waiting != id);
        let seat = self.jobs.remove(&id).and_then(|job| job.seat);
        self.release(seat);
    }

    fn release(&mut self, seat_id: Option<u64>) {
        let Some(seat_id) = seat_id else { return };
        if let Some(seat) = self.boxes.get_mut(&seat_id) {
            seat.job = None;
            if seat.state != State::Preparing {
                seat.state = State::Dying;
            }
            seat.kill();
        }
        self.start_waiting();
    }

    /// Writes to the worker what it takes; a program whose last frame is out is done.
    pub(super) fn send(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if job.outbox.flush(job.stream.fd()).is_err() {
            return self.drop_job(id);
        }
        if matches!(job.phase, Phase::Leaving) && job.outbox.is_empty() {
            self.drop_job(id);
        }
    }

    /// Asks the loop for what this program and its box can use now.
    pub(super) fn refresh(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut wanted = EventFlags::empty();
        if !job.cancelled {
            wanted |= EventFlags::IN;
        }
        if !job.outbox.is_empty() {
            wanted |= EventFlags::OUT;
        }
        job.stream.want(&self.epoll, wanted);
        if let Some(seat) = job.seat {
            self.set_interest(seat);
        }
    }

    pub(super) fn set_interest(&mut self, seat_id: u64) {
        let Some(seat) = self.boxes.get_mut(&seat_id) else {
            return;
        };
        let throttled = seat
            .job
            .and_then(|job| self.jobs.get(&job))
            .is_some_and(Job::throttled);
        let reading = if throttled {
            EventFlags::empty()
        } else {
            EventFlags::IN
        };
        for pipe in [&mut seat.stdout, &mut seat.stderr].into_iter().flatten() {
            pipe.want(&self.epoll, reading);
        }
        let writing = if seat.outbox.is_empty() {
            EventFlags::empty()
        } else {
            EventFlags::OUT
        };
        seat.socket.want(&self.epoll, reading | writing);
    }
}
