//! Drawing in windows: the first draw is told at once, then one frame for each author and window, without what has lost
//! against a later write already.

use std::collections::HashMap;
use std::time::Duration;

use atelier_shared::domain::board::{Board, DrawBatch};
use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{ClientId, ConnectionId, Seq};
use tokio::time::Instant;

use super::actor::Actor;
use super::json::outgoing;
use super::ring::{Audience, Frame};

/// What is told of drawing: the first batch at once, then at most once in this window.
const DRAW_WINDOW: Duration = Duration::from_millis(100);

/// Draws of one author and window are joined up to about so many bytes: common clients take no more than 1 MiB at once.
pub const DRAW_FRAME_BYTES: usize = 640 * 1024;

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
            let own = self.draws.last().and_then(|entry| self.receipt(entry));
            if let Some(receipt) = own {
                self.push(Frame::to_origin(receipt, id));
            }
            self.draws_acked = self.draws.len();
        }
    }

    pub fn release_draws(&mut self, now: Instant) {
        if !self.draws.is_empty() && now >= self.draw_window_until {
            self.flush_draws();
        }
    }

    /// One frame for each author, and one more of whoever drew last (more if they draw much), as [`arrange`] has it; called
    /// before anything else goes out, so that `seq` rises.
    pub fn flush_draws(&mut self) {
        let Some(last) = self.draws.last().map(|entry| entry.seq) else {
            return;
        };
        let held = std::mem::take(&mut self.draws);
        let acked = std::mem::take(&mut self.draws_acked);
        self.draw_window_until = Instant::now() + DRAW_WINDOW;
        let mut unacked = held.iter().skip(acked).peekable();
        for joined in arrange(&held) {
            let before = std::iter::from_fn(|| unacked.next_if(|entry| entry.seq < joined.first()));
            for (connection, receipts) in self.receipts(before) {
                let part_of = Some(last);
                let frame = Frame::to_origin(receipts, connection);
                self.push(Frame { part_of, ..frame });
            }
            let (client_id, connection) = joined.author;
            let at = joined.told_at();
            let is_last = at.0 == last;
            // What is left are its author's own, who gets them in the place of the frame.
            let own = is_last.then(|| self.receipts(unacked.by_ref()).pop());
            let own = own.flatten();
            self.push(Frame {
                bytes: outgoing::draw(&joined.batches, at, client_id, &self.state.board),
                binary: None,
                // A reader has all up to the last entry only with the last frame.
                seq: is_last.then_some(last),
                part_of: (!is_last).then_some(last),
                origin: connection,
                instead: own.map(|(_, receipts)| receipts),
                audience: Audience::All,
            });
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
type AuthorOf<'a> = (&'a ClientId, Option<ConnectionId>);

fn author_of(entry: &Entry) -> AuthorOf<'_> {
    let author = &entry.record.author;
    (&author.client_id, author.connection)
}

/// Draws of one author that are told in one frame.
#[derive(Debug)]
struct Joined<'a> {
    author: AuthorOf<'a>,
    batches: Vec<Batch<'a>>,
    /// Nobody else drew between them, or behind them.
    ends: bool,
}

impl Joined<'_> {
    fn first(&self) -> Seq {
        self.batches.first().map_or(Seq(0), |(seq, ..)| *seq)
    }

    /// The place (seq and time) it is told at: the last up to which its reader has everything then.
    fn told_at(&self) -> (Seq, i64) {
        let batch = if self.ends {
            self.batches.last()
        } else {
            self.batches.first()
        };
        batch.map_or((Seq(0), 0), |(seq, ts, _)| (*seq, *ts))
    }
}

/// Draws of one window as they are told. A reader that is cut off behind any frame comes back with that frame's seq, so all
/// up to there must have been told by then, though others drew in between: each frame is told at the first of what it joins,
/// in the order of these. What its author drew behind that comes early, and once more to those who come back: that changes
/// nothing. The last run of one author stands alone and is told at its last, so that readers know that they have it all.
fn arrange(held: &[Entry]) -> Vec<Joined<'_>> {
    let Some(last) = held.last().map(author_of) else {
        return Vec::new();
    };
    let ending = held.iter().rev();
    let ending = ending.take_while(|entry| author_of(entry) == last).count();
    let (crossing, ending) = held.split_at(held.len() - ending);
    let mut authors: HashMap<AuthorOf<'_>, Vec<Batch<'_>>> = HashMap::new();
    for entry in crossing {
        let batches = authors.entry(author_of(entry)).or_default();
        batches.extend(batch_of(entry));
    }
    let join = |author, batches: &[_], ends| Joined {
        author,
        batches: batches.to_vec(),
        ends,
    };
    let mut all: Vec<Joined<'_>> = Vec::new();
    for (author, batches) in &authors {
        all.extend(
            runs(batches)
                .into_iter()
                .map(|run| join(*author, run, false)),
        );
    }
    all.sort_by_key(Joined::first);
    let ending: Vec<Batch<'_>> = ending.iter().filter_map(batch_of).collect();
    all.extend(runs(&ending).into_iter().map(|run| join(last, run, true)));
    all
}

