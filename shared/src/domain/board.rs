//! The whiteboard: strokes by id, the last write wins, erased ones leave tombstones.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{ClientId, Seq};

mod lost;
mod stroke;

pub use stroke::{DrawBatch, Erase, PATHS_MAX, POINTS_MAX, Stroke, TS_AHEAD_MAX_MS};

/// What is known of one path id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Slot {
    ts: i64,
    by: ClientId,
    /// Where in the log this write stands, and where in its batch: the drawing order.
    seq: Seq,
    #[serde(default, skip_serializing_if = "is_first")]
    at: u32,
    /// `None`: a tombstone.
    stroke: Option<Arc<Stroke>>,
    /// Of a tombstone: the server's time when it was logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    erased_ms: Option<i64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_first(at: &u32) -> bool {
    *at == 0
}

/// The folded drawing of a room. Folding the same entries in `seq` order always gives the same board.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Board {
    slots: BTreeMap<String, Slot>,
    /// Tombstones among the slots.
    #[serde(skip)]
    tombstones: usize,
    /// So many tombstones make the next sweep due; part of the state, so that every fold sweeps at the same entry.
    sweep_at: usize,
}

/// A board as checkpoints hold it.
#[derive(Deserialize)]
struct Stored {
    slots: BTreeMap<String, Slot>,
    #[serde(default)]
    sweep_at: usize,
}

impl From<Stored> for Board {
    fn from(Stored { slots, sweep_at }: Stored) -> Self {
        Self {
            tombstones: slots.values().filter(|s| s.stroke.is_none()).count(),
            slots,
            sweep_at,
        }
    }
}

/// An erase wins over every older write that is logged within so long after it, by the servers' clocks. That covers a
/// resend for as long as its ref is remembered.
const TOMBSTONE_KEEP_MS: i64 = 24 * 60 * 60 * 1_000;
/// Fewer tombstones are never swept, however old.
const TOMBSTONES_MIN: usize = 10_000;
/// More are never kept, however young: the oldest go first. About 100 MB.
const TOMBSTONES_MAX: usize = 500_000;

/// One write, as last-write-wins compares it.
struct Write<'a> {
    seq: Seq,
    at: usize,
    by: &'a ClientId,
    now_ms: i64,
    ts: i64,
}

impl Board {
    /// Folds one batch in. A write wins over an older `ts`; on a tie the greater client id wins. `now_ms` is the server's
    /// time in the entry, not this process's.
    pub fn apply(&mut self, seq: Seq, by: &ClientId, now_ms: i64, batch: &DrawBatch) {
        if batch.clear {
            *self = Self::default();
        }
        let write = |at, ts| Write {
            seq,
            at,
            by,
            now_ms,
            ts,
        };
        for (at, stroke) in batch.paths.iter().enumerate() {
            self.write(&stroke.id, write(at, stroke.ts), Some(stroke));
        }
        for erase in &batch.erase {
            self.write(&erase.id, write(0, erase.ts), None);
        }
        if self.tombstones > self.sweep_at.max(TOMBSTONES_MIN) {
            self.sweep(now_ms);
        }
    }

    fn write(&mut self, id: &str, write: Write<'_>, stroke: Option<&Arc<Stroke>>) {
        let before = self.slots.get(id);
        if before.is_some_and(|slot| (write.ts, write.by) < (slot.ts, &slot.by)) {
            return;
        }
        if before.is_some_and(|slot| slot.stroke.is_none()) {
            self.tombstones -= 1;
        }
        if stroke.is_none() {
            self.tombstones += 1;
        }
        let slot = Slot {
            ts: write.ts,
            by: write.by.clone(),
            seq: write.seq,
            at: u32::try_from(write.at).unwrap_or(u32::MAX),
            stroke: stroke.cloned(),
            erased_ms: stroke.is_none().then_some(write.now_ms),
        };
        self.slots.insert(id.to_owned(), slot);
    }

