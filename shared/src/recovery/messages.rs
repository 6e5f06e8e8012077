//! Messages as readers see them: folded, across the archive and what is not archived yet. The same on every pod.

use std::collections::{BTreeMap, BTreeSet};

use super::read_after;
use crate::domain::entry::{Body, Entry};
use crate::domain::ids::{MessageId, RoomId, Seq, UserId};
use crate::domain::message::{Message, MessageCounts, MessageKind};
use crate::domain::search;
use crate::ports::{Archive, MessageQuery, PortError, Result, RoomLog};

/// Entries read at a time.
const PAGE: usize = 1_000;
/// Entries that wait for the archive and are looked through; a longer tail means that the archive is away.
const TAIL_MAX: usize = 50_000;

/// What the unarchived part of a log says of messages.
#[derive(Debug, Default)]
struct Tail {
    /// Written there, with what was said about them since.
    created: BTreeMap<MessageId, Message>,
    /// Said there about messages from before, in order.
    changes: BTreeMap<MessageId, Vec<Entry>>,
}

impl Tail {
    async fn read(log: &dyn RoomLog, archive: &dyn Archive, room: &RoomId) -> Result<Self> {
        // The archive first: what it gains meanwhile is then seen twice, and folded once.
        let mut at = archive.head(room).await?.seq;
        let mut tail = Self::default();
        let Some(head) = log.head(room).await? else {
            return Ok(tail);
        };
        let from = at;
        while at < head.seq {
            let page = read_after(log, archive, room, head.epoch, at, PAGE).await?;
            let page = page.filter(|page| !page.is_empty());
            let page = page.ok_or_else(|| {
                PortError::retry("read messages", format!("epoch {} ended", head.epoch))
            })?;
            for entry in &page {
                at = entry.seq;
                tail.take(entry);
            }
            if at.0 - from.0 > TAIL_MAX as u64 {
                return Err(PortError::retry(
                    "read messages",
                    "the archive is too far behind",
                ));
            }
        }
        Ok(tail)
    }

    fn take(&mut self, entry: &Entry) {
        let body = &entry.record.body;
        if let Some(id) = body.message_id() {
            self.created.extend(Message::new(entry).map(|m| (id, m)));
        } else if let Some(id) = body.target() {
            match self.created.get_mut(&id) {
                Some(message) => message.apply(entry),
                None => self.changes.entry(id).or_default().push(entry.clone()),
            }
        }
    }

    /// A message of the archive, with what was said since.
    fn fold(&self, message: &mut Message) {
        let changes = message.id().and_then(|id| self.changes.get(&id));
        for entry in changes.into_iter().flatten() {
            message.apply(entry);
        }
    }

    /// The archived messages that were spoken about since: as the archive has them.
    async fn changed(&self, archive: &dyn Archive, room: &RoomId) -> Result<Vec<Message>> {
        let ids: Vec<MessageId> = self.changes.keys().copied().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        archive.messages_by_id(room, &ids).await
    }
}

/// These messages, as they are now; those that do not exist are left out.
///
/// # Errors
/// A store is away, or the archive too far behind.
pub async fn messages_by_id(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    ids: &[MessageId],
) -> Result<BTreeMap<MessageId, Message>> {
    let tail = Tail::read(log, archive, room).await?;
    let mut found = BTreeMap::new();
    let mut wanted = Vec::new();
    for id in ids {
        match tail.created.get(id) {
            Some(message) => {
                found.insert(*id, message.clone());
            }
            None => wanted.push(*id),
        }
    }
    if !wanted.is_empty() {
        for mut message in archive.messages_by_id(room, &wanted).await? {
            tail.fold(&mut message);
            found.extend(message.id().map(|id| (id, message)));
        }
    }
    Ok(found)
}

