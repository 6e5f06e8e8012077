//! What both archives agree on: which entries are still to be written, how an entry is kept, and how much one answer
//! may hold.
//!
//! A record is kept as its JSON text, the very text the log holds: every number comes back as it was written, and one
//! encoding serves log, archive and export. What history is asked for by (kind, reader) stands beside it in columns
//! of its own.

mod folding;

pub use self::folding::{Change, Folded, spoken_of};

use crate::domain::entry::{Body, Entry, Record};
use crate::domain::ids::{Epoch, MessageId, Seq};
use crate::domain::message::Message;
use crate::domain::state::RoomState;
use crate::ports::{ArchiveHead, PortError, Result, RoomMinute, StaleEpoch};

/// An answer ends with the entry that reaches this many bytes of records.
const ANSWER_BYTES: usize = 8 << 20;

/// Refs looked up by one query.
pub const REFS_PER_QUERY: usize = 500;

/// The part of `entries` that a writer in `epoch` has yet to write after `head`.
///
/// # Errors
/// `Stale` if the writer is in another epoch (no entry is of epoch 0) or would leave a hole after the head; final if
/// the entries are not consecutive.
pub fn unwritten(
    head: ArchiveHead,
    epoch: Epoch,
    entries: &[Entry],
) -> Result<&[Entry], StaleEpoch> {
    if let Some(pair) = entries
        .windows(2)
        .find(|pair| pair[1].seq != pair[0].seq.next())
    {
        let reason = format!("entry {} follows {}", pair[1].seq, pair[0].seq);
        return Err(PortError::fatal("append to archive", reason).into());
    }
    if head.epoch != epoch || epoch == Epoch(0) {
        return Err(StaleEpoch::Stale(head));
    }
    let written = entries.partition_point(|entry| entry.seq <= head.seq);
    let rest = &entries[written..];
    match rest.first() {
        Some(first) if first.seq != head.seq.next() => Err(StaleEpoch::Stale(head)),
        _ => Ok(rest),
    }
}

pub fn encode(record: &Record) -> Result<String> {
    serde_json::to_string(record).map_err(|e| PortError::fatal("encode record", e))
}

/// The message whose words an entry holds beside the message itself.
pub fn holds_words_of(record: &Record) -> Option<MessageId> {
    match &record.body {
        Body::ChatEdited { message_id, .. } => Some(*message_id),
        _ => None,
    }
}

pub fn encode_message(message: &Message) -> Result<String> {
    serde_json::to_string(message).map_err(|e| PortError::fatal("encode message", e))
}

pub fn decode_message(text: &str) -> Result<Message> {
    serde_json::from_str(text).map_err(|e| PortError::fatal("decode message", e))
}

fn decode(seq: Seq, record: &str) -> Result<Entry> {
    let record = serde_json::from_str(record)
        .map_err(|e| PortError::fatal("decode record", format!("entry {seq}: {e}")))?;
    Ok(Entry { seq, record })
}

/// Decodes a checkpoint's state, off the async threads: it may be many megabytes.
pub async fn decode_state(json: Vec<u8>) -> Result<RoomState> {
    tokio::task::spawn_blocking(move || serde_json::from_slice(&json))
        .await
        .map_err(|e| PortError::fatal("decode checkpoint", e))?
        .map_err(|e| PortError::fatal("decode checkpoint", e))
}

/// The database's integer for a seq or epoch, and back.
pub fn to_db(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|e| PortError::fatal("store number", e))
}

pub fn from_db(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|e| PortError::fatal("read number", e))
}

/// An answer about activity that is too long to be one.
pub fn slots_in_bounds(slots: usize) -> Result<()> {
    if slots <= crate::ports::ACTIVITY_SLOTS_MAX {
        return Ok(());
    }
    Err(PortError::fatal(
        "read activity",
        "more slots than one answer may have",
    ))
}

/// Of several rooms' newest minutes the newest: what [`crate::ports::ActivityArchive::activity_in`] promises of all.
pub fn newest_minutes(mut found: Vec<RoomMinute>, limit: usize) -> Vec<RoomMinute> {
    found.sort_unstable_by(|a, b| {
        (b.minute, b.user_id, &b.room).cmp(&(a.minute, a.user_id, &a.room))
    });
    found.truncate(limit);
    found
}

/// The entries of one answer, bounded in number and bytes.
pub struct Answer {
    pub entries: Vec<Entry>,
    /// A row came that had no place any more.
    pub more: bool,
    limit: usize,
    bytes: usize,
}

impl Answer {
    pub fn new(limit: usize) -> Self {
        Self {
            entries: Vec::new(),
            more: false,
            limit,
            bytes: 0,
        }
    }

    /// False: this row was left out, and so must be all after it.
    pub fn push(&mut self, seq: i64, record: &str) -> Result<bool> {
        if self.entries.len() >= self.limit || self.bytes >= ANSWER_BYTES {
            self.more = true;
            return Ok(false);
        }
        self.bytes += record.len();
        self.entries.push(decode(Seq(from_db(seq)?), record)?);
        Ok(true)
    }
}
