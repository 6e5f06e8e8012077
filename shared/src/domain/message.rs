//! A message folded: what a chat message, direct message or comment is after all edits, reactions and its deletion.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Invalid;
use super::entry::{Author, Body, Entry, Record};
use super::ids::{ClientId, MessageId, Seq, UserId};
use super::room::word_enum;
use super::search;

/// Different emoji that one message bears.
pub const EMOJI_MAX: usize = 50;
/// People counted under one emoji of one message.
pub const REACTORS_MAX: usize = 5_000;
/// People counted under all emoji of one message together: a folded message is one document of the archive, and MongoDB's
/// documents are 16 MiB at most.
pub const REACTIONS_MAX: usize = 20_000;

word_enum!(
    /// What counts as a message; the words are the wire types.
    MessageKind, "type" {
        ChatMessage = "chat_message",
        DirectMessage = "direct_message",
        CodeComment = "code_comment",
    }
);

word_enum!(
    /// What somebody does with their reaction.
    ReactionAction, "data.action" { Add = "add", Remove = "remove" }
);

/// Somebody who reacted; each person counts once, whatever connections they have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reactor {
    #[serde(rename = "u")]
    pub user_id: UserId,
    #[serde(rename = "c")]
    pub client_id: ClientId,
    #[serde(rename = "n")]
    pub name: String,
}

impl From<&Author> for Reactor {
    fn from(author: &Author) -> Self {
        Self {
            user_id: author.user_id,
            client_id: author.client_id.clone(),
            name: author.name.clone(),
        }
    }
}

/// Puts one reaction in or takes it out. Beyond [`REACTORS_MAX`] nobody is added.
pub fn react(users: &mut Vec<Reactor>, by: &Author, action: ReactionAction) {
    let there = users.iter().position(|user| user.user_id == by.user_id);
    match (action, there) {
        (ReactionAction::Add, None) if users.len() < REACTORS_MAX => users.push(by.into()),
        (ReactionAction::Remove, Some(place)) => {
            users.remove(place);
        }
        _ => {}
    }
}

/// The people under one emoji, in the order they came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reactions {
    pub emoji: String,
    pub users: Vec<Reactor>,
}

/// One message at one place of the log, with everything folded in that was said about it up to `changed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub seq: Seq,
    /// Who wrote it, when, for whom, and its words as they are now ([`Body::Deleted`] once it is deleted).
    pub record: Record,
    /// The last entry that is folded in: an earlier one changes nothing any more.
    pub changed: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reactions: Vec<Reactions>,
}

impl Message {
    /// `None`: the entry is no message.
    pub fn new(entry: &Entry) -> Option<Self> {
        entry.record.body.message_id()?;
        Some(Self {
            seq: entry.seq,
            record: entry.record.clone(),
            changed: entry.seq,
            edited_ms: None,
            reactions: Vec::new(),
        })
    }

    /// The id that it is spoken of by.
    pub fn id(&self) -> Option<MessageId> {
        self.record.body.message_id()
    }

    pub fn kind(&self) -> Option<MessageKind> {
        self.record.body.message_kind()
    }

    pub fn thread(&self) -> Option<MessageId> {
        self.record.body.thread()
    }

    pub fn author(&self) -> UserId {
        self.record.author.user_id
    }

    /// When it was deleted, if it was.
    pub fn deleted_ms(&self) -> Option<i64> {
        match self.record.body {
            Body::Deleted { deleted_ms, .. } => Some(deleted_ms),
            _ => None,
        }
    }

    pub fn visible_to(&self, person: UserId) -> bool {
        let audience = self.record.audience.as_ref();
        audience.is_none_or(|people| people.contains(&person))
    }

    /// Its words as search finds them; none once it is deleted.
    pub fn words(&self) -> BTreeSet<String> {
        self.record
            .body
            .text()
            .map(search::words)
            .unwrap_or_default()
    }

    pub fn users_of(&self, emoji: &str) -> &[Reactor] {
        let reactions = self.reactions.iter().find(|r| r.emoji == emoji);
        reactions.map_or(&[], |r| &r.users)
    }

