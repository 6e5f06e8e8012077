//! Client to server: the first table of PROTOCOL.md. Text in, checked requests out, or the error that names the field.

use atelier_shared::domain::Invalid;
use atelier_shared::domain::board::DrawBatch;
use atelier_shared::domain::chat::mentions;
use atelier_shared::domain::entry::{Body, CodeComment};
use atelier_shared::domain::ids::{Epoch, MessageId, Ref, Seq, UserId};
use atelier_shared::domain::job::JobSpec;
use atelier_shared::domain::names;
use atelier_shared::domain::room::{Activity, Role};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

pub use super::ephemeral::Ephemeral;
use super::ephemeral::ephemeral;
use super::fields::{
    AuthFields, ChatFields, DataFields, DeleteFields, DirectFields, EditFields, JoinFields,
    KickFields, PingFields, ReactionFields, ResumeFields, RunFields, SetRoleFields, UpdateFields,
    bounded, fields,
};
use super::outgoing::ErrorFrame;
use crate::runs::spec::NewJob;
use crate::serde_words;

const PATH_MAX_BYTES: usize = 1_024;

/// Every type that a client may send; a message of another is refused before it is looked at.
const TYPES: [&str; 25] = [
    "join",
    "resume",
    "ping",
    "heartbeat",
    "auth",
    "receipt",
    "sync_request",
    "update",
    "cursor",
    "selection",
    "cursor_update",
    "viewport_update",
    "presence_update",
    "typing",
    "chat_message",
    "direct_message",
    "chat_edit",
    "chat_delete",
    "code_comment",
    "reaction",
    "draw",
    "session_update",
    "set_role",
    "kick",
    "run",
];

/// A request that is well-formed; whether it is allowed is the room's to say.
#[derive(Debug)]
pub enum Request {
    Join(Join),
    Resume(Resume),
    Ping { timestamp: Option<Value> },
    Auth { token: String },
    SyncRequest,
    Ephemeral(Ephemeral),
    Durable(Durable),
    Standing(StandingChange),
    Run(Box<Run>),
}

impl Request {
    /// The wire `type`, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Join(_) => "join",
            Self::Resume(_) => "resume",
            Self::Ping { .. } => "ping",
            Self::Auth { .. } => "auth",
            Self::SyncRequest => "sync_request",
            Self::Ephemeral(value) => value.kind().as_str(),
            Self::Durable(message) => message.body.kind(),
            Self::Standing(change) if change.kick => "kick",
            Self::Standing(_) => "set_role",
            Self::Run(_) => "run",
        }
    }
}

/// From where on it wants what it missed.
#[derive(Debug)]
pub struct Resume {
    pub epoch: Epoch,
    pub seq: Seq,
    /// Who it was, where it came without a token.
    pub resume_token: Option<String>,
}

#[derive(Debug, Default)]
pub struct Join {
    pub name: Option<String>,
    pub color: Option<String>,
    pub avatar_url: Option<String>,
}

/// Something to be logged.
#[derive(Debug)]
pub struct Durable {
    pub reference: Option<Ref>,
    pub body: Body,
    /// Only this person and the sender see it.
    pub to: Option<UserId>,
    /// Only these people see it: those who see the message that it is about.
    pub audience: Option<Vec<UserId>>,
    /// What it refers to, and only the room can look up.
    pub about: Option<About>,
    /// W3C trace context of the sender.
    pub traceparent: Option<String>,
}

/// What a durable message refers to.
#[derive(Debug, Clone, Copy)]
pub enum About {
    /// A message that must exist; `field` named it.
    Message { id: MessageId, field: &'static str },
    /// A person who must exist, named by the field `to`.
    Person(UserId),
}

/// A host gives somebody a role, or sends them out.
#[derive(Debug)]
pub struct StandingChange {
    pub reference: Option<Ref>,
    pub user_id: UserId,
    pub role: Option<Role>,
    pub kick: bool,
}

/// Code to be run in the room.
#[derive(Debug)]
pub struct Run {
    pub reference: Option<Ref>,
    pub spec: JobSpec,
    pub traceparent: Option<String>,
}

impl Durable {
    pub fn role(&self) -> Role {
        Role::Editor
    }

    /// What the room must allow for it.
    pub fn activity(&self) -> Option<Activity> {
        match self.body {
            Body::ChatMessage { .. } | Body::DirectMessage { .. } => Some(Activity::Chat),
            Body::CodeComment { .. } => Some(Activity::Code),
            Body::Draw(_) => Some(Activity::Draw),
            Body::DocumentUpdate { .. } => Some(Activity::Document),
            // What is said about a message that is there: whatever allowed it allowed that.
            _ => None,
        }
    }

