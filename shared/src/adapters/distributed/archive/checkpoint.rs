//! Checkpoints in MongoDB: a state may be larger than a document, so it is cut into chunks under a new generation, and
//! one document switches to them.

use std::collections::HashMap;
use std::time::Duration;

use futures::{FutureExt, TryStreamExt};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{self, Binary, doc};
use mongodb::options::ReturnDocument;

use super::MongoArchive;
use super::held::Held;
use super::rows::{CheckpointRow, ChunkRow};
use crate::adapters::archive::{decode_state, from_db, to_db};
use crate::adapters::distributed::mongo::bounded;
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::domain::state::Checkpoint;
use crate::ports::{Archive, PortError, Result};

/// A document may have 16 MiB.
const CHUNK_BYTES: usize = 8 << 20;
/// Reads of a checkpoint that is being replaced all the while.
const READ_TRIES: usize = 5;
/// Chunks of a save that died between writing and switching are removed by a later save, after so long.
const ORPHAN_AGE: Duration = Duration::from_secs(60 * 60);

fn chunks_prefix(room: &RoomId, generation: ObjectId) -> String {
    format!("{room}:{}:", generation.to_hex())
}

/// All ids that begin with `prefix`, which ends in `:`; what follows are digits and letters.
fn beginning_with(prefix: &str) -> bson::Document {
    doc! { "$gt": prefix, "$lt": format!("{prefix}~") }
}

impl MongoArchive {
    /// Removes the room's checkpoint, of whatever generation.
    pub(super) async fn forget_checkpoint(&self, room: &RoomId) -> Result<()> {
        const OPERATION: &str = "forget a checkpoint";
        bounded(OPERATION, async {
            self.checkpoints
                .delete_one(doc! { "_id": room.as_str() })
                .await
        })
        .await?;
        let all = beginning_with(&format!("{room}:"));
        bounded(OPERATION, async {
            self.chunks.delete_many(doc! { "_id": all }).await
        })
        .await?;
        Ok(())
    }

    pub(super) async fn read_checkpoint(&self, room: &RoomId) -> Result<Option<Checkpoint>> {
        const OPERATION: &str = "read checkpoint";
        for _ in 0..READ_TRIES {
            let row = bounded(OPERATION, async {
                self.checkpoints
                    .find_one(doc! { "_id": room.as_str() })
                    .await
            })
            .await?;
            let Some(row) = row else { return Ok(None) };
            if let Some(state) = self.read_chunks(room, &row).await? {
                return Ok(Some(Checkpoint {
                    epoch: Epoch(from_db(row.epoch)?),
                    seq: Seq(from_db(row.seq)?),
                    state: decode_state(state).await?,
                }));
            }
        }
        Err(PortError::retry(
            OPERATION,
            "it was replaced during every read",
        ))
    }

    /// `None`: a chunk is missing, because the checkpoint was replaced meanwhile.
    async fn read_chunks(&self, room: &RoomId, row: &CheckpointRow) -> Result<Option<Vec<u8>>> {
        let mut state = Vec::new();
        let mut read = 0;
        let mut chunks = bounded("read checkpoint", async {
            self.chunks
                .find(doc! { "_id": beginning_with(&chunks_prefix(room, row.generation)) })
                .sort(doc! { "_id": 1 })
                .await
        })
        .await?;
        while let Some(chunk) = bounded("read checkpoint", chunks.try_next()).await? {
            state.extend_from_slice(&chunk.data.bytes);
            read += 1;
        }
        Ok((read == row.chunks).then_some(state))
    }

