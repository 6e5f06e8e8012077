//! Backups in MongoDB: a packed state is cut into chunks, written before the document that lists the backup.

use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, TryStreamExt};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{self, Binary, doc};
use serde::{Deserialize, Serialize};

use super::MongoArchive;
use super::held::Held;
use super::rows::{end_of, start_of};
use crate::adapters::archive::to_db;
use crate::adapters::distributed::mongo::bounded;
use crate::domain::backup::Backup;
use crate::domain::ids::{BackupId, Epoch, RoomId, Seq};
use crate::ports::{Archive, BACKUPS_MAX, Backups, PortError, Result};

/// A document may have 16 MiB.
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks of a backup that was never listed (its maker died) go after so long.
const ORPHAN_AGE: Duration = Duration::from_secs(60 * 60);

/// `_id` is `room:id`, so a room's backups lie in the order they were made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupRow {
    #[serde(rename = "_id")]
    id: String,
    /// JSON of a [`Backup`].
    about: String,
    chunks: i64,
}

/// `_id` is `room:id:number`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackupChunkRow {
    #[serde(rename = "_id")]
    id: String,
    /// The backup's `_id`.
    backup: String,
    written_at: bson::DateTime,
    data: Binary,
}

#[derive(Deserialize)]
struct RoomRow {
    #[serde(rename = "_id")]
    room: String,
}

#[derive(Deserialize)]
struct RowId {
    #[serde(rename = "_id")]
    id: String,
}

fn row_id(room: &RoomId, id: BackupId) -> String {
    format!("{room}:{}", id.0.simple())
}

fn chunks_of(row_id: &str) -> bson::Document {
    doc! { "_id": { "$gt": format!("{row_id}:"), "$lt": format!("{row_id}:~") } }
}

fn decode(row: &BackupRow) -> Result<Backup> {
    serde_json::from_str(&row.about).map_err(|e| PortError::fatal("decode backup", e))
}

impl MongoArchive {
    /// All of a room's: first what lists them.
    pub(super) async fn forget_backups(&self, room: &RoomId) -> Result<()> {
        let all = || doc! { "_id": { "$gt": start_of(room), "$lt": end_of(room) } };
        bounded("forget a room", async {
            self.backups.delete_many(all()).await?;
            self.backup_chunks.delete_many(all()).await.map(|_| ())
        })
        .await
    }

    /// Lists a backup whose chunks are written. False: the room's epoch is another.
    async fn list_backup(&self, room: &RoomId, epoch: Epoch, row: BackupRow) -> Result<bool> {
        const OPERATION: &str = "put backup";
        if epoch == Epoch(0) {
            // There is no head to hold, and nothing that could be forgotten.
            if self.head(room).await?.epoch != epoch {
                return Ok(false);
            }
            bounded(OPERATION, async { self.backups.insert_one(row).await }).await?;
            return Ok(true);
        }
        let backups = self.backups.clone();
        let listed = self
            .while_epoch_lasts(OPERATION, (room, epoch, Seq(0)), move |session| {
                let (backups, row) = (backups.clone(), row.clone());
                let listing =
                    async move { backups.insert_one(row).session(session).await.map(drop) };
                listing.boxed()
            })
            .await?;
        // Nobody else has this id: where the key is taken, it is by a try whose answer was lost.
        Ok(listed != Held::Over)
    }
}

#[async_trait]
impl Backups for MongoArchive {
    async fn changed_rooms(&self, limit: usize) -> Result<Vec<RoomId>> {
        let rows: Vec<RoomRow> = bounded("list changed rooms", async {
            self.heads
                .clone_with_type()
                .find(doc! { "unbacked": true })
                .projection(doc! { "_id": 1 })
                .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                .await?
                .try_collect()
                .await
        })
        .await?;
        rows.into_iter()
            .map(|row| {
                row.room
                    .parse()
                    .map_err(|e| PortError::fatal("list changed rooms", e))
            })
            .collect()
    }

