//! The entry: one durable thing that happened in a room, with its place in the room's log.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::board::DrawBatch;
use super::document::base64_text;
use super::ids::{ClientId, ConnectionId, JobId, MessageId, Ref, Seq, UserId};
use super::job::JobState;
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file_id: Option<Uuid>,
    },
    DirectMessage {
        id: MessageId,
        to: UserId,
        content: String,
    },
    CodeComment {
        id: MessageId,
        data: CodeComment,
    },
    Draw(DrawBatch),
    /// A v1 update of the document, checked, and without what the document held already.
    #[serde(rename = "update")]
    DocumentUpdate {
        #[serde(with = "base64_text")]
        data: Bytes,
    },
    SessionUpdate {
        data: Map<String, Value>,
    },
    RoleChanged {
        user_id: UserId,
        role: Option<Role>,
        version: u64,
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
            Self::Draw(_) => "draw",
            Self::DocumentUpdate { .. } => "update",
            Self::SessionUpdate { .. } => "session_update",
            Self::RoleChanged { .. } => "role_changed",
            Self::RunStarted { .. } => "run_started",
            Self::RunFinished { .. } => "run_finished",
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
