//! What the author of a draw gets for it: its `ack`, and right before that what the draw lost against unseen. They get no
//! echo, so they would go on showing a path that is on nobody else's board.

use std::collections::BTreeMap;
use std::time::Duration;

use atelier_shared::domain::board::{Board, DrawBatch};
use atelier_shared::domain::entry::{Body, Entry, Record};
use atelier_shared::domain::ids::{ClientId, ConnectionId, Seq};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::actor::Actor;
use super::connection::Start;
use super::drawing::DRAW_FRAME_BYTES;
use super::json::outgoing;
use super::ring::Frame;

/// A board is put together for those who sent draws again, and then for the next not before.
const BETWEEN_BOARDS: Duration = Duration::from_millis(250);

/// Entries to be replayed to one connection.
#[derive(Debug)]
pub struct Replayed {
    /// Without drawing that lost against a later write.
    pub page: Vec<Entry>,
    /// What its own draws are told by, where they come as acks.
    pub receipts: BTreeMap<Seq, Bytes>,
}

impl Actor {
    /// What these draws' authors get for them, joined for each connection of this pod.
    pub fn receipts<'a>(
        &self,
        entries: impl Iterator<Item = &'a Entry>,
    ) -> Vec<(ConnectionId, Bytes)> {
        let mut all: Vec<(ConnectionId, BytesMut)> = Vec::new();
        for entry in entries {
            let author = entry.record.author.connection;
            let Some(id) = author.filter(|id| self.locals.contains_key(id)) else {
                continue;
            };
            let Some(receipt) = self.receipt(entry) else {
                continue;
            };
            match all.iter_mut().find(|(theirs, _)| *theirs == id) {
                Some((_, receipts)) => receipts.extend_from_slice(&receipt),
                None => all.push((id, BytesMut::from(&receipt[..]))),
            }
        }
        let all = all.into_iter();
        all.map(|(id, receipts)| (id, receipts.freeze())).collect()
    }

    /// What its author gets for one draw.
    pub fn receipt(&self, entry: &Entry) -> Option<Bytes> {
        let (record, seq) = (&entry.record, entry.seq);
        receipt(&self.state.board, record, seq)
    }

    /// The author of a draw that was stored before is told its place again. They are behind that place already, so no `draw`
    /// can tell them what it lost against since: they are shown the board.
    pub fn acknowledge_draw_again(&mut self, record: &Record, seq: Seq, to: ConnectionId) {
        if let Some(reference) = &record.reference {
            self.push(Frame::to_origin(outgoing::ack(reference, seq, None), to));
        }
        if let Body::Draw(batch) = &record.body
            && !won(&self.state.board, record, seq, batch, true).is_empty()
        {
            self.boards_owed.insert(to);
        }
    }

    /// Once for all draws that somebody sent again together; behind their acks, so that what these add is overwritten.
    pub fn show_boards(&mut self, now: Instant) {
        if self.boards_owed.is_empty() || now < self.next_boards {
            return;
        }
        self.next_boards = now + BETWEEN_BOARDS;
        let owed = std::mem::take(&mut self.boards_owed);
        // The board has what is held.
        self.flush_draws();
        let Some(board) = self.board_snapshot() else {
            for to in owed {
                self.push(Frame::to_origin(outgoing::empty_board(self.applied), to));
            }
            return;
        };
        let feed = self.shared.feed.read();
        for to in owed {
            let Some(local) = self.locals.get(&to) else {
                continue;
            };
            // It is put together and sent by the connection's own task, as for those who join.
            let start = Start {
                first: Vec::new(),
                document: None,
                board: Some(board.clone()),
                replay: None,
                last: Vec::new(),
                cursor: feed.ring.end(),
                latest_seen: feed.latest.version(),
                delivered: self.applied,
            };
            if !local.connection.begin_in_turn(start, &feed) {
                // It is still being told something else.
                self.boards_owed.insert(to);
            }
        }
    }

    pub fn replayed(&self, page: Vec<Entry>, to: ConnectionId) -> Replayed {
        let own = page.iter().filter(|entry| {
            let is_draw = matches!(entry.record.body, Body::Draw(_));
            is_draw && entry.record.author.connection == Some(to)
        });
        let receipts = own.filter_map(|entry| Some((entry.seq, self.receipt(entry)?)));
        Replayed {
            receipts: receipts.collect(),
            page: self.without_outdone(page),
        }
    }
}

type Won = BTreeMap<ClientId, DrawBatch>;

fn won(board: &Board, record: &Record, seq: Seq, batch: &DrawBatch, again: bool) -> Won {
    board.won_unseen(seq, &record.author.client_id, batch, again)
}

