//! The queue on SQLite: one file, one writer that commits in groups, wake-ups within the process.

mod line;
mod steps;
mod writer;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sqlx::{Row, SqlitePool};
use tokio::sync::watch;

use self::steps::Settling;
use self::writer::{Writer, now_ms};
use super::sqlite::{Commits, Sqlite, port_error};
use crate::ports::queue::cut_reason;
use crate::ports::{
    Cancelled, Claimed, DEAD_PAGE_MAX, DEPTH_MAX, DeadJob, Enqueue, Enqueued, Lease, PortError,
    Queue, QueueStats, QueueWaker, Result, Settled, WorkerInfo,
};

const FILE: &str = "queue.db";

const MIGRATIONS: [(&str, &str); 2] = [
    (
        "queue",
        include_str!("../../../../migrations/sqlite/queue/0001_queue.sql"),
    ),
    (
        "lapses",
        include_str!("../../../../migrations/sqlite/queue/0002_lapses.sql"),
    ),
];

#[derive(Debug)]
pub struct SqliteQueue {
    writer: Writer,
    read: SqlitePool,
    watches: Watches,
}

impl SqliteQueue {
    /// Opens or makes `folder/queue.db`. One process at a time: others would not be woken.
    pub async fn open(folder: &Path, commits: Commits) -> Result<Self> {
        let file = Sqlite::open(folder, FILE, commits).await?;
        file.migrate(&MIGRATIONS).await?;
        let watches = Watches::default();
        Ok(Self {
            writer: Writer::start(file.write, watches.clone()),
            read: file.read,
            watches,
        })
    }

