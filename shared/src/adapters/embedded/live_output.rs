//! Live output in memory: it ends with the process, and so do the programs.

use std::collections::{HashMap, VecDeque};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::ids::JobId;
use crate::domain::job::Progress;
use crate::ports::{
    LiveOutput, OUTPUT_PIECE_MAX_BYTES, OUTPUT_PIECES_MAX, OutputPage, OutputPiece, OutputWaker,
    PortError, Result,
};

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
}

impl MemoryLiveOutput {
    fn change(&self, job: JobId, change: impl FnOnce(&mut Program) -> bool) -> bool {
        let mut programs = self.programs.lock();
        let program = programs.entry(job).or_default();
        let changed = change(program);
        if changed {
            program.moved.send_modify(|n| *n = n.wrapping_add(1));
        }
        // Of those that neither speak nor are watched nothing is kept.
        programs.retain(|_, p| p.attempt > 0 || p.moved.receiver_count() > 0);
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
            program.attempt = attempt;
            program.pieces.clear();
            program.dropped = 0;
            program.progress = None;
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
            program.attempt = 0;
            program.pieces.clear();
            program.dropped = 0;
            program.progress = None;
            true
        });
        Ok(())
    }

    async fn read(&self, job: JobId, attempt: u32, after: u64, limit: usize) -> Result<OutputPage> {
        let programs = self.programs.lock();
        let Some(program) = programs.get(&job) else {
            return Ok(OutputPage::default());
        };
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
