//! Live output in memory: it ends with the process, and so do the programs.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::ids::JobId;
use crate::domain::job::Progress;
use crate::ports::{
    LiveOutput, OUTPUT_PIECE_MAX_BYTES, OUTPUT_PIECES_MAX, OutputPage, OutputPiece, OutputWaker,
    PortError, Result,
};

/// How long a program's words are kept after the last, where nobody says that it ended: whoever ran it died.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// Programs whose words are kept or watched: as many as run, and as are watched.
#[derive(Default)]
pub struct MemoryLiveOutput {
    programs: Mutex<HashMap<JobId, Program>>,
}

#[derive(Default)]
struct Program {
    attempt: u32,
    pieces: VecDeque<OutputPiece>,
    dropped: u64,
    progress: Option<Progress>,
    moved: watch::Sender<u64>,
    /// When it last said something, or began to.
    spoke: Option<Instant>,
}

impl Program {
    /// Forgets what it said; who watches it goes on watching.
    fn forget(&mut self) {
        self.attempt = 0;
        self.pieces = VecDeque::new();
        self.dropped = 0;
        self.progress = None;
        self.spoke = None;
    }

    fn forget_if_old(&mut self) {
        if self.spoke.is_some_and(|spoke| spoke.elapsed() >= KEPT) {
            self.forget();
        }
    }
}

impl MemoryLiveOutput {
    fn change(&self, job: JobId, change: impl FnOnce(&mut Program) -> bool) -> bool {
        let mut programs = self.programs.lock();
        let program = programs.entry(job).or_default();
        program.forget_if_old();
        let changed = change(program);
        if changed {
            program.spoke = (program.attempt > 0).then(Instant::now);
            program.moved.send_modify(|n| *n = n.wrapping_add(1));
        }
        // Of those that neither speak nor are watched nothing is kept.
        programs.retain(|_, program| {
            program.forget_if_old();
            program.attempt > 0 || program.moved.receiver_count() > 0
        });
        changed
    }
}

#[async_trait]
impl LiveOutput for MemoryLiveOutput {
    async fn begin(&self, job: JobId, attempt: u32) -> Result<bool> {
        Ok(self.change(job, |program| {
            if program.attempt > attempt {
                return false;
            }
            program.forget();
            program.attempt = attempt;
            true
        }))
    }

    async fn append(&self, job: JobId, attempt: u32, piece: &OutputPiece) -> Result<bool> {
        if piece.text.len() > OUTPUT_PIECE_MAX_BYTES {
            return Err(PortError::fatal(
                "write live output",
                "the piece is too long",
            ));
        }
        Ok(self.change(job, |program| {
            if program.attempt != attempt {
                return false;
            }
            program.pieces.push_back(piece.clone());
            if program.pieces.len() > OUTPUT_PIECES_MAX {
                program.pieces.pop_front();
                program.dropped += 1;
            }
            true
        }))
    }

    async fn progress(&self, job: JobId, attempt: u32, progress: &Progress) -> Result<bool> {
        Ok(self.change(job, |program| {
            if program.attempt != attempt {
                return false;
            }
            program.progress = Some(progress.clone());
            true
        }))
    }

    async fn end(&self, job: JobId) -> Result<()> {
        self.change(job, |program| {
            program.forget();
            true
        });
        Ok(())
    }

    async fn read(&self, job: JobId, attempt: u32, after: u64, limit: usize) -> Result<OutputPage> {
        let mut programs = self.programs.lock();
        let Some(program) = programs.get_mut(&job) else {
            return Ok(OutputPage::default());
        };
        program.forget_if_old();
        let after = if program.attempt == attempt { after } else { 0 };
        let from = after.saturating_sub(program.dropped);
        let from = usize::try_from(from)
            .unwrap_or(usize::MAX)
            .min(program.pieces.len());
        let pieces: Vec<OutputPiece> = program.pieces.range(from..).take(limit).cloned().collect();
        Ok(OutputPage {
            attempt: program.attempt,
            next: program.dropped + (from + pieces.len()) as u64,
            pieces,
            progress: program.progress.clone(),
        })
    }

    async fn waker(&self, job: JobId) -> Result<OutputWaker> {
        let mut programs = self.programs.lock();
        Ok(programs.entry(job).or_default().moved.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(output: &MemoryLiveOutput, job: JobId, text: &str) -> bool {
        let piece = OutputPiece {
            stream: "stdout".into(),
            offset: 0,
            text: text.into(),
        };
        output.append(job, 1, &piece).await.unwrap()
    }

    /// Its worker died before it could say that it ended.
    #[tokio::test]
    async fn nothing_is_kept_for_longer_than_an_hour_after_the_last_word() {
        let output = MemoryLiveOutput::default();
        let (dead, live) = (JobId::generate(), JobId::generate());
        for job in [dead, live] {
            assert!(output.begin(job, 1).await.unwrap());
            assert!(says(&output, job, "here").await);
        }
        let pass = |time: Duration| {
            for program in output.programs.lock().values_mut() {
                program.spoke = program.spoke.and_then(|spoke| spoke.checked_sub(time));
            }
        };
        pass(KEPT - Duration::from_secs(60));
        assert!(says(&output, live, "still here").await);
        assert_eq!(output.read(dead, 1, 0, 9).await.unwrap().pieces.len(), 1);
        pass(Duration::from_secs(60));
        assert_eq!(output.read(dead, 1, 0, 9).await.unwrap().attempt, 0);
        assert!(!says(&output, dead, "too late").await);
        assert_eq!(output.read(live, 1, 0, 9).await.unwrap().pieces.len(), 2);
        assert!(!output.programs.lock().contains_key(&dead));
    }
}
