//! A drawing as a file of JSON, and how a drawing from a file is cut into draws.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::board::{DrawBatch, PATHS_MAX, Stroke};
use super::ids::Seq;
use super::objects;
use super::svg::{STROKES_MAX, TOTAL_POINTS_MAX};

/// What one draw made from a file comes to, in bytes of JSON: far below the 1 MiB that common WebSocket clients accept.
const DRAW_BYTES: usize = 512 * 1024;
/// The largest stroke that a file may hold: its own draw still stays below 1 MiB.
pub const STROKE_BYTES_MAX: usize = 1_000_000;

/// The file: `{"type":"board","version":1,"seq":…,"paths":[…]}`, the strokes as in `draw`. When read, everything but
/// `paths` may be missing.
#[derive(Debug, Serialize)]
struct File<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    version: u32,
    seq: Seq,
    paths: &'a [Arc<Stroke>],
    #[serde(flatten)]
    rest: Option<&'a Rest>,
}

/// What a file of a whole room's state has besides: its document as a v1 update, in hexadecimal, and its metadata.
#[derive(Debug, Serialize)]
pub struct Rest {
    pub document: String,
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

const KIND: &str = "board";
const VERSION: u32 = 1;

/// Why a file of JSON is refused. `field` is its place: `paths[3].width`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct FileError {
    pub field: String,
    pub reason: String,
}

/// The place of what is wrong with the file as a whole.
const WHOLE: &str = "body";

impl FileError {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// The drawing as it stood at `seq`; with `rest`, all of the room's state. Readers of drawings pass over that.
pub fn to_json(strokes: &[Arc<Stroke>], seq: Seq, rest: Option<&Rest>) -> Vec<u8> {
    let file = File {
        kind: KIND,
        version: VERSION,
        seq,
        paths: strokes,
        rest,
    };
    // Serialising our own types to memory does not fail.
    serde_json::to_vec(&file).unwrap_or_default()
}

#[derive(Deserialize)]
struct Read {
    #[serde(rename = "type")]
    kind: Option<String>,
    version: Option<u32>,
    #[serde(deserialize_with = "objects::many")]
    paths: Vec<Stroke>,
}

/// Reads what [`to_json`] wrote. Pure work of up to seconds for the largest.
///
/// # Errors
/// The first thing that is wrong; nothing is taken in part.
pub fn from_json(bytes: &[u8], now_ms: i64) -> Result<Vec<Stroke>, FileError> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(FileError::new(WHOLE, "must be an object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read: Read = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let place = error.path().to_string();
        let whole = !error.inner().is_data() || place == ".";
        let reason = error.inner().to_string();
        // serde names a missing field in its words only; its path is that of the object around it.
        let missing = reason.strip_prefix("missing field `");
        let (place, reason) = match missing.and_then(|rest| rest.split('`').next()) {
            Some(name) if whole => (name.to_owned(), "must be given".to_owned()),
            Some(name) => (format!("{place}.{name}"), "must be given".to_owned()),
            None if whole => (WHOLE.to_owned(), reason),
            None => (place, reason),
        };
        FileError::new(place, reason)
    })?;
    deserializer
        .end()
        .map_err(|error| FileError::new(WHOLE, error.to_string()))?;
    if read.kind.as_deref().is_some_and(|kind| kind != KIND) {
        return Err(FileError::new("type", format!("must be \"{KIND}\"")));
    }
    if read.version.is_some_and(|version| version != VERSION) {
        return Err(FileError::new("version", format!("must be {VERSION}")));
    }
    if read.paths.len() > STROKES_MAX {
        return Err(FileError::new("paths", format!("at most {STROKES_MAX}")));
    }
    let points: usize = read.paths.iter().map(|path| path.points.len() / 2).sum();
    if points > TOTAL_POINTS_MAX {
        let reason = format!("at most {TOTAL_POINTS_MAX} points in all");
        return Err(FileError::new("paths", reason));
    }
    let mut ids = HashSet::new();
    for (at, stroke) in read.paths.iter().enumerate() {
        stroke.check(now_ms).map_err(|invalid| {
            FileError::new(format!("paths[{at}].{}", invalid.field), invalid.reason)
        })?;
        if !ids.insert(stroke.id.as_str()) {
            let reason = "another path has it too";
            return Err(FileError::new(format!("paths[{at}].id"), reason));
        }
        if stroke.json_len() > STROKE_BYTES_MAX {
            let reason = format!("comes to more than {STROKE_BYTES_MAX} bytes");
            return Err(FileError::new(format!("paths[{at}]"), reason));
        }
    }
    drop(ids);
    Ok(read.paths)
}

/// Draws that together put these strokes on a board in this order, each small enough to travel as one message.
pub fn draws(strokes: impl IntoIterator<Item = Arc<Stroke>>) -> Vec<DrawBatch> {
    let mut draws = Vec::new();
    let mut open = DrawBatch::default();
    let mut bytes = 0;
    for stroke in strokes {
        let more = stroke.json_len();
        if !open.paths.is_empty() && (bytes + more > DRAW_BYTES || open.paths.len() >= PATHS_MAX) {
            draws.push(std::mem::take(&mut open));
            bytes = 0;
        }
        bytes += more;
        open.paths.push(stroke);
    }
    if !open.paths.is_empty() {
        draws.push(open);
    }
    draws
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stroke(id: &str, points: usize) -> Stroke {
        Stroke {
            id: id.into(),
            width: 1.5,
            color: "#ABC".into(),
            points: (0..points * 2).map(|n| n as f64 / 3.0).collect(),
            ts: 7,
        }
    }

    #[test]
    fn a_drawing_comes_back_from_its_file() {
        let strokes = vec![stroke("b", 3), stroke("a", 1)];
        let shared: Vec<_> = strokes.iter().cloned().map(Arc::new).collect();
        assert_eq!(
            from_json(&to_json(&shared, Seq(4), None), 10).unwrap(),
            strokes
        );
    }

    #[test]
    fn a_refused_file_names_the_place() {
        let path = |fields: &str| {
            format!(
                r##"{{"paths":[{{"id":"a","width":1,"color":"#fff","points":[0,0],"ts":1}},{{{fields}}}]}}"##
            )
        };
        for (json, field) in [
            ("{".to_owned(), "body"),
            (r#"{"paths":[1]}"#.to_owned(), "paths[0]"),
            (r#"{"type":"cat","paths":[]}"#.to_owned(), "type"),
            (
                path(r##""id":"a","width":1,"color":"#fff","points":[0,0],"ts":1"##),
                "paths[1].id",
            ),
            (
                path(r##""id":"b","width":0,"color":"#fff","points":[0,0],"ts":1"##),
                "paths[1].width",
            ),
            (
                path(r##""id":"b","width":1,"color":"#fff","points":[0,0],"ts":99999"##),
                "paths[1].ts",
            ),
        ] {
            let error = from_json(json.as_bytes(), 10).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn draws_keep_the_order_and_stay_small() {
        let strokes: Vec<_> = (0..100)
            .map(|i| Arc::new(stroke(&i.to_string(), 2_000)))
            .collect();
        let draws = draws(strokes.iter().cloned());
        assert!(draws.len() > 1);
        for draw in &draws {
            assert!(serde_json::to_vec(draw).unwrap().len() < DRAW_BYTES + 1_000);
        }
        let joined: Vec<_> = draws.into_iter().flat_map(|draw| draw.paths).collect();
        assert_eq!(joined, strokes);
    }
}
