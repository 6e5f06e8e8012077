//! The epoch rule: what becomes of a room whose log was lost, rolled back or never there.

mod activating;
mod appending;
mod reading;

use std::sync::Arc;

use atelier_shared::Mode;
use atelier_shared::domain::entry::{Entry, Record};
use atelier_shared::domain::ids::{Epoch, RoomId, Seq};
use atelier_shared::ports::{Append, Archive, LogHead, Result, RoomLog};
use atelier_shared::recovery;
use libtest_mimic::Trial;

use crate::archive::{Writer, promises};
use crate::fixture::{self, Archives, RoomLogs, both, only};

pub fn trials(trials: &mut Vec<Trial>) {
    promises!(trials, "recovery":
        activating::a_room_never_opened_starts_in_epoch_1,
        activating::an_emptied_log_raises_the_epoch_once_and_goes_on_after_what_is_archived,
        activating::a_log_shorter_than_what_was_seen_is_left_behind,
        activating::what_is_written_while_the_epoch_ends_is_archived_or_refused,
        activating::a_log_shorter_than_the_archive_is_left_behind,
        activating::an_epoch_whose_raiser_died_is_taken_up_as_it_is,
        activating::a_log_of_an_older_epoch_stands_for_a_lost_one,
        activating::an_archive_that_lost_an_epoch_is_an_error_and_changes_nothing,
        activating::a_role_version_is_raised_and_never_lowered,
        activating::twenty_activations_of_a_new_room_agree,
        activating::twenty_activations_of_an_emptied_log_agree_and_lose_nothing_that_was_acknowledged,
        activating::a_room_written_to_and_archived_all_the_while_is_not_raised,
        reading::reading_goes_across_the_trimmed_border,
        reading::there_is_no_hole_while_the_log_is_trimmed,
        reading::another_epoch_is_not_continued,
        reading::an_entry_that_is_nowhere_is_an_error,
        reading::a_loaded_state_is_all_entries_folded,
        appending::refs_that_the_log_forgot_are_known_from_the_archive,
        appending::a_server_entry_is_stored_once_and_wakes_the_archive,
        appending::a_server_entry_takes_the_role_version_as_it_is,
    );
    only(
        trials,
        Mode::Distributed,
        "recovery",
        "a_newcomer_archives_what_a_restarted_store_still_holds",
        activating::a_newcomer_archives_what_a_restarted_store_still_holds,
    );
}

pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// One room on a log and an archive.
pub struct Stage {
    pub room: RoomId,
    pub logs: RoomLogs,
    pub archives: Archives,
    pub writer: Writer,
    mode: Mode,
}

impl Stage {
    pub async fn new(mode: Mode) -> Self {
        Self {
            room: RoomId::generate(),
            logs: fixture::room_logs(mode).await,
            archives: fixture::archive(mode).await,
            writer: Writer::new(),
            mode,
        }
    }

    /// A room with `written` entries in epoch 1, of which `archived` are archived.
    pub async fn with(mode: Mode, written: u64, archived: u64) -> Self {
        let stage = Self::new(mode).await;
        let head = stage.activate(None).await.expect("activate");
        stage.write(&head, written).await;
        stage.move_to(archived).await;
        stage
    }

    /// The hot store lost everything: another one, with nothing in it, takes its place.
    pub async fn empty_log(&mut self) {
        self.logs = fixture::room_logs(self.mode).await;
    }

    pub fn log(&self) -> &Arc<dyn RoomLog> {
        &self.logs.here
    }

    pub fn archive(&self) -> &Arc<dyn Archive> {
        &self.archives.here
    }

    pub async fn activate(&self, seen: Option<(u64, u64)>) -> Result<LogHead> {
        let seen = seen.map(|(epoch, seq)| (Epoch(epoch), Seq(seq)));
        let (log, archive) = (&**self.log(), &**self.archive());
        recovery::activate(log, archive, &self.room, seen, 0, now_ms()).await
    }

    /// Appends `count` chat messages.
    pub async fn write(&self, head: &LogHead, count: u64) {
        let records: Vec<Record> = (0..count)
            .map(|n| self.writer.says(&format!("{} {n}", head.epoch)))
            .collect();
        self.append(head, &records).await;
    }

    pub async fn append(&self, head: &LogHead, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        let append = Append {
            room: &self.room,
            epoch: head.epoch,
            seen: head.seq,
            role_version: head.role_version,
            now_ms: now_ms(),
            records,
        };
        self.log().append(append).await.expect("append");
    }

    /// Archives the log up to `seq`; the log is not told.
    pub async fn move_to(&self, seq: u64) {
        let head = self
            .log()
            .head(&self.room)
            .await
            .expect("head")
            .expect("a log");
        let at = self.archive().head(&self.room).await.expect("head").seq;
        let entries = self.tail(head.epoch, at).await;
        let upto = entries.partition_point(|entry| entry.seq.0 <= seq);
        let archived = self
            .archive()
            .append(&self.room, head.epoch, &entries[..upto])
            .await;
        assert_eq!(archived.expect("archive").seq, Seq(seq.max(at.0)));
    }

    /// What the log holds after `after`.
    pub async fn tail(&self, epoch: Epoch, after: Seq) -> Vec<Entry> {
        let read = self.log().read(&self.room, epoch, after, 10_000).await;
        read.expect("read").expect("this epoch")
    }

    pub async fn read_after(
        &self,
        epoch: u64,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<Entry>>> {
        let (log, archive) = (&**self.log(), &**self.archive());
        recovery::read_after(log, archive, &self.room, Epoch(epoch), Seq(after), limit).await
    }
}
