//! One program on its way through a box: files, steps, limits, artifacts, and the report at the end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::epoll::EventFlags;

use super::boxes::State;
use super::verdict::{Running, exceeded, report};
use super::watch::{Source, Watch};
use super::{REFILL_DELAY, Supervisor, TICK, UNAIDED_TICK};
use crate::sandbox::ns::kind::BoxKind;
use crate::sandbox::ns::wire::{
    self, Done, Failure, Filled, Inbox, Kind, MAX_PROGRAM_BYTES, Outbox, ProgramHead, StepEnd,
    StepOrder, StepReport,
};
use crate::sandbox::{Limits, Skipped, StepKind, Verdict};

/// Bytes waiting for a slow worker beyond which a box's output is left in its pipe.
const BACKLOG_BYTES: usize = 512 * 1024;
/// How long bringing out files may take.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    cancelled: bool,
    program: Option<(ProgramHead, Bytes)>,
    seat: Option<u64>,
    compile: Option<StepReport>,
    run: Option<StepReport>,
    skipped: Vec<Skipped>,
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

    fn start_step(&mut self, id: u64, kind: StepKind) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let Some(seat) = job.seat.and_then(|seat| self.boxes.get_mut(&seat)) else {
            return;
        };
        let Some((program, contents)) = &mut job.program else {
            return;
        };
        let (step, input) = match kind {
            StepKind::Compile => (
                program.compile.clone().unwrap_or_default(),
                wire::take(contents, program.compile_input),
            ),
            StepKind::Run => (program.run.clone(), wire::take(contents, program.run_input)),
        };
        let limits = match kind {
            StepKind::Compile => program.compile_limits.unwrap_or(program.limits),
            StepKind::Run => program.limits,
        };
        // Disk and processes are the box's.
        let limits = Limits {
            disk_bytes: program.limits.disk_bytes,
            inodes: program.limits.inodes,
            pids: program.limits.pids,
            ..limits
        };
        let order = StepOrder {
            step,
            limits,
            limit_data_segment: self.accounting.limits_data_segment(),
            tasks_beside: seat.group.tasks_beside(),
        };
        let frame = input.and_then(|input| wire::message_with(Kind::Step, &order, &[&input]));
        let before = frame.and_then(|frame| {
            seat.outbox.push(frame);
            seat.begin_step(&limits)
        });
        let before = match before {
            Ok(before) => before,
            Err(error) => {
                let reason = format!("limits can't be set: {error}");
                return self.fail_job(
                    id,
                    Failure {
                        field: None,
                        reason,
                    },
                );
            }
        };
        let now = Instant::now();
        let tick = if self.accounting.one_at_a_time() {
            UNAIDED_TICK
        } else {
            TICK
        };
        job.phase = Phase::Step(Running {
            kind,
            limits,
            started: now,
            deadline: now + Duration::from_millis(limits.wall_ms),
            next_tick: now + tick,
            before,
            offsets: [0, 0],
            truncated: false,
            verdict: None,
        });
        let flushed = seat.outbox.flush(seat.socket.fd());
        let seat_id = job.seat;
        if let (Err(_), Some(seat)) = (flushed, seat_id) {
            return self.discard(seat);
        }
        self.refresh(id);
    }

    /// Kills a step for a reason.
    pub(super) fn stop(&mut self, id: u64, verdict: Verdict) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        if let Phase::Step(step) = &mut job.phase
            && step.verdict.is_none()
        {
            step.verdict = Some(verdict);
            if let Some(seat) = job.seat.and_then(|seat| self.boxes.get(&seat)) {
                seat.kill();
            }
        }
    }

    /// A deadline or a tick has come.
    pub(super) fn look_at_job(&mut self, id: u64, now: Instant) {
        let tick = if self.accounting.one_at_a_time() {
            UNAIDED_TICK
        } else {
            TICK
        };
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        match &mut job.phase {
            Phase::Step(step) => {
                let Some(seat) = job.seat.and_then(|seat| self.boxes.get_mut(&seat)) else {
                    return;
                };
                step.next_tick = now + tick;
                let spent = seat.group.spent();
                if let Some(verdict) =
                    exceeded(step, &spent).or((now >= step.deadline).then_some(Verdict::TimedOut))
                {
                    self.stop(id, verdict);
                }
            }
            Phase::Collecting { .. } => {
                job.skipped.push(Skipped {
                    path: String::new(),
                    reason: "bringing out files took too long".into(),
                });
                self.finish_job(id);
            }
            _ => {}
        }
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

    /// A step is over. `end` is what its box saw; without one the box itself is dead.
    fn end_step(&mut self, seat_id: u64, id: u64, end: Option<StepEnd>) {
        self.drain(seat_id, id);
        let (Some(seat), Some(job)) = (self.boxes.get_mut(&seat_id), self.jobs.get_mut(&id)) else {
            return;
        };
        let spent = seat.group.spent();
        let Phase::Step(step) = &job.phase else {
            return;
        };
        let died = end.is_none();
        // Without a pid namespace a program may reach its box's first process, where the kernel can't scope signals.
        let killed_from_inside = || StepEnd {
            exit_code: None,
            signal: Some(libc::SIGKILL),
            refusal: None,
            wall_us: u64::try_from(step.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        let end = match self.configuration.kind {
            BoxKind::Namespaces => end,
            BoxKind::Landlock => end.or_else(|| Some(killed_from_inside())),
        };
        let Some(report) = report(step, &spent, end) else {
            let reason = "its box died, and not for memory".to_owned();
            return self.fail_job(
                id,
                Failure {
                    field: None,
                    reason,
                },
            );
        };
        let passed = report.verdict == Verdict::Exited && report.exit_code == Some(0);
        let kind = step.kind;
        let exited = report.verdict == Verdict::Exited;
        match kind {
            StepKind::Compile => job.compile = Some(report),
            StepKind::Run => job.run = Some(report),
        }
        if kind == StepKind::Compile && passed && !job.cancelled {
            return self.start_step(id, StepKind::Run);
        }
        let request = job
            .program
            .as_ref()
            .and_then(|(program, _)| program.artifacts.clone());
        match request {
            Some(request) if kind == StepKind::Run && exited && !died && !job.cancelled => {
                job.phase = Phase::Collecting {
                    deadline: Instant::now() + COLLECT_TIMEOUT,
                };
                match wire::message(Kind::Collect, &request) {
                    Ok(frame) => seat.outbox.push(frame),
                    Err(_) => return self.finish_job(id),
                }
                if seat.outbox.flush(seat.socket.fd()).is_err() {
                    return self.discard(seat_id);
                }
                self.refresh(id);
            }
            _ => self.finish_job(id),
        }
    }

    /// Sends the report and lets the box go.
    fn finish_job(&mut self, id: u64) {
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
