//! Moving a job between waiting, delayed, claimed and dead, and keeping its tenant's counts right.

use serde::{Deserialize, Serialize};
use sqlx::Row;

use super::writer::Step;
use crate::ports::{DEAD_MAX, Enqueue};

pub(super) const WAITING: i64 = 0;
pub(super) const DELAYED: i64 = 1;
pub(super) const CLAIMED: i64 = 2;

/// A wish, made while the job ran, that it run once more.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Again {
    pub job: Enqueue,
    pub due_ms: i64,
}

/// Numbers of a queue that only rise.
pub(super) struct Numbers {
    pub place: i64,
    pub turn: i64,
    pub token: i64,
}

pub(super) async fn next_numbers(step: &mut Step, queue: &str) -> sqlx::Result<Numbers> {
    let row = sqlx::query(
        "INSERT INTO counters (queue, place, turn, token) VALUES ($1, 1, 1, 1)
         ON CONFLICT (queue) DO UPDATE SET place = place + 1, turn = turn + 1, token = token + 1
         RETURNING place, turn, token",
    )
    .bind(queue)
    .fetch_one(step.db())
    .await?;
    Ok(Numbers {
        place: row.try_get("place")?,
        turn: row.try_get("turn")?,
        token: row.try_get("token")?,
    })
}

/// Adds a job that is not there.
pub(super) async fn add(
    step: &mut Step,
    queue: &str,
    job: &Enqueue,
    due_ms: i64,
) -> sqlx::Result<()> {
    let now = step.now_ms;
    sqlx::query(
        "INSERT INTO job (queue, id, state, at_ms, tenant, priority, max_attempts, traceparent, enqueued_ms, payload)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(queue)
    .bind(&job.id)
    .bind(DELAYED)
    .bind(due_ms)
    .bind(&job.tenant)
    .bind(job.priority)
    .bind(job.max_attempts)
    .bind(&job.traceparent)
    .bind(now)
    .bind(&job.payload)
    .execute(step.db())
    .await?;
    if due_ms > now {
        delay_until(step, queue, &job.id, due_ms).await
    } else {
        make_ready(step, queue, &job.id, Line::Last).await
    }
}

/// Where a job goes in line.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Line {
    /// Behind its tenant's others of the same priority.
    Last,
    /// Where it was before it was claimed.
    OldPlace,
    /// Where it was, and its tenant has the next turn.
    Next,
}

pub(super) async fn make_ready(
    step: &mut Step,
    queue: &str,
    id: &str,
    line: Line,
) -> sqlx::Result<()> {
    let numbers = next_numbers(step, queue).await?;
    let now = step.now_ms;
    let tenant: String = sqlx::query_scalar(
        "UPDATE job SET state = $3, at_ms = $4, place = CASE WHEN $5 THEN $6 ELSE place END
         WHERE queue = $1 AND id = $2 RETURNING tenant",
    )
    .bind(queue)
    .bind(id)
    .bind(WAITING)
    .bind(now)
    .bind(line == Line::Last)
    .bind(numbers.place)
    .fetch_one(step.db())
    .await?;
    // A tenant that waits already keeps its turn, unless it is given the next one: below all that were given before.
    let first = line == Line::Next;
    sqlx::query(
        "INSERT INTO tenant (queue, name, turn, waiting) VALUES ($1, $2, $3, 1)
         ON CONFLICT (queue, name) DO UPDATE SET waiting = waiting + 1,
             turn = CASE WHEN waiting = 0 OR $4 THEN excluded.turn ELSE turn END",
    )
    .bind(queue)
    .bind(tenant)
    .bind(if first { -numbers.turn } else { numbers.turn })
    .bind(first)
    .execute(step.db())
    .await?;
    step.wake(queue);
    Ok(())
}

pub(super) async fn delay_until(
    step: &mut Step,
    queue: &str,
    id: &str,
    due_ms: i64,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE job SET state = $3, at_ms = $4 WHERE queue = $1 AND id = $2")
        .bind(queue)
        .bind(id)
        .bind(DELAYED)
        .bind(due_ms)
        .execute(step.db())
        .await?;
    // Who sleeps until a later time must hear of an earlier one.
    let first: Option<String> = sqlx::query_scalar(
        "SELECT id FROM job WHERE queue = $1 AND state = $2 ORDER BY at_ms LIMIT 1",
    )
    .bind(queue)
    .bind(DELAYED)
    .fetch_optional(step.db())
    .await?;
    if first.as_deref() == Some(id) {
        step.wake(queue);
    }
    Ok(())
}

/// Tells the tenant's counts that a job left `state`.
pub(super) async fn leave(
    step: &mut Step,
    queue: &str,
    tenant: &str,
    state: i64,
) -> sqlx::Result<()> {
    let row = sqlx::query(
        "UPDATE tenant SET waiting = waiting - ($3 = $4), in_flight = in_flight - ($3 = $5)
         WHERE queue = $1 AND name = $2 RETURNING waiting, in_flight",
    )
    .bind(queue)
    .bind(tenant)
    .bind(state)
    .bind(WAITING)
    .bind(CLAIMED)
    .fetch_optional(step.db())
    .await?;
    let Some(row) = row else { return Ok(()) };
    let (waiting, in_flight): (i64, i64) = (row.try_get("waiting")?, row.try_get("in_flight")?);
    if waiting == 0 && in_flight == 0 {
        sqlx::query("DELETE FROM tenant WHERE queue = $1 AND name = $2")
            .bind(queue)
            .bind(tenant)
            .execute(step.db())
            .await?;
    } else if waiting > 0 && state == CLAIMED {
        // It may have been at its cap.
        step.wake(queue);
    }
    Ok(())
}

/// Removes a job that is done, and adds it anew if somebody asked for that.
pub(super) async fn remove(step: &mut Step, queue: &str, id: &str) -> sqlx::Result<()> {
    let again: Option<String> =
        sqlx::query_scalar("DELETE FROM job WHERE queue = $1 AND id = $2 RETURNING again")
            .bind(queue)
            .bind(id)
            .fetch_one(step.db())
            .await?;
    let Some(again) = again else { return Ok(()) };
    let again: Again =
        serde_json::from_str(&again).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    add(step, queue, &again.job, again.due_ms).await
}

/// From claimed to the dead letters.
pub(super) async fn die(step: &mut Step, queue: &str, id: &str, reason: &str) -> sqlx::Result<()> {
    let now = step.now_ms;
    sqlx::query(
        "INSERT OR REPLACE INTO dead
             (queue, id, died_ms, reason, tenant, priority, attempts, max_attempts, traceparent, payload)
         SELECT queue, id, $3, $4, tenant, priority, attempts, max_attempts, traceparent, payload
         FROM job WHERE queue = $1 AND id = $2",
    )
    .bind(queue)
    .bind(id)
    .bind(now)
    .bind(reason)
    .execute(step.db())
    .await?;
    sqlx::query(
        "DELETE FROM dead WHERE rowid IN
             (SELECT rowid FROM dead WHERE queue = $1 ORDER BY died_ms DESC, rowid DESC LIMIT -1 OFFSET +$2)",
    )
    .bind(queue)
    .bind(i64::try_from(DEAD_MAX).unwrap_or(i64::MAX))
    .execute(step.db())
    .await?;
    remove(step, queue, id).await
}
