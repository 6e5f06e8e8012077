//! Server to client: every frame of PROTOCOL.md's second table, built once as ready WebSocket bytes.

use std::cell::RefCell;
use std::sync::Arc;

use atelier_shared::domain::Invalid;
use atelier_shared::domain::board::{Board, DrawBatch, Erase, Stroke};
use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{ClientId, Epoch, MessageId, Ref, Seq};
use atelier_shared::domain::room::Role;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::{Value, json};

use crate::room::websocket;

/// What a thread keeps of memory to serialise into.
const SCRATCH_MAX_BYTES: usize = 64 * 1024;
/// Strokes in one `board` frame, and their bytes (one larger than that has a frame of its own); a larger board comes as
/// several, one behind the other. Common clients take no more than 1 MiB at once.
const BOARD_FRAME_STROKES: usize = 2_000;
const BOARD_FRAME_BYTES: usize = 512 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Any JSON value as a text frame, in memory of just its size.
pub fn frame(message: &impl Serialize) -> Bytes {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        // Serialising our own types to memory does not fail.
        if serde_json::to_writer(&mut *scratch, message).is_err() {
            scratch.clear();
        }
        let frame = websocket::text(scratch);
        if scratch.capacity() > SCRATCH_MAX_BYTES {
            *scratch = Vec::new();
        }
        frame
    })
}

/// RFC 3339 with milliseconds, UTC.
pub fn rfc3339(ts_ms: i64) -> String {
    DateTime::from_timestamp_millis(ts_ms)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub fn resumed(from: Seq, to: Seq) -> Bytes {
    frame(&json!({"type": "resumed", "from": from, "to": to}))
}

/// A message is stored.
#[derive(Serialize)]
struct Ack<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "ref")]
    reference: &'a Ref,
    seq: Seq,
    durability: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<MessageId>,
}

/// The ack of a message that others can speak of also says its `id`.
pub fn ack(reference: &Ref, seq: Seq, id: Option<MessageId>) -> Bytes {
    frame(&Ack {
        kind: "ack",
        reference,
        seq,
        durability: "logged",
        id,
    })
}

/// The ack that an entry's author is owed, if it has a ref of theirs.
pub fn ack_of(entry: &Entry) -> Option<Bytes> {
    let reference = entry.record.reference.as_ref();
    let reference = reference.filter(|reference| !reference.is_of_server())?;
    let id = entry.record.body.message_id();
    Some(ack(reference, entry.seq, id))
}

pub fn archived(seq: Seq) -> Bytes {
    frame(&json!({"type": "archived", "seq": seq}))
}

pub fn reload(reason: &str, epoch: Epoch, seq: Seq, archived: Seq) -> Bytes {
    frame(&json!({
        "type": "reload",
        "reason": reason,
        "epoch": epoch,
        "seq": seq,
        "archived_seq": archived,
    }))
}

pub fn user_left(client: &ClientId, reason: Option<&str>) -> Bytes {
    match reason {
        Some(reason) => frame(&json!({"type": "user_left", "userId": client, "reason": reason})),
        None => frame(&json!({"type": "user_left", "userId": client})),
    }
}

pub fn pong(timestamp: Option<&Value>) -> Bytes {
    match timestamp {
        Some(timestamp) => frame(&json!({"type": "pong", "timestamp": timestamp})),
        None => frame(&json!({"type": "pong", "timestamp": chrono::Utc::now().timestamp_millis()})),
    }
}

/// An `error`; the connection stays open.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorFrame {
    #[serde(rename = "type")]
    kind: &'static str,
    pub code: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
}

impl ErrorFrame {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: "error",
            code,
            message: message.into(),
            field: None,
            reference: None,
            retry_in_ms: None,
        }
    }

    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub fn reference(mut self, reference: Option<Ref>) -> Self {
        self.reference = reference;
        self
    }

    pub fn retry_in_ms(mut self, retry_in_ms: u64) -> Self {
        self.retry_in_ms = Some(retry_in_ms);
        self
    }

    pub fn bytes(&self) -> Bytes {
        frame(self)
    }
}

impl From<Invalid> for ErrorFrame {
    fn from(invalid: Invalid) -> Self {
        Self::new("invalid", invalid.to_string()).field(invalid.field)
    }
}

/// What stands ahead of a close frame, by code.
pub fn notice_of_close(code: u16, reason: &str) -> Bytes {
    let name = match code {
        4401 => "token",
        4403 => "forbidden",
        4404 => "room_gone",
        4409 => "replaced",
        4413 => "frame_too_large",
        4429 => "too_many_refused",
        4500 => "cleanup",
        4503 => "draining",
        4508 => "too_slow",
        _ => "closing",
    };
    notice(name, reason, 0)
}

