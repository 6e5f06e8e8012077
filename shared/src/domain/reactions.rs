//! What a room's folded state keeps of chat: the reactions of late, and which messages of late are deleted. Every pod folds
//! the same from the same entries, so all tell the same counts without asking anybody.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::entry::{Body, Entry};
use super::ids::{MessageId, Seq};
use super::message::{Reactor, react};

/// Pairs of message and emoji that are kept; one more lets go the one that was not touched for longest. Whoever reacts to
/// it again brings along what the archive knew.
const REACTED_MAX: usize = 1_000;
/// Deleted messages that are kept, by their place: as many as the unarchived part of a log can hold.
const DELETED_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reacted {
    message_id: MessageId,
    emoji: String,
    users: Vec<Reactor>,
}

/// The part of a room's state that chat needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatState {
    /// The one touched last at the end.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    reacted: VecDeque<Reacted>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    deleted: BTreeSet<Seq>,
}

impl ChatState {
    /// Was the message at this place deleted, as far back as is remembered?
    pub fn is_deleted(&self, of: Seq) -> bool {
        self.deleted.contains(&of)
    }

    /// The people under an emoji; `None`: not touched of late.
    pub fn users_of(&self, message: MessageId, emoji: &str) -> Option<&[Reactor]> {
        let reacted = self
            .reacted
            .iter()
            .rfind(|r| r.message_id == message && r.emoji == emoji)?;
        Some(&reacted.users)
    }

    /// Does this entry say anything, or did the log delete its message before?
    pub fn is_void(&self, body: &Body) -> bool {
        match body {
            Body::ChatEdited { of, .. }
            | Body::ChatDeleted { of, .. }
            | Body::Reaction { of, .. } => self.is_deleted(*of),
            _ => false,
        }
    }

    pub fn apply(&mut self, entry: &Entry) {
        if self.is_void(&entry.record.body) {
            return;
        }
        match &entry.record.body {
            Body::ChatDeleted { message_id, of } => {
                self.reacted.retain(|r| r.message_id != *message_id);
                self.deleted.insert(*of);
                if self.deleted.len() > DELETED_MAX {
                    self.deleted.pop_first();
                }
            }
            Body::Reaction {
                message_id,
                emoji,
                action,
                base,
                ..
            } => {
                let known = self
                    .reacted
                    .iter()
                    .rposition(|r| r.message_id == *message_id && r.emoji == *emoji)
                    .and_then(|place| self.reacted.remove(place));
                let mut reacted = known.unwrap_or_else(|| Reacted {
                    message_id: *message_id,
                    emoji: emoji.clone(),
                    users: base.clone(),
                });
                react(&mut reacted.users, &entry.record.author, *action);
                self.reacted.push_back(reacted);
                if self.reacted.len() > REACTED_MAX {
                    self.reacted.pop_front();
                }
            }
            _ => {}
        }
    }
}