/// A page of messages, newest first, as they are now, and before which seq the next one begins, if there are more:
/// nothing is found by words that were edited or deleted away.
///
/// # Errors
/// As [`messages_by_id`].
pub async fn messages(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    query: &MessageQuery,
) -> Result<(Vec<Message>, Option<Seq>)> {
    let tail = Tail::read(log, archive, room).await?;
    // What the tail made or changed is judged here; the rest by the archive's indexes.
    let mut here: BTreeMap<Seq, Message> = BTreeMap::new();
    let mut judged: BTreeSet<Seq> = BTreeSet::new();
    let mut changed = tail.changed(archive, room).await?;
    changed.iter_mut().for_each(|message| tail.fold(message));
    for message in tail.created.values().cloned().chain(changed) {
        judged.insert(message.seq);
        if fits(query, &message) {
            here.insert(message.seq, message);
        }
    }
    let mut page = archive.messages(room, query).await?;
    // What is older than the archive's page belongs to a later one.
    let last = page.messages.last().map(|m| m.seq).filter(|_| page.more);
    page.messages.retain(|m| !judged.contains(&m.seq));
    let mut all: BTreeMap<Seq, Message> = page.messages.into_iter().map(|m| (m.seq, m)).collect();
    all.extend(
        here.into_iter()
            .filter(|(seq, _)| last.is_none_or(|last| *seq >= last)),
    );
    let cut = all.len() > query.limit;
    let messages: Vec<Message> = all.into_values().rev().take(query.limit).collect();
    let next = if cut {
        messages.last().map(|m| m.seq)
    } else {
        last
    };
    Ok((messages, next))
}

fn fits(query: &MessageQuery, message: &Message) -> bool {
    let id = message.id();
    query.before.is_none_or(|before| message.seq < before)
        && message.visible_to(query.reader)
        && query
            .thread
            .is_none_or(|root| id == Some(root) || message.thread() == Some(root))
        && (query.words.is_empty() || search::matches(&message.words(), &query.words))
}

/// Figures of all messages that this person may see, by author and kind.
///
/// # Errors
/// As [`messages_by_id`].
pub async fn message_counts(
    log: &dyn RoomLog,
    archive: &dyn Archive,
    room: &RoomId,
    reader: UserId,
) -> Result<Vec<MessageCounts>> {
    let tail = Tail::read(log, archive, room).await?;
    let mut by_author: BTreeMap<(UserId, MessageKind), MessageCounts> = BTreeMap::new();
    for counts in archive.message_counts(room, reader).await? {
        by_author.insert((counts.user_id, counts.kind), counts);
    }
    let mut add = |message: &Message, sign: i64| {
        let counts = MessageCounts::of(message).filter(|_| message.visible_to(reader));
        if let Some(counts) = counts {
            match by_author.get_mut(&(counts.user_id, counts.kind)) {
                Some(sum) => sum.add(&counts, sign),
                None => {
                    by_author.insert((counts.user_id, counts.kind), counts);
                }
            }
        }
    };
    for message in tail.changed(archive, room).await? {
        let mut now = message.clone();
        tail.fold(&mut now);
        add(&message, -1);
        add(&now, 1);
    }
    // Archived between the two looks: counted there already.
    let created: Vec<MessageId> = tail.created.keys().copied().collect();
    let archived = match created.as_slice() {
        [] => Vec::new(),
        ids => archive.messages_by_id(room, ids).await?,
    };
    for message in tail.created.values() {
        if !archived.iter().any(|m| m.id() == message.id()) {
            add(message, 1);
        }
    }
    Ok(by_author.into_values().collect())
}

/// An entry as a reader may see it, who knows what became of its message: without the words of what was deleted; `None`
/// where nothing is left to show.
pub fn as_shown(entry: &Entry, message: Option<&Message>) -> Option<Entry> {
    let deleted = message.and_then(Message::deleted_ms);
    let body = &entry.record.body;
    match (body, deleted) {
        (Body::ChatEdited { content, .. }, _) if content.is_empty() => None,
        (Body::ChatEdited { .. } | Body::Reaction { .. }, Some(_)) => None,
        (_, Some(deleted_ms)) if body.message_id().is_some() => {
            let mut struck = entry.clone();
            struck.record.body = body.struck(deleted_ms);
            Some(struck)
        }
        _ => Some(entry.clone()),
    }
}
