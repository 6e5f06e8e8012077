//! What each call of the port does, as one step of the writer.

use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::line::{self, CLAIMED, DELAYED, Line, WAITING};
use super::writer::Step;
use super::{millis, time};
use crate::ports::{
    Cancelled, Claimed, DEPTH_MAX, Enqueue, Enqueued, LEASE_LAPSED, Lease, Settled,
};

/// Leases reaped and jobs promoted by one claim, at most.
const CHUNK: i64 = 64;

/// Finished jobs are counted by so many milliseconds.
const TENS_MS: i64 = 10_000;

/// The last ten seconds that do not count any more at `now_ms`.
pub(super) fn rate_since(now_ms: i64) -> i64 {
    now_ms / TENS_MS - 6
}

/// `None`: the queue is full.
pub(super) async fn enqueue(
    step: &mut Step,
    queue: String,
    job: Enqueue,
) -> sqlx::Result<Option<Enqueued>> {
    let due_ms = step.now_ms.saturating_add(millis(job.delay));
    let state: Option<i64> =
        sqlx::query_scalar("SELECT state FROM job WHERE queue = $1 AND id = $2")
            .bind(&queue)
            .bind(&job.id)
            .fetch_optional(step.db())
            .await?;
    match state {
        Some(CLAIMED) if job.again_if_running => {
            let id = job.id.clone();
            let again = serde_json::to_string(&line::Again { job, due_ms })
                .map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
            sqlx::query("UPDATE job SET again = $3 WHERE queue = $1 AND id = $2")
                .bind(&queue)
                .bind(id)
                .bind(again)
                .execute(step.db())
                .await?;
            return Ok(Some(Enqueued::Again));
        }
        Some(_) => return Ok(Some(Enqueued::Known)),
        None => {}
    }
    // The highest rowid bounds the number of rows from above, so that jobs are only counted where it may matter.
    let depth: i64 = sqlx::query_scalar(
        "SELECT CASE WHEN (SELECT max(rowid) FROM job) < $2 THEN 0
                ELSE (SELECT count(*) FROM job WHERE queue = $1 AND state IN (0, 1)) END",
    )
    .bind(&queue)
    .bind(i64::try_from(DEPTH_MAX).unwrap_or(i64::MAX))
    .fetch_one(step.db())
    .await?;
    if u64::try_from(depth).unwrap_or(0) >= DEPTH_MAX {
        return Ok(None);
    }
    line::add(step, &queue, &job, due_ms).await?;
    Ok(Some(Enqueued::Added))
}

pub(super) async fn claim(
    step: &mut Step,
    queue: String,
    lease: Duration,
    cap: u32,
) -> sqlx::Result<Result<Claimed, Option<Duration>>> {
    if !step.is_settled(&queue) {
        let lapsed = reap(step, &queue).await?;
        let due = due(step, &queue, DELAYED).await?;
        for id in &due {
            line::make_ready(step, &queue, id, Line::Last).await?;
        }
        let most = usize::try_from(CHUNK).unwrap_or(0);
        if lapsed < most && due.len() < most {
            step.settle(&queue);
        }
    }
    let tenant: Option<String> = sqlx::query_scalar(
        "SELECT name FROM tenant WHERE queue = $1 AND waiting > 0 AND in_flight < $2 ORDER BY turn LIMIT 1",
    )
    .bind(&queue)
    .bind(cap.max(1))
    .fetch_optional(step.db())
    .await?;
    let Some(tenant) = tenant else {
        return Ok(Err(next_due(step, &queue).await?));
    };
    let numbers = line::next_numbers(step, &queue).await?;
    let deadline = step.now_ms.saturating_add(millis(lease).max(1));
    let row = sqlx::query(
        "UPDATE job SET state = $3, at_ms = $4, token = $5, attempts = attempts + 1
         WHERE rowid = (SELECT rowid FROM job WHERE queue = $1 AND tenant = $2 AND state = 0
                        ORDER BY priority DESC, place LIMIT 1)
         RETURNING id, token, payload, tenant, attempts, max_attempts, lapses, enqueued_ms, traceparent, cancelled",
    )
    .bind(&queue)
    .bind(&tenant)
    .bind(CLAIMED)
    .bind(deadline)
    .bind(numbers.token)
    .fetch_one(step.db())
    .await?;
    sqlx::query(
        "UPDATE tenant SET waiting = waiting - 1, in_flight = in_flight + 1, turn = $3
         WHERE queue = $1 AND name = $2",
    )
    .bind(&queue)
    .bind(&tenant)
    .bind(numbers.turn)
    .execute(step.db())
    .await?;
    claimed(queue, &row).map(Ok)
}

