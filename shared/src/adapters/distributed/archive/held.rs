//! Writing into a room only while its epoch lasts: a transaction that holds the room's head, as an append does.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use mongodb::ClientSession;
use mongodb::bson::doc;
use mongodb::bson::oid::ObjectId;
use mongodb::error::{Error, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::ReadConcern;

use super::MongoArchive;
use super::append::commit;
use crate::adapters::archive::to_db;
use crate::adapters::distributed::mongo::{bounded, durable, is_duplicate_key, port_error};
use crate::domain::ids::{Epoch, RoomId, Seq};
use crate::ports::Result;

/// How long it is tried over conflicts with whoever else writes into the room, elections and lost answers; and the longest
/// pause in between, at random: of many at once each has its turn.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE_MAX_MS: u64 = 100;

/// What came of a write under an epoch.
#[derive(Debug, PartialEq, Eq)]
pub enum Held<T> {
    Written(T),
    /// The epoch is another, or less is archived; nothing was written.
    Over,
    /// Something lies under that key. It may be this very write, if the answer to a try before was lost.
    KeyTaken,
}

impl MongoArchive {
    /// Runs `write` in a transaction that holds the head of `room`, if that is of `epoch` and at `seq` or beyond: who raises
    /// the epoch waits for it, or was first.
    pub(super) async fn while_epoch_lasts<T>(
        &self,
        operation: &'static str,
        (room, epoch, seq): (&RoomId, Epoch, Seq),
        mut write: impl for<'s> FnMut(&'s mut ClientSession) -> BoxFuture<'s, Result<T, Error>> + Send,
    ) -> Result<Held<T>> {
        let at = doc! {
            "_id": room.as_str(),
            "epoch": to_db(epoch.0)?,
            "seq": { "$gte": to_db(seq.0)? },
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let tried = bounded(operation, async {
                Ok(self.try_held(at.clone(), &mut write).await)
            })
            .await?;
            match tried {
                Err(e) if is_duplicate_key(&e) => return Ok(Held::KeyTaken),
                Err(e)
                    if (e.contains_label(TRANSIENT_TRANSACTION_ERROR)
                        || e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT))
                        && Instant::now() < until =>
                {
                    let pause = rand::random_range(1..=PAUSE_MAX_MS);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Err(e) => return Err(port_error(operation, e)),
                Ok(held) => return Ok(held),
            }
        }
    }

    async fn try_held<T>(
        &self,
        at: mongodb::bson::Document,
        write: &mut (
                 impl for<'s> FnMut(&'s mut ClientSession) -> BoxFuture<'s, Result<T, Error>> + Send
             ),
    ) -> Result<Held<T>, Error> {
        let mut session = self.database.client().start_session().await?;
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .await?;
        // A new value each time: what changes nothing holds nothing.
        let hold = doc! { "$set": { "held": ObjectId::new() } };
        let held = self
            .heads
            .update_one(at, hold)
            .session(&mut session)
            .await?;
        if held.matched_count == 0 {
            session.abort_transaction().await?;
            return Ok(Held::Over);
        }
        let written = write(&mut session).await?;
        commit(&mut session).await?;
        Ok(Held::Written(written))
    }
}
