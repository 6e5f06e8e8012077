//! The promises of [`RoomLog`].

mod append;
mod archiving;
mod bars;
mod epochs;
mod journal;
mod live;
mod redis;

use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::entry::{Author, Body, Entry, Record, RefKey};
use atelier_shared::domain::ids::{ConnectionId, Epoch, MessageId, RoomId, Seq, UserId};
use atelier_shared::ports::{
    Append, Appended, Bar, Delivery, LogHead, PortError, Refusal, RoomLog, Subscription,
};
use libtest_mimic::Trial;

use crate::fixture::{Outcome, RoomLogs, both, only, room_logs};

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);
const DONE: Outcome = Ok(());
const FIRST: Epoch = Epoch(1);

/// Registers test functions, named by their promise, for both modes or for one.
macro_rules! promises {
    ($trials:ident, $($file:ident: $($promise:ident),+;)+) => {
        $($(both($trials, "room_log", stringify!($promise), $file::$promise);)+)+
    };
    ($trials:ident only $mode:expr, $($file:ident: $($promise:ident),+;)+) => {
        $($(only($trials, $mode, "room_log", stringify!($promise), $file::$promise);)+)+
    };
}

pub fn trials(trials: &mut Vec<Trial>) {
    promises!(trials,
        append: seqs_are_consecutive_and_follow_the_head, entries_are_read_back_unchanged,
            a_ref_is_stored_once_whoever_appends_it, a_ref_is_stored_once_within_one_batch,
            another_persons_ref_is_another_ref, a_ref_is_remembered_for_a_day,
            seqs_of_refs_come_in_the_order_asked, no_log_refuses, another_epoch_refuses_and_writes_nothing,
            a_log_behind_what_was_seen_refuses_and_writes_nothing, an_old_role_version_refuses_and_writes_nothing,
            a_newer_role_version_raises_the_fence, an_unknown_role_version_is_learned_from_the_writer,
            a_full_tail_refuses_until_the_archive_moves_on, too_many_records_at_once_are_refused,
            nothing_appended_is_nothing_written, fifty_appenders_make_one_gapless_log;
        bars: a_barred_ref_is_stored_by_no_older_connection, what_is_stored_is_not_barred,
            a_bar_is_refused_as_an_append_is, a_bar_is_over_after_a_day;
        live: a_subscriber_gets_every_entry_in_order, every_subscriber_of_a_room_gets_all,
            rooms_do_not_mix, a_duplicate_is_not_delivered, signals_reach_all_the_publisher_too,
            signals_that_are_published_together_come_in_order,
            a_slow_subscriber_finds_one_gap_and_repairs_it_by_reading, a_room_is_followed_again_after_it_was_left,
            coming_and_going_loses_nothing_for_those_who_stay;
        epochs: a_seeded_log_starts_where_it_was_told, an_unknown_room_has_no_log,
            seeding_again_leaves_the_log_be, a_higher_epoch_drops_the_tail_and_tells_subscribers,
            refs_of_a_lost_tail_are_new_again, many_seeders_end_in_one_log, a_role_version_is_only_raised,
            reading_another_epoch_is_none;
        archiving: nothing_is_trimmed_beyond_what_is_confirmed, confirming_tells_subscribers,
            an_entry_meanwhile_keeps_the_room_dirty, confirming_another_epoch_changes_nothing,
            reading_starts_behind_what_was_trimmed, a_room_becomes_dirty_once, dirty_rooms_are_listed_up_to_the_limit,
            appends_and_confirmations_at_once_agree_in_the_end, only_a_clean_room_is_unloaded,
            unloading_races_with_appending_and_one_wins, reads_are_bounded_in_bytes;
    );
    promises!(trials only Mode::Embedded,
        journal: a_crash_loses_nothing_acknowledged, many_rooms_writers_get_each_their_answer,
            a_synced_log_answers_and_tells_alike, a_journal_does_not_grow_with_what_is_over,
            a_room_never_knows_the_refs_of_one_that_is_gone, a_malformed_entry_names_its_room;
    );
    promises!(trials only Mode::Distributed,
        redis: a_cut_connection_is_a_gap_and_then_goes_on, a_silent_connection_is_noticed,
            malformed_data_is_an_error_that_names_its_room, a_malformed_message_is_a_gap,
            a_malformed_name_does_not_keep_others_from_the_archive,
            forgotten_scripts_are_sent_again, a_full_redis_refuses_appends_and_can_be_trimmed,
            a_redis_that_is_nearly_full_refuses_rooms_and_nothing_else,
            a_demoted_primary_is_left_for_the_one_that_took_over,
            a_log_of_another_life_of_its_server_is_broken,
            an_emptied_redis_refuses_until_it_is_seeded, a_cluster_serves_the_rooms_of_all_its_nodes,
            a_slot_that_moves_is_a_gap_and_then_goes_on;
    );
}