fn receipt(board: &Board, record: &Record, seq: Seq) -> Option<Bytes> {
    let Body::Draw(batch) = &record.body else {
        return None;
    };
    let ack = record
        .reference
        .as_ref()
        .map(|r| outgoing::ack(r, seq, None));
    let Some((by, won)) = joined(
        won(board, record, seq, batch, false),
        &record.author.client_id,
    ) else {
        return ack;
    };
    let mut frames = BytesMut::new();
    let at = (seq, record.ts_ms);
    for part in parts(won) {
        let batches = [(seq, record.ts_ms, &part)];
        frames.extend_from_slice(&outgoing::draw(&batches, at, &by, &Board::default()));
    }
    frames.extend_from_slice(&ack.unwrap_or_default());
    Some(frames.freeze())
}

/// All that won, as one `draw`: no two frames have one `seq`. It is told in the name of the least of the winners that wins
/// against the author at the same `ts`, so that whatever wins against any of them later wins there too.
fn joined(won: Won, author: &ClientId) -> Option<(ClientId, DrawBatch)> {
    let mut names = won.keys();
    let by = won.keys().find(|by| *by > author);
    let by = by.or_else(|| names.next())?.clone();
    let mut all = DrawBatch::default();
    for batch in won.into_values() {
        all.paths.extend(batch.paths);
        all.erase.extend(batch.erase);
    }
    Some((by, all))
}

/// A draw in frames of about [`DRAW_FRAME_BYTES`], or of one path.
fn parts(batch: DrawBatch) -> Vec<DrawBatch> {
    let paths = batch.paths.into_iter().map(|path| DrawBatch {
        paths: vec![path],
        ..DrawBatch::default()
    });
    let erase = batch.erase.into_iter().map(|erase| DrawBatch {
        erase: vec![erase],
        ..DrawBatch::default()
    });
    let mut parts: Vec<DrawBatch> = Vec::new();
    let mut bytes = 0;
    for one in paths.chain(erase) {
        let more = outgoing::weight(&one);
        bytes += more;
        match parts.last_mut() {
            Some(part) if bytes <= DRAW_FRAME_BYTES => {
                part.paths.extend(one.paths);
                part.erase.extend(one.erase);
            }
            _ => {
                bytes = more;
                parts.push(one);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use atelier_shared::domain::board::{Erase, Stroke};

    use super::*;

    #[test]
    fn much_that_was_lost_comes_in_frames_that_clients_take() {
        let erase = |n: usize| Erase {
            id: format!("{n:064}"),
            ts: 1,
        };
        let batch = DrawBatch {
            erase: (0..10_000).map(erase).collect(),
            ..DrawBatch::default()
        };
        let parts = parts(batch.clone());
        let count: usize = parts.iter().map(|part| part.erase.len()).sum();
        assert!(count == 10_000 && parts.len() == 2, "{}", parts.len());
        let by: ClientId = "c".parse().unwrap();
        for part in &parts {
            let at = (Seq(1), 1);
            let frame = outgoing::draw(&[(at.0, at.1, part)], at, &by, &Board::default());
            assert!(frame.len() < 1 << 20);
        }
    }

    #[test]
    fn numbers_of_many_digits_count_as_long_as_they_are() {
        let path = |n: usize| {
            std::sync::Arc::new(Stroke {
                id: format!("{n:064}"),
                width: 1.0,
                color: "#112233".into(),
                points: vec![-0.123_456_789_012_345_68; 100],
                ts: 1,
            })
        };
        let batch = DrawBatch {
            paths: (0..600).map(path).collect(),
            ..DrawBatch::default()
        };
        let by: ClientId = "c".parse().unwrap();
        for part in &parts(batch) {
            let at = (Seq(1), 1);
            let frame = outgoing::draw(&[(at.0, at.1, part)], at, &by, &Board::default());
            assert!(frame.len() < 1 << 20, "{}", frame.len());
        }
    }

    #[test]
    fn what_several_won_is_told_in_one_frame_that_wins_and_is_not_overrated() {
        let id = |name: &str| name.parse::<ClientId>().unwrap();
        let erased = |name: &str| DrawBatch {
            erase: vec![Erase {
                id: name.into(),
                ts: 1,
            }],
            ..DrawBatch::default()
        };
        let won = |names: &[&str]| names.iter().map(|by| (id(by), erased(by))).collect();
        let (by, all) = joined(won(&["ana", "max", "zoe"]), &id("ben")).unwrap();
        assert_eq!((by.as_str(), all.erase.len()), ("max", 3));
        let (by, _) = joined(won(&["ana", "ben"]), &id("zoe")).unwrap();
        assert_eq!(by.as_str(), "ana");
        assert!(joined(Won::new(), &id("ben")).is_none());
    }
}
