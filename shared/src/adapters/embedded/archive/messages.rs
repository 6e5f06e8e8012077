//! Folded messages in `archive.db`: written with the entries, found by place, thread and words.

use futures::TryStreamExt;
use sqlx::{QueryBuilder, Row, Sqlite as Db, SqliteConnection};

use super::append::{ROWS_MAX, Write, pieces};
use super::port_error;
use crate::adapters::archive::{
    Change, Folded, decode_message, encode, encode_message, spoken_of, to_db,
};
use crate::domain::entry::{Entry, Record};
use crate::domain::ids::{MessageId, RoomId, UserId};
use crate::domain::message::{Message, MessageCounts};
use crate::domain::search;
use crate::ports::{MESSAGE_AUTHORS_MAX, MessagePage, MessageQuery, PortError, Result};

/// Ids looked up by one query.
const IDS_PER_QUERY: usize = 500;
/// Words of one statement; a power of two.
const WORDS_MAX: usize = 256;

/// What the batch comes to, with the archived messages it speaks about.
pub async fn fold(
    connection: &mut SqliteConnection,
    room: &RoomId,
    entries: &[Entry],
) -> Result<Folded> {
    let ids = spoken_of(entries);
    let known = by_id(connection, room, &ids).await?;
    Ok(Folded::new(entries, known))
}

