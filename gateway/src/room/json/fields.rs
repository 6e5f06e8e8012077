//! The fields of each client message, as serde reads them, and the error that names the one that is wrong.

use std::borrow::Cow;

use atelier_shared::domain::Invalid;
use atelier_shared::domain::ids::{Epoch, MessageId, Seq, UserId};
use atelier_shared::domain::message::ReactionAction;
use atelier_shared::domain::objects;
use atelier_shared::domain::room::Role;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::outgoing::ErrorFrame;
use crate::runs::spec::FileBody;
use crate::serde_words;

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
    pub resume_token: Option<String>,
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
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct DataFields<T> {
    #[serde(deserialize_with = "objects::one")]
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
    #[serde(default, deserialize_with = "objects::perhaps_many")]
    pub files: Option<Vec<FileBody>>,
    pub stdin: Option<String>,
}

#[derive(Deserialize)]
pub struct DirectFields {
    pub to: UserId,
    pub content: String,
}

/// Longest `data`, `selection` or metadata of one message, as JSON text.
const DATA_MAX_BYTES: usize = 16 * 1024;

/// Is it short enough, as JSON text?
pub fn bounded(field: &'static str, value: &impl serde::Serialize) -> Result<(), Invalid> {
    let length = serde_json::to_vec(value).map_or(usize::MAX, |text| text.len());
    if length > DATA_MAX_BYTES {
        return Err(Invalid::new(
            field,
            format!("must have at most {DATA_MAX_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// The typed fields of a message. The second pass, taken only on failure, finds the path of what is wrong.
pub fn fields<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ErrorFrame> {
    serde_json::from_str(text).map_err(|_| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Ok(_) => ErrorFrame::new("bad_json", "Invalid JSON"),
            Err(error) => explain(&error),
        }
    })
}

fn explain(error: &serde_path_to_error::Error<serde_json::Error>) -> ErrorFrame {
    let message = error.inner().to_string();
    let mut path = error.path().to_string();
    let is_missing = message.starts_with("missing field `");
    let (mut message, named) = serde_words::told(&message);
    // serde names a field that is missing or there twice in its message only; its path is that of the object around it.
    if let Some(name) = named {
        path = match path.as_str() {
            "." => name,
            around => format!("{around}.{name}"),
        };
    }
    if is_missing {
        message = "is missing".into();
    }
    ErrorFrame::new("invalid", format!("{path}: {message}")).field(path)
}
