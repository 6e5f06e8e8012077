//! Appending to the archive: one transaction moves the head by compare-and-set and inserts the entries.

use std::borrow::Cow;
use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::doc;
use mongodb::error::{Error, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::ReadConcern;

use super::MongoArchive;
use super::rows::EntryRow;
use crate::adapters::archive::{to_db, unwritten};
use crate::adapters::distributed::mongo::{durable, is_duplicate_key, port_error};
use crate::domain::entry::{Entry, RefKey};
use crate::domain::ids::{Epoch, RoomId};
use crate::ports::{Archive, ArchiveHead, PortError, Result, StaleEpoch};

/// Tries of one append over conflicts, elections and lost answers.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// All tries together; longer than one call, because a transaction is several.
const APPEND: Duration = Duration::from_secs(20);
const COMMIT_TRIES: usize = 3;

/// What one try came to.
enum Tried {
    Written,
    /// Somebody moved the head, or the store had a passing trouble: look at the head again.
    Again(Option<Error>),
    /// A ref in the batch is archived already.
    RefTaken,
}

impl MongoArchive {
    pub(super) async fn append_entries(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
        counts: bool,
    ) -> Result<ArchiveHead, StaleEpoch> {
        let appending = self.append_until_written(room, epoch, entries, counts);
        match tokio::time::timeout(APPEND, appending).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let reason = format!("MongoDB did not answer in {} s", APPEND.as_secs());
                Err(PortError::retry("append to archive", reason).into())
            }
        }
    }

    async fn append_until_written(
        &self,
        room: &RoomId,
        epoch: Epoch,
        entries: &[Entry],
        counts: bool,
    ) -> Result<ArchiveHead, StaleEpoch> {
        let mut entries = Cow::Borrowed(entries);
        let mut last_trouble = None;
        for attempt in 0..TRIES {
            // A try whose answer was lost shows here as a head that has moved.
            let head = self.head(room).await?;
            let rest = unwritten(head, epoch, &entries)?;
            let Some(last) = rest.last() else {
                return Ok(head);
            };
            let after = ArchiveHead {
                seq: last.seq,
                ..head
            };
            match self.try_append(room, head, after, rest, counts).await? {
                Tried::Written => return Ok(after),
                Tried::RefTaken => self.strip_known_refs(room, entries.to_mut()).await?,
                Tried::Again(trouble) => {
                    last_trouble = trouble.or(last_trouble);
                    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt)).await;
                }
            }
        }
        let error = last_trouble.map_or_else(
            || PortError::retry("append to archive", "other writers were always first"),
            |error| PortError::retry("append to archive", error),
        );
        Err(error.into())
    }

    async fn try_append(
        &self,
        room: &RoomId,
        before: ArchiveHead,
        after: ArchiveHead,
        entries: &[Entry],
        counts: bool,
    ) -> Result<Tried> {
        let at = doc! {
            "_id": room.as_str(),
            "epoch": to_db(before.epoch.0)?,
            "seq": to_db(before.seq.0)?,
        };
        let to = doc! { "$set": { "seq": to_db(after.seq.0)?, "unbacked": true } };
        let outcome = async {
            let mut session = self.database.client().start_session().await?;
            session
                .start_transaction()
                .read_concern(ReadConcern::snapshot())
                .write_concern(durable())
                .await?;
            // The head first: of two writers the second meets the conflict before it has sent its entries.
            let moved = self
                .heads
                .update_one(at, to)
                .session(&mut session)
                .await?
                .matched_count;
            if moved == 0 {
                session.abort_transaction().await?;
                return Ok(Tried::Again(None));
            }
            let folded = self.fold(&mut session, room, entries).await?;
            let rows = entries
                .iter()
                .map(|entry| EntryRow::new(room, &folded.kept(entry)))
                .collect::<Result<Vec<_>>>()
                .map_err(Error::custom)?;
            self.entries.insert_many(rows).session(&mut session).await?;
            self.write_messages(&mut session, room, &folded).await?;
            if counts {
                self.count_activity(&mut session, room, entries).await?;
            }
            commit(&mut session).await?;
            Ok(Tried::Written)
        }
        .await;
        match outcome {
            Ok(tried) => Ok(tried),
            Err(e) if is_duplicate_key(&e) => Ok(Tried::RefTaken),
            Err(e)
                if e.contains_label(TRANSIENT_TRANSACTION_ERROR)
                    || e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) =>
            {
                Ok(Tried::Again(Some(e)))
            }
            Err(e) => Err(port_error("append to archive", e)),
        }
    }

    /// Takes away the refs that are archived under another seq, or come twice in the batch: the entries stay, so that
    /// the log is gapless, and the first keeps the ref.
    async fn strip_known_refs(&self, room: &RoomId, entries: &mut [Entry]) -> Result<()> {
        let keys: Vec<(usize, RefKey)> = entries
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| Some((at, entry.record.ref_key()?)))
            .collect();
        let refs: Vec<RefKey> = keys.iter().map(|(_, key)| key.clone()).collect();
        let archived = self.seqs_of_refs(room, &refs).await?;
        let mut met = std::collections::HashSet::new();
        for ((at, key), archived) in keys.into_iter().zip(archived) {
            let entry = &mut entries[at];
            let taken = archived.is_some_and(|seq| seq != entry.seq);
            if taken || !met.insert(key) {
                tracing::warn!(%room, seq = %entry.seq, "a ref was archived before under another seq; this entry loses it");
                entry.record.reference = None;
            }
        }
        Ok(())
    }
}

/// Committing again is safe: the server knows the transaction.
pub(super) async fn commit(session: &mut ClientSession) -> Result<(), Error> {
    let mut tries = 1;
    loop {
        match session.commit_transaction().await {
            Err(e)
                if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) && tries < COMMIT_TRIES =>
            {
                tries += 1;
            }
            other => return other,
        }
    }
}
