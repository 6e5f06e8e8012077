//! A step's output: read from its pipes, cut at the limit, passed on while the worker keeps up.

use super::Supervisor;
use super::job::Phase;
use super::watch::Source;
use crate::sandbox::ns::wire::{self, CHUNK_BYTES, Kind, OutputHead};
use crate::sandbox::{Channel, Verdict};

impl Supervisor {
    /// Output of a step can be read.
    pub(super) fn read_output(&mut self, seat_id: u64, source: Source) {
        let Some(job) = self.boxes.get(&seat_id).and_then(|seat| seat.job) else {
            return self.silence(seat_id, source);
        };
        if !self.read_once(seat_id, job, source) {
            self.silence(seat_id, source);
        }
        self.send(job);
        self.refresh(job);
    }

    fn silence(&mut self, seat_id: u64, source: Source) {
        let Some(seat) = self.boxes.get_mut(&seat_id) else {
            return;
        };
        match source {
            Source::Stdout => seat.stdout = None,
            _ => seat.stderr = None,
        }
    }

    /// Reads what is there, up to a chunk. `false` at the end of the pipe.
    fn read_once(&mut self, seat_id: u64, id: u64, source: Source) -> bool {
        let mut buffer = [0; CHUNK_BYTES];
        let Some(seat) = self.boxes.get(&seat_id) else {
            return false;
        };
        let (pipe, channel) = match source {
            Source::Stdout => (&seat.stdout, Channel::Stdout),
            _ => (&seat.stderr, Channel::Stderr),
        };
        let Some(pipe) = pipe else { return false };
        let length = match rustix::io::read(pipe.fd(), &mut buffer) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
            Err(_) => return false,
        };
        let Some(job) = self.jobs.get_mut(&id) else {
            return true;
        };
        let Phase::Step(step) = &mut job.phase else {
            return true;
        };
        let room = step
            .limits
            .output_bytes
            .saturating_sub(step.offsets[0] + step.offsets[1]);
        let kept = length.min(usize::try_from(room).unwrap_or(usize::MAX));
        let slot = usize::from(channel == Channel::Stderr);
        if kept > 0 {
            let head = OutputHead {
                step: step.kind,
                channel,
                offset: step.offsets[slot],
            };
            job.outbox.push(wire::frame(
                Kind::Output,
                &[&head.encode(), buffer.get(..kept).unwrap_or_default()],
            ));
            step.offsets[slot] += kept as u64;
        }
        if kept < length {
            step.truncated = true;
            self.stop(id, Verdict::OutputLimit);
        }
        true
    }

    /// Reads everything a dead step left in its pipes.
    pub(super) fn drain(&mut self, seat_id: u64, id: u64) {
        for source in [Source::Stdout, Source::Stderr] {
            loop {
                let Some(job) = self.jobs.get(&id) else {
                    return;
                };
                let before = (
                    job.outbox.len(),
                    matches!(&job.phase, Phase::Step(step) if step.truncated),
                );
                // Once cut off, the rest is of no interest.
                if before.1 || !self.read_once(seat_id, id, source) {
                    break;
                }
                let Some(job) = self.jobs.get(&id) else {
                    return;
                };
                if job.outbox.len() == before.0 {
                    break;
                }
            }
        }
    }
}
