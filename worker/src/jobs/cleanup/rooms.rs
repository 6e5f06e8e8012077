//! Ephemeral rooms: one that stands empty is scheduled for removal, one that is entered again is not any more, and one
//! that nobody came back to is removed whole.

use std::collections::BTreeSet;
use std::time::Duration;

use atelier_shared::domain::cleanup::{Counts, KEPT_ROOMS, is_abandoned};
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::job::QUEUE_CLEANUP;
use atelier_shared::domain::removal::{Removal, RemovalState};
use atelier_shared::domain::room::{Retention, Room};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{Cancelled, Enqueued, Result, RoomQuery, RoomVisibility};
use atelier_shared::removals::{self, Claim};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Cleaner, chrono_of, count, now};

/// Rows and rooms read at a time.
const PAGE: usize = 500;
/// Beyond any clock's error: a room in which somebody was active just now counts as quiet for whoever was told otherwise.
const FAR: chrono::Duration = chrono::Duration::days(1);

/// Least time between two looks at a room that was left meanwhile.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// Does anybody who is in the room while it is removed have it back?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    IfAnybodyComes,
    /// They have been told.
    No,
}

impl Cleaner {
    /// Schedules empty rooms, and takes back what was scheduled of rooms that are occupied again.
    pub(super) async fn rooms(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        if !dry_run {
            self.take_up_removals().await?;
        }
        let occupied = self.occupied().await?;
        count(counts, "scheduled_rooms", 0);
        let mut query = RoomQuery::of(RoomVisibility::All);
        loop {
            let page = b.records.list_rooms(&query, PAGE).await?;
            query.before = page
                .items
                .last()
                .map(|room| (room.created_at, room.id.clone()));
            for room in page.items {
                if room.retention != Retention::Ephemeral {
                    continue;
                }
                let id = removals::room_job_id(&room.id);
                if occupied.contains(&room.id) {
                    if !dry_run && b.queue.cancel(QUEUE_CLEANUP, &id).await? != Cancelled::Unknown {
                        count(counts, "unscheduled_rooms", 1);
                    }
                    continue;
                }
                let new = dry_run || {
                    let job = removals::room_job(room.id, self.policy.room_delay);
                    b.queue.enqueue(QUEUE_CLEANUP, &job).await? == Enqueued::Added
                };
                count(counts, "scheduled_rooms", u64::from(new));
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Removals whose worker died.
    async fn take_up_removals(&self) -> Result<()> {
        let b = &self.backends;
        for removal in b.records.unfinished_removals(PAGE).await? {
            // Under an id of its own: the room's may be a job that waits for the room to have been empty long enough.
            let mut job = removals::room_job(removal.room, Duration::ZERO);
            job.id = format!("removal:{}", removal.id);
            b.queue.enqueue(QUEUE_CLEANUP, &job).await?;
        }
        Ok(())
    }

    pub(super) async fn occupied(&self) -> Result<BTreeSet<RoomId>> {
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

    /// Removes one room if it is abandoned, or goes on where an attempt before this one died.
    pub(super) async fn abandoned_room(
        &self,
        id: &RoomId,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        let delay = chrono_of(self.policy.room_delay);
        let Some(room) = self.still_there(id, dry_run, counts).await? else {
            return Ok(());
        };
        let members = self.backends.presence.members(id).await?.len();
        if !is_abandoned(&room, members, now(), delay) {
            if members == 0 && !dry_run {
                self.look_again(&room, delay).await?;
            }
            return Ok(());
        }
        if dry_run {
            count(counts, "rooms", 1);
            return Ok(());
        }
        let quiet_since = now() - delay;
        self.remove(id, quiet_since, Wanted::IfAnybodyComes, counts)
            .await
    }

    /// Somebody looked in since it was scheduled: its time counts from when they left, not from when a beat next finds it
    /// empty.
    async fn look_again(&self, room: &Room, delay: chrono::Duration) -> Result<()> {
        if room.retention != Retention::Ephemeral {
            return Ok(());
        }
        let left = room.last_activity_at + delay - now();
        // Never at once: two clocks that differ would ask each other again and again.
        let left = left.to_std().unwrap_or_default().max(LEAST_PAUSE);
        let mut job = removals::room_job(room.id.clone(), left);
        // This very job has the id.
        job.again_if_running = true;
        self.backends.queue.enqueue(QUEUE_CLEANUP, &job).await?;
        Ok(())
    }

    /// An administrator names the room: whoever is in it is told, and has time to make it one that is kept.
    pub(super) async fn room_asked_for(
        &self,
        id: &RoomId,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        let b = &self.backends;
        let Some(room) = self.still_there(id, dry_run, counts).await? else {
            return Ok(());
        };
        if room.retention != Retention::Ephemeral {
            count(counts, KEPT_ROOMS, 1);
            return Ok(());
        }
        let members = b.presence.members(id).await?.len();
        if members > 0 {
            count(counts, "people_told", members as u64);
        }
        if dry_run {
            count(counts, "rooms", 1);
            return Ok(());
        }
        if members == 0 {
            // Whoever comes while it is removed did not know, and wants it.
            return self.remove(id, now(), Wanted::IfAnybodyComes, counts).await;
        }
        let in_ms = u64::try_from(self.policy.notice.as_millis()).unwrap_or(u64::MAX);
        let notice = Signal::Notice {
            code: "cleanup".to_owned(),
            message: "this room is about to be cleaned up by an administrator".to_owned(),
            in_ms,
        };
        b.log.publish(id, &notice).await?;
        tokio::time::sleep(self.policy.notice).await;
        self.remove(id, now() + FAR, Wanted::No, counts).await
    }

    /// `None`: its row is gone. Then whatever is left to do is done: of a removal that was cut off, or of a deletion.
    async fn still_there(
        &self,
        id: &RoomId,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<Option<Room>> {
        let b = &self.backends;
        let room = b.records.room(id).await?;
        if room.is_none() && !dry_run {
            match b.records.removal_of(id).await? {
                Some(removal) => {
                    self.go_on(removal.id, Wanted::IfAnybodyComes, counts)
                        .await?;
                }
                None => {
                    if let Some(files) = removals::forget_remains(b, id, now()).await? {
                        count(counts, "files", files);
                    }
                }
            }
        }
        Ok(room)
    }

    async fn remove(
        &self,
        id: &RoomId,
        quiet_since: DateTime<Utc>,
        wanted: Wanted,
        counts: &mut Counts,
    ) -> Result<()> {
        let expires_at = now() + chrono_of(self.policy.keep);
        let removal = self
            .backends
            .records
            .remove_room(id, quiet_since, now(), expires_at)
            .await?;
        match removal {
            Some(removal) => self.go_on(removal.id, wanted, counts).await,
            // Somebody wanted it in the last moment.
            None => Ok(()),
        }
    }

    /// Is somebody in the room? They read the row before it went: it is theirs.
    async fn is_taken_back(
        &self,
        removal: &Removal,
        wanted: Wanted,
        counts: &mut Counts,
    ) -> Result<bool> {
        let b = &self.backends;
        if wanted == Wanted::No || b.presence.members(&removal.room).await?.is_empty() {
            return Ok(false);
        }
        if removals::undo(b, removal).await? {
            count(counts, "rooms_taken_back", 1);
        }
        Ok(true)
    }

    /// From wherever the removal stands. Every step can be repeated.
    async fn go_on(&self, removal: Uuid, wanted: Wanted, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        let Some((claim, removal)) = Claim::of(b, removal).await? else {
            // Another worker is at it; should that one die, the next beat finds what it left.
            count(counts, "removals_under_way", 1);
            return Ok(());
        };
        let room = &removal.room;
        let closed = Signal::Closed {
            reason: "the room has been cleaned up".to_owned(),
        };
        let mut entries = removal.entries;
        if removal.state == RemovalState::Removing {
            if wanted == Wanted::No {
                b.log.publish(room, &closed).await?;
            }
            tokio::time::sleep(self.policy.settle).await;
            if self.is_taken_back(&removal, wanted, counts).await? {
                return Ok(());
            }
            removals::archive_all(b, room).await?;
            entries = removals::keep_aside(b, &claim, &removal).await?;
            // Loading a large room may take longer than all of that: the last moment in which it can be taken back.
            if self.is_taken_back(&removal, wanted, counts).await? {
                return Ok(());
            }
            removals::mark_kept(b, &claim, entries).await?;
        }
        b.log.publish(room, &closed).await?;
        removals::finish(b, &claim, &removal, entries).await?;
        // Whoever slipped in between finds out now rather than with the next thing they do.
        b.log.publish(room, &closed).await?;
        count(counts, "rooms", 1);
        count(counts, "backups", u64::from(entries > 0));
        tracing::info!(%room, entries, files = removal.files, removal = %removal.id, "room removed; what it held is kept for a while");
        Ok(())
    }
}
