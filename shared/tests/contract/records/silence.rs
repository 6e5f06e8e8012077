//! A Postgres that falls silent, and one that may not be written to any more.

use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::config::StoreConfig;
use atelier_shared::ports::CreateUserError;
use libtest_mimic::{Failed, Trial};
use sqlx::migrate::MigrateDatabase;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres};
use url::Url;

use super::replica::database;
use super::{account, unique};
use crate::fixture::redis_server::Proxy;
use crate::fixture::{self, Outcome, only};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn trials(trials: &mut Vec<Trial>) {
    only(
        trials,
        Mode::Distributed,
        "records",
        "a_call_that_was_taken_and_is_never_answered_ends",
        silent,
    );
    only(
        trials,
        Mode::Distributed,
        "records",
        "a_server_that_may_only_be_read_is_left_for_one_that_takes_writes",
        read_only,
    );
}

/// The machine vanishes while it works at something: nothing is refused, nothing is closed.
async fn silent(_: Mode) -> Outcome {
    let mut config = database("silent").await?;
    let mut url: Url = config.database_url.as_deref().unwrap_or_default().parse()?;
    let own = url.clone();
    let mut by_hand = PgConnection::connect(url.as_str()).await?;
    let host = url.host_str().unwrap_or_default();
    let proxy = Proxy::to_address(&format!("{host}:{}", url.port().unwrap_or(5432))).await;
    url.set_port(Some(proxy.port)).map_err(|()| "a port")?;
    config.database_url = Some(url.to_string());
    let records = fixture::open(config).await.records;
    // Connections that lie ready.
    let names: Vec<String> = (0..4).map(|n| unique(&format!("ready{n}"))).collect();
    let mut made = tokio::task::JoinSet::new();
    for name in names {
        let (records, user) = (records.clone(), account(&name));
        made.spawn(async move { records.create_user(&user).await });
    }
    for one in made.join_all().await {
        one.map_err(failed)?;
    }

    let mut lock = by_hand.begin().await?;
    sqlx::query("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await?;
    let wait = || {
        let (records, user) = (records.clone(), account(&unique("waits")));
        tokio::spawn(async move { records.create_user(&user).await })
    };
    let mut waiting = wait();
    loop {
        let (waits,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%users%'",
        )
        .fetch_one(&mut *lock)
        .await?;
        if waits > 0 {
            break;
        }
        if waiting.is_finished() {
            // A busy machine: it had no connection in time.
            waiting = wait();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.silence();
    let ended = tokio::time::timeout(PATIENCE, waiting).await;
    let ended = ended.map_err(|_| "a call waits for ever")??;
    let Err(CreateUserError::Port(error)) = ended else {
        panic!("{ended:?}");
    };
    assert!(error.is_retryable(), "{error}");
    lock.rollback().await?;
    // None of the connections from before stands in the way.
    let answered = tokio::time::timeout(PATIENCE, async {
        while records.ping().await.is_err() {}
        for _ in 0..4 {
            records.create_user(&account(&unique("after"))).await?;
        }
        Ok::<_, CreateUserError>(())
    });
    answered
        .await
        .map_err(|_| "it is never well again")?
        .map_err(failed)?;
    drop((records, by_hand));
    Postgres::force_drop_database(own.as_str()).await?;
    Ok(())
}

fn failed(error: CreateUserError) -> Failed {
    format!("{error:?}").into()
}

async fn read_only(_: Mode) -> Outcome {
    let config = database("demoted").await?;
    let url = config.database_url.clone().unwrap_or_default();
    let outcome = demoted(config).await;
    Postgres::force_drop_database(&url).await?;
    outcome
}

async fn set(by_hand: &mut PgConnection, name: &str, how: &str) -> sqlx::Result<()> {
    let command = format!("ALTER DATABASE {name} SET default_transaction_read_only = {how}");
    let command = sqlx::query(AssertSqlSafe(command)).persistent(false);
    command.execute(by_hand).await.map(drop)
}

async fn demoted(config: StoreConfig) -> Outcome {
    let url: Url = config.database_url.as_deref().unwrap_or_default().parse()?;
    let name = url.path().trim_start_matches('/');
    let mut by_hand = PgConnection::connect(url.as_str()).await?;
    set(&mut by_hand, name, "on").await?;
    let records = fixture::open(config).await.records;
    match records.create_user(&account(&unique("early"))).await {
        Err(CreateUserError::Port(error)) => assert!(error.is_retryable(), "{error}"),
        other => panic!("{other:?}"),
    }
    // It takes writes again, for those who come: sessions keep what they began with.
    set(&mut by_hand, name, "off").await?;
    let answered = tokio::time::timeout(PATIENCE, async {
        while records
            .create_user(&account(&unique("late")))
            .await
            .is_err()
        {}
    });
    answered.await.map_err(|_| "nothing is written any more")?;
    Ok(())
}