    /// Drops tombstones that have served. The next sweep waits until there are twice as many again, so that sweeping costs
    /// each erase a bounded share.
    fn sweep(&mut self, now_ms: i64) {
        let old = now_ms.saturating_sub(TOMBSTONE_KEEP_MS);
        let mut kept: Vec<Seq> = Vec::new();
        self.slots.retain(|_, slot| {
            let stays = slot.erased_ms.is_none_or(|erased_ms| erased_ms > old);
            if stays && slot.stroke.is_none() {
                kept.push(slot.seq);
            }
            stays
        });
        if let Some(surplus) = kept.len().checked_sub(TOMBSTONES_MAX / 2)
            && kept.len() > TOMBSTONES_MAX
        {
            kept.sort_unstable();
            let from = kept[surplus];
            self.slots
                .retain(|_, slot| slot.stroke.is_some() || slot.seq >= from);
        }
        self.tombstones = self.slots.values().filter(|s| s.stroke.is_none()).count();
        self.sweep_at = (self.tombstones * 2).min(TOMBSTONES_MAX);
    }

    /// Did the write to `id` that stands in the log at `seq` (in its draw at `at`; an erase behind all) lose against one that
    /// is known here? Of what was cleared since nothing is known.
    pub fn outdoes(&self, seq: Seq, at: usize, by: &ClientId, ts: i64, id: &str) -> bool {
        self.slots.get(id).is_some_and(|slot| {
            let slot_at = if slot.stroke.is_some() {
                slot.at as usize
            } else {
                usize::MAX
            };
            (slot.ts, &slot.by, slot.seq, slot_at) > (ts, by, seq, at)
        })
    }

    /// No stroke to show (there may be tombstones).
    pub fn is_empty(&self) -> bool {
        self.slots.len() == self.tombstones
    }

    /// The ids of what is shown.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.slots
            .iter()
            .filter(|(_, slot)| slot.stroke.is_some())
            .map(|(id, _)| id.as_str())
    }

    /// What must be erased, and then drawn in this order, for the strokes of `then` to be shown in theirs. What is drawn
    /// already below all that differs stays. Everything gets one `ts` that wins over what is known.
    pub fn changes_to(&self, then: &Self, now_ms: i64) -> (Vec<Erase>, Vec<Arc<Stroke>>) {
        let latest = self.slots.values().map(|slot| slot.ts).max();
        let ts = latest.map_or(now_ms, |latest| now_ms.max(latest.saturating_add(1)));
        let wanted = then.strokes();
        let stays = |id: &str| then.slots.get(id).is_some_and(|slot| slot.stroke.is_some());
        let shown = self.strokes();
        let (kept, gone): (Vec<_>, Vec<_>) = shown.into_iter().partition(|s| stays(&s.id));
        let looks = |s: &Stroke| (s.id.clone(), s.width, s.color.clone(), s.points.clone());
        let alike = kept
            .iter()
            .zip(&wanted)
            .take_while(|(a, b)| Arc::ptr_eq(a, b) || looks(a) == looks(b))
            .count();
        let erase = gone.iter().map(|stroke| Erase {
            id: stroke.id.clone(),
            ts,
        });
        let draw = wanted[alike..].iter().map(|stroke| {
            Arc::new(Stroke {
                ts,
                ..(**stroke).clone()
            })
        });
        (erase.collect(), draw.collect())
    }

    /// The strokes in drawing order.
    pub fn strokes(&self) -> Vec<Arc<Stroke>> {
        self.drawing().strokes()
    }

    /// What is shown, to be put in order elsewhere: cheap enough for a room's task.
    pub fn drawing(&self) -> Drawing {
        let shown = self.slots.values().filter_map(|slot| {
            let stroke = slot.stroke.clone()?;
            Some((slot.seq, slot.at, stroke))
        });
        Drawing(shown.collect())
    }
}

/// The strokes of a board, each with its place.
#[derive(Debug, Clone)]
pub struct Drawing(Vec<(Seq, u32, Arc<Stroke>)>);

