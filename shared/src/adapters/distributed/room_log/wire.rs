//! What lies in Redis and travels through its channels, as text and back. Malformed text is an error that names the
//! room, never a panic: other programs can write there too.

use bytes::Bytes;
use fred::prelude::*;
use sha2::{Digest, Sha256};

use crate::domain::entry::{Entry, Record, RefKey};
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::signal::Signal;
use crate::ports::{Appended, Delivery, LogHead, Refusal};

/// Fields of a room's meta hash, in the order all scripts answer them.
pub const HEAD_FIELDS: [&str; 7] = [
    "epoch",
    "seq",
    "archived",
    "trimmed",
    "role_version",
    "seeded_at",
    "seeded_seq",
];

/// Of a ref in Redis.
const REF_BYTES: usize = 16;

type Malformed = String;

/// Field of a ref bucket: a hash, of which nobody finds two of a kind, and an eighth of the names it stands for. (A bucket is of
/// one room.)
pub fn ref_field(key: &RefKey) -> Bytes {
    let RefKey {
        user_id,
        client_id,
        reference,
    } = key;
    let mut hash = Sha256::new();
    hash.update(user_id.0.as_bytes());
    // A client id has no zero byte in it.
    hash.update(client_id.as_str().as_bytes());
    hash.update([0]);
    hash.update(reference.as_str().as_bytes());
    Bytes::copy_from_slice(&hash.finalize()[..REF_BYTES])
}

pub fn signal_text(signal: &Signal) -> Result<String, serde_json::Error> {
    serde_json::to_string(signal)
}

/// Values of [`HEAD_FIELDS`]; `None` where there is no epoch and so no log.
pub fn head(room: &RoomId, fields: Vec<Value>) -> Result<Option<LogHead>, Malformed> {
    if fields.first().is_none_or(Value::is_null) {
        return Ok(None);
    }
    let field = |at: usize| {
        let value = fields.get(at).and_then(Value::as_u64);
        value.ok_or_else(|| format!("room {room}: malformed {} in its head", HEAD_FIELDS[at]))
    };
    Ok(Some(LogHead {
        epoch: Epoch(field(0)?),
        seq: Seq(field(1)?),
        archived: Seq(field(2)?),
        trimmed: Seq(field(3)?),
        role_version: field(4)?,
        seeded_at_ms: fields
            .get(5)
            .and_then(Value::as_i64)
            .ok_or_else(|| format!("room {room}: malformed seeded_at in its head"))?,
        seeded_seq: Seq(field(6)?),
    }))
}

