//! What the gateway counts, and how it is written down for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::ports::QueueStats;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::process::Process;

/// From a lookup in memory to a request that is about to time out, seconds.
const HTTP_SECONDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];
/// From an append in memory to a store that hardly answers, seconds.
const APPEND_SECONDS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
    5.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub method: &'static str,
    /// The route's template, `/api/v1/rooms/{room_id}`.
    pub route: String,
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    pub route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabels {
    pub queue: &'static str,
    /// `waiting`, `delayed`, `in_flight` or `dead`.
    pub state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MessageLabels {
    /// The wire `type`; only ones that the protocol knows, so that their number is bounded.
    pub kind: &'static str,
}

/// Everything this gateway counts. Cheap to clone; no user or room ids in labels.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    counts: Counts,
}

#[derive(Debug)]
pub struct Counts {
    pub http_requests: Family<RequestLabels, Counter>,
    pub http_seconds: Family<RouteLabels, Histogram>,
    /// Open TCP connections.
    pub tcp_connections: Gauge,
    /// Open WebSockets.
    pub connections: Gauge,
    /// WebSockets opened since the start.
    pub connections_total: Counter,
    /// Clients that were here before and are back.
    pub reconnects: Counter,
    /// Rooms that are loaded here.
    pub rooms: Gauge,
    /// Reads of a room's checkpoint and tail: once for however many come in while it is loaded.
    pub room_loads: Counter,
    pub messages_received: Family<MessageLabels, Counter>,
    /// Messages answered with `error`.
    pub messages_refused: Counter,
    /// Frames put into sockets, one for each receiver.
    pub deliveries: Counter,
    /// Write calls that carried more than one frame.
    pub deliveries_coalesced: Counter,
    /// Connections closed 4508.
    pub dropped_slow: Counter,
    pub log_append_seconds: Histogram,
    /// Holes in a room's feed that had to be read back.
    pub gaps: Counter,
    /// Rooms that were loaded anew because their log was lost or rolled back.
    pub reloads: Counter,
    /// 1 while `/readyz` says yes.
    ready: Gauge,
    /// 1 for each store that answered at the scrape, 0 for one that did not.
    store_up: Family<StoreName, Gauge>,
    /// 1 where Redis may throw data away to make room.
    redis_may_evict: Family<RedisName, Gauge>,
    /// What the cluster's figures are made of.
    pub traffic: crate::figures::Traffic,
    /// The cluster's queues as they were at the scrape.
    queue_jobs: Family<QueueLabels, Gauge>,
    queue_oldest_ms: Family<QueueName, Gauge>,
    queue_finished: Family<QueueName, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueName {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreName {
    store: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RedisName {
    /// `rooms` or `queues`.
    redis: &'static str,
}

impl std::ops::Deref for Metrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0.counts
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let counts = Counts {
            http_requests: Family::default(),
            http_seconds: Family::new_with_constructor(|| Histogram::new(HTTP_SECONDS)),
            tcp_connections: Gauge::default(),
            connections: Gauge::default(),
            connections_total: Counter::default(),
            reconnects: Counter::default(),
            rooms: Gauge::default(),
            room_loads: Counter::default(),
            messages_received: Family::default(),
            messages_refused: Counter::default(),
            deliveries: Counter::default(),
            deliveries_coalesced: Counter::default(),
            dropped_slow: Counter::default(),
            log_append_seconds: Histogram::new(APPEND_SECONDS),
            gaps: Counter::default(),
            reloads: Counter::default(),
            ready: Gauge::default(),
            store_up: Family::default(),
            redis_may_evict: Family::default(),
            traffic: crate::figures::Traffic::default(),
            queue_jobs: Family::default(),
            queue_oldest_ms: Family::default(),
            queue_finished: Family::default(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        register(registry.sub_registry_with_prefix("atelier"), &counts);
        Self(Arc::new(Inner {
            registry: Mutex::new(registry),
            counts,
        }))
    }

    /// Prometheus' text format (OpenMetrics 1.0).
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.registry.lock())?;
        Ok(text)
    }

    /// Is this process ready, and which stores answered?
    pub fn health(&self, ready: bool, stores: impl Iterator<Item = (&'static str, bool)>) {
        self.ready.set(ready.into());
        for (store, up) in stores {
            self.store_up
                .get_or_create(&StoreName { store })
                .set(up.into());
        }
    }

    /// May this Redis (`rooms` or `queues`) throw data away?
    pub fn redis_may_evict(&self, redis: &'static str, may: bool) {
        self.redis_may_evict
            .get_or_create(&RedisName { redis })
            .set(may.into());
    }

    /// What a queue holds; the same on every gateway.
    pub fn queue(&self, queue: &'static str, stats: &QueueStats) {
        for (state, count) in [
            ("waiting", stats.waiting),
            ("delayed", stats.delayed),
            ("in_flight", stats.in_flight),
            ("dead", stats.dead),
        ] {
            self.queue_jobs
                .get_or_create(&QueueLabels { queue, state })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.queue_oldest_ms
            .get_or_create(&QueueName { queue })
            .set(i64::try_from(stats.oldest_ms).unwrap_or(i64::MAX));
        // A queue that was emptied begins anew: nothing is counted until it is past what was counted.
        let finished = self.queue_finished.get_or_create(&QueueName { queue });
        let counted = finished.get();
        finished.inc_by(stats.finished_total.saturating_sub(counted));
    }

    pub fn request(&self, labels: RequestLabels, took: Duration) {
        let route = RouteLabels {
            route: labels.route.clone(),
        };
        self.http_seconds
            .get_or_create(&route)
            .observe(took.as_secs_f64());
        self.http_requests.get_or_create(&labels).inc();
    }
}

fn register(registry: &mut Registry, counts: &Counts) {
    let r = registry;
    r.register(
        "http_requests",
        "Requests answered",
        counts.http_requests.clone(),
    );
    r.register_with_unit(
        "http_request_duration",
        "Time to answer a request",
        Unit::Seconds,
        counts.http_seconds.clone(),
    );
    r.register(
        "tcp_connections",
        "Open TCP connections",
        counts.tcp_connections.clone(),
    );
    r.register(
        "websocket_connections",
        "Open WebSockets",
        counts.connections.clone(),
    );
    r.register(
        "websocket_connections_opened",
        "WebSockets opened",
        counts.connections_total.clone(),
    );
    r.register(
        "websocket_reconnects",
        "Clients that were here before and came back",
        counts.reconnects.clone(),
    );
    r.register("rooms_loaded", "Rooms served here", counts.rooms.clone());
    r.register(
        "room_loads",
        "Times a room was read from its checkpoint",
        counts.room_loads.clone(),
    );
    r.register(
        "messages_received",
        "Messages from clients by type",
        counts.messages_received.clone(),
    );
    r.register(
        "messages_refused",
        "Messages answered with an error",
        counts.messages_refused.clone(),
    );
    r.register(
        "deliveries",
        "Frames put into sockets",
        counts.deliveries.clone(),
    );
    r.register(
        "deliveries_coalesced",
        "Writes that carried more than one frame",
        counts.deliveries_coalesced.clone(),
    );
    r.register(
        "slow_readers_closed",
        "Connections closed because they read too slowly",
        counts.dropped_slow.clone(),
    );
    r.register_with_unit(
        "log_append",
        "Time to append a batch to a room's log",
        Unit::Seconds,
        counts.log_append_seconds.clone(),
    );
    r.register(
        "log_gaps",
        "Holes in a room's feed that were read back",
        counts.gaps.clone(),
    );
    r.register(
        "room_reloads",
        "Rooms loaded anew because their log was lost",
        counts.reloads.clone(),
    );
    r.register("ready", "1 while /readyz says yes", counts.ready.clone());
    r.register(
        "store_up",
        "1 for each store that answers",
        counts.store_up.clone(),
    );
    r.register(
        "redis_may_evict",
        "1 where Redis has another maxmemory-policy than noeviction",
        counts.redis_may_evict.clone(),
    );
    r.register(
        "queue_jobs",
        "Jobs in a queue by state",
        counts.queue_jobs.clone(),
    );
    r.register(
        "queue_oldest_milliseconds",
        "How long the first in line has waited",
        counts.queue_oldest_ms.clone(),
    );
    r.register(
        "queue_finished",
        "Jobs finished, by whichever worker",
        counts.queue_finished.clone(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_written_down_under_its_name() {
        let metrics = Metrics::new();
        let labels = RequestLabels {
            method: "GET",
            route: "/api/v1/rooms/{room_id}".to_owned(),
            status: 200,
        };
        metrics.request(labels, Duration::from_millis(3));
        metrics.queue(
            "archive",
            &QueueStats {
                waiting: 7,
                ..QueueStats::default()
            },
        );
        let text = metrics.encode().unwrap();
        for line in [
            r#"atelier_http_requests_total{method="GET",route="/api/v1/rooms/{room_id}",status="200"} 1"#,
            r#"atelier_http_request_duration_seconds_bucket{le="0.005",route="/api/v1/rooms/{room_id}"} 1"#,
            r#"atelier_queue_jobs{queue="archive",state="waiting"} 7"#,
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_names_that_dashboards_and_alerts_are_checked_against_are_these() {
        let metrics = Metrics::new();
        // A family without a member is not written down.
        metrics.request(
            RequestLabels {
                method: "GET",
                route: String::new(),
                status: 200,
            },
            Duration::ZERO,
        );
        metrics.queue("archive", &QueueStats::default());
        metrics.health(true, [("log", true)].into_iter());
        metrics.redis_may_evict("rooms", false);
        metrics
            .messages_received
            .get_or_create(&MessageLabels { kind: "join" })
            .inc();
        let text = metrics.encode().unwrap();
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        names.sort_unstable();
        // Read and not included: the image is built without it.
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../deploy/prometheus/metrics.txt"
        );
        let recorded = std::fs::read_to_string(file).unwrap();
        let recorded: Vec<&str> = recorded
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(
            names, recorded,
            "bring deploy/prometheus/metrics.txt up to date"
        );
    }
}
