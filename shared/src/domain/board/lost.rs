//! What a draw lost against although its author may not know it, so that it can be told to them.

use std::collections::BTreeMap;

use super::{Board, DrawBatch, Erase, Slot};
use crate::domain::ids::{ClientId, Seq};

impl Board {
    /// What the draw that stands in the log at `seq` lost against unseen, by whose it is: erases (whoever was shown a board
    /// knows of none), and paths of the same `ts` (a board does not say whose its paths are). What is logged behind the draw
    /// is told behind it, so it is left out; unless the draw is acknowledged `again`, when all of it was told before. Of what
    /// was cleared since nothing is known, and nothing need be told: the clear stands behind the draw.
    pub fn won_unseen(
        &self,
        seq: Seq,
        by: &ClientId,
        batch: &DrawBatch,
        again: bool,
    ) -> BTreeMap<ClientId, DrawBatch> {
        let mut won: BTreeMap<ClientId, DrawBatch> = BTreeMap::new();
        let won_unseen = |slot: &&Slot| slot.seq != seq && (again || slot.seq < seq);
        for path in &batch.paths {
            let slot = self.slots.get(&path.id).filter(won_unseen);
            if let Some(slot) = slot.filter(|slot| slot.stroke.is_none()) {
                let theirs = won.entry(slot.by.clone()).or_default();
                let (id, ts) = (path.id.clone(), slot.ts);
                theirs.erase.push(Erase { id, ts });
            }
        }
        let paths = batch.paths.iter().map(|path| (&path.id, path.ts));
        let erases = batch.erase.iter().map(|erase| (&erase.id, erase.ts));
        for (id, ts) in paths.chain(erases) {
            let slot = self.slots.get(id).filter(won_unseen);
            if let Some(slot) = slot.filter(|slot| slot.ts == ts && slot.by != *by)
                && let Some(stroke) = &slot.stroke
            {
                let theirs = won.entry(slot.by.clone()).or_default();
                theirs.paths.push(stroke.clone());
            }
        }
        won
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::board::Stroke;

    fn client(id: &str) -> ClientId {
        id.parse().unwrap()
    }

    fn draw(paths: &[(&str, i64)], erase: &[(&str, i64)]) -> DrawBatch {
        let path = |(id, ts): &(&str, i64)| {
            Arc::new(Stroke {
                id: (*id).into(),
                width: 1.0,
                color: "#112233".into(),
                points: vec![0.0, 0.0],
                ts: *ts,
            })
        };
        let gone = |(id, ts): &(&str, i64)| Erase {
            id: (*id).into(),
            ts: *ts,
        };
        DrawBatch {
            paths: paths.iter().map(path).collect(),
            erase: erase.iter().map(gone).collect(),
            clear: false,
        }
    }

    /// Folds the draw in; what its author is told, as `by: +path -erased@ts`.
    fn told(board: &mut Board, seq: u64, by: &str, batch: &DrawBatch) -> Vec<String> {
        board.apply(Seq(seq), &client(by), 0, batch);
        unseen(board, seq, by, batch, false)
    }

    fn unseen(board: &Board, seq: u64, by: &str, batch: &DrawBatch, again: bool) -> Vec<String> {
        let won = board.won_unseen(Seq(seq), &client(by), batch, again);
        let told = won.iter().flat_map(|(by, batch)| {
            let paths = batch.paths.iter().map(move |p| format!("{by}: +{}", p.id));
            let erase = batch.erase.iter();
            paths.chain(erase.map(move |e| format!("{by}: -{}@{}", e.id, e.ts)))
        });
        told.collect()
    }

    #[test]
    fn an_author_is_told_the_erase_that_their_path_lost_against() {
        let mut board = Board::default();
        let none: [&str; 0] = [];
        let first = draw(&[("p", 10)], &[]);
        assert_eq!(told(&mut board, 1, "ana", &first), none);
        assert_eq!(told(&mut board, 2, "ben", &draw(&[], &[("p", 20)])), none);
        let late = draw(&[("p", 15), ("q", 15)], &[]);
        assert_eq!(told(&mut board, 3, "cleo", &late), ["ben: -p@20"]);
        // Their own draw over it wins, and one that erases what it draws says so itself.
        assert_eq!(told(&mut board, 4, "cleo", &draw(&[("p", 21)], &[])), none);
        let both = draw(&[("r", 5)], &[("r", 6)]);
        assert_eq!(told(&mut board, 5, "cleo", &both), none);
    }

    #[test]
    fn of_two_paths_of_one_moment_the_loser_is_told_the_other() {
        let mut board = Board::default();
        let none: [&str; 0] = [];
        assert_eq!(told(&mut board, 1, "zoe", &draw(&[("p", 10)], &[])), none);
        assert_eq!(
            told(&mut board, 2, "ana", &draw(&[("p", 10)], &[])),
            ["zoe: +p"]
        );
        assert_eq!(
            told(&mut board, 3, "ana", &draw(&[], &[("p", 10)])),
            ["zoe: +p"]
        );
        assert_eq!(
            told(&mut board, 4, "ana", &draw(&[("p", 9)], &[])),
            none,
            "a board shows that it is older"
        );
    }

    #[test]
    fn what_is_logged_behind_a_draw_is_told_only_when_it_is_acknowledged_again() {
        let mut board = Board::default();
        let none: [&str; 0] = [];
        let drawn = draw(&[("p", 10), ("q", 10)], &[]);
        board.apply(Seq(1), &client("ana"), 0, &drawn);
        board.apply(Seq(2), &client("ben"), 0, &draw(&[], &[("p", 20)]));
        assert_eq!(unseen(&board, 1, "ana", &drawn, false), none);
        assert_eq!(unseen(&board, 1, "ana", &drawn, true), ["ben: -p@20"]);
        let clear = DrawBatch {
            clear: true,
            ..DrawBatch::default()
        };
        board.apply(Seq(3), &client("ben"), 0, &clear);
        // An erase made up here would stand against what is drawn behind the clear with an older clock.
        assert_eq!(unseen(&board, 1, "ana", &drawn, true), none);
    }
}