    /// Is it counted by the message rate? Drawing and writing are not.
    pub fn is_rated(&self) -> bool {
        !matches!(self.body, Body::Draw(_) | Body::DocumentUpdate { .. })
    }
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Option<Value>,
    #[serde(rename = "ref")]
    reference: Option<Value>,
    traceparent: Option<Value>,
}

fn head(text: &str) -> Result<Head, ErrorFrame> {
    let error = match serde_json::from_str::<Head>(text) {
        // An array of as many values would pass for the fields.
        Ok(head) if text.trim_ascii_start().starts_with('{') => return Ok(head),
        Ok(_) => return Err(ErrorFrame::new("invalid", "a message is a JSON object")),
        Err(error) => error,
    };
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Err(ErrorFrame::new("bad_json", "Invalid JSON"));
    }
    Err(match serde_words::told(&error.to_string()) {
        (words, Some(field)) => {
            ErrorFrame::new("invalid", format!("{field}: {words}")).field(field)
        }
        (_, None) if !text.trim_ascii_start().starts_with('{') => {
            ErrorFrame::new("invalid", "a message is a JSON object")
        }
        (words, None) => ErrorFrame::new("invalid", format!("type or ref {words}")),
    })
}

/// Parses one text message. `now_ms` bounds the clocks in it.
pub fn parse(text: &str, now_ms: i64) -> Result<Request, ErrorFrame> {
    let head = head(text)?;
    let reference = match &head.reference {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.parse::<Ref>()?),
        Some(_) => {
            return Err(ErrorFrame::new("invalid", "ref: must be a string").field("ref"));
        }
    };
    let Some(Value::String(kind)) = &head.kind else {
        return Err(ErrorFrame::new("invalid", "type: must be a string").field("type"));
    };
    let traceparent = match head.traceparent {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let envelope = Envelope {
        reference: reference.clone(),
        traceparent,
    };
    body(kind, text, envelope, now_ms).map_err(|error| error.reference(reference))
}

/// What any message may carry.
struct Envelope {
    reference: Option<Ref>,
    traceparent: Option<String>,
}

impl Envelope {
    fn durable(self, body: Body) -> Durable {
        Durable {
            reference: self.reference,
            body,
            to: None,
            audience: None,
            about: None,
            traceparent: self.traceparent,
        }
    }

    fn about_message(self, body: Body, id: MessageId, field: &'static str) -> Request {
        Request::Durable(Durable {
            about: Some(About::Message { id, field }),
            ..self.durable(body)
        })
    }
}

/// Names the types there are, so that who builds a client sees them.
pub(super) fn unknown_type(kind: &str) -> ErrorFrame {
    let shown: String = kind.chars().take(40).collect();
    let text = format!("unknown type \"{shown}\"; known are {}", TYPES.join(", "));
    ErrorFrame::new("unknown_type", text).field("type")
}

fn body(kind: &str, text: &str, envelope: Envelope, now_ms: i64) -> Result<Request, ErrorFrame> {
    if !TYPES.contains(&kind) {
        return Err(unknown_type(kind));
    }
    match kind {
        "join" => Ok(Request::Join(join(fields(text)?)?)),
        "resume" => {
            let m: ResumeFields = fields(text)?;
            Ok(Request::Resume(Resume {
                epoch: m.epoch,
                seq: m.seq,
                resume_token: m.resume_token,
            }))
        }
        "ping" | "heartbeat" => {
            let m: PingFields = fields(text)?;
            Ok(Request::Ping {
                timestamp: m.timestamp,
            })
        }
        "auth" => {
            let m: AuthFields = fields(text)?;
            Ok(Request::Auth { token: m.token })
        }
        "chat_message" | "direct_message" | "code_comment" | "chat_edit" | "chat_delete"
        | "reaction" => message(kind, text, envelope),
        "set_role" => {
            let m: SetRoleFields = fields(text)?;
            Ok(Request::Standing(StandingChange {
                reference: envelope.reference,
                user_id: m.user_id,
                role: Some(m.role),
                kick: false,
            }))
        }
        "kick" => {
            let m: KickFields = fields(text)?;
            Ok(Request::Standing(StandingChange {
                reference: envelope.reference,
                user_id: m.user_id,
                role: None,
                kick: true,
            }))
        }
        "run" => {
            let m: RunFields = fields(text)?;
            let stdin = m.stdin.unwrap_or_default();
            let (spec, _) = NewJob::in_a_room(m.language, m.source, m.files, stdin).check()?;
            Ok(Request::Run(Box::new(Run {
                reference: envelope.reference,
                spec,
                traceparent: envelope.traceparent,
            })))
        }
        "sync_request" => Ok(Request::SyncRequest),
        "update" => {
            let m: UpdateFields<'_> = fields(text)?;
            let data = hex::decode(m.data.as_bytes())
                .map_err(|_| Invalid::new("data", "must be the bytes of a Yjs update in hex"))?;
            let body = Body::DocumentUpdate { data: data.into() };
            Ok(Request::Durable(envelope.durable(body)))
        }
        "draw" => {
            let batch: DrawBatch = fields(text)?;
            batch.check(now_ms)?;
            Ok(Request::Durable(envelope.durable(Body::Draw(batch))))
        }
        "session_update" => {
            let m: DataFields<Map<String, Value>> = fields(text)?;
            bounded("data", &m.data)?;
            let body = Body::SessionUpdate { data: m.data };
            Ok(Request::Durable(envelope.durable(body)))
        }
        other => ephemeral(other, text).map(Request::Ephemeral),
    }
}