    /// Folds in an entry about this message; entries come in `seq` order, and one that is in already changes nothing.
    pub fn apply(&mut self, entry: &Entry) {
        if entry.seq <= self.changed || entry.record.body.target() != self.id() {
            return;
        }
        self.changed = entry.seq;
        if self.deleted_ms().is_some() {
            return;
        }
        match &entry.record.body {
            Body::ChatEdited {
                content, mentions, ..
            } => {
                self.record.body.reword(content, mentions);
                self.edited_ms = Some(entry.record.ts_ms);
            }
            Body::ChatDeleted { .. } => {
                self.record.body = self.record.body.struck(entry.record.ts_ms);
                self.edited_ms = None;
                self.reactions = Vec::new();
            }
            Body::Reaction { emoji, action, .. } => {
                self.react(emoji, &entry.record.author, *action);
            }
            _ => {}
        }
    }

    /// Is there no place for somebody else's reaction?
    pub fn is_full(&self) -> bool {
        let people = self.reactions.iter().map(|r| r.users.len());
        people.sum::<usize>() >= REACTIONS_MAX
    }

    fn react(&mut self, emoji: &str, by: &Author, action: ReactionAction) {
        if action == ReactionAction::Add && self.is_full() {
            return;
        }
        if let Some(place) = self.reactions.iter().position(|r| r.emoji == emoji) {
            react(&mut self.reactions[place].users, by, action);
            if self.reactions[place].users.is_empty() {
                self.reactions.remove(place);
            }
        } else if action == ReactionAction::Add {
            self.reactions.push(Reactions {
                emoji: emoji.to_owned(),
                users: vec![by.into()],
            });
        }
    }
}

/// Figures of one person's messages of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageCounts {
    pub user_id: UserId,
    pub name: String,
    pub kind: MessageKind,
    /// Not deleted.
    pub messages: i64,
    pub deleted: i64,
    pub edited: i64,
    /// Answers in a thread.
    pub replies: i64,
    /// Reactions that these messages bear.
    pub reactions: i64,
    pub first_ms: i64,
    pub last_ms: i64,
}

impl MessageCounts {
    /// What one message adds.
    pub fn of(message: &Message) -> Option<Self> {
        let there = i64::from(message.deleted_ms().is_none());
        let reactions: usize = message.reactions.iter().map(|r| r.users.len()).sum();
        Some(Self {
            user_id: message.author(),
            name: message.record.author.name.clone(),
            kind: message.kind()?,
            messages: there,
            deleted: 1 - there,
            edited: i64::from(message.edited_ms.is_some()),
            replies: there * i64::from(message.thread().is_some()),
            reactions: i64::try_from(reactions).unwrap_or(i64::MAX),
            first_ms: message.record.ts_ms,
            last_ms: message.record.ts_ms,
        })
    }

    /// Adds (`sign` 1) or takes away (-1) what another counted.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.messages += sign * other.messages;
        self.deleted += sign * other.deleted;
        self.edited += sign * other.edited;
        self.replies += sign * other.replies;
        self.reactions += sign * other.reactions;
        self.first_ms = self.first_ms.min(other.first_ms);
        self.last_ms = self.last_ms.max(other.last_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str) -> Author {
        Author {
            client_id: name.parse().unwrap(),
            user_id: UserId(uuid::Uuid::from_u128(name.as_bytes()[0].into())),
            connection: None,
            name: name.to_owned(),
            color: None,
            avatar_url: None,
        }
    }

    fn entry(seq: u64, author: &str, body: Body) -> Entry {
        Entry {
            seq: Seq(seq),
            record: Record {
                ts_ms: i64::try_from(seq).unwrap() * 1_000,
                author: by(author),
                reference: None,
                audience: None,
                body,
            },
        }
    }

    fn said(id: MessageId) -> Message {
        let body = Body::ChatMessage {
            id,
            content: "old words".into(),
            mentions: Vec::new(),
            reply_to: None,
            thread: None,
            file_id: None,
            file_name: None,
        };
        Message::new(&entry(1, "ana", body)).unwrap()
    }

    fn reaction(id: MessageId, action: ReactionAction) -> Body {
        Body::Reaction {
            message_id: id,
            of: Seq(1),
            emoji: "👍".into(),
            action,
            base: Vec::new(),
        }
    }