/// What `append.lua` answered.
pub fn append_reply(
    room: &RoomId,
    reply: Vec<Value>,
) -> Result<Result<(Vec<Appended>, bool), Refusal>, Malformed> {
    let malformed = || format!("room {room}: malformed answer to an append");
    let mut values = match taken(room, reply)? {
        Ok(values) => values,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let newly_dirty = values
        .next()
        .and_then(|v| v.as_i64())
        .ok_or_else(malformed)?
        != 0;
    let appended = values
        .map(|value| match value.as_i64() {
            Some(0) => Ok(Appended::Barred),
            Some(seq) if seq > 0 => Ok(Appended::New(Seq(seq.unsigned_abs()))),
            Some(seq) => Ok(Appended::Duplicate(Seq(seq.unsigned_abs()))),
            None => Err(malformed()),
        })
        .collect::<Result<_, _>>()?;
    Ok(Ok((appended, newly_dirty)))
}

/// What `bar.lua` answered.
pub fn bar_reply(
    room: &RoomId,
    reply: Vec<Value>,
) -> Result<Result<Vec<Option<Seq>>, Refusal>, Malformed> {
    let values = match taken(room, reply)? {
        Ok(values) => values,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let seqs = values.map(|value| match value.as_u64() {
        Some(seq) => Ok((seq > 0).then_some(Seq(seq))),
        None => Err(format!("room {room}: malformed answer to a bar")),
    });
    seqs.collect::<Result<_, _>>().map(Ok)
}

/// What follows the `ok` of a script that checks the writer, or why it refuses.
fn taken(
    room: &RoomId,
    reply: Vec<Value>,
) -> Result<Result<std::vec::IntoIter<Value>, Refusal>, Malformed> {
    let malformed = || format!("room {room}: malformed answer to a writer");
    let mut values = reply.into_iter();
    let word = values
        .next()
        .and_then(Value::into_string)
        .ok_or_else(malformed)?;
    let refusal = match word.as_str() {
        "ok" => return Ok(Ok(values)),
        "not_seeded" => Refusal::NotSeeded,
        "epoch" => Refusal::Epoch(head(room, values.collect())?.ok_or_else(malformed)?),
        "behind" => Refusal::Behind(head(room, values.collect())?.ok_or_else(malformed)?),
        "role_version" => Refusal::RoleVersion(
            values
                .next()
                .and_then(|v| v.as_u64())
                .ok_or_else(malformed)?,
        ),
        "archive_behind" => Refusal::ArchiveBehind,
        _ => return Err(malformed()),
    };
    Ok(Err(refusal))
}

/// Stream entries as `read.lua` answers them: id, JSON, id, JSON …
pub fn entries(room: &RoomId, reply: Vec<Value>) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::with_capacity(reply.len() / 2);
    let mut values = reply.into_iter();
    while let Some(id) = values.next() {
        let id = id.as_str().unwrap_or_default().into_owned();
        let seq = id
            .strip_suffix("-0")
            .and_then(|seq| seq.parse().ok())
            .ok_or_else(|| format!("room {room}: malformed entry id {id:?}"))?;
        let json = values.next().unwrap_or(Value::Null);
        let json = json.as_bytes().unwrap_or_default();
        entries.push(entry(room, Seq(seq), json)?);
    }
    Ok(entries)
}

fn entry(room: &RoomId, seq: Seq, json: &[u8]) -> Result<Entry, Malformed> {
    let record: Record = serde_json::from_slice(json)
        .map_err(|e| format!("room {room}: malformed entry {seq}: {e}"))?;
    Ok(Entry { seq, record })
}

/// A message of a room's channel: a signal's JSON, or `epoch first_seq` and one line of JSON for each entry.
pub fn delivery(room: &RoomId, message: &[u8]) -> Result<Delivery, Malformed> {
    if message.first() == Some(&b'{') {
        return serde_json::from_slice(message)
            .map(Delivery::Signal)
            .map_err(|e| format!("room {room}: malformed signal: {e}"));
    }
    let mut lines = message.split(|byte| *byte == b'\n');
    let (epoch, first) = lines
        .next()
        .and_then(|line| std::str::from_utf8(line).ok())
        .and_then(|line| line.split_once(' '))
        .and_then(|(epoch, first)| Some((epoch.parse().ok()?, first.parse::<u64>().ok()?)))
        .ok_or_else(|| format!("room {room}: malformed batch"))?;
    let entries = (first..)
        .zip(lines)
        .map(|(seq, json)| entry(room, Seq(seq), json))
        .collect::<Result<_, _>>()?;
    Ok(Delivery::Entries {
        epoch: Epoch(epoch),
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_lies_in_redis_is_an_error_that_names_the_room() {
        let room: RoomId = "here".parse().unwrap();
        for bad in [
            "",
            "1",
            "1 x",
            "1 2\n{",
            "1 2\n{}\n",
            "{",
            "{\"s\":\"none\"}",
            "\u{0}",
        ] {
            let told = delivery(&room, bad.as_bytes()).unwrap_err();
            assert!(told.contains("room here"), "{bad:?}: {told}");
        }
        for bad in [
            vec![],
            vec!["ok".into()],
            vec!["ok".into(), 1.into(), "x".into()],
            vec!["x".into()],
        ] {
            assert!(append_reply(&room, bad).unwrap_err().contains("room here"));
        }
        for bad in [
            vec!["1-0".into()],
            vec!["1-1".into(), "{}".into()],
            vec![Value::Null, Value::Null],
        ] {
            assert!(entries(&room, bad).unwrap_err().contains("room here"));
        }
        let mut fields: Vec<Value> = vec!["1".into(); 7];
        fields[3] = "x".into();
        assert!(head(&room, fields).unwrap_err().contains("trimmed"));
        assert_eq!(head(&room, vec![Value::Null; 7]), Ok(None));
    }
}
