//! Entries that are replayed, as they may be told now: words that were deleted since are not said again, and reactions are
//! counted as they are.

use std::collections::{BTreeMap, BTreeSet};

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::MessageId;
use atelier_shared::domain::message::Message;
use atelier_shared::domain::reactions::ChatState;
use atelier_shared::recovery;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::actor::Command;
use super::json::shown;
use super::registry::{Handle, Rooms};
use crate::identity::Identity;

/// What became of the messages that a page of entries speaks about.
#[derive(Default)]
pub struct Past {
    chat: ChatState,
    messages: BTreeMap<MessageId, Message>,
}

impl Past {
    /// `None`: it can't be found out now.
    pub async fn of(rooms: &Rooms, handle: &Handle, page: &[Entry]) -> Option<Self> {
        let speaks = |body: &Body| body.message_id().is_some() || body.target().is_some();
        if !page.iter().any(|entry| speaks(&entry.record.body)) {
            return Some(Self::default());
        }
        let (reply, answer) = oneshot::channel();
        let asked = handle.mailbox.send(Command::Chat { reply }).await;
        let mut chat = match asked {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => ChatState::default(),
        };
        // Reactions that the room's state has let go of: the archive has them.
        let old: Vec<MessageId> = page
            .iter()
            .filter_map(|entry| match &entry.record.body {
                Body::Reaction {
                    message_id, emoji, ..
                } if chat.users_of(*message_id, emoji).is_none() => Some(*message_id),
                _ => None,
            })
            .collect();
        let mut messages = BTreeMap::new();
        if !old.is_empty() {
            let (b, room) = (&rooms.backends, &handle.shared.id);
            let found = recovery::messages_by_id(&*b.log, &*b.archive, room, &old).await;
            messages = found.ok()?;
        }
        let about: BTreeSet<MessageId> = page
            .iter()
            .filter_map(|entry| match &entry.record.body {
                Body::Reaction { message_id, .. } => Some(*message_id),
                _ => None,
            })
            .collect();
        let reactors = chat.reactors_mut(&about).collect();
        let nameless = async {
            rooms.profiles.anonymise_reactors(reactors).await?;
            let messages = messages.values_mut();
            rooms.profiles.anonymise_messages(messages).await
        };
        nameless.await.ok()?;
        Some(Self { chat, messages })
    }

    /// `None`: there is nothing left to tell.
    pub fn shown(&self, entry: &Entry, links: &Identity) -> Option<Bytes> {
        let body = &entry.record.body;
        match body {
            Body::ChatEdited { content, .. } if content.is_empty() => None,
            Body::ChatEdited { of, .. } | Body::Reaction { of, .. }
                if self.chat.deleted_ms(*of).is_some() =>
            {
                None
            }
            Body::Reaction {
                message_id, emoji, ..
            } => {
                let users = self.chat.users_of(*message_id, emoji);
                let archived = || self.messages.get(message_id).map(|m| m.users_of(emoji));
                let users = users.or_else(archived).unwrap_or_default();
                Some(shown::reaction_update(entry, users, links))
            }
            Body::Deleted { .. } => Some(shown::entry(entry, links)),
            _ => {
                let deleted = self.chat.deleted_ms(entry.seq);
                match deleted.filter(|_| body.message_id().is_some()) {
                    // Its deletion follows in the log: the words are gone already.
                    Some(deleted_ms) => {
                        let mut struck = entry.clone();
                        struck.record.body = body.struck(deleted_ms);
                        Some(shown::entry(&struck, links))
                    }
                    None => Some(shown::entry(entry, links)),
                }
            }
        }
    }
}
