//! The archive in MongoDB: `room_heads`, `entries`, `checkpoints` with `checkpoint_chunks`, `job_results`.

mod activity;
mod append;
mod backups;
mod checkpoint;
mod forget;
mod held;
mod messages;
mod results;
mod rows;

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use mongodb::bson::{self, Bson, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::{Collection, Cursor, Database};

use self::messages::MessageRow;
use self::results::ResultRow;
use self::rows::{
    CheckpointRow, ChunkRow, EntryRow, HeadRow, RefRow, end_of, entry_id, start_of, uuid_key,
};
use super::mongo::{bounded, is_duplicate_key, ping};
use crate::adapters::archive::{Answer, REFS_PER_QUERY, from_db, to_db};
use crate::domain::entry::{Entry, RefKey};
use crate::domain::ids::{ClientId, Epoch, JobId, MessageId, RoomId, Seq, UserId};
use crate::domain::job::JobResult;
use crate::domain::message::{Message, MessageCounts};
use crate::domain::state::Checkpoint;
use crate::ports::{
    Archive, ArchiveHead, HistoryPage, HistoryQuery, MessagePage, MessageQuery, PortError, Result,
    StaleEpoch,
};

/// Collections and indexes, as the database commands that make them.
const SCHEMA: &[&str] = &[
    include_str!("../../../../migrations/mongo/0001_archive.json"),
    include_str!("../../../../migrations/mongo/0002_results.json"),
    include_str!("../../../../migrations/mongo/0002_messages.json"),
    include_str!("../../../../migrations/mongo/0003_activity.json"),
    include_str!("../../../../migrations/mongo/0003_backups.json"),
    include_str!("../../../../migrations/mongo/0004_newest_activity.json"),
];

pub struct MongoArchive {
    database: Database,
    heads: Collection<HeadRow>,
    entries: Collection<EntryRow>,
    messages: Collection<MessageRow>,
    checkpoints: Collection<CheckpointRow>,
    chunks: Collection<ChunkRow>,
    results: Collection<ResultRow>,
    backups: Collection<backups::BackupRow>,
    backup_chunks: Collection<backups::BackupChunkRow>,
}

impl MongoArchive {
    pub fn new(database: Database) -> Self {
        Self {
            heads: database.collection("room_heads"),
            entries: database.collection("entries"),
            messages: database.collection("messages"),
            checkpoints: database.collection("checkpoints"),
            chunks: database.collection("checkpoint_chunks"),
            results: database.collection("job_results"),
            backups: database.collection("backups"),
            backup_chunks: database.collection("backup_chunks"),
            database,
        }
    }

    /// Makes what is missing of collections and indexes; any number of processes may at once. Nothing of the archive
    /// may be used before: that a ref is stored once is an index.
    pub async fn ensure_indexes(&self) -> Result<()> {
        /// `NamespaceExists`, and `IndexNotFound` for one that is to go.
        const AS_WANTED: [i32; 2] = [48, 27];
        let mut commands: Vec<Document> = Vec::new();
        for file in SCHEMA {
            let more: Vec<Document> =
                serde_json::from_str(file).map_err(|e| PortError::fatal("read schema", e))?;
            commands.extend(more);
        }
        for command in commands {
            bounded("make collections and indexes", async {
                match self.database.run_command(command).await {
                    Err(e) if matches!(&*e.kind, ErrorKind::Command(c) if AS_WANTED.contains(&c.code)) => {
                        Ok(())
                    }
                    other => other.map(|_| ()),
                }
            })
            .await?;
        }
        Ok(())
    }
}

/// Takes rows of `{seq, record}` until the answer is full or the rows end.
async fn collect(mut rows: Cursor<EntryRow>, answer: &mut Answer) -> Result<()> {
    const OPERATION: &str = "read archive";
    let malformed = |e| PortError::fatal(OPERATION, e);
    while bounded(OPERATION, rows.advance()).await? {
        let row = rows.current();
        let seq = row.get_i64("seq").map_err(malformed)?;
        let record = row.get_str("record").map_err(malformed)?;
        if !answer.push(seq, record)? {
            break;
        }
    }
    Ok(())
}

#[async_trait]
impl Archive for MongoArchive {
    async fn ping(&self) -> Result<()> {
        ping(&self.database).await
    }

    async fn head(&self, room: &RoomId) -> Result<ArchiveHead> {
        let row = bounded("read archive head", async {
            self.heads.find_one(doc! { "_id": room.as_str() }).await
        })
        .await?;
        let (epoch, seq, opened) =
            row.map_or((0, 0, false), |row| (row.epoch, row.seq, row.opened));
        Ok(ArchiveHead {
            epoch: Epoch(from_db(epoch)?),
            seq: Seq(from_db(seq)?),
            opened,
        })
    }

    async fn raise_epoch(&self, room: &RoomId, from: Epoch) -> Result<ArchiveHead> {
        let from = to_db(from.0)?;
        bounded("raise epoch", async {
            if from > 0 {
                self.heads
                    .update_one(
                        doc! { "_id": room.as_str(), "epoch": from },
                        doc! { "$inc": { "epoch": 1_i64 }, "$set": { "opened": false } },
                    )
                    .await?;
                return Ok(());
            }
            let first = HeadRow {
                room: room.to_string(),
                epoch: 1,
                seq: 0,
                opened: false,
            };
            match self.heads.insert_one(first).await {
                Err(e) if is_duplicate_key(&e) => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .await?;
        self.head(room).await
    }

    async fn open_epoch(&self, room: &RoomId, epoch: Epoch) -> Result<ArchiveHead> {
        let at = doc! { "_id": room.as_str(), "epoch": to_db(epoch.0)? };
        bounded("open epoch", async {
            self.heads
                .update_one(at, doc! { "$set": { "opened": true } })
                .await
        })
        .await?;
        self.head(room).await
    }

    async fn append(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<ArchiveHead, StaleEpoch> {
        self.append_entries(room, epoch, entries, true).await
    }

    async fn append_again(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<ArchiveHead, StaleEpoch> {
        self.append_entries(room, epoch, entries, false).await
    }

    async fn archived_rooms(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        const OPERATION: &str = "list archived rooms";
        let rows: Vec<HeadRow> = bounded(OPERATION, async {
            self.heads
                .find(doc! {
                    "_id": { "$gt": after.map_or("", RoomId::as_str) },
                    "seq": { "$gt": 0_i64 },
                })
                .sort(doc! { "_id": 1 })
                .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                .await?
                .try_collect()
                .await
        })
        .await?;
        let parsed = rows.iter().map(|row| row.room.parse());
        parsed
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| PortError::fatal(OPERATION, e))
    }

    async fn read(&self, room: &RoomId, after: Seq, limit: usize) -> Result<Vec<Entry>> {
        let mut answer = Answer::new(limit);
        if limit > 0 {
            let rows = bounded("read archive", async {
                self.entries
                    .find(doc! { "_id": { "$gt": entry_id(room, after), "$lt": end_of(room) } })
                    .sort(doc! { "_id": 1 })
                    .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                    .projection(doc! { "_id": 0, "seq": 1, "record": 1 })
                    .await
            })
            .await?;
            collect(rows, &mut answer).await?;
        }
        Ok(answer.entries)
    }

    async fn history(&self, room: &RoomId, query: &HistoryQuery) -> Result<HistoryPage> {
        let mut everybody_or_reader = vec![doc! { "audience": { "$exists": false } }];
        if let Some(reader) = query.reader {
            everybody_or_reader.push(doc! { "audience": uuid_key(reader.0) });
        }
        let mut filter = doc! { "$or": everybody_or_reader };
        // By kind there is an index on seq; over all kinds the entries themselves lie in order.
        let order = if query.kinds.is_empty() {
            let end = query.before.map_or(end_of(room), |seq| entry_id(room, seq));
            filter.insert("_id", doc! { "$gt": start_of(room), "$lt": end });
            doc! { "_id": -1 }
        } else {
            filter.insert("room", room.as_str());
            filter.insert("kind", doc! { "$in": &query.kinds });
            if let Some(before) = query.before {
                filter.insert("seq", doc! { "$lt": to_db(before.0)? });
            }
            doc! { "seq": -1 }
        };
        let mut answer = Answer::new(query.limit);
        let rows = bounded("read history", async {
            self.entries
                .find(filter)
                .sort(order)
                // One more than asked for tells whether there are older ones.
                .limit(i64::try_from(query.limit.saturating_add(1)).unwrap_or(i64::MAX))
                .projection(doc! { "_id": 0, "seq": 1, "record": 1 })
                .await
        })
        .await?;
        collect(rows, &mut answer).await?;
        Ok(HistoryPage {
            entries: answer.entries,
            more: answer.more,
        })
    }

    async fn messages(&self, room: &RoomId, query: &MessageQuery) -> Result<MessagePage> {
        self.page_of_messages(room, query).await
    }

    async fn messages_by_id(&self, room: &RoomId, ids: &[MessageId]) -> Result<Vec<Message>> {
        self.find_messages(room, ids).await
    }

    async fn message_counts(&self, room: &RoomId, reader: UserId) -> Result<Vec<MessageCounts>> {
        self.count_messages(room, reader).await
    }

    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>> {
        let mut found = HashMap::new();
        for refs in refs.chunks(REFS_PER_QUERY) {
            let mut by_client: HashMap<(UserId, &ClientId), Vec<&str>> = HashMap::new();
            for key in refs {
                by_client
                    .entry((key.user_id, &key.client_id))
                    .or_default()
                    .push(key.reference.as_str());
            }
            let any: Vec<Document> = by_client
                .into_iter()
                .map(|((user, client), refs)| {
                    doc! {
                        "room": room.as_str(), "user_id": uuid_key(user.0),
                        "client_id": client.as_str(), "ref": { "$in": refs },
                    }
                })
                .collect();
            let rows: Vec<RefRow> = bounded("look up refs", async {
                self.entries
                    .clone_with_type()
                    .find(doc! { "$or": any })
                    .projection(doc! { "_id": 0, "user_id": 1, "client_id": 1, "ref": 1, "seq": 1 })
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            for row in rows {
                let seq = Seq(from_db(row.seq)?);
                found.insert((row.user_id, row.client_id, row.reference), seq);
            }
        }
        let seq_of = |key: &RefKey| {
            let key = (
                uuid_key(key.user_id.0),
                key.client_id.to_string(),
                key.reference.as_str().to_owned(),
            );
            found.get(&key).copied()
        };
        Ok(refs.iter().map(seq_of).collect())
    }

    async fn checkpoint(&self, room: &RoomId) -> Result<Option<Checkpoint>> {
        self.read_checkpoint(room).await
    }

    async fn save_checkpoint(&self, room: &RoomId, checkpoint: &Checkpoint) -> Result<bool> {
        self.write_checkpoint(room, checkpoint).await
    }

    async fn document_bytes(&self, rooms: &[RoomId]) -> Result<HashMap<RoomId, u64>> {
        self.read_document_bytes(rooms).await
    }

    async fn forget_room(&self, room: &RoomId, epoch: Epoch) -> Result<bool> {
        self.forget_all(room, epoch).await
    }

    async fn put_result(
        &self,
        job: JobId,
        result: &JobResult,
        expires_at: DateTime<Utc>,
    ) -> Result<bool> {
        let expires_at = bson::DateTime::from_millis(expires_at.timestamp_millis());
        let row = ResultRow::of(job, result, expires_at).await?;
        bounded("store job result", async {
            match self.results.insert_one(row).await {
                Ok(_) => Ok(true),
                Err(e) if is_duplicate_key(&e) => Ok(false),
                Err(e) => Err(e),
            }
        })
        .await
    }

    async fn result(&self, job: JobId, now: DateTime<Utc>) -> Result<Option<JobResult>> {
        let now = bson::DateTime::from_millis(now.timestamp_millis());
        let row = bounded("read job result", async {
            self.results
                // They are removed some time after.
                .find_one(doc! { "_id": uuid_key(job.0), "expires_at": { "$gt": now } })
                .await
        })
        .await?;
        match row {
            Some(row) => row.read().await.map(Some),
            None => Ok(None),
        }
    }

    async fn expired_results(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<JobId>> {
        let now = bson::DateTime::from_millis(now.timestamp_millis());
        let rows: Vec<Document> = bounded("list expired results", async {
            self.results
                .clone_with_type()
                .find(doc! { "expires_at": { "$lte": now } })
                .projection(doc! { "_id": 1 })
                .sort(doc! { "expires_at": 1 })
                .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                .await?
                .try_collect()
                .await
        })
        .await?;
        rows.iter()
            .map(|row| match row.get("_id") {
                Some(Bson::Binary(id)) => uuid::Uuid::from_slice(&id.bytes)
                    .map(JobId)
                    .map_err(|e| PortError::fatal("list expired results", e)),
                _ => Err(PortError::fatal(
                    "list expired results",
                    "an id that is none",
                )),
            })
            .collect()
    }

    async fn delete_results(&self, jobs: &[JobId]) -> Result<()> {
        let ids: Vec<_> = jobs.iter().map(|job| uuid_key(job.0)).collect();
        bounded("remove job results", async {
            self.results
                .delete_many(doc! { "_id": { "$in": ids } })
                .await
                .map(drop)
        })
        .await
    }
}
