//! Runs one async function per promise on each mode.

pub mod redis_server;

use std::future::Future;
use std::sync::LazyLock;

use atelier_shared::Mode;
use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;

pub use crate::stores::*;

/// At the end of the run.
pub fn remove_stores() {
    RUNTIME.block_on(crate::stores::remove_all());
}

/// One runtime for all tests: store drivers keep tasks on the runtime that opened them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a tokio runtime"));

pub type Outcome = Result<(), Failed>;

/// `port::promise [mode]` for each mode.
pub fn both<F, R>(trials: &mut Vec<Trial>, port: &str, promise: &str, test: F)
where
    F: Fn(Mode) -> R + Copy + Send + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    only(trials, Mode::Embedded, port, promise, test);
    only(trials, Mode::Distributed, port, promise, test);
}

/// `port::promise [mode]` for one mode: what only its technology can break.
pub fn only<F, R>(trials: &mut Vec<Trial>, mode: Mode, port: &str, promise: &str, test: F)
where
    F: Fn(Mode) -> R + Copy + Send + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    let word = match mode {
        Mode::Embedded => "embedded",
        Mode::Distributed => "distributed",
    };
    let name = format!("{port}::{promise} [{word}]");
    let available = mode == Mode::Embedded || services_are_configured() || services_are_required();
    let trial = Trial::test(name, move || {
        if mode == Mode::Distributed && !services_are_configured() {
            return Err("DATABASE_URL, REDIS_URL and MONGO_URL are not set".into());
        }
        RUNTIME.block_on(async move {
            // On a task of its own, so that a panic becomes a message and the runtime lives on.
            tokio::spawn(test(mode))
                .await
                .map_err(|e| Failed::from(e.to_string()))?
        })
    });
    trials.push(trial.with_ignored_flag(!available));
}

tokio::task_local! {
    /// Where the files of the test under way lie, if in a bucket.
    pub static BUCKET: String;
}

/// `port::promise [s3]`: on a bucket of the server that TEST_S3_URL and AWS_ENDPOINT name (`scripts/with-s3`).
pub fn on_s3<F, R>(trials: &mut Vec<Trial>, port: &str, promise: &str, test: F)
where
    F: Fn(Mode) -> R + Copy + Send + 'static,
    R: Future<Output = Outcome> + Send + 'static,
{
    let bucket = std::env::var("TEST_S3_URL").ok();
    let available = bucket.is_some() || std::env::var_os("ATELIER_REQUIRE_S3").is_some();
    let trial = Trial::test(format!("{port}::{promise} [s3]"), move || {
        let bucket = bucket.ok_or("TEST_S3_URL is not set")?;
        // Whoever is first; a second one changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        RUNTIME.block_on(async move {
            // A folder of its own for each test.
            let bucket = format!("{bucket}/{}", uuid::Uuid::now_v7());
            tokio::spawn(BUCKET.scope(bucket, test(Mode::Embedded)))
                .await
                .map_err(|e| Failed::from(e.to_string()))?
        })
    });
    trials.push(trial.with_ignored_flag(!available));
}

fn services_are_configured() -> bool {
    ["DATABASE_URL", "REDIS_URL", "MONGO_URL"]
        .iter()
        .all(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn services_are_required() -> bool {
    ["CI", "ATELIER_REQUIRE_SERVICES"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}
