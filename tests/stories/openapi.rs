//! The OpenAPI document is true: schemathesis asks every operation with what the document allows and with what it does not,
//! and holds each answer against it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{ADMIN_TOKEN, Cluster, Options, PYTHON, Stories, Story, Told, packages};

/// Both phases ask a fixed number of requests; a machine that needs so long for them hangs.
const PATIENCE: Duration = Duration::from_secs(1_500);
/// Lines of the report that a failure shows.
const SHOWN: usize = 120;

pub fn stories(all: &mut Stories) {
    all.both_with(PYTHON, every_answer_is_as_the_document_says);
}

/// Embedded: every boundary of every parameter, as the administrator, who comes everywhere. Distributed: examples and chance,
/// as an account, whom much is refused.
async fn every_answer_is_as_the_document_says(story: Story) -> Told {
    let cluster = story.cluster(Options::default()).await?;
    let (token, phases) = match story.mode() {
        crate::harness::Mode::Embedded => (ADMIN_TOKEN.to_owned(), "coverage"),
        crate::harness::Mode::Distributed => {
            let ana = cluster.rest().register("ana", "correct horse").await?;
            (ana.token, "examples,fuzzing")
        }
    };
    run(&story, &cluster, &token, phases).await
}

async fn run(story: &Story, cluster: &Cluster, token: &str, phases: &str) -> Told {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/schemathesis.toml");
    let asked = Command::new("python3")
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(config)
        .args(["run", &cluster.here().url("/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--phases", phases, "--max-examples", "5"])
        // Who has deleted themselves is refused everything else.
        .args(["--exclude-operation-id", "users_delete_me"])
        .env("PYTHONPATH", packages().join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // It leaves files where it stands.
        .current_dir(story.folder())
        .kill_on_drop(true)
        .output();
    let told = timeout(PATIENCE, asked).await.context("it hangs")??;
    let text = String::from_utf8_lossy(&told.stdout);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[..lines.len().min(SHOWN)].join("\n");
    let errors = String::from_utf8_lossy(&told.stderr);
    ensure!(told.status.success(), "{shown}\n{errors}");
    let cases = lines.iter().find(|line| line.contains(" generated"));
    ensure!(cases.is_some(), "nothing was asked: {text}\n{errors}");
    Ok(())
}
