//! A room's folded state, and the checkpoint that keeps it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::board::Board;
use super::document::Document;
use super::entry::{Body, Entry};
use super::ids::{Epoch, Seq};
use super::reactions::ChatState;

/// Everything the log of a room adds up to at one `seq`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoomState {
    #[serde(default)]
    pub board: Board,
    #[serde(default, skip_serializing_if = "Document::is_empty")]
    pub document: Document,
    /// Merged `session_update`s.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    #[serde(default)]
    pub chat: ChatState,
}

impl RoomState {
    /// Folds one entry in; entries come in `seq` order, each once.
    pub fn apply(&mut self, entry: &Entry) {
        match &entry.record.body {
            Body::Draw(batch) => {
                let record = &entry.record;
                self.board
                    .apply(entry.seq, &record.author.client_id, record.ts_ms, batch);
            }
            Body::DocumentUpdate { data } => self.document.fold(data),
            Body::SessionUpdate { data } => {
                for (key, value) in data {
                    if value.is_null() {
                        self.metadata.remove(key);
                    } else {
                        self.metadata.insert(key.clone(), value.clone());
                    }
                }
            }
            Body::ChatEdited { .. } | Body::ChatDeleted { .. } | Body::Reaction { .. } => {
                self.chat.apply(entry);
            }
            Body::ChatMessage { .. }
            | Body::DirectMessage { .. }
            | Body::CodeComment { .. }
            | Body::Deleted { .. }
            | Body::FileShared { .. }
            | Body::RoleChanged { .. }
            | Body::RunStarted { .. }
            | Body::RunFinished { .. } => {}
        }
    }
}

/// The state at a `seq`, as the archive keeps it: what a room is loaded from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub epoch: Epoch,
    /// All entries up to and with this one are folded in.
    pub seq: Seq,
    pub state: RoomState,
}