    #[test]
    fn each_person_counts_once_under_an_emoji() {
        let id = MessageId::generate();
        let mut message = said(id);
        message.apply(&entry(2, "ben", reaction(id, ReactionAction::Add)));
        message.apply(&entry(3, "ben", reaction(id, ReactionAction::Add)));
        message.apply(&entry(4, "ana", reaction(id, ReactionAction::Add)));
        assert_eq!(message.users_of("👍").len(), 2);
        message.apply(&entry(4, "ana", reaction(id, ReactionAction::Remove)));
        assert_eq!(message.users_of("👍").len(), 2, "4 is folded in already");
        message.apply(&entry(5, "ben", reaction(id, ReactionAction::Remove)));
        message.apply(&entry(6, "ana", reaction(id, ReactionAction::Remove)));
        assert!(message.reactions.is_empty());
    }

    /// MongoDB takes no larger document, and a message that is one too large would keep its room from the archive for ever.
    #[test]
    fn the_fullest_message_is_a_document_that_fits() {
        let longest = |n: usize| Reactor {
            // Nobody whom a test names.
            user_id: UserId(uuid::Uuid::from_u128(1_000 + n as u128)),
            client_id: format!("{n:0>64}").parse().unwrap(),
            // Of all that names may hold what JSON writes longest.
            name: "\u{1d54f}".repeat(crate::domain::names::NAME_MAX_CHARS),
        };
        let id = MessageId::generate();
        let mut message = said(id);
        let emoji = |n: usize| format!("{n:x>64}");
        message.reactions = (0..EMOJI_MAX)
            .map(|n| Reactions {
                emoji: emoji(n),
                users: (0..REACTIONS_MAX / EMOJI_MAX).map(longest).collect(),
            })
            .collect();
        let words = "\"".repeat(crate::domain::names::CONTENT_MAX_BYTES);
        message.record.body.reword(&words, &[]);
        let bytes = serde_json::to_string(&message).unwrap().len();
        assert!(bytes < 15 << 20, "{bytes}");
        // Full: nobody comes any more, and who goes makes room.
        let reaction = |emoji: String, action| Body::Reaction {
            message_id: id,
            of: Seq(1),
            emoji,
            action,
            base: Vec::new(),
        };
        let count =
            |message: &Message| -> usize { message.reactions.iter().map(|r| r.users.len()).sum() };
        message.apply(&entry(2, "zoe", reaction(emoji(0), ReactionAction::Add)));
        assert_eq!(count(&message), REACTIONS_MAX);
        let mut first = entry(3, "ana", reaction(emoji(0), ReactionAction::Remove));
        first.record.author.user_id = message.reactions[0].users[0].user_id;
        message.apply(&first);
        message.apply(&entry(4, "zoe", reaction(emoji(0), ReactionAction::Add)));
        message.apply(&entry(5, "yan", reaction(emoji(1), ReactionAction::Add)));
        assert_eq!(count(&message), REACTIONS_MAX);
        assert_eq!(
            message.reactions[0]
                .users
                .last()
                .map(|user| user.name.as_str()),
            Some("zoe")
        );
    }

    #[test]
    fn what_comes_after_the_deletion_in_the_log_changes_nothing() {
        let id = MessageId::generate();
        let mut message = said(id);
        assert!(message.words().contains("old"));
        let edit = |content: &str| Body::ChatEdited {
            message_id: id,
            of: Seq(1),
            content: content.into(),
            mentions: Vec::new(),
        };
        message.apply(&entry(2, "ana", edit("new words")));
        assert!(!message.words().contains("old") && message.words().contains("new"));
        assert_eq!(message.edited_ms, Some(2_000));
        let gone = Body::ChatDeleted {
            message_id: id,
            of: Seq(1),
        };
        message.apply(&entry(3, "ana", gone));
        message.apply(&entry(4, "ana", edit("too late")));
        assert_eq!(message.deleted_ms(), Some(3_000));
        assert_eq!(
            (message.id(), message.kind()),
            (Some(id), Some(MessageKind::ChatMessage))
        );
        assert!(message.words().is_empty() && message.edited_ms.is_none());
    }
}
