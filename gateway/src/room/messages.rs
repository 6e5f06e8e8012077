//! Messages that others speak about: what this pod knows of them, looked up where it knows nothing, and whether an edit, a
//! deletion, a reaction or an answer may be.
//!
//! What is decided here is decided again by the log's order: of an edit and a deletion that cross, the fold takes the one
//! that comes first in the log, on every pod alike.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{MessageId, UserId};
use atelier_shared::domain::message::{EMOJI_MAX, Message, REACTIONS_MAX, ReactionAction, Reactor};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::Role;

use super::json::incoming::{About, Durable};
use super::json::outgoing::ErrorFrame;

/// Messages known without asking; each may hold 16 KiB.
const KNOWN_MAX: usize = 512;
/// What is said about one message while it is being looked up.
const SAID_MAX: usize = 256;

/// Messages of late, folded as the log is.
#[derive(Debug, Default)]
pub struct Known {
    by_id: HashMap<MessageId, Message>,
    /// In the order they became known.
    order: VecDeque<MessageId>,
    /// Those that are being looked up.
    awaited: HashMap<MessageId, Awaited>,
    /// When those who reacted were last looked up, as [`crate::identity::Profiles::unheard`] counts; 0: not yet.
    pub looked: Arc<AtomicU64>,
}

/// A message that is being looked up: what is read of it may be older than what is applied here by the time it comes.
#[derive(Debug, Default)]
struct Awaited {
    looks: usize,
    /// What was said about it since the first of them began; [`SAID_MAX`]: perhaps not all.
    said: Vec<Entry>,
}

impl Known {
    pub fn get(&self, id: MessageId) -> Option<&Message> {
        self.by_id.get(&id)
    }

    pub fn insert(&mut self, message: Message) {
        let Some(id) = message.id() else { return };
        if self.by_id.insert(id, message).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    /// Is one of them this person's?
    pub fn has_of(&self, person: UserId) -> bool {
        let mut messages = self.by_id.values();
        messages.any(|message| message.author() == person)
    }

    /// Folds in an entry that was just applied.
    pub fn apply(&mut self, entry: &Entry) {
        if let Some(message) = Message::new(entry) {
            self.insert(message);
        } else if let Some(id) = entry.record.body.target() {
            if let Some(message) = self.by_id.get_mut(&id) {
                message.apply(entry);
            }
            if let Some(awaited) = self.awaited.get_mut(&id)
                && awaited.said.len() < SAID_MAX
            {
                awaited.said.push(entry.clone());
            }
        }
    }

    /// A message is being looked up.
    pub fn look(&mut self, id: MessageId) {
        self.awaited.entry(id).or_default().looks += 1;
    }

    /// What a look-up in this log found, or `None`; as the message is now.
    pub fn looked(&mut self, id: MessageId, found: Option<Box<Message>>) -> Option<Box<Message>> {
        let Some(awaited) = self.awaited.get_mut(&id) else {
            return found;
        };
        awaited.looks -= 1;
        let found = found.map(|mut message| {
            awaited.said.iter().for_each(|entry| message.apply(entry));
            message
        });
        let all_said = awaited.said.len() < SAID_MAX;
        if awaited.looks == 0 {
            self.awaited.remove(&id);
        }
        if let Some(known) = self.by_id.get(&id)
            && found
                .as_ref()
                .is_none_or(|found| found.changed < known.changed)
        {
            return Some(Box::new(known.clone()));
        }
        if let Some(message) = found.as_deref().filter(|_| all_said) {
            self.insert(message.clone());
        }
        found
    }

    /// The log is another one now.
    pub fn forget(&mut self) {
        self.by_id.clear();
        self.order.clear();
        self.awaited.clear();
        self.looked.store(0, Ordering::Relaxed);
    }
}

/// May `member` say this about the message that was found? Puts in what the log must know of it.
pub fn settle(
    durable: &mut Durable,
    found: Option<&Message>,
    member: &Member,
) -> Result<(), ErrorFrame> {
    let Some(About::Message { id, field }) = durable.about.take() else {
        return Ok(());
    };
    let refused = |code, text: &str| ErrorFrame::new(code, format!("{field}: {text}")).field(field);
    let found = found
        .filter(|message| message.visible_to(member.user_id))
        .ok_or_else(|| refused("not_found", "there is no such message"))?;
    let mine = found.author() == member.user_id;
    if found.deleted_ms().is_some() && durable.body.target().is_some() {
        return Err(refused("not_found", "this message was deleted"));
    }
    match &mut durable.body {
        Body::ChatMessage { thread, .. } | Body::CodeComment { thread, .. } => {
            if found.record.audience.is_some() {
                let text = "a direct message has no thread; answer it with a direct_message";
                return Err(refused("invalid", text));
            }
            *thread = Some(found.thread().unwrap_or(id));
        }
        Body::ChatEdited { of, .. } => {
            if !mine {
                return Err(refused("forbidden", "only its author may edit a message"));
            }
            *of = found.seq;
        }
        Body::ChatDeleted { of, .. } => {
            if !mine && member.role < Role::Host {
                let text = "only its author or a host may delete a message";
                return Err(refused("forbidden", text));
            }
            *of = found.seq;
        }
        Body::Reaction {
            of,
            emoji,
            action,
            base,
            ..
        } => {
            let users: &[Reactor] = found.users_of(emoji);
            if *action == ReactionAction::Add
                && users.is_empty()
                && found.reactions.len() >= EMOJI_MAX
            {
                let text =
                    format!("data.emoji: a message bears at most {EMOJI_MAX} different ones");
                return Err(ErrorFrame::new("invalid", text).field("data.emoji"));
            }
            if *action == ReactionAction::Add && found.is_full() {
                let text = format!("data.emoji: a message bears at most {REACTIONS_MAX} reactions");
                return Err(ErrorFrame::new("invalid", text).field("data.emoji"));
            }
            *of = found.seq;
            *base = users.to_vec();
        }
        _ => {}
    }
    durable.audience.clone_from(&found.record.audience);
    Ok(())
}
