//! The documents of the archive, and the keys they lie under.

use mongodb::bson::{self, Binary};
use serde::{Deserialize, Serialize};

use crate::adapters::archive::{encode, holds_words_of, to_db};
use crate::domain::entry::Entry;
use crate::domain::ids::{RoomId, Seq};
use crate::ports::Result;

/// An entry's `_id`: a room's entries lie together in `seq` order, and a place is taken once. No room id has a `:`.
pub fn entry_id(room: &RoomId, seq: Seq) -> String {
    format!("{room}:{:020}", seq.0)
}

/// Less than every `_id` of the room.
pub fn start_of(room: &RoomId) -> String {
    format!("{room}:")
}

/// Greater than every `_id` of the room: `~` comes after all digits and letters.
pub fn end_of(room: &RoomId) -> String {
    format!("{room}:~")
}

pub fn uuid_key(id: uuid::Uuid) -> bson::Uuid {
    bson::Uuid::from_bytes(id.into_bytes())
}

#[derive(Debug, Serialize, Deserialize)]
pub struct HeadRow {
    #[serde(rename = "_id")]
    pub room: String,
    pub epoch: i64,
    pub seq: i64,
    pub opened: bool,
}

/// `record` is the record's JSON text; the fields beside it are what is asked for by.
#[derive(Debug, Serialize, Deserialize)]
pub struct EntryRow {
    #[serde(rename = "_id")]
    id: String,
    room: String,
    seq: i64,
    kind: String,
    ts: bson::DateTime,
    user_id: bson::Uuid,
    client_id: String,
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// Absent: for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience: Option<Vec<bson::Uuid>>,
    /// The message whose words it holds beside the message itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<bson::Uuid>,
    record: String,
}

impl EntryRow {
    pub fn new(room: &RoomId, entry: &Entry) -> Result<Self> {
        let record = &entry.record;
        Ok(Self {
            id: entry_id(room, entry.seq),
            room: room.to_string(),
            seq: to_db(entry.seq.0)?,
            kind: record.body.kind().to_owned(),
            ts: bson::DateTime::from_millis(record.ts_ms),
            user_id: uuid_key(record.author.user_id.0),
            client_id: record.author.client_id.to_string(),
            reference: record.reference.as_ref().map(|r| r.as_str().to_owned()),
            audience: record
                .audience
                .as_ref()
                .map(|people| people.iter().map(|person| uuid_key(person.0)).collect()),
            message: holds_words_of(record).map(|id| uuid_key(id.0)),
            record: encode(record)?,
        })
    }
}

/// What a look-up of refs asks of an entry.
#[derive(Debug, Deserialize)]
pub struct RefRow {
    pub user_id: bson::Uuid,
    pub client_id: String,
    #[serde(rename = "ref")]
    pub reference: String,
    pub seq: i64,
}

/// Points at the chunks of one generation; replacing this one document switches from the old state to the new.
#[derive(Debug, Serialize, Deserialize)]
pub struct CheckpointRow {
    #[serde(rename = "_id")]
    pub room: String,
    pub epoch: i64,
    pub seq: i64,
    pub generation: bson::oid::ObjectId,
    pub chunks: i64,
    /// Of the document in it; older checkpoints say nothing.
    #[serde(default)]
    pub document_bytes: i64,
}

/// A piece of a state's JSON. `_id` is `room:generation:number`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChunkRow {
    #[serde(rename = "_id")]
    pub id: String,
    pub generation: bson::oid::ObjectId,
    pub data: Binary,
}
