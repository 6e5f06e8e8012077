//! A read replica of Postgres: lists are read there, and from the primary while it is away; what is written by is not.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atelier_shared::config::StoreConfig;
use atelier_shared::domain::ids::{InsightId, JobId, UserId};
use atelier_shared::ports::{InsightFilter, JobQuery, Records};
use atelier_shared::{Backends, Mode};
use chrono::TimeDelta;
use libtest_mimic::Trial;
use sqlx::Postgres;
use sqlx::migrate::MigrateDatabase;
use tokio::net::TcpListener;

use super::insights::insight;
use super::jobs::job;
use crate::fixture::{self, Outcome, only};

pub fn trials(trials: &mut Vec<Trial>) {
    only(
        trials,
        Mode::Distributed,
        "records",
        "lists_are_read_from_the_replica_and_nothing_else_is",
        from_replica,
    );
    only(
        trials,
        Mode::Distributed,
        "records",
        "lists_are_read_from_the_primary_while_the_replica_is_away",
        replica_away,
    );
    only(
        trials,
        Mode::Distributed,
        "records",
        "a_replica_that_is_silent_is_waited_for_once",
        silent_replica,
    );
}

/// A database of the test's own.
pub async fn database(word: &str) -> Result<StoreConfig, libtest_mimic::Failed> {
    let mut config = fixture::config(Mode::Distributed).await;
    let mut url: url::Url = config.database_url.as_deref().unwrap_or_default().parse()?;
    url.set_path(&format!("{word}_{}", uuid::Uuid::now_v7().simple()));
    Postgres::create_database(url.as_str()).await?;
    config.database_url = Some(url.to_string());
    Backends::migrate(&config).await?;
    Ok(config)
}

struct Rows {
    job: JobId,
    insight: InsightId,
}

async fn rows(records: &dyn Records, of: UserId) -> Result<Rows, libtest_mimic::Failed> {
    let (job, insight) = (job(of), insight(of, None, "It"));
    assert!(records.create_job(&job).await?);
    assert!(records.create_insight(&insight).await?);
    Ok(Rows {
        job: job.id,
        insight: insight.id,
    })
}

async fn listed(
    records: &dyn Records,
    of: UserId,
) -> Result<(Vec<JobId>, Vec<InsightId>), libtest_mimic::Failed> {
    let jobs = records.list_jobs(&JobQuery::of(of), 10).await?.items;
    let all = InsightFilter::default();
    let insights = records.list_insights(of, &all, None, 10).await?.items;
    Ok((
        jobs.into_iter().map(|job| job.id).collect(),
        insights.into_iter().map(|seen| seen.insight.id).collect(),
    ))
}

/// Two databases that hold other rows, the second as the replica of the first: what is read from which is seen.
struct Pair {
    primary: StoreConfig,
    replica: StoreConfig,
    /// As the program has them.
    records: Arc<dyn Records>,
    of: UserId,
    in_primary: Rows,
    in_replica: Rows,
}

impl Pair {
    async fn make() -> Result<Self, libtest_mimic::Failed> {
        let (primary, replica) = (database("primary").await?, database("replica").await?);
        let records = Backends::open_records(&StoreConfig {
            database_read_url: replica.database_url.clone(),
            ..primary.clone()
        })
        .await?;
        let of = UserId::generate();
        let in_replica = rows(&*Backends::open_records(&replica).await?, of).await?;
        let in_primary = rows(&*records, of).await?;
        Ok(Self {
            primary,
            replica,
            records,
            of,
            in_primary,
            in_replica,
        })
    }
}

/// Its connections are cut, and new ones refused.
async fn away(database: &StoreConfig) -> Outcome {
    let url = database.database_url.as_deref().unwrap_or_default();
    Ok(Postgres::force_drop_database(url).await?)
}

async fn from_replica(_: Mode) -> Outcome {
    let pair = Pair::make().await?;
    let (records, of) = (&*pair.records, pair.of);
    let (here, late) = (&pair.in_primary, &pair.in_replica);
    let (jobs, insights) = listed(records, of).await?;
    assert_eq!((jobs, insights), (vec![late.job], vec![late.insight]));
    // Whoever changes something, or looks at one thing that was just made, finds what is.
    assert!(records.job(here.job).await?.is_some());
    assert!(records.job(late.job).await?.is_none());
    assert!(records.insight(here.insight, of).await?.is_some());
    assert!(records.insight(late.insight, of).await?.is_none());
    let later = super::now() + TimeDelta::seconds(1);
    let outbox = records.unqueued_jobs(later, 10).await?;
    let outbox: Vec<JobId> = outbox.into_iter().map(|job| job.id).collect();
    assert_eq!(outbox, [here.job]);
    away(&pair.replica).await?;
    away(&pair.primary).await
}

async fn replica_away(_: Mode) -> Outcome {
    let pair = Pair::make().await?;
    // With connections that were in use before, and with new ones.
    listed(&*pair.records, pair.of).await?;
    away(&pair.replica).await?;
    let here = &pair.in_primary;
    for _ in 0..3 {
        let (jobs, insights) = listed(&*pair.records, pair.of).await?;
        assert_eq!((jobs, insights), (vec![here.job], vec![here.insight]));
    }
    away(&pair.primary).await
}

/// It takes connections and never says a word.
async fn silent_replica(_: Mode) -> Outcome {
    let primary = database("primary").await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let taken = Arc::new(AtomicUsize::new(0));
    let silent = tokio::spawn({
        let taken = taken.clone();
        async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                taken.fetch_add(1, Ordering::SeqCst);
                held.push(stream);
            }
        }
    });
    let records = Backends::open_records(&StoreConfig {
        database_read_url: Some(format!("postgres://nobody@{address}/nothing")),
        ..primary.clone()
    })
    .await?;
    let of = UserId::generate();
    let here = rows(&*records, of).await?;
    for _ in 0..5 {
        let (jobs, insights) = listed(&*records, of).await?;
        assert_eq!((jobs, insights), (vec![here.job], vec![here.insight]));
    }
    silent.abort();
    assert_eq!(taken.load(Ordering::SeqCst), 1, "it was waited for again");
    drop(records);
    away(&primary).await
}
