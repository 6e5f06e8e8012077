//! What a batch of entries does to archived messages: one rule for both archives.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::domain::entry::{Body, Entry};
use crate::domain::ids::MessageId;
use crate::domain::message::Message;

/// The archived messages that a batch speaks about: to be read before [`Folded::new`].
pub fn spoken_of(entries: &[Entry]) -> Vec<MessageId> {
    let mut ids: Vec<MessageId> = entries
        .iter()
        .filter_map(|entry| entry.record.body.target())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// One message before and after a batch; `before` is absent for those that the batch made.
#[derive(Debug)]
pub struct Change {
    pub before: Option<Message>,
    pub after: Message,
}

/// What a batch comes to.
#[derive(Debug, Default)]
pub struct Folded {
    pub changes: BTreeMap<MessageId, Change>,
    /// Messages that the batch deleted, and when: nothing that is kept holds their words any more.
    pub deleted: BTreeMap<MessageId, i64>,
}

impl Folded {
    pub fn new(entries: &[Entry], known: Vec<Message>) -> Self {
        let mut folded = Self::default();
        for message in known {
            let before = Some(message.clone());
            let change = message.id().map(|id| {
                let after = message;
                (id, Change { before, after })
            });
            folded.changes.extend(change);
        }
        for entry in entries {
            if let Some(after) = Message::new(entry) {
                let before = None;
                let change = after.id().map(|id| (id, Change { before, after }));
                folded.changes.extend(change);
            } else if let Some(id) = entry.record.body.target()
                && let Some(change) = folded.changes.get_mut(&id)
            {
                change.after.apply(entry);
                if let (Body::ChatDeleted { .. }, Some(deleted_ms)) =
                    (&entry.record.body, change.after.deleted_ms())
                {
                    folded.deleted.insert(id, deleted_ms);
                }
            }
        }
        folded
            .changes
            .retain(|_, change| change.before.as_ref() != Some(&change.after));
        folded
    }

    /// An entry of the batch as it is kept.
    pub fn kept<'a>(&self, entry: &'a Entry) -> Cow<'a, Entry> {
        let body = &entry.record.body;
        let about = body.message_id().or(body.target());
        match about.and_then(|id| self.deleted.get(&id)) {
            Some(deleted_ms) => {
                let mut struck = entry.clone();
                struck.record.body = body.struck(*deleted_ms);
                Cow::Owned(struck)
            }
            None => Cow::Borrowed(entry),
        }
    }
}
