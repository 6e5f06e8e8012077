//! Backups by the clock: on every beat one worker queues the rooms that changed, and each gets a backup of what is
//! archived.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::Backends;
use atelier_shared::backups;
use atelier_shared::domain::backup::Keep;
use atelier_shared::domain::cleanup::may_be_coming;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::job::QUEUE_BACKUP;
use atelier_shared::ports::{Archive, Enqueue, PortError, Queue, Records, Result};
use chrono::Utc;
use serde::{Deserialize, Serialize};

use super::{Attempt, Failure, Job};
use crate::bridge::Backoff;

/// Rooms queued on one beat; the rest come with the next.
const ROOMS_PER_BEAT: usize = 10_000;
/// A room that can't be backed up now is found again by the next beat.
const ATTEMPTS: u32 = 5;

/// The payload of a job in [`QUEUE_BACKUP`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRoom {
    pub room: RoomId,
}

/// What the jobs of [`QUEUE_BACKUP`] and their beat work with.
pub struct BackupKeeper {
    archive: Arc<dyn Archive>,
    records: Arc<dyn Records>,
    queue: Arc<dyn Queue>,
    keep: Keep,
}

impl BackupKeeper {
    pub fn new(backends: &Backends) -> Self {
        Self {
            archive: backends.archive.clone(),
            records: backends.records.clone(),
            queue: backends.queue.clone(),
            keep: backends.backup_keep,
        }
    }

    /// Queues what changed. A room that waits already is not queued twice.
    pub async fn queue_changed(&self) -> Result<()> {
        for room in self.archive.changed_rooms(ROOMS_PER_BEAT).await? {
            let work = BackupRoom { room };
            let job = Enqueue {
                id: format!("backup:{}", work.room),
                payload: serde_json::to_string(&work)
                    .map_err(|e| PortError::fatal("encode backup job", e))?,
                tenant: work.room.to_string(),
                priority: 0,
                delay: Duration::ZERO,
                max_attempts: ATTEMPTS,
                traceparent: None,
                again_if_running: false,
            };
            self.queue.enqueue(QUEUE_BACKUP, &job).await?;
        }
        Ok(())
    }

    async fn back_up(&self, room: &RoomId) -> Result<()> {
        if self.records.room(room).await?.is_none() {
            if may_be_coming(room, Utc::now()) {
                // It stays among the changed: the next beat finds its row, or that it has none.
                return Ok(());
            }
            // Deleted meanwhile: nobody can ask for it any more.
            let head = self.archive.head(room).await?;
            return self
                .archive
                .mark_backed_up(room, head.epoch, head.seq)
                .await;
        }
        let made = backups::take_if_changed(&*self.archive, room, self.keep).await?;
        if let Some(backup) = made {
            tracing::debug!(%room, seq = %backup.seq, bytes = backup.bytes, "room backed up");
        }
        Ok(())
    }
}

impl Job for BackupRoom {
    type Services = Arc<BackupKeeper>;

    const QUEUE: &'static str = QUEUE_BACKUP;
    const TIMEOUT: Duration = Duration::from_secs(120);
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(500),
        most: Duration::from_secs(10),
    };

    async fn run(self, _: Attempt, keeper: Arc<BackupKeeper>) -> std::result::Result<(), Failure> {
        keeper.back_up(&self.room).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use atelier_shared::config::StoreConfig;
    use atelier_shared::domain::entry::{Author, Body, Entry, Record};
    use atelier_shared::domain::ids::{ClientId, Epoch, Seq, UserId};
    use atelier_shared::domain::room::{Room, RoomChoice, RoomKind};

    use super::*;

    fn entry() -> Entry {
        let data = serde_json::json!({ "n": 1 });
        Entry {
            seq: Seq(1),
            record: Record {
                ts_ms: 0,
                author: Author {
                    client_id: ClientId::generate(),
                    user_id: UserId::generate(),
                    connection: None,
                    name: String::new(),
                    color: None,
                    avatar_url: None,
                },
                reference: None,
                audience: None,
                body: Body::SessionUpdate {
                    data: serde_json::from_value(data).unwrap(),
                },
            },
        }
    }

    /// The beat comes between an import's drawing and its row.
    #[tokio::test]
    async fn a_room_that_is_just_being_made_is_backed_up_when_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let stores = StoreConfig {
            data_dir: folder.path().to_owned(),
            ..StoreConfig::default()
        };
        let backends = Backends::open(&stores).await.unwrap();
        let (keeper, archive) = (BackupKeeper::new(&backends), &backends.archive);
        let changed = async || archive.changed_rooms(10).await.unwrap();
        let deleted: RoomId = "deleted".parse().unwrap();
        let coming = RoomId::generate();
        for room in [&coming, &deleted] {
            archive.raise_epoch(room, Epoch(0)).await.unwrap();
            archive.append(room, Epoch(1), &[entry()]).await.unwrap();
            keeper.back_up(room).await.unwrap();
        }
        assert_eq!(changed().await, std::slice::from_ref(&coming));
        let choice = RoomChoice {
            kind: Some(RoomKind::Open),
            ..RoomChoice::default()
        };
        let room = Room::new(coming.clone(), choice, None, None, Utc::now());
        assert!(backends.records.create_room(&room).await.unwrap());
        keeper.back_up(&coming).await.unwrap();
        assert!(changed().await.is_empty());
        let made = archive.backups(&coming, None, 10).await.unwrap();
        assert_eq!(made.len(), 1);
    }
}
