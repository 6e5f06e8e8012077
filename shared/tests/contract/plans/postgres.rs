//! Postgres's plans, of tables with as many rows as make a walk costly, as auto_explain tells them to the client.

use atelier_shared::{Backends, Mode};
use sqlx::migrate::MigrateDatabase;
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Postgres};
use tracing::Instrument;

use super::records::{Cast, ask};
use super::seen::Watch;
use crate::fixture::{self, Outcome};

/// Rows of strangers in each table.
const FILL: &str = include_str!("fill.sql");

pub async fn records(mode: Mode) -> Outcome {
    let mut config = fixture::config(mode).await;
    let name = format!("plans_{}", uuid::Uuid::now_v7().simple());
    let mut url: url::Url = config.database_url.as_deref().unwrap_or_default().parse()?;
    url.set_path(&name);
    Postgres::create_database(url.as_str()).await?;
    config.database_url = Some(url.to_string());
    Backends::migrate(&config).await.expect("the schema");
    let filled = PgPool::connect(url.as_str()).await?;
    sqlx::raw_sql(FILL).execute(&filled).await?;
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        // A pool's first statements may come before the library's own settings.
        "client_min_messages = 'log'",
    ] {
        let statement = format!("ALTER DATABASE {name} SET {setting}");
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&filled)
            .await?;
    }
    filled.close().await;

    let backends = fixture::open(config.clone()).await;
    let cast = Cast::made(&*backends.records).await?;
    let watch = Watch::begin();
    ask(&*backends.records, &cast)
        .instrument(watch.span.clone())
        .await?;
    let seen = watch.take();
    drop(backends);
    Postgres::force_drop_database(url.as_str()).await?;
    let plans: Vec<&String> = seen
        .iter()
        .filter(|text| text.contains("Query Text:"))
        .collect();
    assert!(plans.len() > 80, "plans seen: {}", plans.len());
    let walks: Vec<&str> = plans
        .iter()
        .filter(|plan| plan.contains("Seq Scan on"))
        .map(|plan| plan.as_str())
        .collect();
    assert!(walks.is_empty(), "{}", walks.join("\n\n"));
    Ok(())
}
