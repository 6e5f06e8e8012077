//! The queue on Redis: one Lua script per step, one hash slot per queue, wake-ups by pub/sub.

mod scripts;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use fred::prelude::*;

use self::scripts::Scripts;
use super::redis::{Redis, port_error};
use super::wake::Wakers;
use crate::ports::queue::cut_reason;
use crate::ports::{
    Cancelled, Claimed, DEAD_PAGE_MAX, DEPTH_MAX, DeadJob, Enqueue, Enqueued, Lease, PortError,
    Queue, QueueStats, QueueWaker, Result, Settled, WorkerInfo,
};

/// Workers listed at most; an installation has dozens.
const WORKERS_MAX: usize = 1_000;

#[derive(Debug)]
pub struct RedisQueue {
    redis: Redis,
    scripts: Scripts,
    wakers: Arc<Wakers>,
}

/// What the claim script answers: a job, or a number of milliseconds.
type RawClaim = (
    String,
    String,
    String,
    String,
    u32,
    u32,
    i64,
    String,
    u32,
    String,
);

impl RedisQueue {
    pub fn new(redis: Redis, wakers: Arc<Wakers>) -> Self {
        Self {
            redis,
            scripts: Scripts::new(),
            wakers,
        }
    }

    /// `<namespace>:{q:<queue>}`: the hash tag keeps a queue in one slot.
    fn prefix(&self, queue: &str) -> String {
        format!("{}:{{q:{queue}}}", self.redis.namespace)
    }

    async fn settle(
        &self,
        lease: &Lease,
        operation: &'static str,
        how: &str,
        after: Duration,
        reason: &str,
    ) -> Result<Settled> {
        let args = vec![
            lease.id.clone(),
            lease.token.to_string(),
            how.to_owned(),
            millis(after).to_string(),
            cut_reason(reason).to_owned(),
        ];
        let done: bool = self
            .scripts
            .settle
            .run(&self.redis, operation, self.prefix(&lease.queue), args)
            .await?;
        Ok(if done { Settled::Done } else { Settled::Lost })
    }

    fn worker_keys(&self) -> Vec<String> {
        let namespace = &self.redis.namespace;
        vec![
            format!("{namespace}:{{workers}}:alive"),
            format!("{namespace}:{{workers}}:info"),
        ]
    }
}

#[async_trait]
impl Queue for RedisQueue {
    async fn ping(&self) -> Result<()> {
        self.redis.ping().await
    }

    async fn enqueue(&self, queue: &str, job: &Enqueue) -> Result<Enqueued> {
        job.check()?;
        let args = vec![
            job.id.clone(),
            job.payload.clone(),
            job.tenant.clone(),
            job.priority.to_string(),
            millis(job.delay).to_string(),
            job.max_attempts.to_string(),
            job.traceparent.clone().unwrap_or_default(),
            u8::from(job.again_if_running).to_string(),
        ];
        let answer: String = self
            .scripts
            .enqueue
            .run(&self.redis, "enqueue", self.prefix(queue), args)
            .await?;
        match answer.as_str() {
            "added" => Ok(Enqueued::Added),
            "known" => Ok(Enqueued::Known),
            "again" => Ok(Enqueued::Again),
            _ => Err(PortError::retry(
                "enqueue",
                format!("the queue {queue} is full ({DEPTH_MAX} jobs)"),
            )),
        }
    }

    async fn claim(
        &self,
        queue: &str,
        lease: Duration,
        in_flight_per_tenant: u32,
    ) -> Result<std::result::Result<Claimed, Option<Duration>>> {
        let args = vec![
            millis(lease).max(1).to_string(),
            in_flight_per_tenant.to_string(),
        ];
        let answer: Value = self
            .scripts
            .claim
            .run(&self.redis, "claim", self.prefix(queue), args)
            .await?;
        if !answer.is_array() {
            let wait: i64 = convert("claim", answer)?;
            return Ok(Err(u64::try_from(wait).ok().map(Duration::from_millis)));
        }
        let answer: RawClaim = convert("claim", answer)?;
        let (id, token, payload, tenant, attempt, max_attempts, enqueued_ms, trace, lapses, mark) =
            answer;
        Ok(Ok(Claimed {
            lease: Lease {
                queue: queue.to_owned(),
                id,
                token: token.parse().map_err(|e| PortError::fatal("claim", e))?,
            },
            payload,
            tenant,
            attempt,
            max_attempts,
            lapses,
            enqueued_at: time(enqueued_ms),
            traceparent: (!trace.is_empty()).then_some(trace),
            cancelled: mark != "0",
        }))
    }

    async fn renew(&self, lease: &Lease, for_: Duration) -> Result<Settled> {
        self.settle(lease, "renew lease", "renew", for_, "").await
    }

    async fn finish(&self, lease: &Lease) -> Result<Settled> {
        self.settle(lease, "finish job", "finish", Duration::ZERO, "")
            .await
    }

    async fn retry(&self, lease: &Lease, delay: Duration, reason: &str) -> Result<Settled> {
        self.settle(lease, "retry job", "retry", delay, reason)
            .await
    }

