//! The promises of [`Archive`].

mod activity;
mod backups;
mod checkpoints;
mod entries;
mod epochs;
mod forgetting;
mod history;
mod late;
mod messages;
pub mod plans;
mod refs;
mod results;

use atelier_shared::Mode;
use atelier_shared::domain::entry::{Author, Body, Entry, Record, RefKey};
use atelier_shared::domain::ids::{ClientId, MessageId, RoomId, Seq, UserId};
use atelier_shared::ports::{Archive, ArchiveHead, StaleEpoch};
use libtest_mimic::Trial;
use uuid::Uuid;

use crate::fixture::{both, only};

macro_rules! promises {
    ($trials:ident, $port:literal: $($module:ident :: $promise:ident),+ $(,)?) => {
        $(both($trials, $port, stringify!($promise), $module::$promise);)+
    };
}
pub(crate) use promises;

pub fn trials(trials: &mut Vec<Trial>) {
    promises!(trials, "archive":
        epochs::a_room_never_opened_is_epoch_0_and_its_first_raise_makes_1,
        epochs::of_twenty_raises_from_one_epoch_one_counts,
        epochs::an_epoch_is_opened_by_compare_and_set,
        epochs::a_writer_in_another_epoch_is_refused_and_writes_nothing,
        epochs::nothing_is_ever_of_epoch_0,
        epochs::of_writers_in_two_epochs_exactly_one_wins,
        entries::entries_are_read_back_as_they_were_written,
        entries::a_repeated_append_after_a_lost_answer_makes_no_doubles,
        entries::a_batch_that_overlaps_the_head_adds_only_the_rest,
        entries::a_hole_after_the_head_is_refused,
        entries::a_hole_within_a_batch_writes_nothing,
        entries::twenty_writers_of_one_log_leave_it_gapless,
        entries::a_batch_is_written_whole,
        refs::rooms_that_are_archived_together_are_each_answered_for_themselves,
        entries::a_large_answer_is_cut_and_reading_on_gets_all,
        refs::a_ref_is_stored_once_and_the_later_entry_loses_it,
        refs::a_ref_twice_in_one_batch_stays_with_the_first,
        refs::the_same_ref_of_another_client_user_or_room_is_another,
        refs::many_refs_are_answered_in_the_order_asked,
        history::history_is_newest_first_by_kind_and_in_pages,
        history::history_shows_a_reader_only_what_is_for_them,
        messages::messages_are_found_by_their_words_as_they_are_now,
        messages::reactions_threads_and_figures_are_folded_for_the_readers_eyes,
        activity::what_is_archived_is_counted_by_person_kind_and_minute,
        activity::minutes_of_many_rooms_are_told_in_one_order,
        activity::an_entry_that_comes_twice_is_counted_once,
        activity::a_range_holds_its_first_minute_and_not_its_last,
        activity::a_month_of_many_people_adds_up,
        checkpoints::a_newer_checkpoint_wins_and_an_older_is_not_kept,
        checkpoints::a_checkpoint_beyond_the_head_is_not_kept,
        checkpoints::a_checkpoint_larger_than_a_document_is_kept_whole,
        checkpoints::a_checkpoint_is_read_whole_while_it_is_replaced,
        checkpoints::a_large_document_comes_back_with_its_checkpoint,
        checkpoints::sizes_of_documents_are_known_without_reading_them,
        backups::backups_are_listed_newest_first_and_read_whole,
        backups::a_removed_backup_is_gone_and_the_others_stay,
        backups::a_room_needs_a_backup_until_one_covers_all_that_is_archived,
        backups::a_backup_of_further_on_does_not_stand_for_what_a_room_has_become,
        forgetting::of_a_forgotten_room_nothing_is_left_and_its_next_life_begins_at_1,
        forgetting::who_is_late_in_a_forgotten_room_is_refused,
        forgetting::what_comes_back_is_read_as_before_and_not_counted_again,
        forgetting::rooms_of_which_anything_is_archived_are_walked_by_id,
        late::a_checkpoint_of_an_epoch_that_is_over_is_not_kept,
        late::a_checkpoint_and_a_backup_under_way_do_not_outlive_their_room,
        late::a_backup_of_an_epoch_that_is_over_is_refused_and_covers_nothing,
        late::a_forgetting_that_is_late_takes_nothing_from_the_next_life,
        late::rooms_with_backups_are_walked_each_once,
        results::a_result_is_stored_once,
        results::a_result_of_any_output_is_kept,
        results::an_expired_result_is_none,
        results::expired_results_stay_until_they_are_removed,
    );
    only(
        trials,
        Mode::Distributed,
        "archive",
        "a_removal_gives_up_on_a_head_that_is_held_and_leaves_nothing_behind",
        forgetting::a_removal_gives_up_on_a_head_that_is_held_and_leaves_nothing_behind,
    );
    plans::trials(trials);
}

