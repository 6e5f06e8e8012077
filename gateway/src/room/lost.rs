//! What the author of a draw gets for it: its `ack`, and right before that what the draw lost against unseen. They get no
//! echo, so they would go on showing a path that is on nobody else's board.

use std::collections::BTreeMap;

use atelier_shared::domain::board::{Board, DrawBatch};
use atelier_shared::domain::entry::{Body, Entry, Record};
use atelier_shared::domain::ids::{ConnectionId, Seq};
use bytes::{Bytes, BytesMut};

use super::actor::Actor;
use super::drawing::DRAW_FRAME_BYTES;
use super::json::outgoing;

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
        receipt(&self.state.board, record, seq, None)
    }

    /// As [`Self::receipt`], of a draw that was stored before.
    pub fn receipt_again(&self, record: &Record, seq: Seq) -> Option<Bytes> {
        receipt(&self.state.board, record, seq, Some(self.applied))
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

/// `again`: the place that its author has been brought to since.
fn receipt(board: &Board, record: &Record, seq: Seq, again: Option<Seq>) -> Option<Bytes> {
    let Body::Draw(batch) = &record.body else {
        return None;
    };
    let won = board.won_unseen(seq, &record.author.client_id, batch, again.is_some());
    let ack = record.reference.as_ref().map(|r| outgoing::ack(r, seq));
    if won.is_empty() {
        return ack;
    }
    let mut frames = BytesMut::new();
    let at = (again.unwrap_or(seq), record.ts_ms);
    for (by, batch) in won {
        for part in parts(batch) {
            let batches = [(at.0, at.1, &part)];
            frames.extend_from_slice(&outgoing::draw(&batches, at, &by, &Board::default()));
        }
    }
    frames.extend_from_slice(&ack.unwrap_or_default());
    Some(frames.freeze())
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
    use atelier_shared::domain::board::Erase;
    use atelier_shared::domain::ids::ClientId;

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
}
