//! The entry: one durable thing that happened in a room, with its place in the room's log.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::board::DrawBatch;
use super::document::base64_text;
use super::file::SharedFile;
use super::ids::{ClientId, ConnectionId, JobId, MessageId, Ref, Seq, UserId};
use super::job::JobState;
use super::message::{MessageKind, ReactionAction, Reactor};
use super::room::Role;

/// Who wrote an entry, as they were called when they wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Author {
    #[serde(rename = "c")]
    pub client_id: ClientId,
    #[serde(rename = "u")]
    pub user_id: UserId,
    /// The physical connection, so that a sender is told from its own successor; `None` for what the server wrote.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionId>,
    #[serde(rename = "n")]
    pub name: String,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// An entry before the log has given it a `seq`. Its JSON is what the log stores and what travels between pods;
/// short names, because they are stored millions of times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Server time in milliseconds since 1970, from the pod that accepted it.
    #[serde(rename = "t")]
    pub ts_ms: i64,
    #[serde(rename = "by")]
    pub author: Author,
    /// The client's own name for it; with author's user and client id the key of deduplication.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Ref>,
    /// `None`: everybody in the room. Else only these people, in frames, logs and exports alike.
    #[serde(rename = "to", default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Vec<UserId>>,
    #[serde(rename = "b")]
    pub body: Body,
}

/// A record at its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub seq: Seq,
    pub record: Record,
}

impl Entry {
    /// May this person see it?
    pub fn visible_to(&self, person: UserId) -> bool {
        self.record
            .audience
            .as_ref()
            .is_none_or(|people| people.contains(&person))
    }
}

/// Key by which a resend is recognised; remembered for 24 h.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RefKey {
    pub user_id: UserId,
    pub client_id: ClientId,
    pub reference: Ref,
}

impl Record {
    pub fn ref_key(&self) -> Option<RefKey> {
        self.reference.clone().map(|reference| RefKey {
            user_id: self.author.user_id,
            client_id: self.author.client_id.clone(),
            reference,
        })
    }
}

/// What happened. One variant for each durable row of PROTOCOL.md; the tag is the wire type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "snake_case")]
pub enum Body {
    ChatMessage {
        id: MessageId,
        content: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mentions: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<MessageId>,
        /// The first message of the thread that `reply_to` belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thread: Option<MessageId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file_id: Option<Uuid>,
        /// What the file was called when the message was sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file_name: Option<String>,
    },
    DirectMessage {
        id: MessageId,
        to: UserId,
        content: String,
    },
    CodeComment {
        id: MessageId,
        data: CodeComment,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thread: Option<MessageId>,
    },
    /// What is kept of a message in the place of its words, once they are deleted.
    Deleted {
        id: MessageId,
        was: MessageKind,
        deleted_ms: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<MessageId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thread: Option<MessageId>,
    },
    /// New words for a message; `of` is its place. Without words: the message was deleted later.
    ChatEdited {
        message_id: MessageId,
        of: Seq,
        content: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mentions: Vec<String>,
    },
    ChatDeleted {
        message_id: MessageId,
        of: Seq,
    },
    Reaction {
        message_id: MessageId,
        of: Seq,
        emoji: String,
        action: ReactionAction,
        /// Who was under this emoji before, as the archive knew: counts only where the room's state has let go of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        base: Vec<Reactor>,
    },
    Draw(DrawBatch),
    /// A v1 update of the document, checked, and without what the document held already.
    #[serde(rename = "update")]
    DocumentUpdate {
        #[serde(with = "base64_text")]
        data: Bytes,
    },
    /// A file came into the room. Its link is not kept: it is signed anew each time it is sent.
    FileShared {
        file: SharedFile,
    },
    SessionUpdate {
        data: Map<String, Value>,
    },
    RoleChanged {
        user_id: UserId,
        role: Option<Role>,
        version: u64,
        /// Sent out by a host: their sockets are closed, wherever they are.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        kicked: bool,
    },
    RunStarted {
        run_id: JobId,
        language: String,
    },
    RunFinished {
        run_id: JobId,
        status: JobState,
        exit_code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        wall_ms: u64,
    },
}