/// Somebody who writes entries.
#[derive(Clone)]
pub struct Writer {
    pub user: UserId,
    pub client: ClientId,
}

impl Writer {
    pub fn new() -> Self {
        Self {
            user: UserId::generate(),
            client: ClientId::generate(),
        }
    }

    pub fn record(&self, body: Body) -> Record {
        Record {
            ts_ms: 1_790_000_000_123,
            author: Author {
                client_id: self.client.clone(),
                user_id: self.user,
                connection: None,
                name: "Zoë".into(),
                color: None,
                avatar_url: None,
            },
            reference: None,
            audience: None,
            body,
        }
    }

    pub fn says(&self, content: &str) -> Record {
        self.record(Body::ChatMessage {
            id: MessageId::generate(),
            content: content.into(),
            mentions: Vec::new(),
            reply_to: None,
            thread: None,
            file_id: None,
            file_name: None,
        })
    }

    pub fn says_as(&self, reference: &str, content: &str) -> Record {
        Record {
            reference: Some(reference.parse().expect("a ref")),
            ..self.says(content)
        }
    }

    pub fn key(&self, reference: &str) -> RefKey {
        RefKey {
            user_id: self.user,
            client_id: self.client.clone(),
            reference: reference.parse().expect("a ref"),
        }
    }
}

/// Entries with these records from `first` on.
pub fn entries(first: u64, records: impl IntoIterator<Item = Record>) -> Vec<Entry> {
    (first..)
        .zip(records)
        .map(|(seq, record)| Entry {
            seq: Seq(seq),
            record,
        })
        .collect()
}

/// `count` chat entries from `first` on, no two alike.
pub fn chat(first: u64, count: u64) -> Vec<Entry> {
    let writer = Writer::new();
    entries(
        first,
        (first..first + count).map(|n| writer.says(&format!("message {n} {}", Uuid::now_v7()))),
    )
}

/// A room of its own, opened: epoch 1.
pub async fn opened(archive: &dyn Archive) -> RoomId {
    let room = RoomId::generate();
    let head = archive
        .raise_epoch(&room, atelier_shared::domain::ids::Epoch(0))
        .await
        .expect("raise");
    assert_eq!((head.epoch.0, head.seq.0), (1, 0));
    room
}

pub fn stale(outcome: Result<ArchiveHead, StaleEpoch>) -> ArchiveHead {
    match outcome {
        Err(StaleEpoch::Stale(head)) => head,
        other => panic!("should be stale: {other:?}"),
    }
}

/// Everything archived, read in pages of `page`.
pub async fn read_all(archive: &dyn Archive, room: &RoomId, page: usize) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map_or(Seq(0), |entry| entry.seq);
        let more = archive.read(room, after, page).await.expect("read");
        if more.is_empty() {
            return all;
        }
        assert!(more.len() <= page, "{} of at most {page}", more.len());
        all.extend(more);
    }
}

pub fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.0).collect()
}
