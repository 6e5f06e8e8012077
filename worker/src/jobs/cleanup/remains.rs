//! What is left of rooms that are gone: content whose room somebody deleted, and what was kept aside of removed rooms for
//! as long as it may be.

use atelier_shared::domain::cleanup::Counts;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::ports::Result;
use atelier_shared::removals;

use super::{Cleaner, count, now};

const PAGE: usize = 500;

impl Cleaner {
    pub(super) async fn remains(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        for what in ["orphaned_rooms", "expired_removals"] {
            count(counts, what, 0);
        }
        self.orphaned_content(dry_run, counts).await?;
        self.expired(dry_run, counts).await
    }

    async fn orphaned_content(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        let mut after: Option<RoomId> = None;
        loop {
            let page = b.archive.archived_rooms(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            let rows = b.records.rooms(&page).await?;
            for room in page {
                if rows.iter().any(|row| row.id == room) {
                    continue;
                }
                if dry_run {
                    let under_way = b.records.removal_of(&room).await?.is_some();
                    count(counts, "orphaned_rooms", u64::from(!under_way));
                    continue;
                }
                // What is being removed, or comes back, is left alone by this.
                if let Some(files) = removals::forget_remains(b, &room, now()).await? {
                    count(counts, "orphaned_rooms", 1);
                    count(counts, "files", files);
                }
            }
        }
    }

    async fn expired(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        loop {
            let expired = b.records.expired_removals(now(), PAGE).await?;
            let last = expired.len() < PAGE;
            for removal in expired {
                if !dry_run {
                    let files = removals::purge(b, &removal).await?;
                    count(counts, "files", files);
                }
                count(counts, "expired_removals", 1);
            }
            if last || dry_run {
                return Ok(());
            }
        }
    }
}
