//! Activity in MongoDB: one document for a person, a minute and a room, written in the transaction of the entries.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::ClientSession;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::options::Hint;

use super::MongoArchive;
use super::rows::uuid_key;
use crate::adapters::archive::{from_db, newest_minutes, slots_in_bounds, to_db};
use crate::adapters::distributed::mongo::bounded;
use crate::domain::activity::{ActivityCounts, by_minute};
use crate::domain::entry::Entry;
use crate::domain::ids::{RoomId, UserId};
use crate::ports::{
    ACTIVITY_SLOTS_MAX, ACTIVITY_SUBJECTS_MAX, ActivityArchive, ActivityQuery, ActivitySlot,
    PortError, Result, RoomMinute,
};

/// Documents counted up by one command.
const UPDATES_AT_ONCE: usize = 1_000;
/// Rooms whose newest minutes one command reads: MongoDB merges up to 200 ranges of an index (its
/// `internalQueryMaxScansToExplode`), and sorts what more are asked for.
const ROOMS_AT_ONCE: usize = 100;
const NEWEST: &str = "activity_newest";
/// People whose slots one command sums up, and commands under way: each has its time.
const PEOPLE_AT_ONCE: usize = 25;
const QUERIES_AT_ONCE: usize = 4;
const ACTIVITY: &str = "activity";
const COUNTS: [&str; 5] = ["messages", "comments", "strokes", "edits", "runs"];

impl MongoArchive {
    pub(super) async fn count_activity(
        &self,
        session: &mut ClientSession,
        room: &RoomId,
        entries: &[Entry],
    ) -> Result<(), Error> {
        let mut updates = Vec::new();
        for ((user, minute), counts) in by_minute(entries) {
            updates.push(update(room, user, minute, counts).map_err(Error::custom)?);
        }
        for updates in updates.chunks(UPDATES_AT_ONCE) {
            // One round trip; the driver's own calls take one each.
            let command = doc! { "update": "activity", "updates": updates };
            let answer = self
                .database
                .run_command(command)
                .session(&mut *session)
                .await?;
            if let Ok(errors) = answer.get_array("writeErrors") {
                return Err(Error::custom(format!("activity: {errors:?}")));
            }
        }
        Ok(())
    }
}

/// No room id has a `:`. Within a minute ids sort by user, then room.
fn id(user: UserId, minute: i64, room: &RoomId) -> String {
    format!("{user}:{minute}:{room}")
}

fn update(room: &RoomId, user: UserId, minute: i64, counts: ActivityCounts) -> Result<Document> {
    Ok(doc! {
        "q": { "_id": id(user, minute, room) },
        "u": {
            "$inc": {
                "messages": to_db(counts.messages)?,
                "comments": to_db(counts.comments)?,
                "strokes": to_db(counts.strokes)?,
                "edits": to_db(counts.edits)?,
                "runs": to_db(counts.runs)?,
            },
            "$setOnInsert": { "user": uuid_key(user.0), "minute": minute, "room": room.as_str() },
        },
        "upsert": true,
    })
}

/// Sums of the counts, for a `$group`.
fn sums(mut group: Document) -> Document {
    for count in COUNTS {
        group.insert(count, doc! { "$sum": format!("${count}") });
    }
    group
}

fn malformed(what: impl std::fmt::Display) -> PortError {
    PortError::fatal("read activity", what.to_string())
}

fn user(document: &Document, field: &str) -> Result<UserId> {
    match document.get(field) {
        Some(Bson::Binary(id)) => id
            .bytes
            .as_slice()
            .try_into()
            .map(|bytes| UserId(uuid::Uuid::from_bytes(bytes)))
            .map_err(malformed),
        _ => Err(malformed("a person is missing")),
    }
}

fn number(document: &Document, field: &str) -> Result<i64> {
    match document.get(field) {
        Some(Bson::Int64(number)) => Ok(*number),
        Some(Bson::Int32(number)) => Ok(i64::from(*number)),
        _ => Err(malformed(format!("{field} is no whole number"))),
    }
}

fn counts(document: &Document) -> Result<ActivityCounts> {
    let count = |field| number(document, field).and_then(from_db);
    Ok(ActivityCounts {
        messages: count("messages")?,
        comments: count("comments")?,
        strokes: count("strokes")?,
        edits: count("edits")?,
        runs: count("runs")?,
    })
}