    async fn settle(
        &self,
        operation: &'static str,
        lease: &Lease,
        how: Settling,
    ) -> Result<Settled> {
        let lease = lease.clone();
        self.writer
            .run(operation, |step| Box::pin(steps::settle(step, lease, how)))
            .await
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.read)
            .await
            .map(drop)
            .map_err(|e| port_error("ping queue.db", e))
    }

    async fn enqueue(&self, queue: &str, job: &Enqueue) -> Result<Enqueued> {
        job.check()?;
        let (name, job) = (queue.to_owned(), job.clone());
        self.writer
            .run("enqueue", |step| Box::pin(steps::enqueue(step, name, job)))
            .await?
            .ok_or_else(|| {
                let full = format!("the queue {queue} is full ({DEPTH_MAX} jobs)");
                PortError::retry("enqueue", full)
            })
    }

    async fn claim(
        &self,
        queue: &str,
        lease: Duration,
        in_flight_per_tenant: u32,
    ) -> Result<std::result::Result<Claimed, Option<Duration>>> {
        let queue = queue.to_owned();
        self.writer
            .run("claim", move |step| {
                Box::pin(steps::claim(step, queue, lease, in_flight_per_tenant))
            })
            .await
    }

    async fn renew(&self, lease: &Lease, for_: Duration) -> Result<Settled> {
        self.settle("renew lease", lease, Settling::Renew(for_))
            .await
    }

    async fn finish(&self, lease: &Lease) -> Result<Settled> {
        self.settle("finish job", lease, Settling::Finish).await
    }

    async fn retry(&self, lease: &Lease, delay: Duration, reason: &str) -> Result<Settled> {
        let reason = cut_reason(reason).to_owned();
        self.settle("retry job", lease, Settling::Retry(delay, reason))
            .await
    }

    async fn bury(&self, lease: &Lease, reason: &str) -> Result<Settled> {
        let reason = cut_reason(reason).to_owned();
        self.settle("bury job", lease, Settling::Bury(reason)).await
    }

    async fn release(&self, lease: &Lease) -> Result<Settled> {
        self.settle("release job", lease, Settling::Release).await
    }

    async fn cancel(&self, queue: &str, id: &str) -> Result<Cancelled> {
        let (queue, id) = (queue.to_owned(), id.to_owned());
        self.writer
            .run("cancel job", |step| {
                Box::pin(steps::cancel(step, queue, id))
            })
            .await
    }

    async fn is_cancelled(&self, lease: &Lease) -> Result<bool> {
        let mark: Option<bool> = sqlx::query_scalar(
            "SELECT cancelled FROM job WHERE queue = $1 AND id = $2 AND token = $3",
        )
        .bind(&lease.queue)
        .bind(&lease.id)
        .bind(i64::try_from(lease.token).unwrap_or(-1))
        .fetch_optional(&self.read)
        .await
        .map_err(|e| port_error("look for a cancel", e))?;
        Ok(mark.unwrap_or(false))
    }

    async fn dead_before(
        &self,
        queue: &str,
        before: Option<(DateTime<Utc>, String)>,
        limit: usize,
    ) -> Result<Vec<DeadJob>> {
        let (died_ms, id) = before.map_or((i64::MAX, String::new()), |(died_at, id)| {
            (died_at.timestamp_millis(), id)
        });
        let failed = |e: sqlx::Error| port_error("list dead letters", e);
        let rows = sqlx::query(
            "SELECT id, payload, tenant, attempts, reason, died_ms FROM dead
             WHERE queue = $1 AND (died_ms, id) < ($2, $3) ORDER BY died_ms DESC, id DESC LIMIT +$4",
        )
        .bind(queue)
        .bind(died_ms)
        .bind(id)
        .bind(i64::try_from(limit.min(DEAD_PAGE_MAX)).unwrap_or(0))
        .fetch_all(&self.read)
        .await
        .map_err(failed)?;
        rows.iter()
            .map(|row| {
                Ok(DeadJob {
                    id: row.try_get("id")?,
                    payload: row.try_get("payload")?,
                    tenant: row.try_get("tenant")?,
                    attempts: row.try_get("attempts")?,
                    reason: row.try_get("reason")?,
                    died_at: time(row.try_get("died_ms")?),
                })
            })
            .collect::<sqlx::Result<_>>()
            .map_err(failed)
    }

    async fn replay(&self, queue: &str, id: &str) -> Result<bool> {
        let (queue, id) = (queue.to_owned(), id.to_owned());
        self.writer
            .run("replay dead letter", |step| {
                Box::pin(steps::replay(step, queue, id))
            })
            .await
    }

    async fn stats(&self, queue: &str) -> Result<QueueStats> {
        let row: (i64, i64, i64, i64, Option<i64>, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM job WHERE queue = $1 AND state = 0),
                    (SELECT count(*) FROM job WHERE queue = $1 AND state = 1),
                    (SELECT count(*) FROM job WHERE queue = $1 AND state = 2),
                    (SELECT count(*) FROM dead WHERE queue = $1),
                    (SELECT min(at_ms) FROM job WHERE queue = $1 AND state = 0),
                    coalesce((SELECT finished FROM counters WHERE queue = $1), 0),
                    coalesce((SELECT sum(finished) FROM rate WHERE queue = $1 AND tens > $2), 0)",
        )
        .bind(queue)
        .bind(steps::rate_since(now_ms()))
        .fetch_one(&self.read)
        .await
        .map_err(|e| port_error("queue stats", e))?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(QueueStats {
            waiting: count(row.0),
            delayed: count(row.1),
            in_flight: count(row.2),
            dead: count(row.3),
            oldest_ms: row.4.map_or(0, |since| count(now_ms() - since)),
            finished_total: count(row.5),
            finished_last_minute: count(row.6),
        })
    }

    async fn waker(&self, queue: &str) -> Result<QueueWaker> {
        Ok(self.watches.watch(queue))
    }

    async fn claim_tick(&self, name: &str, tick: i64, keep: Duration) -> Result<bool> {
        let name = name.to_owned();
        self.writer
            .run("claim tick", move |step| {
                Box::pin(steps::claim_tick(step, name, tick, keep))
            })
            .await
    }

    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
        let info = serde_json::to_string(worker).map_err(|e| PortError::fatal("announce", e))?;
        let id = worker.id.clone();
        self.writer
            .run("announce worker", move |step| {
                Box::pin(steps::announce(step, id, info, ttl))
            })
            .await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let infos: Vec<String> =
            sqlx::query_scalar("SELECT info FROM worker WHERE expires_ms > $1 ORDER BY id")
                .bind(now_ms())
                .fetch_all(&self.read)
                .await
                .map_err(|e| port_error("list workers", e))?;
        infos
            .iter()
            .map(|info| serde_json::from_str(info))
            .collect::<Result<_, _>>()
            .map_err(|e| PortError::fatal("list workers", e))
    }
}

/// Watches by queue. There are as many as queues: a handful.
#[derive(Debug, Clone, Default)]
struct Watches(Arc<Mutex<HashMap<String, watch::Sender<u64>>>>);

impl Watches {
    fn watch(&self, queue: &str) -> QueueWaker {
        self.0
            .lock()
            .entry(queue.to_owned())
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe()
    }

    fn bump(&self, queues: &BTreeSet<String>) {
        let watches = self.0.lock();
        for watch in queues.iter().filter_map(|queue| watches.get(queue)) {
            watch.send_modify(|version| *version = version.wrapping_add(1));
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn time(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}
