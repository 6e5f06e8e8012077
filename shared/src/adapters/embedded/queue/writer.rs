//! Group commit: steps that arrive together share one transaction, and so one sync of the disk.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Sqlite as Db, SqlitePool, pool::PoolConnection};
use tokio::sync::{mpsc, oneshot};

use super::Watches;
use crate::adapters::embedded::sqlite::port_error;
use crate::ports::{PortError, Result};

/// Steps in one transaction at most: bounds how long the first waits for the last.
const BATCH: usize = 64;
/// Steps that wait for the writer; beyond it callers wait to hand theirs over.
const WAITING: usize = 1_024;

/// What a step works with.
pub(super) struct Step {
    connection: PoolConnection<Db>,
    /// Milliseconds since 1970 when the step began.
    pub now_ms: i64,
    /// Queues whose waiters are woken once the transaction is committed.
    wake: BTreeSet<String>,
    /// Queues in which nothing more is due, as of this transaction.
    settled: BTreeSet<String>,
}

impl Step {
    pub fn db(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// An earlier step of this transaction has moved all that was due: the next need not look.
    pub fn is_settled(&self, queue: &str) -> bool {
        self.settled.contains(queue)
    }

    pub fn settle(&mut self, queue: &str) {
        self.settled.insert(queue.to_owned());
    }

    pub fn wake(&mut self, queue: &str) {
        if !self.wake.contains(queue) {
            self.wake.insert(queue.to_owned());
        }
    }
}

/// A handle to the one task that writes; the task ends when the last handle is gone.
#[derive(Debug)]
pub(super) struct Writer {
    steps: mpsc::Sender<Box<dyn Work>>,
}

impl Writer {
    pub fn start(pool: SqlitePool, watches: Watches) -> Self {
        let (steps, waiting) = mpsc::channel(WAITING);
        tokio::spawn(write(pool, watches, waiting));
        Self { steps }
    }

    /// Runs one step; it is committed when this returns. A caller that goes away before its step began is skipped.
    pub async fn run<T, F>(&self, operation: &'static str, step: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Step) -> BoxFuture<'s, sqlx::Result<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work = Pending {
            operation,
            step: Some(step),
            outcome: None,
            reply,
        };
        let stopped = || PortError::retry(operation, "the queue's writer stopped");
        self.steps
            .send(Box::new(work))
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn write(pool: SqlitePool, watches: Watches, mut waiting: mpsc::Receiver<Box<dyn Work>>) {
    let mut batch = Vec::with_capacity(BATCH);
    // Kept: the pool would ask it how it is each time it is given back.
    let mut kept = None;
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        batch.retain(|work| !work.is_abandoned());
        if batch.is_empty() {
            continue;
        }
        let committed = commit(&pool, &mut kept, &mut batch).await;
        if let Ok(wake) = &committed {
            watches.bump(wake);
        }
        for work in batch.drain(..) {
            work.answer(committed.as_ref().err());
        }
    }
}

/// All steps in one transaction; of several each in a savepoint, so that one that fails leaves nothing behind and harms no
/// other.
async fn commit(
    pool: &SqlitePool,
    kept: &mut Option<PoolConnection<Db>>,
    batch: &mut [Box<dyn Work>],
) -> sqlx::Result<BTreeSet<String>> {
    let connection = match kept.take() {
        Some(connection) => connection,
        None => pool.acquire().await?,
    };
    let mut step = Step {
        connection,
        now_ms: 0,
        wake: BTreeSet::new(),
        settled: BTreeSet::new(),
    };
    let outcome = run_all(&mut step, batch).await;
    let Step {
        mut connection,
        wake,
        ..
    } = step;
    match outcome {
        Ok(true) => {}
        Ok(false) | Err(_) => {
            if sqlx::query("ROLLBACK")
                .execute(&mut *connection)
                .await
                .is_err()
            {
                // A connection in an unknown state must not serve the next transaction.
                connection.detach().close().await.ok();
                return outcome.map(|_| BTreeSet::new());
            }
        }
    }
    *kept = Some(connection);
    outcome.map(|committed| if committed { wake } else { BTreeSet::new() })
}

/// False: there was one step, and it failed; nothing is committed.
///
/// Each statement goes to SQLite's thread and back, which on a busy machine costs a turn of the scheduler each way, and the
/// first of a batch waits for the last: what stands between two steps is one statement.
async fn run_all(step: &mut Step, batch: &mut [Box<dyn Work>]) -> sqlx::Result<bool> {
    if let [work] = batch {
        sqlx::query("BEGIN IMMEDIATE").execute(step.db()).await?;
        step.now_ms = now_ms();
        if !work.run(step).await {
            return Ok(false);
        }
        sqlx::query("COMMIT").execute(step.db()).await?;
        return Ok(true);
    }
    let mut next = "BEGIN IMMEDIATE; SAVEPOINT step";
    for work in batch {
        sqlx::raw_sql(next).execute(step.db()).await?;
        step.now_ms = now_ms();
        if !work.run(step).await {
            sqlx::query("ROLLBACK TO step").execute(step.db()).await?;
            step.settled.clear();
        }
        next = "RELEASE step; SAVEPOINT step";
    }
    sqlx::raw_sql("RELEASE step; COMMIT")
        .execute(step.db())
        .await?;
    Ok(true)
}

pub(super) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(0))
}

/// A step of any answer type.
#[async_trait]
trait Work: Send {
    /// False: it failed and must be rolled back.
    async fn run(&mut self, step: &mut Step) -> bool;
    fn is_abandoned(&self) -> bool;
    /// Tells the caller, once it is known whether the transaction was committed.
    fn answer(self: Box<Self>, failure: Option<&sqlx::Error>);
}

struct Pending<T, F> {
    operation: &'static str,
    step: Option<F>,
    outcome: Option<sqlx::Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

#[async_trait]
impl<T, F> Work for Pending<T, F>
where
    T: Send,
    F: for<'s> FnOnce(&'s mut Step) -> BoxFuture<'s, sqlx::Result<T>> + Send,
{
    async fn run(&mut self, step: &mut Step) -> bool {
        if let Some(run) = self.step.take() {
            self.outcome = Some(run(step).await);
        }
        matches!(self.outcome, Some(Ok(_)))
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn answer(self: Box<Self>, failure: Option<&sqlx::Error>) {
        let answer = match (failure, self.outcome) {
            (_, Some(Err(error))) => Err(port_error(self.operation, error)),
            (None, Some(Ok(value))) => Ok(value),
            (Some(failure), _) => Err(PortError::retry(self.operation, failure.to_string())),
            (None, None) => Err(PortError::retry(self.operation, "the step was not run")),
        };
        // Nobody there any more: a claim made for them lapses by its lease.
        let _ = self.reply.send(answer);
    }
}
