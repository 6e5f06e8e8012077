//! A running program's output on its way to the room and to whoever watches the job: the first at once, then joined for a moment, never across a
//! character.

use std::collections::BTreeMap;
use std::time::Duration;

use atelier_shared::domain::ids::{JobId, RoomId};
use atelier_shared::domain::job::Progress;
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{LiveOutput, OutputPiece, RoomLog};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::progress::Reader;
use crate::sandbox::{Channel, OutputChunk, OutputSink, StepKind};

/// Pieces (of at most 64 KiB) that may wait; beyond it the program waits.
const WAITING: usize = 16;
/// Output that comes within it travels together.
const WINDOW: Duration = Duration::from_millis(50);
/// Longest piece of one signal.
const PIECE_BYTES: usize = 16 * 1024;

pub(super) fn channel() -> (OutputSink, mpsc::Receiver<OutputChunk>) {
    OutputSink::channel(WAITING)
}

/// Where a program's words go.
pub(super) struct Telling<'a> {
    pub output: &'a dyn LiveOutput,
    pub log: &'a dyn RoomLog,
    pub room: Option<&'a RoomId>,
    pub job: JobId,
    pub attempt: u32,
}

impl Telling<'_> {
    /// Until the program has ended; answers what it said last of how far it is. What is lost on the way is read again
    /// from the job's result, by offset.
    pub async fn tell(&self, mut chunks: mpsc::Receiver<OutputChunk>) -> Option<Progress> {
        let mut readers: BTreeMap<&'static str, Reader> = BTreeMap::new();
        let (mut progress, mut untold) = (None, false);
        let mut streams: BTreeMap<&'static str, Pending> = BTreeMap::new();
        let mut next_send = Instant::now();
        loop {
            let something_waits =
                untold || streams.values().any(|pending| !pending.bytes.is_empty());
            tokio::select! {
                chunk = chunks.recv() => {
                    let Some(chunk) = chunk else { break };
                    if chunk.step == StepKind::Run
                        && let Some(step) = readers.entry(name(&chunk)).or_default().read(&chunk.bytes)
                    {
                        untold |= progress.as_ref() != Some(&step);
                        progress = Some(step);
                    }
                    streams.entry(name(&chunk)).or_default().bytes.extend_from_slice(&chunk.bytes);
                    // A flood does not wait for its window, or it would grow without bound.
                    if Instant::now() < next_send && streams.values().all(|p| p.bytes.len() < PIECE_BYTES) {
                        continue;
                    }
                }
                () = sleep_until(next_send), if something_waits => {}
            }
            next_send = Instant::now() + WINDOW;
            for (stream, pending) in &mut streams {
                self.publish(stream, pending, false).await;
            }
            if std::mem::take(&mut untold)
                && let Some(step) = &progress
            {
                self.progress(step).await;
            }
        }
        for (stream, pending) in &mut streams {
            self.publish(stream, pending, true).await;
        }
        progress
    }

    async fn progress(&self, step: &Progress) {
        let told = self.output.progress(self.job, self.attempt, step).await;
        if let Err(error) = told {
            tracing::debug!(%error, "progress not told");
        }
    }

    async fn publish(&self, stream: &str, pending: &mut Pending, last: bool) {
        while let Some((offset, text)) = pending.take(last) {
            let piece = OutputPiece {
                stream: stream.to_owned(),
                offset,
                text,
            };
            if let Err(error) = self.output.append(self.job, self.attempt, &piece).await {
                tracing::debug!(%error, "live output not kept");
            }
            let Some(room) = self.room else { continue };
            let signal = Signal::RunOutput {
                run_id: self.job,
                stream: piece.stream,
                chunk: piece.text,
                offset,
            };
            if let Err(error) = self.log.publish(room, &signal).await {
                tracing::debug!(%error, "live output not published");
            }
        }
    }
}

fn name(chunk: &OutputChunk) -> &'static str {
    match (chunk.step, chunk.channel) {
        (StepKind::Run, Channel::Stdout) => "stdout",
        (StepKind::Run, Channel::Stderr) => "stderr",
        (StepKind::Compile, Channel::Stdout) => "compile_stdout",
        (StepKind::Compile, Channel::Stderr) => "compile_stderr",
    }
}

/// Output of one stream that was not published yet.
#[derive(Default)]
struct Pending {
    /// Bytes of text published before. Of text, as the result keeps it: what is not UTF-8 counts as what stands for it.
    offset: u64,
    bytes: Vec<u8>,
}

impl Pending {
    /// The next piece and its offset. A character whose end is still to come is kept back unless `last`.
    fn take(&mut self, last: bool) -> Option<(u64, String)> {
        let mut end = self.bytes.len().min(PIECE_BYTES);
        let whole = whole_characters(&self.bytes[..end]);
        // A piece that was cut short, or may be continued, ends with a whole character.
        if whole > 0 && (!last || end < self.bytes.len()) {
            end = whole;
        } else if whole == 0 && !last {
            return None;
        }
        if end == 0 {
            return None;
        }
        let rest = self.bytes.split_off(end);
        let piece = std::mem::replace(&mut self.bytes, rest);
        let text = String::from_utf8_lossy(&piece).into_owned();
        let offset = self.offset;
        self.offset += text.len() as u64;
        Some((offset, text))
    }
}

/// How many bytes there are before a character that is only begun (at most its three first bytes).
fn whole_characters(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    for start in (from..bytes.len()).rev() {
        let needed = match bytes[start] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if start + needed > bytes.len() {
            start
        } else {
            bytes.len()
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(bytes: &[u8]) -> Pending {
        Pending {
            offset: 100,
            bytes: bytes.to_vec(),
        }
    }

    #[test]
    fn a_character_cut_in_two_waits_for_its_end() {
        let whole = "aü🦀".as_bytes();
        let mut pending = pending(&whole[..5]);
        assert_eq!(pending.take(false), Some((100, "aü".into())));
        assert_eq!(pending.take(false), None, "two bytes of the crab");
        pending.bytes.extend_from_slice(&whole[5..]);
        assert_eq!(pending.take(false), Some((103, "🦀".into())));
        assert_eq!(pending.take(true), None);
    }

    #[test]
    fn offsets_count_the_text_that_the_result_keeps() {
        let mut output = pending(b"a\xffb");
        assert_eq!(output.take(false), Some((100, "a\u{fffd}b".into())));
        output.bytes.extend_from_slice(b"c");
        assert_eq!(output.take(false), Some((105, "c".into())));
    }

    #[test]
    fn what_is_no_character_is_not_waited_for_at_the_end() {
        let mut broken = pending(b"ok\xf0\x9f");
        assert_eq!(broken.take(false), Some((100, "ok".into())));
        assert_eq!(broken.take(true), Some((102, "\u{fffd}".into())));
        let mut noise = pending(&[0xff, 0x80, 0x80, 0x80]);
        assert!(
            noise.take(false).is_some(),
            "bytes that begin nothing are not kept back"
        );
    }

    #[test]
    fn long_output_is_cut_into_pieces_at_characters() {
        let text = "ü".repeat(PIECE_BYTES);
        let mut long = pending(format!("a{text}").as_bytes());
        let mut all = String::new();
        let mut at = 100;
        while let Some((offset, piece)) = long.take(false) {
            assert_eq!(offset, at);
            assert!(piece.len() <= PIECE_BYTES);
            at += piece.len() as u64;
            all.push_str(&piece);
        }
        assert_eq!(all, format!("a{text}"));
    }
}