fn claimed(queue: String, row: &SqliteRow) -> sqlx::Result<Claimed> {
    Ok(Claimed {
        lease: Lease {
            queue,
            id: row.try_get("id")?,
            token: row.try_get::<i64, _>("token")?.unsigned_abs(),
        },
        payload: row.try_get("payload")?,
        tenant: row.try_get("tenant")?,
        attempt: row.try_get("attempts")?,
        max_attempts: row.try_get("max_attempts")?,
        lapses: row.try_get("lapses")?,
        enqueued_at: time(row.try_get("enqueued_ms")?),
        traceparent: row.try_get("traceparent")?,
        cancelled: row.try_get("cancelled")?,
    })
}

/// Ids whose time in `state` has come, the first [`CHUNK`] of them.
async fn due(step: &mut Step, queue: &str, state: i64) -> sqlx::Result<Vec<String>> {
    let now = step.now_ms;
    sqlx::query_scalar(
        "SELECT id FROM job WHERE queue = $1 AND state = $2 AND at_ms <= $3 ORDER BY at_ms, rowid LIMIT +$4",
    )
    .bind(queue)
    .bind(state)
    .bind(now)
    .bind(CHUNK)
    .fetch_all(step.db())
    .await
}

/// Jobs whose lease lapsed wait again where they waited, or are dead. Returns how many there were.
async fn reap(step: &mut Step, queue: &str) -> sqlx::Result<usize> {
    let lapsed = due(step, queue, CLAIMED).await?;
    for id in &lapsed {
        let row = sqlx::query(
            "UPDATE job SET lapses = lapses + 1 WHERE queue = $1 AND id = $2
             RETURNING tenant, attempts >= max_attempts AS used_up",
        )
        .bind(queue)
        .bind(id)
        .fetch_one(step.db())
        .await?;
        line::leave(step, queue, row.try_get("tenant")?, CLAIMED).await?;
        if row.try_get("used_up")? {
            line::die(step, queue, id, LEASE_LAPSED).await?;
        } else {
            line::make_ready(step, queue, id, Line::OldPlace).await?;
        }
    }
    Ok(lapsed.len())
}

async fn next_due(step: &mut Step, queue: &str) -> sqlx::Result<Option<Duration>> {
    let now = step.now_ms;
    let at: Option<i64> = sqlx::query_scalar(
        "SELECT min(at_ms) FROM (SELECT min(at_ms) AS at_ms FROM job WHERE queue = $1 AND state = 1
                                 UNION ALL SELECT min(at_ms) FROM job WHERE queue = $1 AND state = 2)",
    )
    .bind(queue)
    .fetch_one(step.db())
    .await?;
    Ok(at.map(|at| Duration::from_millis(u64::try_from(at - now).unwrap_or(0))))
}

/// What a holder does with its job.
#[derive(Debug)]
pub(super) enum Settling {
    Renew(Duration),
    Finish,
    Retry(Duration, String),
    Bury(String),
    Release,
}

pub(super) async fn settle(step: &mut Step, lease: Lease, how: Settling) -> sqlx::Result<Settled> {
    let (queue, id, now) = (&lease.queue, &lease.id, step.now_ms);
    let held = sqlx::query(
        "SELECT tenant, attempts >= max_attempts AS used_up FROM job
         WHERE queue = $1 AND id = $2 AND state = $3 AND token = $4 AND at_ms > $5",
    )
    .bind(queue)
    .bind(id)
    .bind(CLAIMED)
    .bind(i64::try_from(lease.token).unwrap_or(-1))
    .bind(now)
    .fetch_optional(step.db())
    .await?;
    let Some(held) = held else {
        return Ok(Settled::Lost);
    };
    if let Settling::Renew(for_) = how {
        sqlx::query("UPDATE job SET at_ms = $3 WHERE queue = $1 AND id = $2")
            .bind(queue)
            .bind(id)
            .bind(now.saturating_add(millis(for_)))
            .execute(step.db())
            .await?;
        return Ok(Settled::Done);
    }
    let used_up: bool = held.try_get("used_up")?;
    line::leave(step, queue, held.try_get("tenant")?, CLAIMED).await?;
    match how {
        Settling::Renew(_) => {}
        Settling::Finish => {
            sqlx::query("UPDATE counters SET finished = finished + 1 WHERE queue = $1")
                .bind(queue)
                .execute(step.db())
                .await?;
            sqlx::query(
                "INSERT INTO rate (queue, tens, finished) VALUES ($1, $2, 1)
                 ON CONFLICT (queue, tens) DO UPDATE SET finished = finished + 1",
            )
            .bind(queue)
            .bind(now / TENS_MS)
            .execute(step.db())
            .await?;
            sqlx::query("DELETE FROM rate WHERE queue = $1 AND tens <= $2")
                .bind(queue)
                .bind(rate_since(now))
                .execute(step.db())
                .await?;
            line::remove(step, queue, id).await?;
        }
        Settling::Release => {
            sqlx::query("UPDATE job SET attempts = attempts - 1 WHERE queue = $1 AND id = $2")
                .bind(queue)
                .bind(id)
                .execute(step.db())
                .await?;
            line::make_ready(step, queue, id, Line::Next).await?;
        }
        Settling::Bury(reason) => line::die(step, queue, id, &reason).await?,
        Settling::Retry(_, reason) if used_up => line::die(step, queue, id, &reason).await?,
        Settling::Retry(delay, _) if delay.is_zero() => {
            line::make_ready(step, queue, id, Line::Last).await?;
        }
        Settling::Retry(delay, _) => {
            line::delay_until(step, queue, id, now.saturating_add(millis(delay))).await?;
        }
    }
    Ok(Settled::Done)
}

