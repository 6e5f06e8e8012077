//! What a room's folded state keeps of chat: the reactions of late, and which messages of late are deleted. Every pod folds
//! the same from the same entries, so all tell the same counts without asking anybody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::entry::{Body, Entry};
use super::ids::{MessageId, Seq, UserId};
use super::message::{Reactor, react};

/// Pairs of message and emoji that are kept; one more lets go the one that was not touched for longest. Whoever reacts to
/// it again brings along what the archive knew.
const REACTED_MAX: usize = 1_000;
/// People under all of them together.
const PEOPLE_MAX: usize = 20_000;
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
    /// By the place of the message: when it was deleted, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    deleted: BTreeMap<Seq, i64>,
}

impl ChatState {
    /// When the message at this place was deleted, as far back as is remembered.
    pub fn deleted_ms(&self, of: Seq) -> Option<i64> {
        self.deleted.get(&of).copied()
    }

    /// The people under an emoji; `None`: not touched of late.
    pub fn users_of(&self, message: MessageId, emoji: &str) -> Option<&[Reactor]> {
        let reacted = self
            .reacted
            .iter()
            .rfind(|r| r.message_id == message && r.emoji == emoji)?;
        Some(&reacted.users)
    }

    /// Everybody who is under an emoji of late, maybe more than once.
    pub fn reactors(&self) -> impl Iterator<Item = UserId> {
        let users = self.reacted.iter().flat_map(|reacted| &reacted.users);
        users.map(|user| user.user_id)
    }

    /// Those who reacted to these messages.
    pub fn reactors_mut<'a>(
        &'a mut self,
        messages: &'a BTreeSet<MessageId>,
    ) -> impl Iterator<Item = &'a mut Reactor> {
        self.reacted
            .iter_mut()
            .filter(|reacted| messages.contains(&reacted.message_id))
            .flat_map(|reacted| &mut reacted.users)
    }

    /// Does this entry say anything, or did the log delete its message before?
    pub fn is_void(&self, body: &Body) -> bool {
        match body {
            Body::ChatEdited { of, .. }
            | Body::ChatDeleted { of, .. }
            | Body::Reaction { of, .. } => self.deleted_ms(*of).is_some(),
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
                self.deleted.insert(*of, entry.record.ts_ms);
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
                let mut people: usize = self.reacted.iter().map(|r| r.users.len()).sum();
                while self.reacted.len() > REACTED_MAX
                    || (people > PEOPLE_MAX && self.reacted.len() > 1)
                {
                    people -= self.reacted.pop_front().map_or(0, |r| r.users.len());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entry::{Author, Record};
    use crate::domain::message::ReactionAction;

    fn entry(seq: u64, user: u128, body: Body) -> Entry {
        Entry {
            seq: Seq(seq),
            record: Record {
                ts_ms: 7,
                author: Author {
                    client_id: user.to_string().parse().unwrap(),
                    user_id: UserId(uuid::Uuid::from_u128(user)),
                    connection: None,
                    name: user.to_string(),
                    color: None,
                    avatar_url: None,
                },
                reference: None,
                audience: None,
                body,
            },
        }
    }

    fn reaction(message_id: MessageId, base: Vec<Reactor>) -> Body {
        Body::Reaction {
            message_id,
            of: Seq(1),
            emoji: "👍".into(),
            action: ReactionAction::Add,
            base,
        }
    }

    #[test]
    fn what_the_archive_knew_counts_only_where_nothing_is_kept() {
        let (id, mut state) = (MessageId::generate(), ChatState::default());
        let old: Vec<Reactor> = vec![(&entry(1, 1, reaction(id, Vec::new())).record.author).into()];
        // Two who reacted at once, each looked up before the other was logged.
        state.apply(&entry(8, 2, reaction(id, old.clone())));
        state.apply(&entry(9, 3, reaction(id, old)));
        assert_eq!(state.users_of(id, "👍").map(<[_]>::len), Some(3));
    }

    #[test]
    fn what_is_kept_is_bounded_and_survives_a_checkpoint() {
        let mut state = ChatState::default();
        let first = MessageId::generate();
        state.apply(&entry(1, 1, reaction(first, Vec::new())));
        for seq in 0..REACTED_MAX as u64 {
            state.apply(&entry(
                seq + 2,
                1,
                reaction(MessageId::generate(), Vec::new()),
            ));
        }
        assert_eq!(state.reacted.len(), REACTED_MAX);
        assert!(
            state.users_of(first, "👍").is_none(),
            "the oldest is let go"
        );
        let gone = Body::ChatDeleted {
            message_id: first,
            of: Seq(1),
        };
        state.apply(&entry(5_000, 1, gone.clone()));
        let text = serde_json::to_string(&state).unwrap();
        let back: ChatState = serde_json::from_str(&text).unwrap();
        assert_eq!(back, state);
        assert_eq!(back.deleted_ms(Seq(1)), Some(7));
        assert!(back.is_void(&gone) && back.is_void(&reaction(first, Vec::new())));
    }
}
