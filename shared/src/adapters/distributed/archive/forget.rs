//! Forgetting a room in MongoDB: many steps, each of which looks first whether the room is still theirs.

use std::time::Duration;

use mongodb::Collection;
use mongodb::bson::{Document, doc};

use super::MongoArchive;
use crate::adapters::archive::to_db;
use crate::adapters::distributed::mongo::bounded;
use crate::domain::ids::{Epoch, RoomId};
use crate::ports::{Archive, Result};

const OPERATION: &str = "forget a room";
/// How long a removal waits for whoever writes into the room; less than any call may take.
const HEAD_WAIT: Duration = Duration::from_secs(8);

impl MongoArchive {
    /// The epoch first: an archiving that is under way is refused from then on, and what it wrote is deleted with the rest.
    /// Whoever stood still between two steps (a process that was stopped) and goes on in the room's next life sees that by
    /// the epoch, which has risen again.
    pub(super) async fn forget_all(&self, room: &RoomId, epoch: Epoch) -> Result<bool> {
        let id = room.as_str();
        if epoch == Epoch(0) {
            // Nothing is ever archived in epoch 0.
            if self.head(room).await?.epoch != epoch {
                return Ok(false);
            }
            self.forget_backups(room).await?;
            return Ok(true);
        }
        let (from, ours) = (to_db(epoch.0)?, Epoch(epoch.0 + 1));
        let ended = bounded(OPERATION, async {
            // A transaction of a worker that was killed may hold the head until the server ends it. The server gives up
            // before we do: an epoch raised by a call that was given up could end the room's next life.
            self.heads
                .find_one_and_update(
                    doc! { "_id": id, "epoch": from },
                    doc! { "$inc": { "epoch": 1_i64 }, "$set": { "opened": false } },
                )
                .max_time(HEAD_WAIT)
                .await
        })
        .await?;
        if ended.is_none() {
            return Ok(false);
        }
        for name in ["messages", "entries"] {
            if self.head(room).await?.epoch != ours {
                return Ok(false);
            }
            let rows: Collection<Document> = self.database.collection(name);
            bounded(OPERATION, async {
                rows.delete_many(doc! { "room": id }).await
            })
            .await?;
        }
        if self.head(room).await?.epoch != ours {
            return Ok(false);
        }
        self.forget_checkpoint(room).await?;
        if self.head(room).await?.epoch != ours {
            return Ok(false);
        }
        self.forget_backups(room).await?;
        let at = doc! { "_id": id, "epoch": to_db(ours.0)? };
        let emptied = bounded(OPERATION, async {
            self.heads
                .update_one(
                    at,
                    doc! { "$set": { "seq": 0_i64 }, "$unset": { "unbacked": "" } },
                )
                .await
        })
        .await?;
        Ok(emptied.matched_count > 0)
    }
}