pub(super) async fn cancel(step: &mut Step, queue: String, id: String) -> sqlx::Result<Cancelled> {
    let row = sqlx::query("SELECT state, tenant FROM job WHERE queue = $1 AND id = $2")
        .bind(&queue)
        .bind(&id)
        .fetch_optional(step.db())
        .await?;
    let Some(row) = row else {
        return Ok(Cancelled::Unknown);
    };
    let state: i64 = row.try_get("state")?;
    if state == CLAIMED {
        sqlx::query("UPDATE job SET cancelled = 1, again = NULL WHERE queue = $1 AND id = $2")
            .bind(&queue)
            .bind(&id)
            .execute(step.db())
            .await?;
        // The holder looks at its mark when the waker moves.
        step.wake(&queue);
        return Ok(Cancelled::Marked);
    }
    sqlx::query("DELETE FROM job WHERE queue = $1 AND id = $2")
        .bind(&queue)
        .bind(&id)
        .execute(step.db())
        .await?;
    if state == WAITING {
        line::leave(step, &queue, row.try_get("tenant")?, WAITING).await?;
    }
    Ok(Cancelled::TakenOut)
}

pub(super) async fn replay(step: &mut Step, queue: String, id: String) -> sqlx::Result<bool> {
    let now = step.now_ms;
    let added = sqlx::query(
        "INSERT INTO job (queue, id, state, at_ms, tenant, priority, max_attempts, traceparent, enqueued_ms, payload)
         SELECT queue, id, $3, $4, tenant, priority, max_attempts, traceparent, $4, payload
         FROM dead WHERE queue = $1 AND id = $2
         ON CONFLICT (queue, id) DO NOTHING",
    )
    .bind(&queue)
    .bind(&id)
    .bind(DELAYED)
    .bind(now)
    .execute(step.db())
    .await?;
    if added.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("DELETE FROM dead WHERE queue = $1 AND id = $2")
        .bind(&queue)
        .bind(&id)
        .execute(step.db())
        .await?;
    line::make_ready(step, &queue, &id, Line::Last).await?;
    Ok(true)
}

pub(super) async fn claim_tick(
    step: &mut Step,
    name: String,
    tick: i64,
    keep: Duration,
) -> sqlx::Result<bool> {
    let now = step.now_ms;
    sqlx::query("DELETE FROM tick WHERE expires_ms <= $1")
        .bind(now)
        .execute(step.db())
        .await?;
    let taken = sqlx::query(
        "INSERT INTO tick (name, tick, expires_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(name)
    .bind(tick)
    .bind(now.saturating_add(millis(keep)))
    .execute(step.db())
    .await?;
    Ok(taken.rows_affected() == 1)
}

pub(super) async fn announce(
    step: &mut Step,
    id: String,
    info: String,
    ttl: Duration,
) -> sqlx::Result<()> {
    let now = step.now_ms;
    sqlx::query("INSERT OR REPLACE INTO worker (id, expires_ms, info) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(now.saturating_add(millis(ttl)))
        .bind(info)
        .execute(step.db())
        .await?;
    sqlx::query("DELETE FROM worker WHERE expires_ms <= $1")
        .bind(now)
        .execute(step.db())
        .await?;
    Ok(())
}
