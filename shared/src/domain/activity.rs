//! What people did, counted by the minute, and the buckets of local time that it is shown in.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, Duration, NaiveDate, NaiveTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::Invalid;
use super::entry::{Body, Entry};
use super::ids::UserId;
use super::room::word_enum;

/// Most buckets of one answer.
pub const BUCKETS_MAX: usize = 1_000;
/// How far a clock may jump over midnight (days that begin at one or two o'clock).
const GAP_MAX_MINUTES: i64 = 180;
const MS_PER_MINUTE: i64 = 60_000;

/// How much of what somebody did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityCounts {
    pub messages: u64,
    pub comments: u64,
    pub strokes: u64,
    pub edits: u64,
    pub runs: u64,
}

impl AddAssign for ActivityCounts {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.comments += more.comments;
        self.strokes += more.strokes;
        self.edits += more.edits;
        self.runs += more.runs;
    }
}

/// Minutes since 1970, UTC.
pub fn minute_of(at: DateTime<Utc>) -> i64 {
    at.timestamp_millis().div_euclid(MS_PER_MINUTE)
}

pub fn at_minute(minute: i64) -> DateTime<Utc> {
    let ms = minute.saturating_mul(MS_PER_MINUTE);
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::UNIX_EPOCH)
}

/// What the entries say that people did, by person and minute. Whoever did what is not counted by kind (a reaction, a
/// changed role) was active nevertheless; what the server wrote of its own counts for nobody.
pub fn by_minute(entries: &[Entry]) -> BTreeMap<(UserId, i64), ActivityCounts> {
    let mut minutes: BTreeMap<(UserId, i64), ActivityCounts> = BTreeMap::new();
    for entry in entries {
        let record = &entry.record;
        let mut did = ActivityCounts::default();
        match &record.body {
            Body::Draw(batch) => did.strokes = u64::try_from(batch.paths.len()).unwrap_or(0),
            other => match other.kind() {
                "chat_message" | "direct_message" => did.messages = 1,
                "code_comment" => did.comments = 1,
                "update" => did.edits = 1,
                "run_started" => did.runs = 1,
                _ if record.author.connection.is_none() => continue,
                _ => {}
            },
        }
        let minute = record.ts_ms.div_euclid(MS_PER_MINUTE);
        *minutes.entry((record.author.user_id, minute)).or_default() += did;
    }
    minutes
}

word_enum!(
    /// How long a bucket is, on the clock of its time zone.
    Bucket, "bucket" { Hour = "hour", Day = "day", Week = "week" }
);

/// A time zone by its IANA name.
pub fn zone(field: &'static str, name: &str) -> Result<Tz, Invalid> {
    name.parse().map_err(|_| {
        Invalid::new(
            field,
            "must be the name of a time zone, as Europe/Berlin or UTC",
        )
    })
}

