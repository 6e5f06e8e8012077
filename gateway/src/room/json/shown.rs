//! Entries on the wire: each kind of the log as its readers get it, in frames, replays and history.
//!
//! Written straight into bytes: every message of a room passes here.

use atelier_shared::domain::entry::{Author, Body, Entry};
use atelier_shared::domain::ids::{ClientId, FileId, UserId};
use atelier_shared::domain::message::{Message, Reactor};
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::outgoing::{frame, rfc3339};
use crate::identity::Identity;

/// People named under one emoji, those who came first; the count is of all.
const REACTORS_SHOWN_MAX: usize = 500;

/// An entry as JSON; `reactors` are those of a reaction's emoji, `links` signs the links to files, anew each time.
pub struct Shown<'a> {
    pub entry: &'a Entry,
    pub reactors: &'a [Reactor],
    pub links: &'a Identity,
}

/// Who wrote it: `{id, user_id, name, color, avatar_url}`.
#[derive(serde::Serialize)]
struct Writer<'a> {
    id: &'a ClientId,
    user_id: UserId,
    name: &'a str,
    color: Option<&'a str>,
    avatar_url: Option<&'a str>,
}

impl<'a> From<&'a Author> for Writer<'a> {
    fn from(author: &'a Author) -> Self {
        Self {
            id: &author.client_id,
            user_id: author.user_id,
            name: &author.name,
            color: author.color.as_deref(),
            avatar_url: author.avatar_url.as_deref(),
        }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.entry.record;
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("type", record.body.kind())?;
        fields.serialize_entry("seq", &self.entry.seq)?;
        fields.serialize_entry("from", &record.author.client_id)?;
        fields.serialize_entry("ts", &record.ts_ms)?;
        self.body(&mut fields)?;
        fields.end()
    }
}

impl Shown<'_> {
    /// What each kind has besides.
    fn body<M: SerializeMap>(&self, fields: &mut M) -> Result<(), M::Error> {
        let record = &self.entry.record;
        let at = || rfc3339(record.ts_ms);
        match &record.body {
            Body::ChatMessage {
                id,
                content,
                mentions,
                reply_to,
                file_id,
                file_name,
                ..
            } => {
                let file_url = file_id.map(|id| self.links.file_url(FileId(id)));
                fields.serialize_entry("id", id)?;
                fields.serialize_entry("user", &Writer::from(&record.author))?;
                fields.serialize_entry("content", content)?;
                fields.serialize_entry("mentions", mentions)?;
                fields.serialize_entry("reply_to", reply_to)?;
                fields.serialize_entry("file_id", file_id)?;
                fields.serialize_entry("file_url", &file_url)?;
                fields.serialize_entry("file_name", file_name)?;
                fields.serialize_entry("created_at", &at())
            }
            Body::DirectMessage { id, to, content } => {
                fields.serialize_entry("id", id)?;
                fields.serialize_entry("user", &Writer::from(&record.author))?;
                fields.serialize_entry("to", to)?;
                fields.serialize_entry("content", content)?;
                fields.serialize_entry("created_at", &at())
            }
            Body::Deleted {
                id,
                deleted_ms,
                reply_to,
                ..
            } => {
                fields.serialize_entry("id", id)?;
                fields.serialize_entry("deleted_at", &rfc3339(*deleted_ms))?;
                fields.serialize_entry("reply_to", reply_to)
            }
            Body::ChatEdited {
                message_id,
                content,
                mentions,
                ..
            } => {
                fields.serialize_entry("message_id", message_id)?;
                fields.serialize_entry("content", content)?;
                fields.serialize_entry("mentions", mentions)?;
                fields.serialize_entry("edited_at", &at())
            }
            Body::ChatDeleted { message_id, .. } => {
                fields.serialize_entry("message_id", message_id)?;
                fields.serialize_entry("deleted_at", &at())
            }
            Body::Reaction {
                message_id, emoji, ..
            } => {
                fields.serialize_entry("message_id", message_id)?;
                fields.serialize_entry("emoji", emoji)?;
                fields.serialize_entry("count", &self.reactors.len())?;
                fields.serialize_entry("users", &reactors_shown(self.reactors))
            }
            Body::CodeComment { id, data, .. } => {
                fields.serialize_entry("id", id)?;
                fields.serialize_entry("user", &Writer::from(&record.author))?;
                fields.serialize_entry("data", data)?;
                fields.serialize_entry("created_at", &at())
            }
            Body::Draw(batch) => {
                fields.serialize_entry("paths", &batch.paths)?;
                fields.serialize_entry("erase", &batch.erase)?;
                fields.serialize_entry("clear", &batch.clear)
            }
            Body::DocumentUpdate { data } => fields.serialize_entry("data", &hex::encode(data)),
            Body::FileShared { file } => {
                fields.serialize_entry("user", &Writer::from(&record.author))?;
                let file = json!({
                    "id": file.id,
                    "name": file.name,
                    "size": file.size,
                    "content_type": file.content_type,
                    "url": self.links.file_url(file.id),
                });
                fields.serialize_entry("file", &file)
            }
            Body::SessionUpdate { data } => fields.serialize_entry("data", data),
            Body::RoleChanged { user_id, role, .. } => {
                fields.serialize_entry("user_id", user_id)?;
                fields.serialize_entry("role", role)
            }
            Body::RunStarted { run_id, language } => {
                fields.serialize_entry("run_id", run_id)?;
                fields.serialize_entry("language", language)?;
                fields.serialize_entry("user", &Writer::from(&record.author))
            }
            Body::RunFinished {
                run_id,
                status,
                exit_code,
                signal,
                wall_ms,
            } => {
                fields.serialize_entry("run_id", run_id)?;
                fields.serialize_entry("status", status)?;
                fields.serialize_entry("exit_code", exit_code)?;
                fields.serialize_entry("signal", signal)?;
                fields.serialize_entry("wall_ms", wall_ms)
            }
        }
    }
}

/// One entry as its readers get it. `links` signs the links to files, anew each time.
pub fn entry(entry: &Entry, links: &Identity) -> Bytes {
    reaction_update(entry, &[], links)
}

/// A reaction as its readers get it, with all who are under that emoji now.
pub fn reaction_update(entry: &Entry, reactors: &[Reactor], links: &Identity) -> Bytes {
    frame(&Shown {
        entry,
        reactors,
        links,
    })
}

/// [`Shown`] as a value, for those who add to it.
pub fn entry_value(entry: &Entry, reactors: &[Reactor], links: &Identity) -> Value {
    let shown = Shown {
        entry,
        reactors,
        links,
    };
    // Serialising our own types to memory does not fail.
    serde_json::to_value(shown).unwrap_or_default()
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