    async fn mark_backed_up(&self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<()> {
        let covered = doc! {
            "_id": room.as_str(),
            "epoch": to_db(epoch.0)?,
            "seq": { "$lte": to_db(seq.0)? },
        };
        bounded("mark room as backed up", async {
            self.heads
                .update_one(covered, doc! { "$unset": { "unbacked": "" } })
                .await
                .map(|_| ())
        })
        .await
    }

    async fn put_backup(
        &self,
        room: &RoomId,
        epoch: Epoch,
        backup: &Backup,
        state: &[u8],
    ) -> Result<bool> {
        const OPERATION: &str = "put backup";
        let id = row_id(room, backup.id);
        let mut chunks = 0_i64;
        for data in state.chunks(CHUNK_BYTES) {
            let chunk = BackupChunkRow {
                id: format!("{id}:{chunks:06}"),
                backup: id.clone(),
                written_at: bson::DateTime::now(),
                data: Binary {
                    subtype: BinarySubtype::Generic,
                    bytes: data.to_vec(),
                },
            };
            bounded(OPERATION, async {
                self.backup_chunks.insert_one(chunk).await.map(|_| ())
            })
            .await?;
            chunks += 1;
        }
        let about =
            serde_json::to_string(backup).map_err(|e| PortError::fatal("encode backup", e))?;
        let unlisted = chunks_of(&id);
        let row = BackupRow { id, about, chunks };
        let listed = self.list_backup(room, epoch, row).await?;
        if !listed {
            bounded(OPERATION, async {
                self.backup_chunks.delete_many(unlisted).await
            })
            .await?;
        }
        Ok(listed)
    }

    async fn backups(
        &self,
        room: &RoomId,
        before: Option<BackupId>,
        limit: usize,
    ) -> Result<Vec<Backup>> {
        let end = before.map_or(end_of(room), |id| row_id(room, id));
        if limit == 0 {
            return Ok(Vec::new());
        }
        let rows: Vec<BackupRow> = bounded("list backups", async {
            self.backups
                .find(doc! { "_id": { "$gt": start_of(room), "$lt": end } })
                .sort(doc! { "_id": -1 })
                .limit(i64::try_from(limit.min(BACKUPS_MAX)).unwrap_or(i64::MAX))
                .await?
                .try_collect()
                .await
        })
        .await?;
        rows.iter().map(decode).collect()
    }

    async fn backup(&self, room: &RoomId, id: BackupId) -> Result<Option<(Backup, Vec<u8>)>> {
        const OPERATION: &str = "read backup";
        let id = row_id(room, id);
        let row = bounded(OPERATION, async {
            self.backups.find_one(doc! { "_id": &id }).await
        })
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut chunks = bounded(OPERATION, async {
            self.backup_chunks
                .find(chunks_of(&id))
                .sort(doc! { "_id": 1 })
                .await
        })
        .await?;
        let (mut state, mut read) = (Vec::new(), 0);
        while let Some(chunk) = bounded(OPERATION, chunks.try_next()).await? {
            state.extend_from_slice(&chunk.data.bytes);
            read += 1;
        }
        // Fewer: it was removed meanwhile.
        if read < row.chunks {
            return Ok(None);
        }
        Ok(Some((decode(&row)?, state)))
    }

    async fn rooms_with_backups(
        &self,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        const OPERATION: &str = "list rooms with backups";
        let mut rooms: Vec<RoomId> = Vec::new();
        let mut behind = after.map_or_else(String::new, end_of);
        while rooms.len() < limit {
            // One look for each: from a room's first backup to the first of the next.
            let row = bounded(OPERATION, async {
                self.backups
                    .clone_with_type::<RowId>()
                    .find_one(doc! { "_id": { "$gt": &behind } })
                    .sort(doc! { "_id": 1 })
                    .projection(doc! { "_id": 1 })
                    .await
            });
            let Some(row) = row.await? else { break };
            let room = row.id.split(':').next().unwrap_or_default();
            let room = room.parse().map_err(|e| PortError::fatal(OPERATION, e))?;
            behind = end_of(&room);
            rooms.push(room);
        }
        Ok(rooms)
    }

    async fn remove_backups(&self, room: &RoomId, ids: &[BackupId]) -> Result<()> {
        const OPERATION: &str = "remove backups";
        let ids: Vec<String> = ids.iter().map(|id| row_id(room, *id)).collect();
        bounded(OPERATION, async {
            self.backups
                .delete_many(doc! { "_id": { "$in": &ids } })
                .await
                .map(|_| ())
        })
        .await?;
        // What is listed nowhere, and not only just written.
        let age = i64::try_from(ORPHAN_AGE.as_millis()).unwrap_or(i64::MAX);
        let old = bson::DateTime::now().timestamp_millis().saturating_sub(age);
        let listed: Vec<BackupRow> = bounded(OPERATION, async {
            self.backups
                .find(doc! { "_id": { "$gt": start_of(room), "$lt": end_of(room) } })
                .await?
                .try_collect()
                .await
        })
        .await?;
        let listed: Vec<String> = listed.into_iter().map(|row| row.id).collect();
        bounded(OPERATION, async {
            self.backup_chunks
                .delete_many(doc! {
                    "_id": { "$gt": start_of(room), "$lt": end_of(room) },
                    "backup": { "$nin": listed },
                    "$or": [
                        { "backup": { "$in": &ids } },
                        { "written_at": { "$lt": bson::DateTime::from_millis(old) } },
                    ],
                })
                .await
                .map(|_| ())
        })
        .await
    }
}