    pub(super) async fn write_checkpoint(
        &self,
        room: &RoomId,
        checkpoint: &Checkpoint,
    ) -> Result<bool> {
        const OPERATION: &str = "save checkpoint";
        // Asked again when all is written; this only spares the writing.
        let head = self.head(room).await?;
        if checkpoint.seq > head.seq || checkpoint.epoch != head.epoch {
            return Ok(false);
        }
        let state = serde_json::to_vec(&checkpoint.state)
            .map_err(|e| PortError::fatal("encode checkpoint", e))?;
        let generation = ObjectId::new();
        let prefix = chunks_prefix(room, generation);
        let mut chunks = 0_i64;
        for data in state.chunks(CHUNK_BYTES) {
            let chunk = ChunkRow {
                id: format!("{prefix}{chunks:06}"),
                generation,
                data: Binary {
                    subtype: BinarySubtype::Generic,
                    bytes: data.to_vec(),
                },
            };
            bounded(OPERATION, async {
                self.chunks.insert_one(chunk).await.map(|_| ())
            })
            .await?;
            chunks += 1;
        }
        let seq = to_db(checkpoint.seq.0)?;
        let switch = doc! { "$set": {
            "epoch": to_db(checkpoint.epoch.0)?, "seq": seq, "generation": generation, "chunks": chunks,
            "document_bytes": to_db(checkpoint.state.document.bytes() as u64)?,
        } };
        // One that is as new or newer does not match; then the upsert meets its `_id`.
        let older = doc! { "_id": room.as_str(), "seq": { "$lt": seq } };
        let checkpoints = self.checkpoints.clone();
        let switched = self
            .while_epoch_lasts(
                OPERATION,
                (room, checkpoint.epoch, checkpoint.seq),
                move |session| {
                    let (checkpoints, older, switch) =
                        (checkpoints.clone(), older.clone(), switch.clone());
                    let switching = async move {
                        checkpoints
                            .find_one_and_update(older, switch)
                            .upsert(true)
                            .return_document(ReturnDocument::Before)
                            .session(session)
                            .await
                    };
                    switching.boxed()
                },
            )
            .await?;
        let (kept, replaced) = match switched {
            Held::Written(before) => (true, before.map(|row| row.generation)),
            Held::KeyTaken if self.is_current(room, generation).await? => (true, None),
            Held::KeyTaken | Held::Over => (false, Some(generation)),
        };
        self.sweep_chunks(room, kept.then_some(generation), replaced)
            .await;
        Ok(kept)
    }

    async fn is_current(&self, room: &RoomId, generation: ObjectId) -> Result<bool> {
        let ours = doc! { "_id": room.as_str(), "generation": generation };
        let found = bounded("save checkpoint", async {
            self.checkpoints.find_one(ours).await
        });
        Ok(found.await?.is_some())
    }

    pub(super) async fn read_document_bytes(
        &self,
        rooms: &[RoomId],
    ) -> Result<HashMap<RoomId, u64>> {
        let ids: Vec<&str> = rooms.iter().map(RoomId::as_str).collect();
        let rows: Vec<CheckpointRow> = bounded("read sizes of documents", async {
            let wanted = doc! { "_id": { "$in": ids }, "document_bytes": { "$gt": 0 } };
            self.checkpoints.find(wanted).await?.try_collect().await
        })
        .await?;
        let mut sizes = HashMap::new();
        for row in rows {
            if let Some(room) = rooms.iter().find(|room| room.as_str() == row.room) {
                sizes.insert(room.clone(), from_db(row.document_bytes)?);
            }
        }
        Ok(sizes)
    }

    /// Removes the chunks of `replaced`, and what saves that died left behind. The checkpoint is saved whether or not
    /// this succeeds.
    async fn sweep_chunks(
        &self,
        room: &RoomId,
        current: Option<ObjectId>,
        replaced: Option<ObjectId>,
    ) {
        let outcome = bounded("remove old checkpoint", async {
            if let Some(replaced) = replaced {
                let ids = beginning_with(&chunks_prefix(room, replaced));
                self.chunks.delete_many(doc! { "_id": ids }).await?;
            }
            if let Some(current) = current {
                let orphaned = doc! {
                    "_id": beginning_with(&format!("{room}:")),
                    "generation": { "$ne": current, "$lt": older_than(current, ORPHAN_AGE) },
                };
                self.chunks.delete_many(orphaned).await?;
            }
            Ok(())
        })
        .await;
        if let Err(error) = outcome {
            tracing::warn!(%room, %error, "old checkpoint chunks stay for the next save");
        }
    }
}

/// The least id made `age` before `id` was: an id begins with its time in seconds.
fn older_than(id: ObjectId, age: Duration) -> ObjectId {
    let made = id.timestamp().timestamp_millis() / 1_000;
    let seconds = u32::try_from(made).unwrap_or(u32::MAX);
    let before = seconds.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&before.to_be_bytes());
    ObjectId::from_bytes(bytes)
}