impl Drawing {
    /// In drawing order.
    pub fn strokes(&self) -> Vec<Arc<Stroke>> {
        let mut shown: Vec<_> = self.0.iter().collect();
        shown.sort_unstable_by_key(|(seq, at, _)| (*seq, *at));
        shown
            .into_iter()
            .map(|(_, _, stroke)| stroke.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::stroke::samples::{paths, stroke};
    use super::*;

    fn client(id: &str) -> ClientId {
        id.parse().unwrap()
    }

    #[test]
    fn an_older_write_loses_and_a_tie_goes_to_the_greater_client() {
        let mut board = Board::default();
        board.apply(Seq(1), &client("b"), 0, &paths(&[stroke("s", 10)]));
        board.apply(
            Seq(2),
            &client("a"),
            0,
            &paths(&[Stroke {
                width: 9.0,
                ..stroke("s", 10)
            }]),
        );
        assert_eq!(board.strokes()[0].width, 2.0);
        board.apply(
            Seq(3),
            &client("c"),
            0,
            &paths(&[Stroke {
                width: 7.0,
                ..stroke("s", 10)
            }]),
        );
        assert_eq!(board.strokes()[0].width, 7.0);
        board.apply(Seq(4), &client("z"), 0, &paths(&[stroke("s", 9)]));
        assert_eq!(board.strokes()[0].width, 7.0);
    }

    #[test]
    fn whole_numbers_stay_whole_on_the_wire() {
        let text = serde_json::to_string(&Stroke {
            points: vec![10.0, 0.5],
            ..stroke("s", 1)
        })
        .unwrap();
        assert!(
            text.contains("[10,0.5]") && text.contains("\"width\":2,"),
            "{text}"
        );
    }

    #[test]
    fn an_erase_leaves_a_tombstone_even_of_an_unknown_id() {
        let mut board = Board::default();
        let erase = DrawBatch {
            erase: vec![Erase {
                id: "s".into(),
                ts: 20,
            }],
            ..DrawBatch::default()
        };
        board.apply(Seq(1), &client("a"), 0, &erase);
        board.apply(Seq(2), &client("a"), 0, &paths(&[stroke("s", 19)]));
        assert!(board.is_empty());
        board.apply(Seq(3), &client("a"), 0, &paths(&[stroke("s", 21)]));
        assert_eq!(board.strokes().len(), 1);
    }

    #[test]
    fn clear_goes_by_seq_whatever_the_clocks_say() {
        let mut board = Board::default();
        board.apply(Seq(1), &client("a"), 0, &paths(&[stroke("future", 5_000)]));
        let clear = DrawBatch {
            clear: true,
            paths: vec![Arc::new(stroke("after", 1))],
            ..DrawBatch::default()
        };
        board.apply(Seq(2), &client("a"), 0, &clear);
        let ids: Vec<_> = board.strokes().iter().map(|s| s.id.clone()).collect();
        assert_eq!(ids, ["after"]);
    }

    #[test]
    fn strokes_of_one_batch_keep_their_order_whatever_their_ids() {
        let mut board = Board::default();
        let batch = paths(&[stroke("z", 5), stroke("a", 5), stroke("m", 1)]);
        board.apply(Seq(1), &client("a"), 0, &batch);
        let ids: Vec<_> = board.strokes().iter().map(|s| s.id.clone()).collect();
        assert_eq!(ids, ["z", "a", "m"]);
    }

    #[test]
    fn tombstones_are_swept_when_they_have_served_and_every_fold_agrees() {
        let erase = |from: usize, count: usize| DrawBatch {
            erase: (from..from + count)
                .map(|i| Erase {
                    id: format!("e{i}"),
                    ts: 10,
                })
                .collect(),
            ..DrawBatch::default()
        };
        let mut board = Board::default();
        board.apply(Seq(1), &client("a"), 0, &erase(0, 8_000));
        let read: Board = serde_json::from_str(&serde_json::to_string(&board).unwrap()).unwrap();
        let mut boards = [board, read];
        for board in &mut boards {
            board.apply(Seq(2), &client("a"), 1_000, &erase(8_000, 4_000));
            assert_eq!(board.tombstones, 12_000, "all are young");
            board.apply(
                Seq(3),
                &client("a"),
                TOMBSTONE_KEEP_MS,
                &erase(12_000, 9_000),
            );
            board.apply(
                Seq(4),
                &client("a"),
                TOMBSTONE_KEEP_MS,
                &erase(21_000, 4_000),
            );
            assert_eq!(
                board.tombstones, 17_000,
                "those of the first entry are gone"
            );
            board.apply(
                Seq(5),
                &client("b"),
                TOMBSTONE_KEEP_MS,
                &paths(&[stroke("e8000", 9)]),
            );
            assert!(board.is_empty(), "a young one still stands");
        }
        assert_eq!(boards[0], boards[1]);
    }
}