impl Body {
    /// The wire `type`, and the kind by which archives index.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ChatMessage { .. } => "chat_message",
            Self::DirectMessage { .. } => "direct_message",
            Self::CodeComment { .. } => "code_comment",
            Self::Deleted { was, .. } => was.as_str(),
            Self::ChatEdited { .. } => "chat_edited",
            Self::ChatDeleted { .. } => "chat_deleted",
            Self::Reaction { .. } => "reaction_update",
            Self::Draw(_) => "draw",
            Self::DocumentUpdate { .. } => "update",
            Self::FileShared { .. } => "file_shared",
            Self::SessionUpdate { .. } => "session_update",
            Self::RoleChanged { .. } => "role_changed",
            Self::RunStarted { .. } => "run_started",
            Self::RunFinished { .. } => "run_finished",
        }
    }

    /// The message's own id, if it is a message.
    pub fn message_id(&self) -> Option<MessageId> {
        match self {
            Self::ChatMessage { id, .. }
            | Self::DirectMessage { id, .. }
            | Self::CodeComment { id, .. }
            | Self::Deleted { id, .. } => Some(*id),
            _ => None,
        }
    }

    pub fn message_kind(&self) -> Option<MessageKind> {
        match self {
            Self::ChatMessage { .. } => Some(MessageKind::ChatMessage),
            Self::DirectMessage { .. } => Some(MessageKind::DirectMessage),
            Self::CodeComment { .. } => Some(MessageKind::CodeComment),
            Self::Deleted { was, .. } => Some(*was),
            _ => None,
        }
    }

    /// The message that an entry changes, if it changes one.
    pub fn target(&self) -> Option<MessageId> {
        match self {
            Self::ChatEdited { message_id, .. }
            | Self::ChatDeleted { message_id, .. }
            | Self::Reaction { message_id, .. } => Some(*message_id),
            _ => None,
        }
    }

    pub fn reply_to(&self) -> Option<MessageId> {
        match self {
            Self::ChatMessage { reply_to, .. } | Self::Deleted { reply_to, .. } => *reply_to,
            Self::CodeComment { data, .. } => data.reply_to,
            _ => None,
        }
    }

    /// The first message of the thread that a message answers in.
    pub fn thread(&self) -> Option<MessageId> {
        match self {
            Self::ChatMessage { thread, .. }
            | Self::CodeComment { thread, .. }
            | Self::Deleted { thread, .. } => *thread,
            _ => None,
        }
    }

    /// A message's words.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::ChatMessage { content, .. } | Self::DirectMessage { content, .. } => {
                Some(content)
            }
            Self::CodeComment { data, .. } => Some(&data.content),
            _ => None,
        }
    }

    /// Puts new words into a message.
    pub(super) fn reword(&mut self, new: &str, found: &[String]) {
        match self {
            Self::ChatMessage {
                content, mentions, ..
            } => {
                new.clone_into(content);
                found.clone_into(mentions);
            }
            Self::DirectMessage { content, .. } => new.clone_into(content),
            Self::CodeComment { data, .. } => new.clone_into(&mut data.content),
            _ => {}
        }
    }

    /// The same without the words of a message that was deleted then; what holds no words stays as it is.
    pub fn struck(&self, deleted_ms: i64) -> Self {
        if let (Some(id), Some(was)) = (self.message_id(), self.message_kind()) {
            return Self::Deleted {
                id,
                was,
                deleted_ms,
                reply_to: self.reply_to(),
                thread: self.thread(),
            };
        }
        match self {
            Self::ChatEdited { message_id, of, .. } => Self::ChatEdited {
                message_id: *message_id,
                of: *of,
                content: String::new(),
                mentions: Vec::new(),
            },
            other => other.clone(),
        }
    }
}

/// A comment at a line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodeComment {
    pub file: String,
    pub line: u32,
    pub content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_snippet: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
}
