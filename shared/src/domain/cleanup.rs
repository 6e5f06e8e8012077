//! Cleanup: what may be cleaned, what a run of it is, and the rules that say what nobody wants any more.

use std::collections::BTreeMap;
use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Invalid;
use super::file::StoredFile;
use super::ids::RoomId;
use super::room::{Retention, Room, word_enum};

word_enum!(
    /// Which layers a run goes through.
    Scope, "scope" {
        /// Connections of gateways that died.
        Connections = "connections",
        /// People under made-up names who are not connected any more.
        AutoUsers = "auto-users",
        /// Ephemeral rooms: those that stand empty are scheduled, those that are occupied again are not.
        Rooms = "rooms",
        /// One room, if nobody wants it.
        Room = "room",
        OrphanedFiles = "orphaned-files",
        /// People left in rooms by a crash.
        StuckUsers = "force-stuck-users",
        /// Everything.
        Comprehensive = "comprehensive",
    }
);
word_enum!(
    /// Where a run stands.
    RunState, "state" { Queued = "queued", Succeeded = "succeeded", Failed = "failed" }
);

/// What was removed (or, in a dry run, would be), by kind.
pub type Counts = BTreeMap<String, u64>;
/// The count of rooms that were named and left alone, because they are kept.
pub const KEPT_ROOMS: &str = "kept_rooms";

/// One run as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupRun {
    pub id: Uuid,
    pub scope: Scope,
    pub dry_run: bool,
    pub state: RunState,
    pub counts: Counts,
    pub error: Option<String>,
    pub asked_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// When the schedule runs this scope again.
    pub next_at: Option<DateTime<Utc>>,
}

/// The payload of a job in the queue `cleanup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleanup {
    /// The run that was asked for; a scheduled one makes its own.
    #[serde(default)]
    pub run: Option<Uuid>,
    pub scope: Scope,
    #[serde(default)]
    pub room: Option<RoomId>,
    #[serde(default)]
    pub dry_run: bool,
}

/// Is this room one that nobody wants: ephemeral, with nobody in it, and quiet for `delay`? (It has also been seen empty
/// `delay` ago by then, or it would not have been scheduled.)
pub fn is_abandoned(room: &Room, members: usize, now: DateTime<Utc>, delay: Duration) -> bool {
    room.retention == Retention::Ephemeral && members == 0 && room.last_activity_at <= now - delay
}

/// Is this the id of a room that may not be there yet, though content of it is? An import writes the drawing first, and then
/// the row; longer than this no request may take.
pub fn may_be_coming(room: &RoomId, now: DateTime<Utc>) -> bool {
    const REQUEST_MAX: Duration = Duration::minutes(15);
    room.made_at()
        .is_some_and(|made| (now - made).abs() < REQUEST_MAX)
}

/// Does nobody have this file: is its room gone, or is it in none, for `grace` after it came?
pub fn is_orphan(
    file: &StoredFile,
    room_exists: bool,
    now: DateTime<Utc>,
    grace: Duration,
) -> bool {
    file.created_at <= now - grace && !(file.room.is_some() && room_exists)
}

/// Do bytes of the file store belong to nobody? What was written within `grace` may get its row yet.
pub fn are_orphaned_bytes(
    known: bool,
    written_at: DateTime<Utc>,
    now: DateTime<Utc>,
    grace: Duration,
) -> bool {
    !known && written_at <= now - grace
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::FileId;
    use crate::domain::room::{RoomChoice, RoomKind};

    #[test]
    fn only_what_the_server_just_named_may_be_coming() {
        let (id, now) = (RoomId::generate(), Utc::now());
        assert!(may_be_coming(&id, now) && may_be_coming(&id, now - Duration::minutes(1)));
        assert!(!may_be_coming(&id, now + Duration::minutes(16)));
        // Somebody's own idea of a name from the future.
        assert!(!may_be_coming(&id, now - Duration::minutes(16)));
        for name in ["design", "6f9619ff-8b86-4011-b42d-00cf4fc964ff"] {
            assert!(!may_be_coming(&name.parse().unwrap(), now), "{name}");
        }
    }

    proptest! {
        /// Whatever the history: a room is abandoned only if it is ephemeral, empty, and nothing happened for the delay.
        #[test]
        fn no_room_that_is_still_wanted_is_abandoned(
            keep in any::<bool>(),
            steps in prop::collection::vec((0_i64..400, 0_u8..3), 1..40),
            delay_s in 1_i64..600,
        ) {
            let start = DateTime::UNIX_EPOCH;
            let retention = if keep { Retention::Keep } else { Retention::Ephemeral };
            let choice = RoomChoice {
                kind: Some(RoomKind::Open),
                retention: Some(retention),
                ..RoomChoice::default()
            };
            let mut room = Room::new(RoomId::generate(), choice, None, None, start);
            let (mut now, mut members, mut wanted_at) = (start, 0_usize, start);
            for (pause_s, what) in steps {
                now += Duration::seconds(pause_s);
                // Entering, leaving and writing all touch the room; looking at it does not.
                match what {
                    0 => members += 1,
                    1 if members > 0 => members -= 1,
                    _ => {
                        let abandoned = is_abandoned(&room, members, now, Duration::seconds(delay_s));
                        let wanted = keep || members > 0 || now - wanted_at < Duration::seconds(delay_s);
                        prop_assert_eq!(abandoned, !wanted);
                        continue;
                    }
                }
                room.last_activity_at = now;
                wanted_at = now;
            }
        }

        #[test]
        fn no_file_that_somebody_has_is_an_orphan(
            in_room in any::<bool>(),
            room_exists in any::<bool>(),
            age_s in 0_i64..10_000,
            grace_s in 1_i64..5_000,
        ) {
            let now = DateTime::UNIX_EPOCH + Duration::days(1);
            let (age, grace) = (Duration::seconds(age_s), Duration::seconds(grace_s));
            let file = StoredFile {
                id: FileId::generate(),
                room: in_room.then(RoomId::generate),
                uploader: None,
                uploader_name: String::new(),
                name: "x".into(),
                content_type: "image/png".into(),
                size: 1,
                sha256: String::new(),
                created_at: now - age,
            };
            let wanted = age < grace || (in_room && room_exists);
            prop_assert_eq!(is_orphan(&file, room_exists, now, grace), !wanted);
            prop_assert!(!are_orphaned_bytes(true, now - age, now, grace));
            prop_assert_eq!(are_orphaned_bytes(false, now - age, now, grace), age >= grace);
        }
    }
}
