//! A room's backups: what one is, and which of many are kept.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::board::DrawBatch;
use super::document::{self, Malformed};
use super::drawing;
use super::entry::Body;
use super::ids::{BackupId, Seq};
use super::state::RoomState;

/// Why a backup was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupReason {
    /// The room had changed when its minute was over.
    Scheduled,
    Asked,
    /// To undo the restore that followed.
    Restore,
    /// A part of a room that the cleanup removed.
    Removal,
}

impl BackupReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Asked => "asked",
            Self::Restore => "restore",
            Self::Removal => "removal",
        }
    }
}

/// One backup, without the state it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub id: BackupId,
    /// All entries up to and with this one are in it.
    pub seq: Seq,
    /// Whole milliseconds.
    pub made_at: DateTime<Utc>,
    pub reason: BackupReason,
    pub strokes: u64,
    /// Of the document, as updates.
    pub document_bytes: u64,
    /// Of the packed state.
    pub bytes: u64,
    /// SHA-256 of the state, in hex: two backups of one content have the same.
    pub hash: String,
}

/// How many backups of a room are kept: the last of each of the latest so many minutes, hours and days in which one was
/// made, and the latest that people asked for. The newest is always kept, and nothing goes only because time passes: a room
/// that rests keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    pub minutes: u16,
    pub hours: u16,
    pub days: u16,
    pub asked: u16,
}

impl Keep {
    pub const DEFAULT: Self = Self {
        minutes: 60,
        hours: 24,
        days: 30,
        asked: 30,
    };

    /// The ids that need not be kept, of all backups of one room, newest first.
    pub fn surplus(&self, newest_first: &[Backup]) -> Vec<BackupId> {
        const MINUTE_MS: i64 = 60_000;
        let mut kept: HashSet<BackupId> = newest_first.first().map(|b| b.id).into_iter().collect();
        for (most, slot_ms) in [
            (self.minutes, MINUTE_MS),
            (self.hours, 60 * MINUTE_MS),
            (self.days, 24 * 60 * MINUTE_MS),
        ] {
            let mut slots = HashSet::new();
            for backup in newest_first {
                let slot = backup.made_at.timestamp_millis().div_euclid(slot_ms);
                if slots.len() < usize::from(most) && slots.insert(slot) {
                    kept.insert(backup.id);
                }
            }
        }
        let asked = newest_first
            .iter()
            .filter(|backup| backup.reason != BackupReason::Scheduled);
        kept.extend(asked.take(self.asked.into()).map(|backup| backup.id));
        newest_first
            .iter()
            .map(|backup| backup.id)
            .filter(|id| !kept.contains(id))
            .collect()
    }
}

/// The writes that bring board, document and metadata from `now` to what they were `then`, on top of whatever else happens:
/// old strokes are drawn again and new ones erased, what was typed since is undone, as anybody could. For a blocking thread.
///
/// # Errors
/// A document can't be read.
pub fn edits(now: &RoomState, then: &RoomState, now_ms: i64) -> Result<Vec<Body>, Malformed> {
    // The document first: should it be too large for the log, nothing is done.
    let document = document::restore(&now.document, &then.document)?;
    let mut edits: Vec<Body> = document
        .map(|data| Body::DocumentUpdate { data })
        .into_iter()
        .collect();
    let (erase, strokes) = now.board.changes_to(&then.board, now_ms);
    edits.extend(erase.chunks(ERASES_PER_DRAW).map(|erase| {
        Body::Draw(DrawBatch {
            erase: erase.to_vec(),
            ..DrawBatch::default()
        })
    }));
    edits.extend(drawing::draws(strokes).into_iter().map(Body::Draw));
    let mut data = serde_json::Map::new();
    for (key, value) in &then.metadata {
        if now.metadata.get(key) != Some(value) {
            data.insert(key.clone(), value.clone());
        }
    }
    for key in now.metadata.keys() {
        if !then.metadata.contains_key(key) {
            data.insert(key.clone(), serde_json::Value::Null);
        }
    }
    if !data.is_empty() {
        edits.push(Body::SessionUpdate { data });
    }
    Ok(edits)
}