/// The edges of the buckets that hold `from` to `to`: the first begins at or before `from`, the last ends at or after `to`.
/// A day is from midnight to midnight and a week from Monday to Monday where the clock of `zone` hangs, however many hours
/// that is; an hour is an hour.
pub fn edges(
    bucket: Bucket,
    zone: Tz,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Vec<DateTime<Utc>>, Invalid> {
    if from >= to {
        return Err(Invalid::new("to", "must be after from"));
    }
    let mut edges = vec![start(bucket, zone, from)];
    while let Some(last) = edges.last().copied()
        && last < to
    {
        if edges.len() > BUCKETS_MAX {
            let reason =
                format!("makes more than {BUCKETS_MAX} buckets; ask for fewer or longer ones");
            return Err(Invalid::new("from", reason));
        }
        edges.push(next(bucket, zone, last));
    }
    Ok(edges)
}

fn start(bucket: Bucket, zone: Tz, at: DateTime<Utc>) -> DateTime<Utc> {
    let local = at.with_timezone(&zone);
    let date = local.date_naive();
    match bucket {
        Bucket::Hour => {
            let into = i64::from(local.minute() * 60 + local.second());
            let whole = at.timestamp() - into;
            DateTime::from_timestamp(whole, 0).unwrap_or(at)
        }
        Bucket::Day => midnight(zone, date),
        Bucket::Week => {
            let since_monday = u64::from(date.weekday().num_days_from_monday());
            midnight(zone, date - Days::new(since_monday))
        }
    }
}

fn next(bucket: Bucket, zone: Tz, last: DateTime<Utc>) -> DateTime<Utc> {
    let days = match bucket {
        Bucket::Hour => {
            let next = start(Bucket::Hour, zone, last + Duration::hours(1));
            // Where the clock was moved by half an hour.
            return if next > last {
                next
            } else {
                last + Duration::hours(1)
            };
        }
        Bucket::Day => 1,
        Bucket::Week => 7,
    };
    // Noon is on the same day whichever way the clock was moved over midnight.
    let date = (last.with_timezone(&zone)).date_naive();
    midnight(zone, date + Days::new(days))
}

/// When the day begins: at midnight, or where the clock jumps over it, at the first moment after it.
fn midnight(zone: Tz, date: NaiveDate) -> DateTime<Utc> {
    let midnight = date.and_time(NaiveTime::MIN);
    (0..=GAP_MAX_MINUTES)
        .step_by(15)
        .find_map(|minutes| {
            let local = midnight + Duration::minutes(minutes);
            zone.from_local_datetime(&local).earliest()
        })
        .map_or_else(|| midnight.and_utc(), |at| at.with_timezone(&Utc))
}

/// The longest slot, in minutes, that no edge cuts: counts of slots add up to counts of buckets.
pub fn slot_minutes(edges: &[DateTime<Utc>]) -> i64 {
    let gcd = |mut a: i64, mut b: i64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let common = edges.iter().map(|edge| minute_of(*edge)).fold(0, gcd);
    common.abs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn texts(bucket: Bucket, zone_name: &str, from: &str, to: &str) -> Vec<String> {
        let zone = zone("tz", zone_name).unwrap();
        let edges = edges(bucket, zone, at(from), at(to)).unwrap();
        let text = |edge: &DateTime<Utc>| edge.format("%dT%H:%M").to_string();
        edges.iter().map(text).collect()
    }

    #[test]
    fn days_are_as_long_as_the_clock_makes_them() {
        // Berlin, 2026-03-29: 23 hours; 2026-10-25: 25 hours.
        let spring = texts(
            Bucket::Day,
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            "2026-03-30T00:00:00Z",
        );
        assert_eq!(spring, ["27T23:00", "28T23:00", "29T22:00", "30T22:00"]);
        let autumn = texts(
            Bucket::Day,
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            "2026-10-26T00:00:00Z",
        );
        assert_eq!(autumn, ["23T22:00", "24T22:00", "25T23:00", "26T23:00"]);
        // Beirut jumps from midnight to one o'clock.
        let jump = texts(
            Bucket::Day,
            "Asia/Beirut",
            "2026-03-28T12:00:00Z",
            "2026-03-30T00:00:00Z",
        );
        assert_eq!(jump, ["27T22:00", "28T22:00", "29T21:00", "30T21:00"]);
    }

    #[test]
    fn hours_are_hours_and_begin_with_the_local_one() {
        let kolkata = texts(
            Bucket::Hour,
            "Asia/Kolkata",
            "2026-05-01T10:00:00Z",
            "2026-05-01T11:30:00Z",
        );
        assert_eq!(kolkata, ["01T09:30", "01T10:30", "01T11:30"]);
        // The hour that comes twice in autumn is two.
        let autumn = texts(
            Bucket::Hour,
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            "2026-10-25T03:00:00Z",
        );
        assert_eq!(autumn, ["25T00:00", "25T01:00", "25T02:00", "25T03:00"]);
        let lord_howe = texts(
            Bucket::Hour,
            "Australia/Lord_Howe",
            "2026-04-04T13:00:00Z",
            "2026-04-04T17:00:00Z",
        );
        assert!(
            lord_howe.is_sorted() && lord_howe.len() >= 5,
            "{lord_howe:?}"
        );
    }

    #[test]
    fn weeks_begin_on_monday_and_an_edge_belongs_to_what_begins_there() {
        let weeks = texts(
            Bucket::Week,
            "UTC",
            "2026-11-22T23:59:00Z",
            "2026-11-23T00:00:00Z",
        );
        assert_eq!(weeks, ["16T00:00", "23T00:00"]);
        let weeks = texts(
            Bucket::Week,
            "UTC",
            "2026-11-23T00:00:00Z",
            "2026-11-23T00:01:00Z",
        );
        assert_eq!(weeks, ["23T00:00", "30T00:00"]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |from, to| {
            edges(Bucket::Hour, Tz::UTC, at(from), at(to))
                .unwrap_err()
                .field
        };
        assert_eq!(
            refused("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            "to"
        );
        assert_eq!(
            refused("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            "from"
        );
        assert_eq!(zone("tz", "Mars/Olympus").unwrap_err().field, "tz");
    }

    #[test]
    fn no_edge_cuts_a_slot() {
        for (bucket, zone_name) in [
            (Bucket::Day, "Europe/Berlin"),
            (Bucket::Day, "Asia/Kathmandu"),
            (Bucket::Week, "UTC"),
            (Bucket::Hour, "Asia/Kolkata"),
        ] {
            let zone = zone("tz", zone_name).unwrap();
            let (from, to) = (at("2026-10-01T00:00:00Z"), at("2026-11-05T00:00:00Z"));
            let edges = edges(bucket, zone, from, to).unwrap();
            let slot = slot_minutes(&edges);
            assert!(slot >= 15, "{zone_name}: {slot}");
            assert!(edges.iter().all(|edge| minute_of(*edge) % slot == 0));
        }
    }
}