#[async_trait]
impl ActivityArchive for MongoArchive {
    async fn activity_of(&self, query: &ActivityQuery) -> Result<Vec<ActivitySlot>> {
        // In the order of their ids, so that the answers about some after the others are in it, too.
        let users = query.users.iter().take(ACTIVITY_SUBJECTS_MAX);
        let users: Vec<UserId> = users
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut asked = Vec::new();
        for users in users.chunks(PEOPLE_AT_ONCE) {
            let pipeline = slots_of(users, query)?;
            asked.push(bounded("read activity", async move {
                let activity = self.database.collection::<Document>(ACTIVITY);
                let rows = activity.aggregate(pipeline).allow_disk_use(true).await?;
                rows.try_collect::<Vec<Document>>().await
            }));
        }
        let mut answers = stream::iter(asked).buffered(QUERIES_AT_ONCE);
        let mut found: Vec<Document> = Vec::new();
        while let Some(rows) = answers.try_next().await? {
            found.extend(rows);
            slots_in_bounds(found.len())?;
        }
        let slot = |row: &Document| {
            let id = row.get_document("_id").map_err(malformed)?;
            Ok(ActivitySlot {
                user_id: user(id, "u")?,
                start_minute: number(id, "s")?,
                counts: counts(row)?,
                active_minutes: from_db(number(row, "active")?)?,
            })
        };
        found.iter().map(slot).collect()
    }

    async fn activity_in(
        &self,
        rooms: &[RoomId],
        before: Option<(i64, UserId, RoomId)>,
        limit: usize,
    ) -> Result<Vec<RoomMinute>> {
        let rooms = &rooms[..rooms.len().min(ACTIVITY_SUBJECTS_MAX)];
        let mut found: Vec<Document> = Vec::new();
        for rooms in rooms.chunks(ROOMS_AT_ONCE) {
            let mut of_these = Vec::new();
            for (filter, sort) in newest_of(rooms, before.as_ref()) {
                let wanted = limit - of_these.len();
                if wanted == 0 {
                    break;
                }
                let wanted = to_db(wanted as u64)?;
                let rows: Vec<Document> = bounded("read activity", async {
                    let activity = self.database.collection::<Document>(ACTIVITY);
                    let rows = activity.find(filter).sort(sort).limit(wanted);
                    let rows = rows.hint(Hint::Name(NEWEST.into())).await?;
                    rows.try_collect().await
                })
                .await?;
                of_these.extend(rows);
            }
            found.extend(of_these);
        }
        let minute = |row: &Document| {
            let room = row.get_str("room").map_err(malformed)?;
            Ok(RoomMinute {
                minute: number(row, "minute")?,
                room: room.parse().map_err(malformed)?,
                user_id: user(row, "user")?,
                counts: counts(row)?,
            })
        };
        let minutes = found.iter().map(minute).collect::<Result<_>>()?;
        Ok(newest_minutes(minutes, limit))
    }
}

/// The slots of these people, by the index (user, minute).
fn slots_of(users: &[UserId], query: &ActivityQuery) -> Result<Vec<Document>> {
    let users: Vec<_> = users.iter().map(|user| uuid_key(user.0)).collect();
    let slot = doc! { "$subtract": ["$minute", { "$mod": ["$minute", query.slot_minutes] }] };
    let mut by_slot = sums(doc! { "_id": { "u": "$user", "s": slot } });
    // A minute in two rooms is one minute. As sets of the slots, not as a group each: of a million groups most would go
    // to the disk.
    by_slot.insert("minutes", doc! { "$addToSet": "$minute" });
    Ok(vec![
        doc! { "$match": {
            "user": { "$in": users },
            "minute": { "$gte": query.from_minute, "$lt": query.to_minute },
        } },
        doc! { "$group": by_slot },
        doc! { "$set": { "active": { "$size": "$minutes" } } },
        doc! { "$unset": "minutes" },
        doc! { "$sort": { "_id.u": 1, "_id.s": 1 } },
        doc! { "$limit": to_db(ACTIVITY_SLOTS_MAX as u64 + 1)? },
    ])
}

/// What to look for, one after the other, and in which order, for the newest minutes of these rooms: what is left of the
/// minute that `before` is in, then all before it. Each is one range of the index [`NEWEST`] for every room, and MongoDB
/// merges them: it reads as many documents as it answers with, and not one more for each room than the first.
fn newest_of(
    rooms: &[RoomId],
    before: Option<&(i64, UserId, RoomId)>,
) -> Vec<(Document, Document)> {
    let rooms: Vec<&str> = rooms.iter().map(RoomId::as_str).collect();
    let newest = doc! { "minute": -1, "_id": -1 };
    let Some((minute, user, room)) = before else {
        return vec![(doc! { "room": { "$in": rooms } }, newest)];
    };
    let last = id(*user, *minute, room);
    let same_minute = doc! { "room": { "$in": &rooms }, "minute": minute, "_id": { "$lt": last } };
    vec![
        (same_minute, doc! { "_id": -1 }),
        (
            doc! { "room": { "$in": rooms }, "minute": { "$lt": minute } },
            newest,
        ),
    ]
}