/// What is said, and what is said about what was said.
fn message(kind: &str, text: &str, envelope: Envelope) -> Result<Request, ErrorFrame> {
    let request = match kind {
        "chat_message" => {
            let m: ChatFields = fields(text)?;
            names::content("content", &m.content)?;
            let body = Body::ChatMessage {
                id: MessageId::generate(),
                mentions: mentions(&m.content),
                content: m.content,
                reply_to: m.reply_to,
                thread: None,
                file_id: m.file_id,
                file_name: None,
            };
            match m.reply_to {
                Some(id) => envelope.about_message(body, id, "reply_to"),
                None => Request::Durable(envelope.durable(body)),
            }
        }
        "direct_message" => {
            let m: DirectFields = fields(text)?;
            names::content("content", &m.content)?;
            let body = Body::DirectMessage {
                id: MessageId::generate(),
                to: m.to,
                content: m.content,
            };
            Request::Durable(Durable {
                to: Some(m.to),
                about: Some(About::Person(m.to)),
                ..envelope.durable(body)
            })
        }
        "code_comment" => {
            let m: DataFields<CodeComment> = fields(text)?;
            check_comment(&m.data)?;
            let reply_to = m.data.reply_to;
            let body = Body::CodeComment {
                id: MessageId::generate(),
                data: m.data,
                thread: None,
            };
            match reply_to {
                Some(id) => envelope.about_message(body, id, "data.reply_to"),
                None => Request::Durable(envelope.durable(body)),
            }
        }
        "chat_edit" => {
            let m: EditFields = fields(text)?;
            names::content("content", &m.content)?;
            let body = Body::ChatEdited {
                message_id: m.message_id,
                of: Seq(0),
                mentions: mentions(&m.content),
                content: m.content,
            };
            envelope.about_message(body, m.message_id, "message_id")
        }
        "chat_delete" => {
            let m: DeleteFields = fields(text)?;
            let body = Body::ChatDeleted {
                message_id: m.message_id,
                of: Seq(0),
            };
            envelope.about_message(body, m.message_id, "message_id")
        }
        _ => {
            let m: ReactionFields = fields::<DataFields<ReactionFields>>(text)?.data;
            names::emoji("data.emoji", &m.emoji)?;
            let body = Body::Reaction {
                message_id: m.message_id,
                of: Seq(0),
                emoji: m.emoji,
                action: m.action,
                base: Vec::new(),
            };
            envelope.about_message(body, m.message_id, "data.message_id")
        }
    };
    Ok(request)
}

fn join(mut m: JoinFields) -> Result<Join, Invalid> {
    // A form whose field was left empty.
    m.avatar_url = m.avatar_url.filter(|url| !url.is_empty());
    if let Some(color) = &m.color {
        names::color("color", color)?;
    }
    if let Some(url) = &m.avatar_url {
        names::web_url("avatar_url", url)?;
    }
    Ok(Join {
        name: m
            .name
            .as_deref()
            .map(|n| names::name("name", n))
            .transpose()?,
        color: m.color,
        avatar_url: m.avatar_url,
    })
}

fn check_comment(comment: &CodeComment) -> Result<(), Invalid> {
    names::content("data.content", &comment.content)?;
    if comment.file.is_empty() || comment.file.len() > PATH_MAX_BYTES {
        return Err(Invalid::new("data.file", "must have 1 to 1024 bytes"));
    }
    if comment
        .code_snippet
        .as_ref()
        .is_some_and(|s| s.len() > names::CONTENT_MAX_BYTES)
    {
        return Err(Invalid::new(
            "data.code_snippet",
            "must have at most 16384 bytes",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
