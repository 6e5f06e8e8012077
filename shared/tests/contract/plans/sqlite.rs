//! SQLite's plans. They do not depend on what the tables hold (nobody runs ANALYZE), so they may be empty.

use atelier_shared::Mode;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, Row};
use tracing::Instrument;

use super::records::{Cast, ask};
use super::seen::Watch;
use crate::fixture::{self, Outcome};

/// Lists that ask for some of what one may see, by parts of their statements, and the indexes that serve them.
const SERVED: [(&[&str], &[&str]); 6] = [
    (
        &["FROM rooms WHERE (created_at, id) < ($1, $2) AND kind"],
        &["rooms_by_kind"],
    ),
    (
        &["SELECT * FROM rooms WHERE listed AND (created_at, id) < ($1, $2) AND kind"],
        &["rooms_listed_by_kind"],
    ),
    (
        &["AND room_kind = $4"],
        &[
            "rooms_listed_by_kind",
            "room_members_by_kind",
            "rooms_by_project_and_kind",
        ],
    ),
    (&["FROM jobs WHERE owner", "AND state"], &["jobs_by_"]),
    (&["FROM jobs WHERE owner", "AND room_id"], &["jobs_by_"]),
    (&["FROM jobs WHERE owner", "AND project_id"], &["jobs_by_"]),
];

/// The statements whose plans do not have the index that is meant for them.
async fn not_served(db: &SqlitePool, statements: &[String]) -> Vec<String> {
    let mut bad = Vec::new();
    for (parts, indexes) in SERVED {
        let about = |text: &&String| parts.iter().all(|part| text.contains(part));
        let mut seen = 0;
        for statement in statements.iter().filter(about) {
            seen += 1;
            let steps = plan(db, statement).await.join("; ");
            let missing = indexes.iter().any(|index| !steps.contains(*index));
            // Those that would read all there is to find some.
            let wide = ["jobs_by_owner", "sqlite_autoindex_jobs", " rooms_by_kind"];
            let wide = wide
                .iter()
                .any(|index| steps.contains(*index) && !indexes.contains(&index.trim()));
            if missing || wide {
                bad.push(format!("{indexes:?}: {statement}: {steps}"));
            }
            if steps.contains("TEMP B-TREE") && !steps.contains("mine") {
                bad.push(format!("sorts: {statement}: {steps}"));
            }
        }
        assert!(seen > 0, "nobody asked {parts:?}");
    }
    bad
}

async fn plan(db: &SqlitePool, statement: &str) -> Vec<String> {
    let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    let plan = sqlx::raw_sql(explain).fetch_all(db).await;
    plan.unwrap_or_else(|error| panic!("{statement}: {error}"))
        .iter()
        .map(|row| row.get::<String, _>("detail"))
        .collect()
}

/// The plans of these statements that walk a table or an index from end to end.
async fn walks(db: &SqlitePool, statements: &[String]) -> Vec<String> {
    let mut bad = Vec::new();
    for statement in statements {
        let first = statement.split_whitespace().next().unwrap_or_default();
        if !["SELECT", "UPDATE", "DELETE", "WITH", "INSERT"].contains(&first) {
            continue;
        }
        let plan = plan(db, statement).await;
        let walked = plan.iter().filter(|step| {
            let Some(rest) = step.strip_prefix("SCAN ") else {
                return false;
            };
            let what = rest.split_whitespace().next().unwrap_or_default();
            // What the statement itself has made (a subquery, by its name), or no table at all.
            let made = ["CO-ROUTINE", "MATERIALIZE"]
                .iter()
                .any(|how| plan.contains(&format!("{how} {what}")));
            let own = made
                || what == "CONSTANT"
                || what.starts_with('(')
                || rest.contains("VIRTUAL TABLE");
            // In the order of an index, up to a limit, is how the end of a list is read.
            let bounded = rest.contains("USING") && statement.contains("LIMIT");
            !own && !bounded
        });
        bad.extend(walked.map(|step| format!("{step}: {statement}")));
    }
    bad
}

async fn open(config: &atelier_shared::config::StoreConfig, file: &str) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(config.data_dir.join(file))
        .read_only(true);
    SqlitePool::connect_with(options).await.expect("the file")
}

pub async fn records(mode: Mode) -> Outcome {
    let config = fixture::config(mode).await;
    let backends = fixture::open(config.clone()).await;
    let cast = Cast::made(&*backends.records).await?;
    let watch = Watch::begin();
    ask(&*backends.records, &cast)
        .instrument(watch.span.clone())
        .await?;
    let statements = watch.take();
    assert!(statements.len() > 100, "seen: {}", statements.len());
    let db = open(&config, "records.db").await;
    let walks = walks(&db, &statements).await;
    assert!(walks.is_empty(), "{}", walks.join("\n"));
    let bad = not_served(&db, &statements).await;
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    Ok(())
}

pub async fn archive(mode: Mode) -> Outcome {
    let config = fixture::config(mode).await;
    let backends = fixture::open(config.clone()).await;
    let watch = Watch::begin();
    crate::archive::plans::ask(&*backends.archive)
        .instrument(watch.span.clone())
        .await?;
    let statements = watch.take();
    assert!(statements.len() > 20, "seen: {}", statements.len());
    let walks = walks(&open(&config, "archive.db").await, &statements).await;
    assert!(walks.is_empty(), "{}", walks.join("\n"));
    Ok(())
}