/// Writes the messages that the batches made or changed, and takes away the words of those they deleted. Rows go in by
/// many.
pub async fn write(connection: &mut SqliteConnection, writes: &[Write<'_>]) -> Result<()> {
    let failed = |e| port_error("archive messages", e);
    let mut rows = Vec::new();
    for Write { room, folded, .. } in writes {
        for (id, change) in &folded.changes {
            if let Some(counts) = MessageCounts::of(&change.after) {
                rows.push((*room, id, change, counts));
            }
        }
    }
    let mut words: Vec<(&RoomId, String, i64)> = Vec::new();
    for rows in pieces(&rows, ROWS_MAX) {
        put(connection, rows).await?;
        for (room, _, change, _) in rows {
            let seq = to_db(change.after.seq.0)?;
            let before = change.before.as_ref().map(Message::words);
            let (before, now) = (before.unwrap_or_default(), change.after.words());
            for word in before.difference(&now) {
                sqlx::query("DELETE FROM message_words WHERE room = $1 AND word = $2 AND seq = $3")
                    .bind(room.as_str())
                    .bind(word)
                    .bind(seq)
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
            }
            words.extend(
                now.into_iter()
                    .filter(|word| !before.contains(word))
                    .map(|word| (*room, word, seq)),
            );
        }
    }
    // In the order of the index, so that neighbours meet the same pages.
    words.sort_unstable();
    for words in pieces(&words, WORDS_MAX) {
        let mut sql = QueryBuilder::<Db>::new("INSERT INTO message_words (room, word, seq) ");
        sql.push_values(words, |mut row, (room, word, seq)| {
            row.push_bind(room.to_string())
                .push_bind(word.clone())
                .push_bind(*seq);
        });
        sql.build()
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    for Write { room, folded, .. } in writes {
        for (id, deleted_ms) in &folded.deleted {
            strike(connection, room, *id, *deleted_ms).await?;
        }
    }
    Ok(())
}

/// A message that was made or changed, in its room, and what it counts for.
type Changed<'a> = (&'a RoomId, &'a MessageId, &'a Change, MessageCounts);

async fn put(connection: &mut SqliteConnection, rows: &[Changed<'_>]) -> Result<()> {
    let encoded = rows
        .iter()
        .map(|(_, _, Change { after, .. }, _)| {
            let audience = after.record.audience.as_ref().map(serde_json::to_string);
            let audience = audience
                .transpose()
                .map_err(|e| PortError::fatal("encode audience", e))?;
            Ok((audience, to_db(after.seq.0)?, encode_message(after)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut sql = QueryBuilder::<Db>::new(
        "INSERT INTO messages (room, id, seq, kind, thread, user_id, name, audience, ts_ms, deleted, edited,
             reactions, message) ",
    );
    sql.push_values(
        rows.iter().zip(encoded),
        |mut row, ((room, id, Change { after, .. }, counts), (audience, seq, json))| {
            row.push_bind(room.to_string())
                .push_bind(id.0)
                .push_bind(seq)
                .push_bind(counts.kind.as_str())
                .push_bind(after.thread().map(|thread| thread.0))
                .push_bind(counts.user_id.0)
                .push_bind(counts.name.clone())
                .push_bind(audience)
                .push_bind(after.record.ts_ms)
                .push_bind(counts.deleted)
                .push_bind(counts.edited)
                .push_bind(counts.reactions)
                .push_bind(json);
        },
    );
    sql.push(
        " ON CONFLICT (room, id) DO UPDATE SET deleted = excluded.deleted, edited = excluded.edited,
             reactions = excluded.reactions, message = excluded.message",
    );
    let done = sql.build().execute(connection).await;
    done.map(drop)
        .map_err(|e| port_error("archive messages", e))
}

/// The entries that hold the message's words keep their places without them.
async fn strike(
    connection: &mut SqliteConnection,
    room: &RoomId,
    id: MessageId,
    deleted_ms: i64,
) -> Result<()> {
    let failed = |e| port_error("archive messages", e);
    let rows = sqlx::query(
        "SELECT seq, record FROM entries WHERE room = $1 AND message = $2
         UNION ALL
         SELECT e.seq, e.record FROM messages m JOIN entries e ON e.room = m.room AND e.seq = m.seq
         WHERE m.room = $1 AND m.id = $2",
    )
    .bind(room.as_str())
    .bind(id.0)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    for row in rows {
        let mut record: Record =
            serde_json::from_str(row.get(1)).map_err(|e| PortError::fatal("decode record", e))?;
        record.body = record.body.struck(deleted_ms);
        sqlx::query("UPDATE entries SET record = $3 WHERE room = $1 AND seq = $2")
            .bind(room.as_str())
            .bind(row.get::<i64, _>(0))
            .bind(encode(&record)?)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

pub async fn by_id(
    connection: &mut SqliteConnection,
    room: &RoomId,
    ids: &[MessageId],
) -> Result<Vec<Message>> {
    let mut found = Vec::new();
    for ids in ids.chunks(IDS_PER_QUERY) {
        let mut sql = QueryBuilder::<Db>::new("SELECT message FROM messages WHERE room = ");
        sql.push_bind(room.as_str()).push(" AND id IN (");
        let mut list = sql.separated(", ");
        for id in ids {
            list.push_bind(id.0);
        }
        sql.push(")");
        let mut rows = sql.build().fetch(&mut *connection);
        while let Some(row) = rows
            .try_next()
            .await
            .map_err(|e| port_error("find messages", e))?
        {
            found.push(decode_message(row.get(0))?);
        }
    }
    Ok(found)
}

/// Only what this person may see.
fn for_eyes(sql: &mut QueryBuilder<Db>, UserId(reader): UserId) {
    sql.push(" AND (audience IS NULL OR EXISTS (SELECT 1 FROM json_each(audience) WHERE value = ")
        .push_bind(reader.to_string())
        .push("))");
}

pub async fn page(
    connection: &mut SqliteConnection,
    room: &RoomId,
    query: &MessageQuery,
) -> Result<MessagePage> {
    let mut sql = QueryBuilder::<Db>::new("SELECT message FROM messages WHERE room = ");
    sql.push_bind(room.as_str());
    if let Some(before) = query.before {
        sql.push(" AND seq < ").push_bind(to_db(before.0)?);
    }
    if let Some(thread) = query.thread {
        sql.push(" AND (thread = ")
            .push_bind(thread.0)
            .push(" OR id = ")
            .push_bind(thread.0)
            .push(")");
    }
    for word in &query.words {
        sql.push(" AND seq IN (SELECT seq FROM message_words WHERE room = ")
            .push_bind(room.as_str())
            .push(" AND word >= ")
            .push_bind(word.clone())
            .push(" AND word < ")
            .push_bind(search::after(word))
            .push(")");
    }
    for_eyes(&mut sql, query.reader);
    // One more than asked for tells whether there are older ones.
    sql.push(" ORDER BY seq DESC LIMIT +")
        .push_bind(i64::try_from(query.limit.saturating_add(1)).unwrap_or(i64::MAX));
    let mut rows = sql.build().fetch(&mut *connection);
    let mut page = MessagePage::default();
    while let Some(row) = rows
        .try_next()
        .await
        .map_err(|e| port_error("list messages", e))?
    {
        if page.messages.len() == query.limit {
            page.more = true;
            break;
        }
        page.messages.push(decode_message(row.get(0))?);
    }
    Ok(page)
}

pub async fn counts(
    connection: &mut SqliteConnection,
    room: &RoomId,
    reader: UserId,
) -> Result<Vec<MessageCounts>> {
    let mut sql = QueryBuilder::<Db>::new(
        "SELECT user_id, MAX(name), kind, COUNT(*) - SUM(deleted), SUM(deleted), SUM(edited),
             COUNT(CASE WHEN deleted = 0 THEN thread END), SUM(reactions), MIN(ts_ms), MAX(ts_ms)
         FROM messages WHERE room = ",
    );
    sql.push_bind(room.as_str());
    for_eyes(&mut sql, reader);
    sql.push(" GROUP BY user_id, kind ORDER BY 4 DESC LIMIT +")
        .push_bind(i64::try_from(MESSAGE_AUTHORS_MAX).unwrap_or(i64::MAX));
    let rows = sql
        .build()
        .fetch_all(connection)
        .await
        .map_err(|e| port_error("count messages", e))?;
    rows.into_iter()
        .map(|row| {
            let kind = row.get::<&str, _>(2).parse();
            Ok(MessageCounts {
                user_id: UserId(row.get(0)),
                name: row.get(1),
                kind: kind.map_err(|e| PortError::fatal("count messages", e))?,
                messages: row.get(3),
                deleted: row.get(4),
                edited: row.get(5),
                replies: row.get(6),
                reactions: row.get(7),
                first_ms: row.get(8),
                last_ms: row.get(9),
            })
        })
        .collect()
}
