//! The whiteboard: strokes by id, the last write wins, erased ones leave tombstones.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::Invalid;
use super::ids::{ClientId, Seq};
use super::names;

/// Most coordinates pairs in one path.
pub const POINTS_MAX: usize = 100_000;
/// Most paths, and most erasures, in one `draw`.
pub const PATHS_MAX: usize = 10_000;
/// How far ahead of the server a client's `ts` may be.
pub const TS_AHEAD_MAX_MS: i64 = 5_000;
/// Widest stroke; wider is a mistake.
const WIDTH_MAX: f64 = 10_000.0;

/// One vector path: width and coordinates in board units, `points` as x0,y0,x1,y1,…
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stroke {
    pub id: String,
    #[serde(serialize_with = "number")]
    pub width: f64,
    pub color: String,
    #[serde(serialize_with = "numbers")]
    pub points: Vec<f64>,
    /// The author's clock, milliseconds since 1970: the first key of last-write-wins.
    pub ts: i64,
}

/// Whole numbers are written without a fraction, as clients send them.
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Whole(*value).serialize(serializer)
}

fn numbers<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| Whole(*value)))
}

struct Whole(f64);

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if self.0.fract() == 0.0 && self.0.abs() < EXACT {
            #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
            return serializer.serialize_i64(self.0 as i64);
        }
        serializer.serialize_f64(self.0)
    }
}

/// A stroke to remove; itself a write, with its own time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Erase {
    pub id: String,
    pub ts: i64,
}

/// What one `draw` says. `clear` removes what was logged before it and comes first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrawBatch {
    #[serde(default)]
    pub paths: Vec<Arc<Stroke>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erase: Vec<Erase>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clear: bool,
}

impl DrawBatch {
    /// Checks every limit of PROTOCOL.md; `now_ms` is the server's clock.
    pub fn check(&self, now_ms: i64) -> Result<(), Invalid> {
        if self.paths.is_empty() && self.erase.is_empty() && !self.clear {
            return Err(Invalid::new("paths", "a draw needs paths, erase or clear"));
        }
        if self.paths.len() > PATHS_MAX || self.erase.len() > PATHS_MAX {
            return Err(Invalid::new(
                "paths",
                format!("at most {PATHS_MAX} in one draw"),
            ));
        }
        for stroke in &self.paths {
            check_id("paths.id", &stroke.id)?;
            check_ts("paths.ts", stroke.ts, now_ms)?;
            names::color("paths.color", &stroke.color)?;
            if !(stroke.width > 0.0 && stroke.width <= WIDTH_MAX) {
                return Err(Invalid::new(
                    "paths.width",
                    format!("must be above 0 and at most {WIDTH_MAX}"),
                ));
            }
            if stroke.points.is_empty() || stroke.points.len() % 2 != 0 {
                return Err(Invalid::new(
                    "paths.points",
                    "must be x0,y0,x1,y1,… with at least one pair",
                ));
            }
            if stroke.points.len() / 2 > POINTS_MAX {
                return Err(Invalid::new(
                    "paths.points",
                    format!("at most {POINTS_MAX} points in a path"),
                ));
            }
            if stroke.points.iter().any(|p| !p.is_finite()) {
                return Err(Invalid::new("paths.points", "must be finite numbers"));
            }
        }
        for erase in &self.erase {
            check_id("erase.id", &erase.id)?;
            check_ts("erase.ts", erase.ts, now_ms)?;
        }
        Ok(())
    }
}

fn check_id(field: &'static str, id: &str) -> Result<(), Invalid> {
    if id.is_empty() || id.len() > 64 || id.chars().any(char::is_control) {
        return Err(Invalid::new(field, "must have 1 to 64 bytes"));
    }
    Ok(())
}

fn check_ts(field: &'static str, ts: i64, now_ms: i64) -> Result<(), Invalid> {
    if ts > now_ms + TS_AHEAD_MAX_MS {
        return Err(Invalid::new(
            field,
            format!("is more than {TS_AHEAD_MAX_MS} ms ahead of the server"),
        ));
    }
    Ok(())
}

/// What is known of one path id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Slot {
    ts: i64,
    by: ClientId,
    /// Where in the log this write stands: the drawing order.
    seq: Seq,
    /// `None`: a tombstone.
    stroke: Option<Arc<Stroke>>,
}

/// The folded drawing of a room. Folding the same entries in `seq` order always gives the same board.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Board {
    slots: BTreeMap<String, Slot>,
}

