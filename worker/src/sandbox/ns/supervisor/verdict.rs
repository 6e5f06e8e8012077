//! Judging a step: from what it spent, how it ended and why we killed it.

use std::time::Instant;

use atelier_shared::domain::job::Usage;

use crate::sandbox::ns::accounting::Spent;
use crate::sandbox::ns::wire::{StepEnd, StepReport};
use crate::sandbox::{Limits, StepKind, Verdict};

/// A step under way.
pub struct Running {
    pub kind: StepKind,
    pub limits: Limits,
    pub started: Instant,
    pub deadline: Instant,
    pub next_tick: Instant,
    pub before: Spent,
    /// Bytes of standard output and error so far.
    pub offsets: [u64; 2],
    pub truncated: bool,
    /// Why we killed it.
    pub verdict: Option<Verdict>,
}

/// Which limit the counters are beyond.
pub fn exceeded(step: &Running, spent: &Spent) -> Option<Verdict> {
    if spent.out_of_memory > step.before.out_of_memory {
        Some(Verdict::OutOfMemory)
    } else if spent.cpu_us.saturating_sub(step.before.cpu_us)
        >= step.limits.cpu_ms.saturating_mul(1000)
    {
        Some(Verdict::CpuExceeded)
    } else if spent.too_many_files {
        Some(Verdict::DiskExceeded)
    } else {
        None
    }
}

/// Judges a step. `None` when its box died and nobody knows why.
pub fn report(step: &Running, spent: &Spent, end: Option<StepEnd>) -> Option<StepReport> {
    let limits = &step.limits;
    let by_counters = exceeded(step, spent);
    let end = end.unwrap_or(StepEnd {
        exit_code: None,
        signal: None,
        refusal: None,
        wall_us: u64::try_from(step.started.elapsed().as_micros()).unwrap_or(u64::MAX),
    });
    let verdict = if let Some(ours) = step.verdict {
        ours
    } else if end.refusal.is_some() {
        Verdict::NotStarted
    } else if by_counters == Some(Verdict::OutOfMemory) {
        Verdict::OutOfMemory
    } else if by_counters == Some(Verdict::DiskExceeded) {
        Verdict::DiskExceeded
    } else if end.exit_code.is_some() {
        Verdict::Exited
    } else if end.signal == Some(libc::SIGXCPU)
        || (end.signal == Some(libc::SIGKILL) && by_counters.is_some())
    {
        Verdict::CpuExceeded
    } else if end.signal.is_some() {
        Verdict::Signaled
    } else {
        // The box's first process can't be killed from inside, except by the kernel for want of memory.
        by_counters?
    };
    let message = match verdict {
        Verdict::TimedOut => Some(format!("killed after {} ms", limits.wall_ms)),
        Verdict::CpuExceeded => Some(format!("killed after {} ms of CPU time", limits.cpu_ms)),
        Verdict::OutOfMemory => Some(format!(
            "killed beyond {} bytes of memory",
            limits.memory_bytes
        )),
        Verdict::OutputLimit => Some(format!(
            "killed after {} bytes of output",
            limits.output_bytes
        )),
        Verdict::DiskExceeded => Some(format!(
            "killed beyond {} bytes of files, {} files, or folders too deep",
            limits.disk_bytes, limits.inodes
        )),
        Verdict::Cancelled => Some("cancelled".to_owned()),
        Verdict::NotStarted => end.refusal.clone(),
        Verdict::Exited | Verdict::Signaled => None,
    };
    let ours = !matches!(
        verdict,
        Verdict::Exited | Verdict::Signaled | Verdict::NotStarted
    );
    Some(StepReport {
        verdict,
        exit_code: if verdict == Verdict::Exited {
            end.exit_code
        } else {
            None
        },
        signal: end.signal.or(ours.then_some(libc::SIGKILL)),
        truncated: step.truncated,
        usage: Usage {
            wall_ms: end.wall_us / 1000,
            cpu_ms: spent.cpu_us.saturating_sub(step.before.cpu_us) / 1000,
            max_memory_bytes: spent.memory_peak_bytes,
            pids_max: spent.pids_peak,
        },
        message,
    })
}

/// Of a run that has less memory than is in use before it begins.
pub fn does_not_fit(limits: &Limits) -> StepReport {
    StepReport {
        verdict: Verdict::OutOfMemory,
        exit_code: None,
        signal: Some(libc::SIGKILL),
        truncated: false,
        usage: Usage::default(),
        message: Some(format!(
            "compiling left more than {} bytes in memory",
            limits.memory_bytes
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(verdict: Option<Verdict>) -> Running {
        let now = Instant::now();
        Running {
            kind: StepKind::Run,
            limits: Limits {
                cpu_ms: 100,
                ..Limits::default()
            },
            started: now,
            deadline: now,
            next_tick: now,
            before: Spent {
                cpu_us: 5_000,
                out_of_memory: 1,
                ..Spent::default()
            },
            offsets: [0, 0],
            truncated: false,
            verdict,
        }
    }

    fn end(exit_code: Option<i32>, signal: Option<i32>) -> Option<StepEnd> {
        Some(StepEnd {
            exit_code,
            signal,
            refusal: None,
            wall_us: 2_500,
        })
    }

    fn spent(cpu_us: u64, out_of_memory: u64) -> Spent {
        Spent {
            cpu_us,
            out_of_memory,
            ..Spent::default()
        }
    }

    #[test]
    fn counters_are_told_from_where_the_step_began() {
        let report = report(&step(None), &spent(25_000, 1), end(Some(3), None)).expect("a report");
        assert_eq!(
            (report.verdict, report.exit_code, report.usage.cpu_ms),
            (Verdict::Exited, Some(3), 20)
        );
        assert_eq!(report.usage.wall_ms, 2);
    }

    #[test]
    fn our_own_reason_wins_over_what_the_box_says() {
        let report = report(
            &step(Some(Verdict::OutputLimit)),
            &spent(0, 9),
            end(Some(0), None),
        )
        .expect("a report");
        assert_eq!(
            (report.verdict, report.exit_code, report.signal),
            (Verdict::OutputLimit, None, Some(libc::SIGKILL))
        );
    }

    #[test]
    fn a_program_that_survived_the_loss_of_a_child_to_memory_is_out_of_memory() {
        let report = report(&step(None), &spent(0, 2), end(Some(0), None)).expect("a report");
        assert_eq!(
            (report.verdict, report.exit_code),
            (Verdict::OutOfMemory, None)
        );
    }

    #[test]
    fn the_kernels_own_cpu_limit_is_told_from_any_other_kill() {
        let verdict = |signal, cpu_us| {
            report(&step(None), &spent(cpu_us, 1), end(None, Some(signal)))
                .map(|report| report.verdict)
        };
        assert_eq!(verdict(libc::SIGXCPU, 0), Some(Verdict::CpuExceeded));
        assert_eq!(verdict(libc::SIGKILL, 200_000), Some(Verdict::CpuExceeded));
        assert_eq!(verdict(libc::SIGKILL, 6_000), Some(Verdict::Signaled));
    }

    #[test]
    fn a_box_that_died_for_no_known_reason_has_no_verdict() {
        assert!(report(&step(None), &spent(5_000, 1), None).is_none());
        let starved = report(&step(None), &spent(5_000, 2), None).expect("a report");
        assert_eq!(starved.verdict, Verdict::OutOfMemory);
    }
}