    async fn bury(&self, lease: &Lease, reason: &str) -> Result<Settled> {
        self.settle(lease, "bury job", "bury", Duration::ZERO, reason)
            .await
    }

    async fn release(&self, lease: &Lease) -> Result<Settled> {
        self.settle(lease, "release job", "release", Duration::ZERO, "")
            .await
    }

    async fn cancel(&self, queue: &str, id: &str) -> Result<Cancelled> {
        let args = vec![id.to_owned()];
        let answer: String = self
            .scripts
            .cancel
            .run(&self.redis, "cancel job", self.prefix(queue), args)
            .await?;
        Ok(match answer.as_str() {
            "marked" => Cancelled::Marked,
            "out" => Cancelled::TakenOut,
            _ => Cancelled::Unknown,
        })
    }

    async fn is_cancelled(&self, lease: &Lease) -> Result<bool> {
        let key = format!("{}:job:{}", self.prefix(&lease.queue), lease.id);
        let (token, mark): (Option<String>, Option<String>) = self
            .redis
            .pool
            .hmget(key, vec!["token", "cancelled"])
            .await
            .map_err(|e| port_error("look for a cancel", e))?;
        Ok(mark.is_some() && token == Some(lease.token.to_string()))
    }

    async fn dead_before(
        &self,
        queue: &str,
        before: Option<(DateTime<Utc>, String)>,
        limit: usize,
    ) -> Result<Vec<DeadJob>> {
        let failed = |e: Error| port_error("list dead letters", e);
        let prefix = self.prefix(queue);
        let limit = limit.min(DEAD_PAGE_MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let (died_ms, id) = match before {
            Some((died_at, id)) => (died_at.timestamp_millis().to_string(), id),
            None => Default::default(),
        };
        let args = vec![limit.to_string(), died_ms, id];
        let ids: Vec<String> = self
            .scripts
            .dead
            .run(&self.redis, "list dead letters", prefix.clone(), args)
            .await?;
        let mut letters = Vec::with_capacity(ids.len());
        for id in ids {
            let fields = vec!["payload", "tenant", "attempts", "reason", "died"];
            let letter: (
                Option<String>,
                Option<String>,
                Option<u32>,
                Option<String>,
                Option<i64>,
            ) = self
                .redis
                .pool
                .hmget(format!("{prefix}:dead:{id}"), fields)
                .await
                .map_err(failed)?;
            // Replayed since it was listed: not dead any more.
            if let (Some(payload), Some(tenant), Some(attempts), Some(reason), Some(died_ms)) =
                letter
            {
                letters.push(DeadJob {
                    id,
                    payload,
                    tenant,
                    attempts,
                    reason,
                    died_at: time(died_ms),
                });
            }
        }
        Ok(letters)
    }

    async fn replay(&self, queue: &str, id: &str) -> Result<bool> {
        let args = vec![id.to_owned()];
        self.scripts
            .replay
            .run(&self.redis, "replay dead letter", self.prefix(queue), args)
            .await
    }

    async fn stats(&self, queue: &str) -> Result<QueueStats> {
        let (waiting, delayed, in_flight, dead, oldest_ms, finished_total, finished_last_minute): (
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
            u64,
        ) = self
            .scripts
            .stats
            .run(&self.redis, "queue stats", self.prefix(queue), Vec::new())
            .await?;
        Ok(QueueStats {
            waiting,
            delayed,
            in_flight,
            dead,
            oldest_ms,
            finished_total,
            finished_last_minute,
        })
    }

    async fn waker(&self, queue: &str) -> Result<QueueWaker> {
        self.wakers
            .watch(format!("{}:wake", self.prefix(queue)))
            .await
    }

    async fn claim_tick(&self, name: &str, tick: i64, keep: Duration) -> Result<bool> {
        let key = format!("{}:cron:{name}:{tick}", self.redis.namespace);
        let args = vec![millis(keep).max(1).to_string()];
        self.scripts
            .tick
            .run(&self.redis, "claim tick", key, args)
            .await
    }

    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
        let info = serde_json::to_string(worker).map_err(|e| PortError::fatal("announce", e))?;
        let args = vec![
            "announce".to_owned(),
            worker.id.clone(),
            millis(ttl).to_string(),
            info,
        ];
        self.scripts
            .workers
            .run::<Vec<String>>(&self.redis, "announce worker", self.worker_keys(), args)
            .await?;
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let args = vec!["list".to_owned(), WORKERS_MAX.to_string()];
        let infos: Vec<String> = self
            .scripts
            .workers
            .run(&self.redis, "list workers", self.worker_keys(), args)
            .await?;
        infos
            .iter()
            .map(|info| serde_json::from_str(info))
            .collect::<Result<_, _>>()
            .map_err(|e| PortError::fatal("list workers", e))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn time(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

fn convert<T: FromValue>(operation: &'static str, value: Value) -> Result<T> {
    value.convert().map_err(|e| PortError::fatal(operation, e))
}
