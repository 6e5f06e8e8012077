//! Folded messages in MongoDB: `messages`, written in the transaction of their entries, found by place, thread and words.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use mongodb::ClientSession;
use mongodb::bson::{self, Bson, Document, doc};
use mongodb::error::Error;
use serde::{Deserialize, Serialize};

use super::MongoArchive;
use super::rows::{entry_id, uuid_key};
use crate::adapters::archive::{Folded, decode_message, encode, encode_message, spoken_of, to_db};
use crate::adapters::distributed::mongo::bounded;
use crate::domain::entry::{Entry, Record};
use crate::domain::ids::{MessageId, RoomId, Seq, UserId};
use crate::domain::message::{Message, MessageCounts};
use crate::domain::search;
use crate::ports::{MESSAGE_AUTHORS_MAX, MessagePage, MessageQuery, PortError, Result};

/// A folded message; `message` is its JSON text, the fields beside it are what is asked for by.
#[derive(Debug, Serialize, Deserialize)]
pub struct MessageRow {
    #[serde(rename = "_id")]
    id: String,
    room: String,
    seq: i64,
    kind: String,
    /// The first message of the thread it answers in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thread: Option<bson::Uuid>,
    user_id: bson::Uuid,
    name: String,
    /// Absent: for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience: Option<Vec<bson::Uuid>>,
    ts_ms: i64,
    deleted: i64,
    edited: i64,
    replies: i64,
    reactions: i64,
    words: BTreeSet<String>,
    message: String,
}

fn message_id(room: &RoomId, id: MessageId) -> String {
    format!("{room}:{id}")
}

impl MessageRow {
    /// `None`: it is no message.
    fn new(room: &RoomId, message: &Message) -> Result<Option<Self>> {
        let (Some(id), Some(counts)) = (message.id(), MessageCounts::of(message)) else {
            return Ok(None);
        };
        let audience = message.record.audience.as_ref();
        Ok(Some(Self {
            id: message_id(room, id),
            room: room.to_string(),
            seq: to_db(message.seq.0)?,
            kind: counts.kind.as_str().to_owned(),
            thread: message.thread().map(|thread| uuid_key(thread.0)),
            user_id: uuid_key(counts.user_id.0),
            name: counts.name,
            audience: audience.map(|people| people.iter().map(|p| uuid_key(p.0)).collect()),
            ts_ms: message.record.ts_ms,
            deleted: counts.deleted,
            edited: counts.edited,
            replies: counts.replies,
            reactions: counts.reactions,
            words: message.words(),
            message: encode_message(message)?,
        }))
    }
}

/// Failures of our own side within a transaction of the driver's.
fn custom(error: PortError) -> Error {
    Error::custom(error)
}

impl MongoArchive {
    /// What the batch comes to, with the archived messages it speaks about. Within the batch's transaction, so that two
    /// writers can't fold the same message apart: the second meets the moved head first.
    pub(super) async fn fold(
        &self,
        session: &mut ClientSession,
        room: &RoomId,
        entries: &[Entry],
    ) -> Result<Folded, Error> {
        let ids: Vec<String> = spoken_of(entries)
            .into_iter()
            .map(|id| message_id(room, id))
            .collect();
        let mut known = Vec::new();
        if !ids.is_empty() {
            let mut rows = self
                .messages
                .find(doc! { "_id": { "$in": ids } })
                .session(&mut *session)
                .await?;
            while rows.advance(&mut *session).await? {
                let row = rows.deserialize_current()?;
                known.push(decode_message(&row.message).map_err(custom)?);
            }
        }
        Ok(Folded::new(entries, known))
    }

    /// Writes the messages that the batch made or changed, and takes away the words of those it deleted.
    pub(super) async fn write_messages(
        &self,
        session: &mut ClientSession,
        room: &RoomId,
        folded: &Folded,
    ) -> Result<(), Error> {
        let mut new = Vec::new();
        for change in folded.changes.values() {
            let Some(row) = MessageRow::new(room, &change.after).map_err(custom)? else {
                continue;
            };
            if change.before.is_none() {
                new.push(row);
                continue;
            }
            let at = doc! { "_id": &row.id };
            self.messages
                .replace_one(at, row)
                .session(&mut *session)
                .await?;
        }
        if !new.is_empty() {
            self.messages
                .insert_many(new)
                .session(&mut *session)
                .await?;
        }
        for (id, deleted_ms) in &folded.deleted {
            if let Some(change) = folded.changes.get(id) {
                self.strike(session, room, *id, change.after.seq, *deleted_ms)
                    .await?;
            }
        }
        Ok(())
    }