fn batch_of(entry: &Entry) -> Option<Batch<'_>> {
    match &entry.record.body {
        Body::Draw(batch) => Some((entry.seq, entry.record.ts_ms, batch)),
        _ => None,
    }
}

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

#[cfg(test)]
mod tests {
    use atelier_shared::domain::entry::{Author, Record};
    use atelier_shared::domain::ids::UserId;

    use super::*;

    /// Draws of these authors (0, 1, …), one after another from seq 11 on.
    fn drawn(authors: &[u8]) -> Vec<Entry> {
        let people: Vec<(ClientId, UserId, ConnectionId)> = (0..4)
            .map(|n| {
                (
                    format!("client-{n}").parse().unwrap(),
                    UserId::generate(),
                    ConnectionId::generate(),
                )
            })
            .collect();
        let entry = |(at, author): (usize, &u8)| {
            let (client_id, user_id, connection) = &people[usize::from(*author)];
            let author = Author {
                client_id: client_id.clone(),
                user_id: *user_id,
                connection: Some(*connection),
                name: String::new(),
                color: None,
                avatar_url: None,
            };
            let record = Record {
                ts_ms: at as i64,
                author,
                reference: Some(format!("ref-{at}").parse().unwrap()),
                audience: None,
                body: Body::Draw(DrawBatch::default()),
            };
            Entry {
                seq: Seq(11 + at as u64),
                record,
            }
        };
        authors.iter().enumerate().map(entry).collect()
    }

    fn told(joined: &[Joined<'_>]) -> Vec<(u64, Vec<u64>)> {
        let seqs = |joined: &Joined<'_>| joined.batches.iter().map(|(seq, ..)| seq.0).collect();
        joined.iter().map(|j| (j.told_at().0.0, seqs(j))).collect()
    }

    #[test]
    fn draws_of_one_are_one_frame_told_at_the_last() {
        let held = drawn(&[0, 0, 0]);
        assert_eq!(told(&arrange(&held)), [(13, vec![11, 12, 13])]);
        assert!(arrange(&[]).is_empty());
    }

    #[test]
    fn draws_that_cross_are_told_at_their_first_and_the_last_run_at_its_last() {
        let held = drawn(&[0, 1, 0, 2, 1, 1]);
        let wanted = [
            (11, vec![11, 13]),
            (12, vec![12]),
            (14, vec![14]),
            (16, vec![15, 16]),
        ];
        assert_eq!(told(&arrange(&held)), wanted);
    }

    /// Every window of up to seven draws of three authors.
    #[test]
    fn whoever_is_cut_off_behind_any_frame_has_all_up_to_its_seq() {
        for length in 1..=7_u32 {
            for number in 0..3_usize.pow(length) {
                let author = |at| u8::try_from(number / 3_usize.pow(at) % 3).unwrap();
                let authors: Vec<u8> = (0..length).map(author).collect();
                let held = drawn(&authors);
                let (mut known, mut place) = (Vec::new(), 10);
                let told = told(&arrange(&held));
                assert!(told.len() <= 4, "{authors:?}: {told:?}");
                for (seq, joined) in &told {
                    known.extend(joined);
                    assert!(*seq > place, "{authors:?}: {told:?}");
                    place = *seq;
                    let has_all = (11..=place).all(|seq| known.contains(&seq));
                    assert!(has_all, "{authors:?} at {place}: {told:?}");
                    assert!(joined.contains(seq), "its own place: {authors:?}: {told:?}");
                }
                assert_eq!(place, 10 + u64::from(length));
                known.sort_unstable();
                assert!(known.into_iter().eq(11..=place), "each once: {authors:?}");
            }
        }
    }
}
