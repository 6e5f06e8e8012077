//! How long a program takes in a box, beside the same program started without one.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use atelier_worker::sandbox::{
    NsConfig, NsSandbox, OutputSink, Policy, Program, Sandbox as _, TierLevel,
};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::report::{Section, median};

/// Runs of each program, spread over the repetitions.
const RUNS: usize = 200;
const PROGRAMS: [&[&str]; 2] = [&["/bin/true"], &["/usr/bin/python3", "-c", "pass"]];

pub fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // Whatever walls this machine gives: the row says which.
    let anything = Policy {
        minimum: TierLevel::Reduced,
    };
    let sandbox = runtime.block_on(NsSandbox::start(NsConfig::default(), anything))?;
    let boxed = format!("atelier's sandbox ({:?} tier)", sandbox.tier().level);
    let runs = RUNS.div_ceil(settings.repetitions);
    let mut sections = Vec::new();
    for argv in PROGRAMS {
        if !std::path::Path::new(argv[0]).exists() {
            crate::say(&format!("{} is not installed: left out", argv[0]));
            continue;
        }
        let title = format!("start and end of {}", argv.join(" "));
        let mut section = Section::new(title, "us", &["bare spawn", &boxed]);
        bare(argv)?;
        runtime.block_on(sandboxed(&sandbox, argv))?;
        for _ in 0..settings.repetitions {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..runs {
                times[0].push(bare(argv)?);
                times[1].push(runtime.block_on(sandboxed(&sandbox, argv))?);
            }
            for (row, times) in section.rows.iter_mut().zip(&times) {
                row.push(median(times), &[]);
            }
        }
        sections.push(section);
    }
    runtime.block_on(sandbox.shutdown());
    Ok(sections)
}

/// Microseconds.
fn bare(argv: &[&str]) -> Result<f64> {
    let began = Instant::now();
    let done = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .output()?;
    let took = began.elapsed();
    ensure!(done.status.success(), "{argv:?} failed: {}", done.status);
    Ok(took.as_secs_f64() * 1e6)
}

/// Microseconds.
async fn sandboxed(sandbox: &NsSandbox, argv: &[&str]) -> Result<f64> {
    let program = Program::command(argv.iter().copied());
    let began = Instant::now();
    let outcome = sandbox
        .run(program, OutputSink::none(), CancellationToken::new())
        .await?;
    let took = began.elapsed();
    let exit_code = outcome.run.as_ref().and_then(|step| step.exit_code);
    ensure!(exit_code == Some(0), "{argv:?} in a box: {outcome:?}");
    Ok(took.as_secs_f64() * 1e6)
}