/// Keeps a draw of erasures well below what clients take at once.
const ERASES_PER_DRAW: usize = 4_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::board::{Erase, Stroke};
    use crate::domain::entry::{Author, Entry, Record};
    use crate::domain::ids::{ClientId, UserId};

    fn backup(made_ms: i64, reason: BackupReason) -> Backup {
        Backup {
            id: BackupId::generate(),
            seq: Seq(1),
            made_at: DateTime::from_timestamp_millis(made_ms).unwrap(),
            reason,
            strokes: 0,
            document_bytes: 0,
            bytes: 0,
            hash: String::new(),
        }
    }

    /// Made one after another; the pauses are up to some days.
    fn history() -> impl Strategy<Value = Vec<Backup>> {
        let pause = prop_oneof![1_000..90_000_i64, 60_000..7_200_000_i64, 0..200_000_000_i64];
        let reason = prop_oneof![
            5 => Just(BackupReason::Scheduled),
            1 => Just(BackupReason::Asked),
            1 => Just(BackupReason::Restore),
        ];
        prop::collection::vec((pause, reason), 1..150).prop_map(|steps| {
            let mut at = 1_790_000_000_000;
            let made = steps.into_iter().map(|(pause, reason)| {
                at += pause;
                backup(at, reason)
            });
            made.collect()
        })
    }

    proptest! {
        #[test]
        fn whenever_it_is_pruned_the_same_is_kept(made in history(), few in 1..6_u16) {
            let keep = Keep { minutes: few * 2, hours: few + 1, days: few, asked: few };
            let newest_first: Vec<_> = made.iter().rev().cloned().collect();
            let surplus = keep.surplus(&newest_first);
            let mut at_once = newest_first.clone();
            at_once.retain(|backup| !surplus.contains(&backup.id));
            let mut step_by_step: Vec<Backup> = Vec::new();
            for backup in made {
                step_by_step.insert(0, backup);
                let surplus = keep.surplus(&step_by_step);
                step_by_step.retain(|backup| !surplus.contains(&backup.id));
            }
            prop_assert_eq!(&step_by_step, &at_once);
            prop_assert!(keep.surplus(&at_once).is_empty());
            prop_assert_eq!(at_once.first(), newest_first.first());
            let most = keep.minutes + keep.hours + keep.days + keep.asked;
            prop_assert!(at_once.len() <= usize::from(most));
            for slot_ms in [60_000, 3_600_000, 86_400_000] {
                let of = |list: &[Backup]| {
                    let mut slots: Vec<i64> =
                        list.iter().map(|b| b.made_at.timestamp_millis() / slot_ms).collect();
                    slots.dedup();
                    slots.truncate(few.into());
                    slots
                };
                prop_assert_eq!(of(&at_once), of(&newest_first));
            }
        }
    }

    #[test]
    fn an_hour_of_minutes_a_day_of_hours_a_month_of_days() {
        let made: Vec<_> = (0..60 * 24 * 40)
            .rev()
            .map(|minute| backup(1_790_000_000_000 + minute * 60_000, BackupReason::Scheduled))
            .collect();
        let surplus = Keep::DEFAULT.surplus(&made);
        // The newest stands for its minute, its hour and its day; the last of the first whole hour stands for a minute too.
        let kept = made.len() - surplus.len();
        assert!((60 + 22 + 28..=60 + 24 + 30).contains(&kept), "{kept}");
    }

    fn apply(state: &mut RoomState, seq: u64, by: &str, body: Body) {
        state.apply(&Entry {
            seq: Seq(seq),
            record: Record {
                ts_ms: 0,
                author: Author {
                    client_id: by.parse().unwrap_or_else(|_| ClientId::generate()),
                    user_id: UserId::generate(),
                    connection: None,
                    name: String::new(),
                    color: None,
                    avatar_url: None,
                },
                reference: None,
                audience: None,
                body,
            },
        });
    }

    fn draw(paths: &[(&str, f64, i64)], erase: &[(&str, i64)], clear: bool) -> Body {
        let stroke = |&(id, width, ts): &(&str, f64, i64)| {
            Arc::new(Stroke {
                id: id.into(),
                width,
                color: "#000".into(),
                points: vec![1.0, 2.0],
                ts,
            })
        };
        Body::Draw(DrawBatch {
            paths: paths.iter().map(stroke).collect(),
            erase: erase
                .iter()
                .map(|(id, ts)| Erase {
                    id: (*id).into(),
                    ts: *ts,
                })
                .collect(),
            clear,
        })
    }

    fn looks(state: &RoomState) -> Vec<(String, f64)> {
        let strokes = state.board.strokes();
        strokes.iter().map(|s| (s.id.clone(), s.width)).collect()
    }

    #[test]
    fn edits_bring_the_room_back_and_can_themselves_be_undone() {
        let mut then = RoomState::default();
        apply(
            &mut then,
            1,
            "a",
            draw(
                &[("x", 1.0, 10), ("b", 2.0, 10), ("c", 3.0, 10)],
                &[],
                false,
            ),
        );
        let data = serde_json::from_str(r#"{"topic":"old","kept":1}"#).unwrap();
        apply(&mut then, 2, "a", Body::SessionUpdate { data });
        let changes = [
            draw(&[("new", 9.0, 99)], &[("b", 50)], false),
            draw(&[("x", 7.0, 5_000)], &[("c", 5_000)], false),
            draw(&[("d", 1.0, 1)], &[], true),
            draw(&[("c", 3.0, 11), ("x", 1.0, 12)], &[], false),
        ];
        for count in 0..=changes.len() {
            let mut now = then.clone();
            for (i, change) in changes[..count].iter().enumerate() {
                apply(&mut now, 3 + i as u64, "z", change.clone());
            }
            let data = serde_json::from_str(r#"{"topic":"new","more":2}"#).unwrap();
            apply(&mut now, 10, "z", Body::SessionUpdate { data });
            let before = now.clone();
            for edit in edits(&before, &then, 100).unwrap() {
                apply(&mut now, 11, "m", edit);
            }
            assert_eq!(looks(&now), looks(&then), "after {count} changes");
            assert_eq!(now.metadata, then.metadata);
            assert!(
                edits(&now, &then, 200).unwrap().is_empty(),
                "nothing is left to do"
            );
            for edit in edits(&now.clone(), &before, 200).unwrap() {
                apply(&mut now, 12, "m", edit);
            }
            assert_eq!(looks(&now), looks(&before), "undone after {count} changes");
            assert_eq!(now.metadata, before.metadata);
        }
    }
}
