//! What every test needs: a sandbox of its own, a runtime, and short ways to run code.

use std::future::Future;
use std::time::Duration;

use atelier_worker::sandbox::{
    NsConfig, NsSandbox, Outcome, OutputSink, Policy, Program, Sandbox as _, SandboxError,
    StepOutcome, TierLevel,
};
use libtest_mimic::{Failed, Trial};
use tokio_util::sync::CancellationToken;

/// No test takes longer, unless the sandbox hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A test that is an async function.
pub fn test<F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = Result<(), Failed>>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(async { tokio::time::timeout(DEADLINE, body()).await? })
    })
}

/// Any tier will do: what a test needs it asserts itself.
pub const ANY: Policy = Policy {
    minimum: TierLevel::Reduced,
};

pub async fn start() -> Result<NsSandbox, SandboxError> {
    NsSandbox::start(
        NsConfig {
            slots: 2,
            warm: 1,
            ..NsConfig::default()
        },
        ANY,
    )
    .await
}

pub async fn run(sandbox: &NsSandbox, program: Program) -> Result<Outcome, SandboxError> {
    sandbox
        .run(program, OutputSink::none(), CancellationToken::new())
        .await
}

/// The run step of a shell script.
pub async fn shell(sandbox: &NsSandbox, script: &str) -> Result<StepOutcome, Failed> {
    let outcome = run(sandbox, Program::command(["/bin/sh", "-c", script])).await?;
    Ok(outcome.run.ok_or("the run step is missing")?)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
