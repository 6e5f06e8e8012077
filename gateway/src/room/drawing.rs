//! Drawing in windows: the first draw is told at once, then one frame for each author and window, without what has lost
//! against a later write already.

use std::time::Duration;

use atelier_shared::domain::board::{Board, DrawBatch};
use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{ClientId, ConnectionId, Seq};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::actor::Actor;
use super::json::outgoing;
use super::ring::{Audience, Frame};

/// What is told of drawing: the first batch at once, then at most once in this window.
const DRAW_WINDOW: Duration = Duration::from_millis(100);

/// Draws of one author and window are joined up to about so many bytes: common clients take no more than 1 MiB at once.
const DRAW_FRAME_BYTES: usize = 640 * 1024;

impl Actor {
    /// Draws wait for the end of their window, unless none is open. An `ack` need not wait as long as nobody else's draw
    /// is held before it: the sender then has everything up to its seq.
    pub fn hold_draw(&mut self, entry: Entry) {
        let author = entry.record.author.connection;
        self.draws.push(entry);
        if Instant::now() >= self.draw_window_until {
            self.flush_draws();
            return;
        }
        let alone = self
            .draws
            .iter()
            .all(|d| d.record.author.connection == author);
        if let (true, Some(id)) = (alone, author) {
            if let Some(entry) = self.draws.last()
                && let Some(reference) = &entry.record.reference
            {
                let ack = outgoing::ack(reference, entry.seq);
                self.push(Frame::to_origin(ack, id));
            }
            self.draws_acked = self.draws.len();
        }
    }

    pub fn release_draws(&mut self, now: Instant) {
        if !self.draws.is_empty() && now >= self.draw_window_until {
            self.flush_draws();
        }
    }

    /// One frame for each author (more if they draw much), by the last seq of each; called before anything else goes out,
    /// so that `seq` rises.
    pub fn flush_draws(&mut self) {
        let Some(last) = self.draws.last().map(|entry| entry.seq) else {
            return;
        };
        let held = std::mem::take(&mut self.draws);
        let acked = std::mem::take(&mut self.draws_acked);
        self.draw_window_until = Instant::now() + DRAW_WINDOW;
        let mut authors: Vec<(&ClientId, Option<ConnectionId>)> = Vec::new();
        for entry in &held {
            let author = &entry.record.author;
            if !authors.contains(&(&author.client_id, author.connection)) {
                authors.push((&author.client_id, author.connection));
            }
        }
        let mut frames: Vec<Frame> = Vec::new();
        for (client_id, connection) in authors {
            let theirs = || {
                held.iter().enumerate().filter(move |(_, e)| {
                    e.record.author.connection == connection
                        && e.record.author.client_id == *client_id
                })
            };
            let batches: Vec<Batch<'_>> = theirs()
                .filter_map(|(_, e)| match &e.record.body {
                    Body::Draw(batch) => Some((e.seq, e.record.ts_ms, batch)),
                    _ => None,
                })
                .collect();
            let acks: Vec<Bytes> = theirs()
                .filter(|(i, _)| *i >= acked)
                .filter_map(|(_, e)| Some(outgoing::ack(e.record.reference.as_ref()?, e.seq)))
                .collect();
            let cut = runs(&batches);
            for (i, run) in cut.iter().enumerate() {
                let ends = i + 1 == cut.len();
                frames.push(Frame {
                    bytes: outgoing::draw(run, client_id, &self.state.board),
                    binary: None,
                    seq: run.last().map(|(seq, ..)| *seq),
                    part_of: None,
                    origin: connection,
                    instead: (ends && !acks.is_empty()).then(|| joined(&acks)),
                    audience: Audience::All,
                });
            }
        }
        frames.sort_by_key(|frame| frame.seq);
        for mut frame in frames {
            // Between the draws of one author stand those of others: only with the last frame a reader has all up to its seq.
            if frame.seq != Some(last) {
                (frame.seq, frame.part_of) = (None, Some(last));
            }
            self.push(frame);
        }
    }

    /// Entries to be replayed, without what is outdone by now: whoever was told a drawing does not know what was erased
    /// before, so what lost is not told to them.
    pub fn without_outdone(&self, mut page: Vec<Entry>) -> Vec<Entry> {
        for entry in &mut page {
            if let Body::Draw(batch) = &mut entry.record.body {
                let by = &entry.record.author.client_id;
                *batch = standing(&self.state.board, entry.seq, by, batch);
            }
        }
        page
    }
}

/// What of a draw was not outdone by a later write.
fn standing(board: &Board, seq: Seq, by: &ClientId, batch: &DrawBatch) -> DrawBatch {
    let paths = batch.paths.iter().enumerate();
    let paths = paths.filter(|(at, path)| !board.outdoes(seq, *at, by, path.ts, &path.id));
    let erase = batch.erase.iter();
    let erase = erase.filter(|erase| !board.outdoes(seq, usize::MAX, by, erase.ts, &erase.id));
    DrawBatch {
        paths: paths.map(|(_, path)| path.clone()).collect(),
        erase: erase.cloned().collect(),
        clear: batch.clear,
    }
}

type Batch<'a> = (Seq, i64, &'a DrawBatch);

/// Batches as frames join them: each run below [`DRAW_FRAME_BYTES`] or of one batch.
fn runs<'a, 'b>(batches: &'b [Batch<'a>]) -> Vec<&'b [Batch<'a>]> {
    let mut runs = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, (_, _, batch)) in batches.iter().enumerate() {
        let more = outgoing::weight(batch);
        if at > from && bytes + more > DRAW_FRAME_BYTES {
            runs.push(&batches[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    runs.push(&batches[from..]);
    runs
}

fn joined(frames: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    for frame in frames {
        all.extend_from_slice(frame);
    }
    all.freeze()
}