impl Board {
    /// Folds one batch in. A write wins over an older `ts`; on a tie the greater client id wins.
    pub fn apply(&mut self, seq: Seq, by: &ClientId, batch: &DrawBatch) {
        if batch.clear {
            self.slots.clear();
        }
        for stroke in &batch.paths {
            self.write(seq, by, &stroke.id, stroke.ts, Some(stroke));
        }
        for erase in &batch.erase {
            self.write(seq, by, &erase.id, erase.ts, None);
        }
    }

    fn write(&mut self, seq: Seq, by: &ClientId, id: &str, ts: i64, stroke: Option<&Arc<Stroke>>) {
        let wins = self
            .slots
            .get(id)
            .is_none_or(|slot| (ts, by) >= (slot.ts, &slot.by));
        if wins {
            let slot = Slot {
                ts,
                by: by.clone(),
                seq,
                stroke: stroke.cloned(),
            };
            self.slots.insert(id.to_owned(), slot);
        }
    }

    /// No stroke to show (there may be tombstones).
    pub fn is_empty(&self) -> bool {
        self.slots.values().all(|slot| slot.stroke.is_none())
    }

    /// The strokes in drawing order.
    pub fn strokes(&self) -> Vec<Arc<Stroke>> {
        let mut shown: Vec<_> = self
            .slots
            .values()
            .filter_map(|slot| slot.stroke.clone().map(|stroke| (slot.seq, stroke)))
            .collect();
        shown.sort_by_key(|(seq, stroke)| (*seq, stroke.ts));
        shown.into_iter().map(|(_, stroke)| stroke).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stroke(id: &str, ts: i64) -> Stroke {
        Stroke {
            id: id.into(),
            width: 2.0,
            color: "#112233".into(),
            points: vec![0.0, 0.0, 1.0, 1.0],
            ts,
        }
    }

    fn paths(strokes: &[Stroke]) -> DrawBatch {
        DrawBatch {
            paths: strokes.iter().cloned().map(Arc::new).collect(),
            ..DrawBatch::default()
        }
    }

    fn client(id: &str) -> ClientId {
        id.parse().unwrap()
    }

    #[test]
    fn an_older_write_loses_and_a_tie_goes_to_the_greater_client() {
        let mut board = Board::default();
        board.apply(Seq(1), &client("b"), &paths(&[stroke("s", 10)]));
        board.apply(
            Seq(2),
            &client("a"),
            &paths(&[Stroke {
                width: 9.0,
                ..stroke("s", 10)
            }]),
        );
        assert_eq!(board.strokes()[0].width, 2.0);
        board.apply(
            Seq(3),
            &client("c"),
            &paths(&[Stroke {
                width: 7.0,
                ..stroke("s", 10)
            }]),
        );
        assert_eq!(board.strokes()[0].width, 7.0);
        board.apply(Seq(4), &client("z"), &paths(&[stroke("s", 9)]));
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
        board.apply(Seq(1), &client("a"), &erase);
        board.apply(Seq(2), &client("a"), &paths(&[stroke("s", 19)]));
        assert!(board.is_empty());
        board.apply(Seq(3), &client("a"), &paths(&[stroke("s", 21)]));
        assert_eq!(board.strokes().len(), 1);
    }

    #[test]
    fn clear_goes_by_seq_whatever_the_clocks_say() {
        let mut board = Board::default();
        board.apply(Seq(1), &client("a"), &paths(&[stroke("future", 5_000)]));
        let clear = DrawBatch {
            clear: true,
            paths: vec![Arc::new(stroke("after", 1))],
            ..DrawBatch::default()
        };
        board.apply(Seq(2), &client("a"), &clear);
        let ids: Vec<_> = board.strokes().iter().map(|s| s.id.clone()).collect();
        assert_eq!(ids, ["after"]);
    }

    #[test]
    fn a_batch_names_the_field_it_breaks() {
        let field = |batch: DrawBatch| batch.check(1_000).unwrap_err().field;
        assert_eq!(field(DrawBatch::default()), "paths");
        assert_eq!(field(paths(&[stroke("s", 7_000)])), "paths.ts");
        assert_eq!(
            field(paths(&[Stroke {
                width: f64::NAN,
                ..stroke("s", 0)
            }])),
            "paths.width"
        );
        assert_eq!(
            field(paths(&[Stroke {
                points: vec![1.0],
                ..stroke("s", 0)
            }])),
            "paths.points"
        );
        assert_eq!(
            field(paths(&[Stroke {
                color: "red;".into(),
                ..stroke("s", 0)
            }])),
            "paths.color"
        );
    }
}
