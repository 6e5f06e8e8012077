//! The steps of a program in its box: started, watched, stopped for a reason, and what comes after each.

use std::time::{Duration, Instant};

use super::job::Phase;
use super::verdict::{Running, does_not_fit, exceeded, report};
use super::{Supervisor, TICK, UNAIDED_TICK};
use crate::sandbox::ns::kind::BoxKind;
use crate::sandbox::ns::wire::{self, Failure, Kind, StepEnd, StepOrder};
use crate::sandbox::{Limits, Skipped, StepKind, Verdict};

/// How long bringing out files may take.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Sends a step's order and its input to the program's box.
    pub(super) fn start_step(&mut self, id: u64, kind: StepKind) {
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
            // Version 1 of control groups sets no limit below what is in use: what compiling left is more than the run may
            // have.
            Err(error) if kind == StepKind::Run && error.raw_os_error() == Some(libc::EBUSY) => {
                job.run = Some(does_not_fit(&limits));
                return self.finish_job(id);
            }
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

    /// A step is over. `end` is what its box saw; without one the box itself is dead.
    pub(super) fn end_step(&mut self, seat_id: u64, id: u64, end: Option<StepEnd>) {
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
}
