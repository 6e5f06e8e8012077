//! How heavy a room's archived entries are that still lie in its log: what is kept there for those who reconnect is bounded in
//! bytes too, or one client with a thousand large entries fills the store that all rooms share.
//!
//! A worker weighs what it moves itself. Where several take turns in a room each keeps to the bound by what it has seen.

use std::collections::VecDeque;
use std::io::{self, Write};

use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::Seq;

/// Entries are weighed by blocks of so many bytes or more: a place is remembered for each.
const BLOCK_BYTES: u64 = 256 * 1024;

/// Of one room, the entries that were moved of late, from the oldest on.
#[derive(Debug, Default, Clone)]
pub struct Weight {
    /// The last entry of each full block, and its bytes.
    blocks: VecDeque<(Seq, u64)>,
    /// Bytes after the last full block.
    rest: u64,
}

impl Weight {
    /// Entries that follow those that were weighed.
    pub fn add(&mut self, entries: &[Entry], keep: u64) {
        for entry in entries {
            self.rest += bytes_of(entry);
            if self.rest >= BLOCK_BYTES {
                self.blocks.push_back((entry.seq, self.rest));
                self.rest = 0;
                // Nobody asks for more blocks than are kept and one.
                self.forget_beyond(keep);
            }
        }
    }

    /// Up to where entries have `keep` bytes or more behind them, as far as is known: they need not be kept.
    pub fn beyond(&self, keep: u64) -> Option<Seq> {
        let mut behind = self.rest;
        for (last, bytes) in self.blocks.iter().rev() {
            if behind >= keep {
                return Some(*last);
            }
            behind += bytes;
        }
        None
    }

    fn forget_beyond(&mut self, keep: u64) {
        let Some(upto) = self.beyond(keep) else {
            return;
        };
        while self.blocks.front().is_some_and(|(last, _)| *last < upto) {
            self.blocks.pop_front();
        }
    }
}

/// As it lies in the log, about.
fn bytes_of(entry: &Entry) -> u64 {
    struct Counted(u64);
    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    // What was read from JSON can be written as JSON; and if not, it weighs what was counted.
    let _ = serde_json::to_writer(&mut counted, &entry.record);
    counted.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(blocks: &[(u64, u64)], rest: u64) -> Weight {
        Weight {
            blocks: blocks
                .iter()
                .map(|(seq, bytes)| (Seq(*seq), *bytes))
                .collect(),
            rest,
        }
    }

    #[test]
    fn what_has_enough_behind_it_need_not_be_kept() {
        assert_eq!(weight(&[], 10).beyond(5), None);
        assert_eq!(weight(&[(3, 4)], 5).beyond(5), Some(Seq(3)));
        assert_eq!(weight(&[(3, 4)], 4).beyond(5), None);
        let some = weight(&[(3, 4), (6, 4), (9, 4)], 1);
        assert_eq!(some.beyond(5), Some(Seq(6)));
        assert_eq!(some.beyond(6), Some(Seq(3)));
        assert_eq!(some.beyond(10), None);
    }

    #[test]
    fn only_blocks_that_are_asked_for_are_remembered() {
        let mut some = weight(&[(3, 4), (6, 4), (9, 4), (12, 4)], 0);
        some.forget_beyond(8);
        assert_eq!(some.blocks.front(), Some(&(Seq(6), 4)));
        assert_eq!(some.beyond(8), Some(Seq(6)));
    }
}
