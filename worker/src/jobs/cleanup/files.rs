//! Orphaned files, in both directions: rows that no room has or whose bytes are gone, and bytes that no row knows.

use std::collections::HashSet;
use std::time::Duration;

use atelier_shared::domain::cleanup::{Counts, are_orphaned_bytes, is_orphan};
use atelier_shared::domain::file::{self, UPLOADS};
use atelier_shared::domain::ids::RoomId;
use atelier_shared::ports::{FileIs, Result};

use super::{Cleaner, chrono_of, count, now};

const PAGE: usize = 500;
/// So long it is remembered that a file was counted.
const COUNTED_FOR: Duration = Duration::from_secs(60 * 60);

impl Cleaner {
    pub(super) async fn files(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        for what in ["orphaned_files", "orphaned_records"] {
            count(counts, what, 0);
        }
        self.rows(dry_run, counts).await?;
        self.bytes(dry_run, counts).await
    }

    async fn rows(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        let grace = chrono_of(self.policy.file_grace);
        let mut after = None;
        loop {
            let page = b.records.files_after(after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id);
            let named: Vec<RoomId> = page.iter().filter_map(|file| file.room.clone()).collect();
            let rooms = b.records.rooms(&named).await?;
            let rooms: HashSet<RoomId> = rooms.into_iter().map(|room| room.id).collect();
            for file in page {
                let room_exists = match &file.room {
                    Some(room) => rooms.contains(room) || self.keeps(room).await?,
                    None => false,
                };
                let key = file::key(file.id);
                if is_orphan(&file, room_exists, now(), grace) {
                    // Only if it still is where it was: somebody may just have shown it, or its room was removed or brought
                    // back and took it along.
                    let only = file.room.as_ref().map_or(FileIs::InNoRoom, FileIs::In);
                    let removed = dry_run || b.records.delete_file(file.id, only).await?;
                    if removed && (dry_run || self.is_first_to_remove(&key).await?) {
                        count(counts, "orphaned_files", 1);
                    }
                    if !dry_run && b.records.file(file.id).await?.is_none() {
                        b.files.delete(&key).await?;
                    }
                } else if file.created_at <= now() - grace && b.files.head(&key).await?.is_none() {
                    if !dry_run {
                        b.records.delete_file(file.id, FileIs::Anywhere).await?;
                    }
                    count(counts, "orphaned_records", 1);
                }
            }
        }
    }

    /// Is it what is kept of a removed room?
    pub(super) async fn keeps(&self, room: &RoomId) -> Result<bool> {
        let Ok(id) = room.as_str().parse() else {
            return Ok(false);
        };
        Ok(self.backends.records.removal(id).await?.is_some())
    }

    async fn bytes(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        let grace = chrono_of(self.policy.file_grace);
        let mut after: Option<String> = None;
        loop {
            let page = b.files.list(UPLOADS, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.key.clone());
            for found in page {
                // What is not named as ours is not ours to delete.
                let Some(id) = file::id_of_key(&found.key) else {
                    continue;
                };
                let known = b.records.file(id).await?.is_some();
                if are_orphaned_bytes(known, found.modified_at, now(), grace) {
                    if dry_run || self.is_first_to_remove(&found.key).await? {
                        count(counts, "orphaned_files", 1);
                    }
                    if !dry_run {
                        b.files.delete(&found.key).await?;
                    }
                }
            }
        }
    }

    /// Of runs that come upon the same file at once (one has removed its row, another finds bytes without one), the
    /// first counts it.
    async fn is_first_to_remove(&self, key: &str) -> Result<bool> {
        let name = format!("removed:{key}");
        self.backends.queue.claim_tick(&name, 0, COUNTED_FOR).await
    }
}
