//! What ordinary programs see.

use atelier_worker::sandbox::Verdict;
use libtest_mimic::{Failed, Trial};

use crate::fixture::{shell, start, test, text};

pub fn tests() -> Vec<Trial> {
    vec![test(
        "a_program_runs_and_its_output_and_exit_code_come_back",
        output_and_exit_code,
    )]
}

async fn output_and_exit_code() -> Result<(), Failed> {
    let sandbox = start().await?;
    let step = shell(&sandbox, "echo out; echo err >&2; exit 7").await?;
    assert_eq!(step.verdict, Verdict::Exited);
    assert_eq!(
        (
            step.exit_code,
            text(&step.stdout).as_str(),
            text(&step.stderr).as_str()
        ),
        (Some(7), "out\n", "err\n")
    );
    sandbox.shutdown().await;
    Ok(())
}
