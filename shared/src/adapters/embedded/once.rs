//! Idempotency keys in `vault.db`: which requests are in flight, and what the others were answered.

use std::time::Duration;

use chrono::Utc;

use super::sqlite::{Sqlite, port_error as failed};
use crate::ports::{ANSWER_MAX_BYTES, ANSWERS_MAX, Once, OnceKey, PortError, Result};

/// Keys that are over and cleared away at each new one: more than one, so that they don't pile up.
const CLEAR_CHUNK: i64 = 100;

fn until(now_ms: i64, time: Duration) -> i64 {
    now_ms.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

pub async fn begin(file: &Sqlite, once: &OnceKey, lease: Duration) -> Result<Once> {
    let now_ms = Utc::now().timestamp_millis();
    let begun = async {
        let mut tx = file.write.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "DELETE FROM once WHERE (owner, key) IN (
                 SELECT owner, key FROM once WHERE until_ms <= $1 ORDER BY until_ms LIMIT +$2)
                OR (owner = $3 AND key = $4 AND until_ms <= $1)",
        )
        .bind(now_ms)
        .bind(CLEAR_CHUNK)
        .bind(once.owner.as_slice())
        .bind(once.key.as_slice())
        .execute(&mut *tx)
        .await?;
        let known: Option<Option<String>> =
            sqlx::query_scalar("SELECT answer FROM once WHERE owner = $1 AND key = $2")
                .bind(once.owner.as_slice())
                .bind(once.key.as_slice())
                .fetch_optional(&mut *tx)
                .await?;
        match known {
            Some(Some(answer)) => return Ok(Once::Answered(answer)),
            Some(None) => return Ok(Once::InFlight),
            None => {}
        }
        sqlx::query(
            "DELETE FROM once WHERE (owner, key) IN (
                 SELECT owner, key FROM once WHERE owner = $1 AND answer IS NOT NULL ORDER BY until_ms
                 LIMIT max(0, (SELECT count(*) FROM once WHERE owner = $1) + 1 - $2))",
        )
        .bind(once.owner.as_slice())
        .bind(i64::try_from(ANSWERS_MAX).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await?;
        sqlx::query("INSERT INTO once (owner, key, request, until_ms) VALUES ($1, $2, $3, $4)")
            .bind(once.owner.as_slice())
            .bind(once.key.as_slice())
            .bind(once.request.as_slice())
            .bind(until(now_ms, lease))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        sqlx::Result::Ok(Once::Begun)
    };
    begun
        .await
        .map_err(|e| failed("hold an idempotency key", e))
}

pub async fn answer(file: &Sqlite, once: &OnceKey, answer: &str, keep: Duration) -> Result<bool> {
    if answer.len() > ANSWER_MAX_BYTES {
        return Err(PortError::fatal("keep an answer", "it is too long"));
    }
    let kept = sqlx::query(
        "UPDATE once SET answer = $4, until_ms = $5
         WHERE owner = $1 AND key = $2 AND request = $3 AND answer IS NULL",
    )
    .bind(once.owner.as_slice())
    .bind(once.key.as_slice())
    .bind(once.request.as_slice())
    .bind(answer)
    .bind(until(Utc::now().timestamp_millis(), keep))
    .execute(&file.write)
    .await
    .map_err(|e| failed("keep an answer", e))?;
    Ok(kept.rows_affected() == 1)
}

pub async fn forget(file: &Sqlite, once: &OnceKey) -> Result<()> {
    sqlx::query(
        "DELETE FROM once WHERE owner = $1 AND key = $2 AND request = $3 AND answer IS NULL",
    )
    .bind(once.owner.as_slice())
    .bind(once.key.as_slice())
    .bind(once.request.as_slice())
    .execute(&file.write)
    .await
    .map(drop)
    .map_err(|e| failed("free an idempotency key", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::embedded::sqlite::Commits;
    use crate::adapters::embedded::vault::SqliteVault;
    use crate::ports::Vault;

    /// The twin of the contract's test of Redis; the rows are made at once, for their commits would take a minute.
    #[tokio::test]
    async fn beyond_its_bound_the_answer_that_ends_first_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let vault = SqliteVault::open(folder.path()).await.unwrap();
        let file = Sqlite::open(folder.path(), "vault.db", Commits::Synced)
            .await
            .unwrap();
        let key = |n: i64| {
            let mut key = [0; 32];
            key[24..].copy_from_slice(&n.to_be_bytes());
            OnceKey {
                owner: [7; 32],
                key,
                request: uuid::Uuid::new_v4().into_bytes(),
            }
        };
        let (now_ms, most) = (
            Utc::now().timestamp_millis(),
            i64::try_from(ANSWERS_MAX).unwrap(),
        );
        let mut tx = file.write.begin().await.unwrap();
        for n in 0..most - 1 {
            let once = key(n);
            sqlx::query(
                "INSERT INTO once (owner, key, request, answer, until_ms) VALUES ($1, $2, $3, 'x', $4)",
            )
            .bind(once.owner.as_slice())
            .bind(once.key.as_slice())
            .bind(once.request.as_slice())
            .bind(now_ms + 60_000 + n)
            .execute(&mut *tx)
            .await
            .unwrap();
        }
        tx.commit().await.unwrap();
        let lease = Duration::from_secs(600);
        let begin = async |n| vault.begin_once(&key(n), lease).await.unwrap();
        assert_eq!(begin(0).await, Once::Answered("x".into()));
        assert_eq!(begin(most).await, Once::Begun, "there is room");
        assert_eq!(begin(0).await, Once::Answered("x".into()));
        assert_eq!(begin(most + 1).await, Once::Begun);
        assert_eq!(begin(most).await, Once::InFlight, "what is in flight stays");
        assert_eq!(begin(1).await, Once::Answered("x".into()));
        assert_eq!(begin(0).await, Once::Begun, "the first made room");
    }
}
