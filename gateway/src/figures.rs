//! What this gateway reports to the others of its traffic, and what the reports of all add up to.
//!
//! Counters are added to totals that outlive every pod. Latencies travel as a histogram of the last thousand, so that
//! those of several pods can be merged: percentiles are taken of the sum, never averaged.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atelier_shared::domain::ids::{ClientId, RoomId};
use atelier_shared::domain::moment;
use atelier_shared::ports::Reports;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Latencies that percentiles are taken of, for each pod.
const LATENCIES_MAX: usize = 1_000;
/// Events kept by each pod, and told of all.
pub const EVENTS_MAX: usize = 100;
/// Clients that left, remembered so that their coming back is seen.
const LEFT_MAX: usize = 4_096;
/// Buckets of latency grow by this factor: a percentile is right to one part in a hundred.
const BUCKET_GROWTH: f64 = 1.02;
/// The rate of messages is taken over so many reports, which are a second apart.
const RATE_SAMPLES: usize = 10;
/// Rooms whose documents' sizes a pod reports.
const DOCUMENTS_MAX: usize = 10_000;

/// Something that happened, for whoever looks for a fault.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Event {
    id: Uuid,
    #[serde(serialize_with = "moment::serialize")]
    timestamp: DateTime<Utc>,
    /// `connect`, `disconnect`, `join`, `leave`, `reconnect` or `error`
    #[serde(rename = "type")]
    kind: String,
    room_id: String,
    /// The connection's client id
    user_id: String,
    details: String,
}

impl Event {
    pub fn room(&self) -> Option<RoomId> {
        self.room_id.parse().ok()
    }
}

/// What one pod tells the others.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    connections: u64,
    per_second: f64,
    uptime_s: i64,
    /// Bucket to count.
    latencies: BTreeMap<i32, u32>,
    /// Room to bytes: a room that lives on two pods counts once.
    documents: BTreeMap<String, u64>,
    events: Vec<Event>,
}

/// The names of the totals.
const MESSAGES: &str = "messages";
const ERRORS: &str = "errors";
const RECONNECTS: &str = "reconnects";

/// A counter, and how much of it is in the totals already.
#[derive(Debug, Default)]
struct Count {
    now: AtomicU64,
    told: AtomicU64,
}

impl Count {
    fn add(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    fn untold(&self) -> u64 {
        self.now
            .load(Ordering::Relaxed)
            .saturating_sub(self.told.load(Ordering::Relaxed))
    }
}

/// This pod's traffic as it goes by.
#[derive(Debug, Default)]
pub struct Traffic {
    messages: Count,
    errors: Count,
    reconnects: Count,
    latencies_us: Mutex<VecDeque<u32>>,
    events: Mutex<VecDeque<Event>>,
    /// Who left here, by hash, the last at the end.
    left: Mutex<VecDeque<u64>>,
    hashes: RandomState,
    /// When, and how many messages there were.
    samples: Mutex<VecDeque<(Instant, u64)>>,
}

/// What a report needs beside what went by.
pub struct State {
    pub connections: i64,
    pub started_at: DateTime<Utc>,
    pub documents: Vec<(RoomId, usize)>,
}

impl Traffic {
    pub fn message(&self) {
        self.messages.add();
    }

    pub fn error(&self) {
        self.errors.add();
    }

    pub fn reconnect(&self, room: &RoomId, who: &ClientId) {
        self.reconnects.add();
        self.event("reconnect", room, who, "reconnected");
    }

    /// This client left the room for now.
    pub fn left(&self, room: &RoomId, who: &ClientId) {
        let mut left = self.left.lock();
        if left.len() >= LEFT_MAX {
            left.pop_front();
        }
        left.push_back(self.hashes.hash_one((room, who)));
    }

    /// Did this client leave the room lately, and is it back now? Asked once for each time it comes.
    pub fn comes_back(&self, room: &RoomId, who: &ClientId) -> bool {
        let hash = self.hashes.hash_one((room, who));
        let mut left = self.left.lock();
        let place = left.iter().rposition(|one| *one == hash);
        place.and_then(|place| left.remove(place)).is_some()
    }

