//! What a job costs on its way: no-op jobs through Redis beside BullMQ, and the time from submitting code to its result
//! beyond the program's own.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};

use crate::Settings;
use crate::noop::{CONCURRENCY, TOGETHER};
use crate::peers;
use crate::redis;
use crate::report::{Section, median};
use crate::server;

/// Jobs of one repetition.
const JOBS: usize = 10_000;
/// Programs run in one repetition.
const PROGRAMS: usize = 20;

pub fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    sections.extend(queue(settings)?);
    sections.push(latency(settings)?);
    Ok(sections)
}

fn queue(settings: &Settings) -> Result<Option<Section>> {
    let Some(stores) = server::stores()? else {
        crate::say("jobs through Redis are left out: REDIS_URL is not set");
        return Ok(None);
    };
    if !peers::installed("bullmq") {
        return Ok(None);
    }
    server::migrate(&stores)?;
    let redis_url = std::env::var("REDIS_URL")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/bench/bullmq/noop.mjs");
    let mut section = Section::new(
        "no-op jobs through Redis",
        "CPU us each",
        &["BullMQ", "atelier"],
    );
    for _ in 0..settings.repetitions {
        let mut bullmq = Command::new("node");
        bullmq
            .arg(script)
            .args([&peers::modules().display().to_string(), &redis_url])
            .args([JOBS, CONCURRENCY, TOGETHER].map(|number| number.to_string()));
        let mut ours = Command::new(std::env::current_exe()?);
        ours.args(["noop-jobs", &JOBS.to_string()]);
        for (row, command) in section.rows.iter_mut().zip([bullmq, ours]) {
            let redis_before = redis::cpu_us(&redis_url)?;
            let (cpu_us, seconds) = figures(command)?;
            let redis_us = redis::cpu_us(&redis_url)? - redis_before;
            let jobs = JOBS as f64;
            let also = [
                ("jobs/s", jobs / seconds),
                ("Redis's own us", redis_us / jobs),
            ];
            row.push(cpu_us / jobs, &also);
        }
    }
    Ok(Some(section))
}

fn figures(mut command: Command) -> Result<(f64, f64)> {
    let done = command.output()?;
    let said = String::from_utf8_lossy(&done.stdout);
    let failed = || {
        let why = String::from_utf8_lossy(&done.stderr);
        format!(
            "{}: {}\n{why}",
            done.status,
            Path::new(command.get_program()).display()
        )
    };
    ensure!(done.status.success(), failed());
    let figures: Value = serde_json::from_str(said.trim()).with_context(failed)?;
    let number = |name: &str| figures[name].as_f64().with_context(failed);
    Ok((number("cpu_us")?, number("seconds")?))
}

/// Submitted by POST, watched to its end.
fn latency(settings: &Settings) -> Result<Section> {
    let server = server::embedded()?;
    let base = format!("http://{}", server.address);
    let names = ["GET /livez", "from POST to the result"];
    let mut section = Section::new("a job beyond its program's own time", "ms", &names);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The client asks for one even where it speaks without TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async {
        let client = Client::new();
        let guest = client.post(format!("{base}/api/v1/auth/guest"));
        let guest: Value = guest
            .json(&json!({"name": "bench"}))
            .send()
            .await?
            .json()
            .await?;
        let token = guest["access_token"].as_str().context("a token")?;
        job(&client, &base, token).await?;
        for _ in 0..settings.repetitions {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..PROGRAMS {
                let began = Instant::now();
                let alive = client.get(format!("{base}/livez")).send().await?;
                alive.error_for_status()?.bytes().await?;
                times[0].push(began.elapsed().as_secs_f64() * 1e3);
                times[1].push(job(&client, &base, token).await?);
            }
            for (row, times) in section.rows.iter_mut().zip(&times) {
                row.push(median(times), &[]);
            }
        }
        anyhow::Ok(())
    })?;
    Ok(section)
}

/// Milliseconds that were not the program's.
async fn job(client: &Client, base: &str, token: &str) -> Result<f64> {
    let began = Instant::now();
    let body = json!({"language": "bash", "source": "true"});
    let job = client
        .post(format!("{base}/api/v1/jobs"))
        .bearer_auth(token);
    let job: Value = job.json(&body).send().await?.json().await?;
    let id = job["id"].as_str().with_context(|| job.to_string())?;
    let output = client.get(format!("{base}/api/v1/jobs/{id}/output"));
    let events = output.bearer_auth(token).send().await?.error_for_status()?;
    let events = events.text().await?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    let end = events
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("data: "));
    let end: Value = serde_json::from_str(end.context("an end")?)?;
    ensure!(end["status"] == "succeeded", "{end}");
    let own = end["result"]["usage"]["wall_ms"].as_f64();
    Ok(took - own.context("wall_ms")?)
}
