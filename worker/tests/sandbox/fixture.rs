//! What every test needs: a sandbox, a runtime, and short ways to run code.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use atelier_shared::domain::job::{AskedLimits, JobSpec, SourceFile};
use atelier_worker::sandbox::{
    BoxKind, NsConfig, NsSandbox, Outcome, OutputSink, Policy, Program, ProgramFile, Sandbox as _,
    SandboxError, StepOutcome, TierLevel,
};
use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// No test takes longer, unless the sandbox hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// Any tier will do: what a test needs it asserts itself.
pub const ANY: Policy = Policy {
    minimum: TierLevel::Basic,
};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
});

/// The sandbox of all tests that leave it as they found it.
static SHARED: LazyLock<Arc<NsSandbox>> = LazyLock::new(|| {
    let config = NsConfig {
        slots: 3,
        warm: 2,
        ..config()
    };
    let sandbox = RUNTIME.block_on(NsSandbox::start(config, ANY));
    Arc::new(sandbox.expect("a sandbox on this machine"))
});

/// That of boxes without namespaces, or why this machine gives none.
static LANDLOCK: LazyLock<Result<Arc<NsSandbox>, String>> = LazyLock::new(|| {
    let config = NsConfig {
        kind: BoxKind::Landlock,
        ..config()
    };
    let sandbox = RUNTIME.block_on(NsSandbox::start(config, ANY));
    sandbox.map(Arc::new).map_err(|error| error.to_string())
});

/// The shared sandbox without namespaces. As with [`shared`], first taken by `main`.
pub fn landlock() -> Result<&'static Arc<NsSandbox>, &'static str> {
    LANDLOCK.as_ref().map_err(String::as_str)
}

/// A test that is an async function.
pub fn test<F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = Result<(), Failed>>,
{
    Trial::test(name, move || block_on(body()))
}

/// Runs a test's future, with the deadline of all.
pub fn block_on<T>(body: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, body).await? })
}

/// The shared sandbox. Must be taken before entering the runtime the first time, as `main` does.
pub fn shared() -> &'static NsSandbox {
    &SHARED
}

/// The shared sandbox, to build on.
pub fn shared_handle() -> Arc<NsSandbox> {
    SHARED.clone()
}

/// Ends the shared sandbox.
pub fn close_shared() {
    RUNTIME.block_on(SHARED.shutdown());
    if let Ok(sandbox) = landlock() {
        RUNTIME.block_on(sandbox.shutdown());
    }
}

/// A configuration whose host users no other test uses.
pub fn config() -> NsConfig {
    static NEXT: AtomicU32 = AtomicU32::new(61_000);
    NsConfig {
        slots: 2,
        warm: 1,
        first_host_user: NEXT.fetch_add(16, Ordering::Relaxed),
        ..NsConfig::default()
    }
}

pub async fn run(sandbox: &NsSandbox, program: Program) -> Result<Outcome, SandboxError> {
    sandbox
        .run(program, OutputSink::none(), CancellationToken::new())
        .await
}

/// The run step of a program.
pub async fn step(sandbox: &NsSandbox, program: Program) -> Result<StepOutcome, Failed> {
    Ok(run(sandbox, program)
        .await?
        .run
        .ok_or("the run step is missing")?)
}

/// The run step of a shell script.
pub async fn shell(sandbox: &NsSandbox, script: &str) -> Result<StepOutcome, Failed> {
    step(sandbox, sh(script)).await
}

pub fn sh(script: &str) -> Program {
    Program::command(["/bin/sh", "-c", script])
}

pub const PYTHON: &str = "/usr/bin/python3";

/// A Python program.
pub fn python(source: &str) -> Program {
    let mut program = Program::command([PYTHON, "-B", "main.py"]);
    program.files.push(ProgramFile {
        path: "main.py".into(),
        content: source.to_owned().into(),
        executable: false,
    });
    program
}

/// A job of one source.
pub fn job(language: &str, entry: &str, source: &str) -> JobSpec {
    JobSpec {
        language: language.into(),
        version: None,
        files: vec![SourceFile {
            path: entry.into(),
            content: source.into(),
            encoding: None,
        }],
        entrypoint: None,
        stdin: String::new(),
        args: Vec::new(),
        env: BTreeMap::new(),
        limits: AskedLimits::default(),
        callback_url: None,
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
/// A sandbox of the test's own.
pub async fn start() -> Result<NsSandbox, SandboxError> {
    NsSandbox::start(config(), ANY).await
}

/// Waits for a condition of the world outside.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Failed> {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        if Instant::now() > until {
            return Err(format!("{what}: not within 20 s").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