    /// From a durable message's coming in to its being logged.
    pub fn latency(&self, took: Duration) {
        let mut latencies = self.latencies_us.lock();
        if latencies.len() >= LATENCIES_MAX {
            latencies.pop_front();
        }
        latencies.push_back(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub fn event(&self, kind: &str, room: &RoomId, who: &ClientId, details: impl Into<String>) {
        let event = Event {
            id: Uuid::now_v7(),
            timestamp: Utc::now(),
            kind: kind.to_owned(),
            room_id: room.to_string(),
            user_id: who.to_string(),
            details: details.into(),
        };
        let mut events = self.events.lock();
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// Notes how many messages there were by now; called once a second.
    pub fn sample(&self) {
        let mut samples = self.samples.lock();
        if samples.len() > RATE_SAMPLES {
            samples.pop_front();
        }
        samples.push_back((Instant::now(), self.messages.now.load(Ordering::Relaxed)));
    }

    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
    fn per_second(&self) -> f64 {
        let samples = self.samples.lock();
        match samples.front() {
            Some((at, before)) if at.elapsed() >= Duration::from_millis(500) => {
                let new = self.messages.now.load(Ordering::Relaxed) - before;
                new as f64 / at.elapsed().as_secs_f64()
            }
            _ => 0.0,
        }
    }

    fn report(&self, state: State) -> Report {
        let mut latencies = BTreeMap::new();
        for us in &*self.latencies_us.lock() {
            *latencies.entry(bucket(*us)).or_default() += 1;
        }
        let documents = state.documents.into_iter().take(DOCUMENTS_MAX);
        Report {
            connections: u64::try_from(state.connections).unwrap_or(0),
            per_second: self.per_second(),
            uptime_s: (Utc::now() - state.started_at).num_seconds(),
            latencies,
            documents: documents
                .map(|(room, bytes)| (room.to_string(), bytes as u64))
                .collect(),
            events: self.events.lock().iter().cloned().collect(),
        }
    }

    /// The report as text, and what is new for the totals.
    pub fn told(&self, state: State) -> (String, Vec<(&'static str, u64)>) {
        let text = serde_json::to_string(&self.report(state)).unwrap_or_default();
        let counts = [
            (MESSAGES, &self.messages),
            (ERRORS, &self.errors),
            (RECONNECTS, &self.reconnects),
        ];
        let new = counts.map(|(name, count)| (name, count.untold()));
        (text, new.into_iter().filter(|(_, n)| *n > 0).collect())
    }

    /// The totals have it.
    pub fn added(&self, new: &[(&'static str, u64)]) {
        for (name, amount) in new {
            let count = match *name {
                MESSAGES => &self.messages,
                ERRORS => &self.errors,
                _ => &self.reconnects,
            };
            count.told.fetch_add(*amount, Ordering::Relaxed);
        }
    }
}

/// Usage of the whole cluster; names no room.
#[derive(Debug, Serialize, ToSchema)]
pub struct Figures {
    /// Open sockets, on all gateways
    active_connections: u64,
    messages_per_sec: f64,
    /// From a message's coming in to its being logged, of the last thousand of each gateway
    p50_latency_ms: f64,
    p95_latency_ms: f64,
    /// Messages that clients were told an error about, whatever the reason
    error_count: u64,
    reconnect_count: u64,
    /// The documents of rooms that are live
    total_doc_size_bytes: u64,
    /// Of the gateway that has been up longest
    uptime_seconds: i64,
    total_messages: u64,
    /// Rooms with people in them
    rooms_active: usize,
}

impl Figures {
    /// Adds up what all pods reported; figures that a pod reported a moment ago may be a second old.
    pub fn of(reports: &Reports, traffic: &Traffic, rooms_active: usize) -> Self {
        let all: Vec<Report> = parsed(reports);
        let mut latencies: BTreeMap<i32, u64> = BTreeMap::new();
        let mut documents: BTreeMap<&str, u64> = BTreeMap::new();
        for report in &all {
            for (bucket, count) in &report.latencies {
                *latencies.entry(*bucket).or_default() += u64::from(*count);
            }
            for (room, bytes) in &report.documents {
                let largest = documents.entry(room).or_default();
                *largest = (*largest).max(*bytes);
            }
        }
        let total =
            |name: &str, own: &Count| reports.totals.get(name).copied().unwrap_or(0) + own.untold();
        Self {
            active_connections: all.iter().map(|report| report.connections).sum(),
            messages_per_sec: rounded(all.iter().map(|report| report.per_second).sum()),
            p50_latency_ms: percentile_ms(&latencies, 0.50),
            p95_latency_ms: percentile_ms(&latencies, 0.95),
            error_count: total(ERRORS, &traffic.errors),
            reconnect_count: total(RECONNECTS, &traffic.reconnects),
            total_doc_size_bytes: documents.values().sum(),
            uptime_seconds: all.iter().map(|report| report.uptime_s).max().unwrap_or(0),
            total_messages: total(MESSAGES, &traffic.messages),
            rooms_active,
        }
    }
}

/// The events of all pods, oldest first.
pub fn events(reports: &Reports) -> Vec<Event> {
    let mut all: Vec<Event> = parsed(reports)
        .into_iter()
        .flat_map(|report| report.events)
        .collect();
    all.sort_by_key(|event| (event.timestamp, event.id));
    all
}

/// A report that can't be read is another version's: left out.
fn parsed(reports: &Reports) -> Vec<Report> {
    let read = |text: &String| serde_json::from_str(text).ok();
    reports.live.iter().filter_map(read).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "at most 1,120")]
fn bucket(us: u32) -> i32 {
    (f64::from(us.max(1)).ln() / BUCKET_GROWTH.ln()).round() as i32
}

fn percentile_ms(latencies: &BTreeMap<i32, u64>, share: f64) -> f64 {
    let count: u64 = latencies.values().sum();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count far below 2^52"
    )]
    let rank = ((count as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for (bucket, count) in latencies {
        seen += count;
        if seen >= rank {
            return rounded(BUCKET_GROWTH.powi(*bucket) / 1_000.0);
        }
    }
    0.0
}

/// To thousandths.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(traffic: &Traffic) -> String {
        let state = State {
            connections: 2,
            started_at: Utc::now() - chrono::Duration::seconds(7),
            documents: vec![("a".parse().unwrap(), 100)],
        };
        traffic.told(state).0
    }

    #[test]
    fn percentiles_are_of_all_pods_together_and_rooms_count_once() {
        let (fast, slow) = (Traffic::default(), Traffic::default());
        for _ in 0..900 {
            fast.latency(Duration::from_millis(1));
        }
        for _ in 0..100 {
            slow.latency(Duration::from_millis(100));
        }
        fast.message();
        let reports = Reports {
            live: vec![told(&fast), told(&slow), "nonsense".into()],
            totals: BTreeMap::from([("messages".into(), 41)]),
        };
        let figures = Figures::of(&reports, &fast, 3);
        assert!((figures.p50_latency_ms - 1.0).abs() < 0.03, "{figures:?}");
        // Averaged it would be about 50.
        assert!((figures.p95_latency_ms - 100.0).abs() < 3.0, "{figures:?}");
        assert_eq!(figures.total_messages, 42);
        assert_eq!(
            (figures.active_connections, figures.total_doc_size_bytes),
            (4, 100)
        );
        assert!(figures.uptime_seconds >= 7);
    }

    #[test]
    fn what_is_kept_is_bounded_and_totals_are_told_once() {
        let traffic = Traffic::default();
        let (room, client) = ("a".parse().unwrap(), "c".parse().unwrap());
        for _ in 0..3_000 {
            traffic.latency(Duration::from_micros(10));
            traffic.event("join", &room, &client, "x");
            traffic.message();
        }
        assert_eq!(traffic.latencies_us.lock().len(), LATENCIES_MAX);
        assert_eq!(traffic.events.lock().len(), EVENTS_MAX);
        traffic.left(&room, &client);
        assert!(traffic.comes_back(&room, &client));
        assert!(!traffic.comes_back(&room, &client), "once");
        for _ in 0..2 * LEFT_MAX {
            traffic.left(&room, &client);
        }
        assert_eq!(traffic.left.lock().len(), LEFT_MAX);
        let state = || State {
            connections: 0,
            started_at: Utc::now(),
            documents: Vec::new(),
        };
        let (_, new) = traffic.told(state());
        assert_eq!(new, [(MESSAGES, 3_000)]);
        traffic.added(&new);
        assert!(traffic.told(state()).1.is_empty());
    }
}