    /// The entries that hold the message's words keep their places without them.
    async fn strike(
        &self,
        session: &mut ClientSession,
        room: &RoomId,
        id: MessageId,
        seq: Seq,
        deleted_ms: i64,
    ) -> Result<(), Error> {
        let holding = doc! { "$or": [
            { "_id": entry_id(room, seq) },
            { "room": room.as_str(), "message": uuid_key(id.0) },
        ] };
        let mut rows = self
            .entries
            .clone_with_type::<Document>()
            .find(holding)
            .projection(doc! { "_id": 1, "record": 1 })
            .session(&mut *session)
            .await?;
        let mut struck = Vec::new();
        while rows.advance(&mut *session).await? {
            let row = rows.deserialize_current()?;
            let malformed = |e| custom(PortError::fatal("read archive", e));
            let text = row.get_str("record").map_err(malformed)?;
            let mut record: Record = serde_json::from_str(text)
                .map_err(|e| custom(PortError::fatal("decode record", e)))?;
            record.body = record.body.struck(deleted_ms);
            struck.push((
                row.get_str("_id").map_err(malformed)?.to_owned(),
                encode(&record).map_err(custom)?,
            ));
        }
        for (at, record) in struck {
            self.entries
                .update_one(doc! { "_id": at }, doc! { "$set": { "record": record } })
                .session(&mut *session)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn find_messages(
        &self,
        room: &RoomId,
        ids: &[MessageId],
    ) -> Result<Vec<Message>> {
        const OPERATION: &str = "find messages";
        let ids: Vec<String> = ids.iter().map(|id| message_id(room, *id)).collect();
        let rows: Vec<MessageRow> = bounded(OPERATION, async {
            self.messages
                .find(doc! { "_id": { "$in": ids } })
                .await?
                .try_collect()
                .await
        })
        .await?;
        rows.iter()
            .map(|row| decode_message(&row.message))
            .collect()
    }

    pub(super) async fn page_of_messages(
        &self,
        room: &RoomId,
        query: &MessageQuery,
    ) -> Result<MessagePage> {
        let mut all = vec![doc! { "room": room.as_str() }, for_eyes(query.reader)];
        if let Some(before) = query.before {
            all.push(doc! { "seq": { "$lt": to_db(before.0)? } });
        }
        if let Some(thread) = query.thread {
            all.push(doc! { "$or": [
                { "thread": uuid_key(thread.0) },
                { "_id": message_id(room, thread) },
            ] });
        }
        for word in &query.words {
            let begins = doc! { "$gte": word, "$lt": search::after(word) };
            all.push(doc! { "words": { "$elemMatch": begins } });
        }
        let limit = i64::try_from(query.limit.saturating_add(1)).unwrap_or(i64::MAX);
        let rows: Vec<MessageRow> = bounded("list messages", async {
            self.messages
                .find(doc! { "$and": all })
                .sort(doc! { "seq": -1 })
                // One more than asked for tells whether there are older ones.
                .limit(limit)
                .await?
                .try_collect()
                .await
        })
        .await?;
        let more = rows.len() > query.limit;
        let rows = rows.iter().take(query.limit);
        let messages = rows.map(|row| decode_message(&row.message));
        Ok(MessagePage {
            messages: messages.collect::<Result<_>>()?,
            more,
        })
    }

    pub(super) async fn count_messages(
        &self,
        room: &RoomId,
        reader: UserId,
    ) -> Result<Vec<MessageCounts>> {
        const OPERATION: &str = "count messages";
        let limit = i64::try_from(MESSAGE_AUTHORS_MAX).unwrap_or(i64::MAX);
        let pipeline = [
            doc! { "$match": { "$and": [{ "room": room.as_str() }, for_eyes(reader)] } },
            doc! { "$group": {
                "_id": { "user_id": "$user_id", "kind": "$kind" },
                "name": { "$max": "$name" },
                "all": { "$sum": Bson::Int64(1) },
                "deleted": { "$sum": "$deleted" },
                "edited": { "$sum": "$edited" },
                "replies": { "$sum": "$replies" },
                "reactions": { "$sum": "$reactions" },
                "first_ms": { "$min": "$ts_ms" },
                "last_ms": { "$max": "$ts_ms" },
            } },
            doc! { "$sort": { "all": -1 } },
            doc! { "$limit": limit },
        ];
        let rows: Vec<CountRow> = bounded(OPERATION, async {
            self.messages
                .aggregate(pipeline)
                .with_type::<CountRow>()
                .await?
                .try_collect()
                .await
        })
        .await?;
        rows.into_iter().map(CountRow::counts).collect()
    }
}

#[derive(Debug, Deserialize)]
struct CountKey {
    user_id: bson::Uuid,
    kind: String,
}

#[derive(Debug, Deserialize)]
struct CountRow {
    #[serde(rename = "_id")]
    key: CountKey,
    name: String,
    all: i64,
    deleted: i64,
    edited: i64,
    replies: i64,
    reactions: i64,
    first_ms: i64,
    last_ms: i64,
}

impl CountRow {
    fn counts(self) -> Result<MessageCounts> {
        let kind = self.key.kind.parse();
        Ok(MessageCounts {
            user_id: UserId(uuid::Uuid::from_bytes(self.key.user_id.bytes())),
            name: self.name,
            kind: kind.map_err(|e| PortError::fatal("count messages", e))?,
            messages: self.all - self.deleted,
            deleted: self.deleted,
            edited: self.edited,
            replies: self.replies,
            reactions: self.reactions,
            first_ms: self.first_ms,
            last_ms: self.last_ms,
        })
    }
}

/// Only what this person may see.
fn for_eyes(reader: UserId) -> Document {
    doc! { "$or": [{ "audience": { "$exists": false } }, { "audience": uuid_key(reader.0) }] }
}
