//! The one binary: configuration, then the stores, then the parts that the command names.

mod admin;
mod banner;
mod cli;
mod memory;
mod run;
mod telemetry;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The sandbox's helper must stay single-threaded: nothing may be started before it.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == "sandbox-init")
    {
        atelier_worker::sandbox::init::main()
    }
    memory::give_back_early();
    let cli = cli::Cli::read();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("atelier: a TLS provider was installed already");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("atelier: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("atelier: {error:#}");
            ExitCode::FAILURE
        }
    }
}
