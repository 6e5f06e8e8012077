//! What is drawn: strokes, erasures, and what one `draw` says, with the limits that PROTOCOL.md gives them.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::domain::{Invalid, moment, names, objects};

/// Most coordinates pairs in one path.
pub const POINTS_MAX: usize = 100_000;
/// Most paths, and most erasures, in one `draw`.
pub const PATHS_MAX: usize = 10_000;
/// How far ahead of the server a client's `ts` may be.
pub const TS_AHEAD_MAX_MS: i64 = 5_000;
/// Most bytes of JSON that the paths of one `draw` come to: what others are told of it, and of its largest path in a `board`,
/// stays below 1 MiB, which is what common clients take. (Numbers may be told longer than they came: 1e15 in sixteen digits.)
const PATHS_BYTES_MAX: usize = (1 << 20) - 512;
/// No number takes more, with what stands between it and the next.
const NUMBER_BYTES_MAX: usize = 26;
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
    #[serde(deserialize_with = "moment::whole_ms")]
    pub ts: i64,
}

impl Stroke {
    /// Checks every limit of PROTOCOL.md; `now_ms` is the server's clock.
    pub fn check(&self, now_ms: i64) -> Result<(), Invalid> {
        check_id("id", &self.id)?;
        check_ts("ts", self.ts, now_ms)?;
        names::color("color", &self.color)?;
        if !(self.width > 0.0 && self.width <= WIDTH_MAX) {
            return Err(Invalid::new(
                "width",
                format!("must be above 0 and at most {WIDTH_MAX}"),
            ));
        }
        if self.points.is_empty() || !self.points.len().is_multiple_of(2) {
            return Err(Invalid::new(
                "points",
                "must be x0,y0,x1,y1,… with at least one pair",
            ));
        }
        if self.points.len() / 2 > POINTS_MAX {
            return Err(Invalid::new(
                "points",
                format!("at most {POINTS_MAX} points in a path"),
            ));
        }
        if self.points.iter().any(|p| !p.is_finite()) {
            return Err(Invalid::new("points", "must be finite numbers"));
        }
        Ok(())
    }

    /// No less than [`Self::json_len`], without looking at the numbers.
    fn json_len_at_most(&self) -> usize {
        // An id may have to be escaped.
        200 + 6 * self.id.len() + self.color.len() + NUMBER_BYTES_MAX * self.points.len()
    }

    /// Bytes of its JSON.
    pub fn json_len(&self) -> usize {
        struct Count(usize);
        impl std::io::Write for Count {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 += bytes.len();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut count = Count(0);
        // Nothing in a stroke can fail to be JSON, and counting can't fail either.
        let _ = serde_json::to_writer(&mut count, self);
        count.0
    }
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
    #[serde(deserialize_with = "moment::whole_ms")]
    pub ts: i64,
}

/// What one `draw` says. `clear` removes what was logged before it and comes first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DrawBatch {
    #[serde(default, deserialize_with = "objects::many")]
    pub paths: Vec<Arc<Stroke>>,
    #[serde(
        default,
        deserialize_with = "objects::many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub erase: Vec<Erase>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clear: bool,
}

impl DrawBatch {
    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.erase.is_empty() && !self.clear
    }

    /// Checks every limit of PROTOCOL.md; `now_ms` is the server's clock.
    pub fn check(&self, now_ms: i64) -> Result<(), Invalid> {
        if self.is_empty() {
            return Err(Invalid::new("paths", "a draw needs paths, erase or clear"));
        }
        if self.paths.len() > PATHS_MAX || self.erase.len() > PATHS_MAX {
            return Err(Invalid::new(
                "paths",
                format!("at most {PATHS_MAX} in one draw"),
            ));
        }
        for (at, stroke) in self.paths.iter().enumerate() {
            let checked = stroke.check(now_ms);
            checked.map_err(|invalid| invalid.within(&format!("paths[{at}]")))?;
        }
        self.check_bytes()?;
        for (at, erase) in self.erase.iter().enumerate() {
            let checked = check_id("id", &erase.id).and(check_ts("ts", erase.ts, now_ms));
            checked.map_err(|invalid| invalid.within(&format!("erase[{at}]")))?;
        }
        Ok(())
    }
}

impl DrawBatch {
    /// Counted only where it could be too much.
    fn check_bytes(&self) -> Result<(), Invalid> {
        let most: usize = self.paths.iter().map(|path| path.json_len_at_most()).sum();
        if most <= PATHS_BYTES_MAX {
            return Ok(());
        }
        let mut bytes = 0;
        for (at, path) in self.paths.iter().enumerate() {
            bytes += path.json_len() + 1;
            if bytes > PATHS_BYTES_MAX {
                let text = format!(
                    "the paths of one draw may come to {PATHS_BYTES_MAX} bytes as they are told, and here are more"
                );
                return Err(Invalid::new("points", text).within(&format!("paths[{at}]")));
            }
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

#[cfg(test)]
pub(super) mod samples {
    use super::*;

    pub fn stroke(id: &str, ts: i64) -> Stroke {
        Stroke {
            id: id.into(),
            width: 2.0,
            color: "#112233".into(),
            points: vec![0.0, 0.0, 1.0, 1.0],
            ts,
        }
    }

    pub fn paths(strokes: &[Stroke]) -> DrawBatch {
        DrawBatch {
            paths: strokes.iter().cloned().map(Arc::new).collect(),
            ..DrawBatch::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{paths, stroke};
    use super::*;

    #[test]
    fn a_batch_names_the_field_it_breaks() {
        let field = |batch: DrawBatch| batch.check(1_000).unwrap_err().field;
        assert_eq!(field(DrawBatch::default()), "paths");
        assert_eq!(field(paths(&[stroke("s", 7_000)])), "paths[0].ts");
        let third = [stroke("s", 0), stroke("t", 0), stroke("u", 7_000)];
        assert_eq!(field(paths(&third)), "paths[2].ts");
        let erase = |ts| Erase { id: "s".into(), ts };
        let erases = DrawBatch {
            erase: vec![erase(0), erase(7_000)],
            ..DrawBatch::default()
        };
        assert_eq!(field(erases), "erase[1].ts");
        assert_eq!(
            field(paths(&[Stroke {
                width: f64::NAN,
                ..stroke("s", 0)
            }])),
            "paths[0].width"
        );
        assert_eq!(
            field(paths(&[Stroke {
                points: vec![1.0],
                ..stroke("s", 0)
            }])),
            "paths[0].points"
        );
        assert_eq!(
            field(paths(&[Stroke {
                color: "red;".into(),
                ..stroke("s", 0)
            }])),
            "paths[0].color"
        );
    }

    #[test]
    fn what_is_told_longer_than_it_came_still_fits_what_clients_take() {
        let of = |points: usize, at: f64| Stroke {
            points: vec![at; points],
            ..stroke("s", 0)
        };
        let check = |strokes: &[Stroke]| paths(strokes).check(1_000).map_err(|e| e.field);
        assert_eq!(check(&[of(200_000, 1e15)]), Err("paths[0].points".into()));
        assert_eq!(check(&[of(200_000, 0.5)]), Ok(()));
        let half = of(40_000, 1e15);
        assert_eq!(check(std::slice::from_ref(&half)), Ok(()));
        assert_eq!(check(&[half.clone(), half]), Err("paths[1].points".into()));
    }
}
