//! How MongoDB carries the archive's queries out: by an index each, as its profiler saw them.

use std::collections::BTreeSet;
use std::time::Instant;

use atelier_shared::domain::ids::{Epoch, RoomId, Seq, UserId};
use atelier_shared::ports::{ActivityQuery, Archive, HistoryQuery, MessageQuery};
use atelier_shared::{Backends, Mode};
use chrono::Utc;
use futures::TryStreamExt;
use libtest_mimic::Trial;
use mongodb::Database;
use mongodb::bson::{self, Document, doc};

use super::{Writer, entries, opened};
use crate::fixture::{self, Outcome, only};

pub fn trials(trials: &mut Vec<Trial>) {
    only(
        trials,
        Mode::Distributed,
        "archive",
        "no_query_walks_a_whole_collection",
        no_walks,
    );
    let mut large = Vec::new();
    only(
        &mut large,
        Mode::Distributed,
        "archive",
        "a_million_minutes_are_summed_by_index",
        million,
    );
    // Takes minutes: `-- --ignored million`.
    trials.extend(large.into_iter().map(|trial| trial.with_ignored_flag(true)));
}

/// A database of its own, so that its profiler sees nobody else.
pub async fn database() -> (Backends, Database) {
    let mut config = fixture::config(Mode::Distributed).await;
    config.db_name = format!("atelier_plans_{}", uuid::Uuid::now_v7().simple());
    Backends::migrate(&config).await.expect("the schema");
    let backends = fixture::open(config.clone()).await;
    let url = config.mongo_url.expect("MONGO_URL");
    let client = mongodb::Client::with_uri_str(url).await.expect("MongoDB");
    (backends, client.database(&config.db_name))
}

/// What walked a collection, or sorted, since the profiler was told to look.
async fn walks(database: &Database) -> Vec<String> {
    let profile = database.collection::<Document>("system.profile");
    let seen: Vec<Document> = profile
        .find(doc! { "planSummary": { "$exists": true } })
        .await
        .expect("the profile")
        .try_collect()
        .await
        .expect("the profile");
    assert!(!seen.is_empty(), "the profiler saw nothing");
    let bad = seen.iter().filter(|seen| {
        let plan = seen.get_str("planSummary").unwrap_or_default();
        let of = seen.get_str("ns").unwrap_or_default();
        let sorts = of.ends_with(".activity")
            && seen.get_str("op").is_ok_and(|op| op == "query")
            && seen.get_bool("hasSortStage").unwrap_or(false);
        sorts || plan.contains("COLLSCAN") && !of.ends_with("system.profile")
    });
    bad.map(|seen| {
        let command = seen.get_document("command").cloned().unwrap_or_default();
        format!(
            "{} {command}",
            seen.get_str("planSummary").unwrap_or_default()
        )
    })
    .collect()
}

/// Documents and keys that the searches for the newest minutes looked at.
async fn examined(database: &Database) -> (i64, i64) {
    let profile = database.collection::<Document>("system.profile");
    let seen = profile.find(doc! { "op": "query", "command.find": "activity" });
    let seen: Vec<Document> = seen
        .await
        .expect("the profile")
        .try_collect()
        .await
        .expect("the profile");
    let sum = |field: &str| {
        let number = |seen: &Document| match seen.get(field) {
            Some(bson::Bson::Int32(number)) => i64::from(*number),
            Some(bson::Bson::Int64(number)) => *number,
            _ => 0,
        };
        seen.iter().map(number).sum()
    };
    (sum("docsExamined"), sum("keysExamined"))
}

async fn profile(database: &Database, level: i32) {
    database
        .run_command(doc! { "profile": level, "slowms": 0 })
        .await
        .expect("the profiler");
}

async fn no_walks(_: Mode) -> Outcome {
    let (backends, database) = database().await;
    profile(&database, 2).await;
    ask(&*backends.archive).await?;
    profile(&database, 0).await;
    let walks = walks(&database).await;
    database.drop().await?;
    assert_eq!(walks, Vec::<String>::new());
    Ok(())
}