pub fn notice(code: &str, message: &str, in_ms: u64) -> Bytes {
    frame(&json!({"type": "notice", "code": code, "message": message, "in_ms": in_ms}))
}

pub fn drain(after_ms: u64) -> Bytes {
    frame(&json!({"type": "drain", "after_ms": after_ms}))
}

/// The whole document, as one v1 update.
pub fn sync(state: &[u8]) -> Bytes {
    frame(&json!({"type": "sync", "data": hex::encode(state)}))
}

/// The whole drawing, in frames of bounded size; all carry the `seq` they stand for.
pub fn board(strokes: &[Arc<Stroke>], seq: Seq) -> Vec<Bytes> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut room_for = 0;
    for stroke in strokes {
        // Serialising our own types to memory does not fail.
        let json = serde_json::to_vec(&**stroke).unwrap_or_default();
        match parts.last_mut() {
            Some(part) if room_for > 0 && part.len() + json.len() <= BOARD_FRAME_BYTES => {
                part.push(b',');
                part.extend_from_slice(&json);
                room_for -= 1;
            }
            _ => {
                parts.push(json);
                room_for = BOARD_FRAME_STROKES - 1;
            }
        }
    }
    let count = parts.len();
    let frame = |(i, part): (usize, Vec<u8>)| {
        let mut json = br#"{"type":"board","paths":["#.to_vec();
        json.extend_from_slice(&part);
        let end = format!(r#"],"seq":{seq},"part":{},"parts":{count}}}"#, i + 1);
        json.extend_from_slice(end.as_bytes());
        websocket::text(&json)
    };
    parts.into_iter().enumerate().map(frame).collect()
}

/// The board where nothing is drawn.
pub fn empty_board(seq: Seq) -> Bytes {
    frame(&serde_json::json!({"type": "board", "paths": [], "seq": seq, "part": 1, "parts": 1}))
}

/// Several `draw`s of one author, told as one.
#[derive(Debug, Serialize)]
pub struct DrawFrame<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    pub paths: Vec<&'a Stroke>,
    pub erase: Vec<&'a Erase>,
    pub clear: bool,
    pub from: &'a ClientId,
    pub seq: Seq,
    pub ts: i64,
}

/// About how many bytes of JSON a batch comes to; never much less.
pub fn weight(batch: &DrawBatch) -> usize {
    let number = |number: &f64| {
        let is_short = number.fract() == 0.0 && number.abs() < 1e8;
        if is_short { 12 } else { 20 }
    };
    let path =
        |path: &Arc<Stroke>| path.id.len() + path.points.iter().map(number).sum::<usize>() + 100;
    let erase = |erase: &Erase| erase.id.len() + 40;
    batch.paths.iter().map(path).sum::<usize>() + batch.erase.iter().map(erase).sum::<usize>()
}

/// Joins the batches of one author, in order. What stood before a `clear` in the same frame is left out: the clear removes it;
/// and so is what lost against another write that `board`, which has them all, knows. Where nothing is left there is nothing to
/// tell: no bytes.
pub fn draw<'a>(
    batches: &[(Seq, i64, &'a DrawBatch)],
    (seq, ts): (Seq, i64),
    from: &'a ClientId,
    board: &Board,
) -> Bytes {
    let mut joined = DrawFrame {
        kind: "draw",
        paths: Vec::new(),
        erase: Vec::new(),
        clear: false,
        from,
        seq,
        ts,
    };
    for (seq, _, batch) in batches {
        if batch.clear {
            joined.clear = true;
            joined.paths.clear();
            joined.erase.clear();
        }
        let paths = batch.paths.iter().enumerate();
        let paths = paths.filter(|(at, path)| !board.outdoes(*seq, *at, from, path.ts, &path.id));
        joined.paths.extend(paths.map(|(_, path)| &**path));
        let erase = batch.erase.iter();
        let erase =
            erase.filter(|erase| !board.outdoes(*seq, usize::MAX, from, erase.ts, &erase.id));
        joined.erase.extend(erase);
    }
    if joined.paths.is_empty() && joined.erase.is_empty() && !joined.clear {
        return Bytes::new();
    }
    frame(&joined)
}

/// A role in words that a refusal can use.
pub fn needs(role: Role) -> String {
    format!("needs the role {} or higher", role.as_str())
}
