//! The fields of each client message, as serde reads them.

use std::borrow::Cow;

use atelier_shared::domain::ids::{Epoch, MessageId, Seq, UserId};
use atelier_shared::domain::message::ReactionAction;
use atelier_shared::domain::room::Role;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::runs::spec::FileBody;

#[derive(Deserialize)]
pub struct JoinFields {
    pub name: Option<String>,
    pub color: Option<String>,
    pub avatar_url: Option<String>,
}

#[derive(Deserialize)]
pub struct ResumeFields {
    pub epoch: Epoch,
    pub seq: Seq,
}

#[derive(Deserialize)]
pub struct PingFields {
    pub timestamp: Option<Value>,
}

#[derive(Deserialize)]
pub struct AuthFields {
    pub token: String,
}

#[derive(Deserialize)]
pub struct ReceiptFields {
    pub seq: Seq,
}

#[derive(Deserialize)]
pub struct CursorFields {
    pub position: Value,
    pub name: Option<String>,
    pub color: Option<String>,
}

#[derive(Deserialize)]
pub struct SelectionFields {
    pub selection: Value,
}

#[derive(Deserialize)]
pub struct DataFields<T> {
    pub data: T,
}

/// Borrowed where the text has no escapes, as hex has none.
#[derive(Deserialize)]
pub struct UpdateFields<'a> {
    #[serde(borrow)]
    pub data: Cow<'a, str>,
}

#[derive(Deserialize)]
pub struct ChatFields {
    pub content: String,
    pub reply_to: Option<MessageId>,
    pub file_id: Option<Uuid>,
}

#[derive(Deserialize)]
pub struct EditFields {
    pub message_id: MessageId,
    pub content: String,
}

#[derive(Deserialize)]
pub struct DeleteFields {
    pub message_id: MessageId,
}

#[derive(Deserialize)]
pub struct ReactionFields {
    pub message_id: MessageId,
    pub emoji: String,
    pub action: ReactionAction,
}

#[derive(Deserialize)]
pub struct SetRoleFields {
    pub user_id: UserId,
    pub role: Role,
}

#[derive(Deserialize)]
pub struct KickFields {
    pub user_id: UserId,
}

#[derive(Deserialize)]
pub struct RunFields {
    pub language: String,
    pub source: Option<String>,
    pub files: Option<Vec<FileBody>>,
    pub stdin: Option<String>,
}

#[derive(Deserialize)]
pub struct DirectFields {
    pub to: UserId,
    pub content: String,
}
