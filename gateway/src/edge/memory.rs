//! Memory for files that are read whole before anybody looks at them: counted as they come in, so that who sends slowly
//! holds no more than what they have sent, and keeps nobody waiting.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};

/// What is counted at a time, bytes.
const UNIT: usize = 64 << 10;

/// So much for all of them together.
pub struct Memory(Arc<Semaphore>);

/// What one file holds of it, until dropped.
pub struct Held(OwnedSemaphorePermit);

impl Memory {
    pub fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units)))
    }

    /// Of a file of which nothing has come in yet.
    pub fn begin(&self) -> Result<Held, Problem> {
        take(&self.0, 0).map(Held)
    }
}

impl Held {
    /// The file has so many bytes by now. Where there is no room for them, nobody is waited for: they may never end.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.div_ceil(UNIT).saturating_sub(self.0.num_permits());
        if more > 0 {
            self.0.merge(take(self.0.semaphore(), more)?);
        }
        Ok(())
    }
}

fn take(units: &Arc<Semaphore>, more: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    units.clone().try_acquire_many_owned(more).map_err(|_| {
        let words = "Too many large files are being read; try again in a moment.";
        Problem::new(Kind::Busy, words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_has_come_in_and_gives_it_back() {
        let memory = Memory::new(4 * UNIT);
        let (mut one, mut other) = (memory.begin().unwrap(), memory.begin().unwrap());
        one.grow_to(1).unwrap();
        one.grow_to(UNIT).unwrap();
        one.grow_to(UNIT + 1).unwrap();
        other.grow_to(2 * UNIT).unwrap();
        assert_eq!(other.grow_to(2 * UNIT + 1).unwrap_err().kind, Kind::Busy);
        // Who has sent nothing yet is let in all the same.
        let idle = memory.begin().unwrap();
        drop((one, idle));
        other.grow_to(4 * UNIT).unwrap();
    }
}
