//! Server to client: every frame of PROTOCOL.md's second table, built once as ready WebSocket bytes.

use std::sync::Arc;

use atelier_shared::domain::Invalid;
use atelier_shared::domain::board::{Board, DrawBatch, Erase, Stroke};
use atelier_shared::domain::entry::{Author, Body, Entry};
use atelier_shared::domain::ids::{ClientId, Epoch, FileId, MessageId, Ref, Seq};
use atelier_shared::domain::message::{Message, Reactor};
use atelier_shared::domain::room::Role;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::{Value, json};

use crate::identity::Identity;
use crate::room::websocket;

/// People named under one emoji, those who came first; the count is of all.
const REACTORS_SHOWN_MAX: usize = 500;
/// Strokes in one `board` frame, and their bytes (one larger than that has a frame of its own); a larger board comes as
/// several, one behind the other. Common clients take no more than 1 MiB at once.
const BOARD_FRAME_STROKES: usize = 2_000;
const BOARD_FRAME_BYTES: usize = 512 * 1024;

/// Any JSON value as a text frame. Serialising our own types to memory does not fail.
pub fn frame(message: &impl Serialize) -> Bytes {
    websocket::text(&serde_json::to_vec(message).unwrap_or_default())
}

/// RFC 3339 with milliseconds, UTC.
pub fn rfc3339(ts_ms: i64) -> String {
    DateTime::from_timestamp_millis(ts_ms)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn author(author: &Author) -> Value {
    json!({
        "id": author.client_id,
        "user_id": author.user_id,
        "name": author.name,
        "color": author.color,
        "avatar_url": author.avatar_url,
    })
}

pub fn resumed(from: Seq, to: Seq) -> Bytes {
    frame(&json!({"type": "resumed", "from": from, "to": to}))
}

pub fn ack(reference: &Ref, seq: Seq) -> Bytes {
    frame(&json!({"type": "ack", "ref": reference, "seq": seq, "durability": "logged"}))
}

/// The ack of a message also says its `id`, by which its author speaks of it from now on.
pub fn ack_of_message(reference: &Ref, seq: Seq, id: MessageId) -> Bytes {
    frame(&json!({
        "type": "ack", "ref": reference, "seq": seq, "durability": "logged", "id": id,
    }))
}

/// The ack that an entry's author is owed, if it has a ref of theirs.
pub fn ack_of(entry: &Entry) -> Option<Bytes> {
    let reference = entry.record.reference.as_ref();
    let reference = reference.filter(|reference| !reference.is_of_server())?;
    Some(match entry.record.body.message_id() {
        Some(id) => ack_of_message(reference, entry.seq, id),
        None => ack(reference, entry.seq),
    })
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

/// One entry as its readers get it. `links` signs the links to files, anew each time.
pub fn entry(entry: &Entry, links: &Identity) -> Bytes {
    websocket::text(&entry_json(entry, links))
}

/// A reaction as its readers get it, with all who are under that emoji now.
pub fn reaction_update(entry: &Entry, reactors: &[Reactor], links: &Identity) -> Bytes {
    frame(&entry_value(entry, reactors, links))
}

/// The JSON text of [`entry`], without the frame.
pub fn entry_json(entry: &Entry, links: &Identity) -> Vec<u8> {
    serde_json::to_vec(&entry_value(entry, &[], links)).unwrap_or_default()
}

/// A message folded, as history shows it: the fields it was sent with, and what became of it.
pub fn message_value(message: &Message, links: &Identity) -> Value {
    let entry = Entry {
        seq: message.seq,
        record: message.record.clone(),
    };
    let mut shown = entry_value(&entry, &[], links);
    if let (Some(fields), None) = (shown.as_object_mut(), message.deleted_ms()) {
        let reactions = message.reactions.iter().map(|reactions| {
            json!({
                "emoji": reactions.emoji,
                "count": reactions.users.len(),
                "users": reactors_shown(&reactions.users),
            })
        });
        fields.insert("reactions".into(), reactions.collect());
        fields.insert("edited_at".into(), message.edited_ms.map(rfc3339).into());
        fields.insert("deleted_at".into(), Value::Null);
        fields.insert("thread".into(), json!(message.thread()));
    }
    shown
}

fn reactors_shown(reactors: &[Reactor]) -> Value {
    let shown = reactors.iter().take(REACTORS_SHOWN_MAX);
    shown
        .map(|reactor| {
            json!({"id": reactor.client_id, "user_id": reactor.user_id, "name": reactor.name})
        })
        .collect()
}

/// An entry as JSON; `reactors` are those of a reaction's emoji, `links` signs the links to files, anew each time.
pub fn entry_value(entry: &Entry, reactors: &[Reactor], links: &Identity) -> Value {
    let record = &entry.record;
    let base = |kind: &str| {
        json!({
            "type": kind,
            "seq": entry.seq,
            "from": record.author.client_id,
            "ts": record.ts_ms,
        })
    };
    let mut message = base(record.body.kind());
    let mut put = |fields: Value| {
        if let (Some(message), Value::Object(fields)) = (message.as_object_mut(), fields) {
            message.extend(fields);
        }
    };
    match &record.body {
        Body::ChatMessage {
            id,
            content,
            mentions,
            reply_to,
            file_id,
            file_name,
            ..
        } => put(json!({
            "id": id,
            "user": author(&record.author),
            "content": content,
            "mentions": mentions,
            "reply_to": reply_to,
            "file_id": file_id,
            "file_url": file_id.map(|id| links.file_url(FileId(id))),
            "file_name": file_name,
            "created_at": rfc3339(record.ts_ms),
        })),
        Body::DirectMessage { id, to, content } => put(json!({
            "id": id,
            "user": author(&record.author),
            "to": to,
            "content": content,
            "created_at": rfc3339(record.ts_ms),
        })),
        Body::Deleted {
            id,
            deleted_ms,
            reply_to,
            ..
        } => put(json!({"id": id, "deleted_at": rfc3339(*deleted_ms), "reply_to": reply_to})),
        Body::ChatEdited {
            message_id,
            content,
            mentions,
            ..
        } => put(json!({
            "message_id": message_id,
            "content": content,
            "mentions": mentions,
            "edited_at": rfc3339(record.ts_ms),
        })),
        Body::ChatDeleted { message_id, .. } => {
            put(json!({"message_id": message_id, "deleted_at": rfc3339(record.ts_ms)}));
        }
        Body::Reaction {
            message_id, emoji, ..
        } => {
            put(json!({
                "message_id": message_id,
                "emoji": emoji,
                "count": reactors.len(),
                "users": reactors_shown(reactors),
            }));
        }
        Body::CodeComment { id, data, .. } => put(json!({
            "id": id,
            "user": author(&record.author),
            "data": data,
            "created_at": rfc3339(record.ts_ms),
        })),
        Body::Draw(batch) => {
            put(json!({"paths": batch.paths, "erase": batch.erase, "clear": batch.clear}));
        }
        Body::DocumentUpdate { data } => put(json!({"data": hex::encode(data)})),
        Body::FileShared { file } => put(json!({
            "user": author(&record.author),
            "file": {
                "id": file.id,
                "name": file.name,
                "size": file.size,
                "content_type": file.content_type,
                "url": links.file_url(file.id),
            },
        })),
        Body::SessionUpdate { data } => put(json!({"data": data})),
        Body::RoleChanged { user_id, role, .. } => put(json!({"user_id": user_id, "role": role})),
        Body::RunStarted { run_id, language } => put(json!({
            "run_id": run_id,
            "language": language,
            "user": author(&record.author),
        })),
        Body::RunFinished {
            run_id,
            status,
            exit_code,
            signal,
            wall_ms,
        } => put(json!({
            "run_id": run_id,
            "status": status,
            "exit_code": exit_code,
            "signal": signal,
            "wall_ms": wall_ms,
        })),
    }
    message
}

/// A role in words that a refusal can use.
pub fn needs(role: Role) -> String {
    format!("needs the role {} or higher", role.as_str())
}
