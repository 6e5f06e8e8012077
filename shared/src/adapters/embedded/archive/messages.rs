//! Folded messages in `archive.db`: written with the entries, found by place, thread and words.

use futures::TryStreamExt;
use sqlx::{QueryBuilder, Row, Sqlite as Db, SqliteConnection};

use super::append::ROWS_REMEMBERED;
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
/// Messages, and words, of one statement; SQLite takes 32,766 variables.
const ROWS_PER_STATEMENT: usize = 500;
const WORDS_PER_STATEMENT: usize = 5_000;

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

/// Writes the messages that the batch made or changed, and takes away the words of those it deleted. Rows go in by many.
pub async fn write(
    connection: &mut SqliteConnection,
    room: &RoomId,
    folded: &Folded,
) -> Result<()> {
    let failed = |e| port_error("archive messages", e);
    let mut words: Vec<(String, i64)> = Vec::new();
    let changes: Vec<(&MessageId, &Change, MessageCounts)> = folded
        .changes
        .iter()
        .filter_map(|(id, change)| Some((id, change, MessageCounts::of(&change.after)?)))
        .collect();
    for changes in changes.chunks(ROWS_PER_STATEMENT) {
        let mut rows = Vec::with_capacity(changes.len());
        for (id, change, counts) in changes {
            let audience = change.after.record.audience.as_ref();
            let audience = audience
                .map(serde_json::to_string)
                .transpose()
                .map_err(|e| PortError::fatal("encode audience", e))?;
            let (seq, json) = (to_db(change.after.seq.0)?, encode_message(&change.after)?);
            rows.push((id, change, counts, audience, seq, json));
        }
        let mut sql = QueryBuilder::<Db>::new(
            "INSERT INTO messages (room, id, seq, kind, thread, user_id, name, audience, ts_ms, deleted, edited,
                 reactions, message) ",
        );
        sql.push_values(
            rows,
            |mut row, (id, change, counts, audience, seq, json)| {
                let after = &change.after;
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
        sql.build()
            .persistent(changes.len() <= ROWS_REMEMBERED)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        for (_, change, _) in changes {
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
                    .map(|word| (word, seq)),
            );
        }
    }
    // In the order of the index, so that neighbours meet the same pages.
    words.sort_unstable();
    let mut words = words.into_iter().peekable();
    while words.peek().is_some() {
        let rows: Vec<(String, i64)> = words.by_ref().take(WORDS_PER_STATEMENT).collect();
        let few = rows.len() <= ROWS_REMEMBERED;
        let mut sql = QueryBuilder::<Db>::new("INSERT INTO message_words (room, word, seq) ");
        sql.push_values(rows, |mut row, (word, seq)| {
            row.push_bind(room.to_string())
                .push_bind(word)
                .push_bind(seq);
        });
        sql.build()
            .persistent(few)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    for (id, deleted_ms) in &folded.deleted {
        strike(connection, room, *id, *deleted_ms).await?;
    }
    Ok(())
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
