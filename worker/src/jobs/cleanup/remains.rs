//! What is left of rooms that are gone: content whose room somebody deleted, and what was kept aside of removed rooms for
//! as long as it may be.

use atelier_shared::domain::cleanup::{Counts, may_be_coming};
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
        let archive = &self.backends.archive;
        let mut after: Option<RoomId> = None;
        loop {
            let page = archive.archived_rooms(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            self.without_rows(page, dry_run, counts).await?;
        }
        // What was kept of removed rooms, where whoever brought it back or let it go died before all of it was gone.
        let mut after: Option<RoomId> = None;
        loop {
            let page = archive.rooms_with_backups(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            self.without_rows(page, dry_run, counts).await?;
        }
    }

    async fn without_rows(
        &self,
        page: Vec<RoomId>,
        dry_run: bool,
        counts: &mut Counts,
    ) -> Result<()> {
        let b = &self.backends;
        let rows = b.records.rooms(&page).await?;
        for room in page {
            if rows.iter().any(|row| row.id == room) || may_be_coming(&room, now()) {
                continue;
            }
            if dry_run {
                let wanted =
                    self.keeps(&room).await? || b.records.removal_of(&room).await?.is_some();
                count(counts, "orphaned_rooms", u64::from(!wanted));
                continue;
            }
            // What is being removed, or comes back, is left alone by this.
            if let Some(files) = removals::forget_remains(b, &room, now()).await? {
                count(counts, "orphaned_rooms", 1);
                count(counts, "files", files);
            }
        }
        Ok(())
    }

    async fn expired(&self, dry_run: bool, counts: &mut Counts) -> Result<()> {
        let b = &self.backends;
        loop {
            let expired = b.records.expired_removals(now(), PAGE).await?;
            let last = expired.len() < PAGE;
            for removal in expired {
                if !dry_run {
                    // Brought back in the last moment, it is nobody's to remove.
                    let Some(files) = removals::purge(b, &removal).await? else {
                        continue;
                    };
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