/// Asks an archive everything that it can be asked about a room.
pub async fn ask(archive: &dyn Archive) -> Outcome {
    let (room, writer) = (opened(archive).await, Writer::new());
    let said = entries(
        1,
        (0..5).map(|n| writer.says_as(&format!("r{n}"), "some words")),
    );
    archive.append(&room, Epoch(1), &said).await?;
    archive.read(&room, Seq(1), 10).await?;
    archive.head(&room).await?;
    for kinds in [vec![], vec!["chat_message"]] {
        let query = HistoryQuery {
            kinds,
            before: Some(Seq(4)),
            reader: Some(writer.user),
            limit: 3,
        };
        archive.history(&room, &query).await?;
    }
    let id = said[0].record.body.message_id().expect("a message");
    for (words, thread) in [("", None), ("some", None), ("", Some(id))] {
        let query = MessageQuery {
            before: Some(Seq(4)),
            reader: writer.user,
            words: atelier_shared::domain::search::words(words),
            thread,
            limit: 3,
        };
        archive.messages(&room, &query).await?;
    }
    archive.messages_by_id(&room, &[id]).await?;
    archive.message_counts(&room, writer.user).await?;
    archive.seqs_of_refs(&room, &[writer.key("r1")]).await?;
    archive.checkpoint(&room).await?;
    archive.document_bytes(std::slice::from_ref(&room)).await?;
    archive.changed_rooms(10).await?;
    archive.backups(&room, None, 10).await?;
    archive.archived_rooms(Some(&room), 10).await?;
    archive.expired_results(Utc::now(), 10).await?;
    let users = vec![writer.user, UserId::generate()];
    archive.activity_of(&of(users, 0, i64::MAX / 2)).await?;
    let rooms = [room.clone(), RoomId::generate()];
    let newest = archive.activity_in(&rooms, None, 1).await?;
    let newest = newest.last().expect("a minute");
    let before = (newest.minute, newest.user_id, newest.room.clone());
    archive.activity_in(&rooms, Some(before), 10).await?;
    archive.rooms_with_backups(Some(&room), 10).await?;
    let epoch = archive.head(&room).await?.epoch;
    archive.forget_room(&room, epoch).await?;
    Ok(())
}

fn of(users: Vec<UserId>, from_minute: i64, to_minute: i64) -> ActivityQuery {
    ActivityQuery {
        users,
        from_minute,
        to_minute,
        slot_minutes: 1_440,
    }
}

#[expect(clippy::print_stdout, reason = "it tells the times")]
/// Two hundred people in a hundred rooms, each five thousand minutes. Tells the times; only the answers are judged.
async fn million(_: Mode) -> Outcome {
    const PEOPLE: i64 = 200;
    const EACH: i64 = 5_000;
    let (backends, database) = database().await;
    let archive = &*backends.archive;
    let people: Vec<UserId> = (0..PEOPLE).map(|_| UserId::generate()).collect();
    let rooms: Vec<RoomId> = (0..100).map(|_| RoomId::generate()).collect();
    let activity = database.collection::<Document>("activity");
    for (n, person) in people.iter().enumerate() {
        let room = rooms[n % rooms.len()].as_str();
        let rows = (0..EACH).map(|m| {
            let minute = m * 51;
            doc! {
                "_id": format!("{person}:{minute}:{room}"),
                "user": bson::Uuid::from_bytes(person.0.into_bytes()),
                "minute": minute,
                "room": room,
                "messages": 1_i64, "comments": 0_i64, "strokes": 2_i64, "edits": 0_i64, "runs": 0_i64,
            }
        });
        activity.insert_many(rows).ordered(false).await?;
    }
    profile(&database, 2).await;
    let timed = async |name: &str, users: &[UserId], days: i64| {
        let began = Instant::now();
        let slots = archive
            .activity_of(&of(users.to_vec(), 0, days * 1_440))
            .await?;
        let took = began.elapsed();
        let messages: u64 = slots.iter().map(|slot| slot.counts.messages).sum();
        println!(
            "{name}: {messages} minutes in {} slots, {took:?}",
            slots.len()
        );
        Ok::<_, atelier_shared::ports::PortError>(messages)
    };
    let week = 7 * 1_440 / 51 + 1;
    assert_eq!(
        timed("ten people, a week", &people[..10], 7).await?,
        u64::try_from(10 * week)?
    );
    assert_eq!(
        timed("fifty people, a month", &people[..50], 30).await? % 50,
        0
    );
    let all = timed("all, for ever", &people, 1_000).await?;
    assert_eq!(all, u64::try_from(PEOPLE * EACH)?);
    let (mut seen, mut before) = (BTreeSet::new(), None);
    let began = Instant::now();
    for _ in 0..20 {
        let page = archive.activity_in(&rooms, before, 50).await?;
        let last = page.last().expect("a page");
        before = Some((last.minute, last.user_id, last.room.clone()));
        seen.extend(
            page.into_iter()
                .map(|row| (row.minute, row.user_id, row.room)),
        );
    }
    println!("twenty pages of a hundred rooms: {:?}", began.elapsed());
    assert_eq!(seen.len(), 1_000);
    profile(&database, 0).await;
    let (documents, keys) = examined(&database).await;
    println!("documents read for 1,000 minutes: {documents}, keys: {keys}");
    assert!(documents <= 1_000 + 20 * 2 * 100, "{documents}");
    let walks = walks(&database).await;
    database.drop().await?;
    assert_eq!(walks, Vec::<String>::new());
    Ok(())
}