/// A fresh log and a room in it, seeded at the very beginning.
async fn opened(mode: Mode) -> Result<(RoomLogs, RoomId), PortError> {
    let logs = room_logs(mode).await;
    let room = RoomId::generate();
    logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
    Ok((logs, room))
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Somebody who writes.
fn author(client: &str) -> Author {
    Author {
        client_id: client.parse().expect("a client id"),
        user_id: UserId::generate(),
        connection: None,
        name: "Ada".into(),
        color: None,
        avatar_url: None,
    }
}

fn chat(author: &Author, content: &str, reference: Option<&str>) -> Record {
    Record {
        ts_ms: now_ms(),
        author: author.clone(),
        reference: reference.map(|r| r.parse().expect("a ref")),
        audience: None,
        body: Body::ChatMessage {
            id: MessageId::generate(),
            content: content.into(),
            mentions: vec![],
            reply_to: None,
            thread: None,
            file_id: None,
            file_name: None,
        },
    }
}

/// `count` messages without refs.
fn messages(count: usize) -> Vec<Record> {
    let author = author("a");
    (0..count)
        .map(|n| chat(&author, &format!("message {n}"), None))
        .collect()
}

fn content(entry: &Entry) -> &str {
    match &entry.record.body {
        Body::ChatMessage { content, .. } => content,
        _ => "",
    }
}

fn to<'a>(room: &'a RoomId, records: &'a [Record]) -> Append<'a> {
    Append {
        room,
        epoch: FIRST,
        seen: Seq(0),
        role_version: 0,
        now_ms: now_ms(),
        records,
    }
}

/// Appends what must be taken as new; its seqs.
async fn add(log: &dyn RoomLog, room: &RoomId, records: &[Record]) -> Result<Vec<Seq>, Refusal> {
    let (appended, _) = log.append(to(room, records)).await?;
    Ok(appended
        .into_iter()
        .map(|one| match one {
            Appended::New(seq) => seq,
            other => panic!("{other:?}"),
        })
        .collect())
}

async fn head(log: &dyn RoomLog, room: &RoomId) -> Result<LogHead, PortError> {
    Ok(log.head(room).await?.expect("a loaded log"))
}

async fn read_all(log: &dyn RoomLog, room: &RoomId) -> Result<Vec<Entry>, PortError> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map_or(Seq(0), |entry| entry.seq);
        let page = log
            .read(room, FIRST, after, 500)
            .await?
            .expect("a log of this epoch");
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(DEADLINE, subscription.next())
        .await
        .expect("a delivery in time")
        .expect("an open subscription")
}

/// The next entry that was not taken yet.
struct Reader {
    subscription: Subscription,
    waiting: std::collections::VecDeque<(Epoch, Entry)>,
}

impl Reader {
    async fn of(log: &dyn RoomLog, room: &RoomId) -> Result<Self, PortError> {
        Ok(Self {
            subscription: log.subscribe(room).await?,
            waiting: Default::default(),
        })
    }

    async fn entry(&mut self) -> Entry {
        loop {
            if let Some((_, entry)) = self.waiting.pop_front() {
                return entry;
            }
            match next(&mut self.subscription).await {
                Delivery::Entries { epoch, entries } => {
                    assert!(!entries.is_empty(), "an empty batch was delivered");
                    self.waiting
                        .extend(entries.into_iter().map(|entry| (epoch, entry)));
                }
                other => panic!("expected entries, got {other:?}"),
            }
        }
    }

    async fn entries(&mut self, count: usize) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(count);
        while entries.len() < count {
            entries.push(self.entry().await);
        }
        entries
    }
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.0).collect()
}
