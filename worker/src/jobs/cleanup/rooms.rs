//! Ephemeral rooms: one that stands empty is scheduled for removal, one that is entered again is not any more, and one
//! that nobody came back to is removed whole.

use std::collections::BTreeSet;
use std::time::Duration;

use atelier_shared::domain::cleanup::{Cleanup, Counts, Scope, is_abandoned};
use atelier_shared::domain::file;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::job::QUEUE_CLEANUP;
use atelier_shared::domain::room::Retention;
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{Enqueued, Result, RoomVisibility};

use super::{Cleaner, chrono_of, count, enqueue, now};

/// Rows and rooms read at a time.
const PAGE: usize = 500;

impl Cleaner {
    /// Schedules empty rooms, and takes back what was scheduled of rooms that are occupied again.
    pub(super) async fn rooms(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        let occupied = self.occupied().await?;
        count(counts, "scheduled_rooms", 0);
        let mut before = None;
        loop {
            let page = b
                .records
                .list_rooms(RoomVisibility::All, before, PAGE)
                .await?;
            before = page
                .items
                .last()
                .map(|room| (room.created_at, room.id.clone()));
            for room in page.items {
                if room.retention != Retention::Ephemeral {
                    continue;
                }
                let id = format!("room:{}", room.id);
                if occupied.contains(&room.id) {
                    if !dry_run && b.queue.cancel(QUEUE_CLEANUP, &id).await? {
                        count(counts, "unscheduled_rooms", 1);
                    }
                    continue;
                }
                let job = Cleanup {
                    run: None,
                    scope: Scope::Room,
                    room: Some(room.id),
                    dry_run: false,
                };
                let new = dry_run || {
                    let job = enqueue(id, &job, self.policy.room_delay);
                    b.queue.enqueue(QUEUE_CLEANUP, &job).await? == Enqueued::Added
                };
                count(counts, "scheduled_rooms", u64::from(new));
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn occupied(&self) -> Result<BTreeSet<RoomId>> {
        let mut all = BTreeSet::new();
        let mut after: Option<RoomId> = None;
        loop {
            let page = self
                .backends
                .presence
                .occupied(after.as_ref(), PAGE)
                .await?;
            let full = page.len() == PAGE;
            after = page.last().map(|room| room.room.clone());
            all.extend(page.into_iter().map(|room| room.room));
            if !full {
                return Ok(all);
            }
        }
    }

    /// Removes one room if it is abandoned. `again`: an attempt before this one may have died after the row was gone.
    pub(super) async fn room(
        &self,
        id: &RoomId,
        delay: Duration,
        dry_run: bool,
        again: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        let b = &self.backends;
        let Some(room) = b.records.room(id).await? else {
            if again && !dry_run {
                self.forget_room(id, counts).await?;
            }
            return Ok(());
        };
        let members = b.presence.members(id).await?.len();
        if !is_abandoned(&room, members, now(), chrono_of(delay)) {
            return Ok(());
        }
        if dry_run {
            count(counts, "rooms", 1);
            return Ok(());
        }
        // The row first: from here on nobody comes in, and nobody can make the room anew before all of it is gone.
        if !b.records.delete_room(id, now()).await? {
            return Ok(());
        }
        let closed = Signal::Closed {
            reason: "the room was empty and has been cleaned up".to_owned(),
        };
        b.log.publish(id, &closed).await?;
        self.forget_room(id, counts).await?;
        b.records.release_room_id(id).await?;
        count(counts, "rooms", 1);
        Ok(())
    }

    /// Files, then the archive, whose epoch rises: whoever still has the old room in mind is told to load anew.
    async fn forget_room(&self, id: &RoomId, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        loop {
            let files = b.records.files_of_room(id, None, PAGE).await?;
            for file in &files.items {
                if b.records.delete_file(file.id, false).await? {
                    b.files.delete(&file::key(file.id)).await?;
                    count(counts, "files", 1);
                }
            }
            if !files.more {
                break;
            }
        }
        b.archive.forget_room(id).await
    }
}
