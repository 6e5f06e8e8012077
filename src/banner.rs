//! What the start prints: where to look, the administrator's token, what code can be run and how safely.

use std::fmt::Write;
use std::net::SocketAddr;

use atelier_shared::Mode;
use atelier_worker::Worker;

use crate::cli::Cli;

pub fn all(address: SocketAddr, mode: Mode, cli: &Cli, worker: &Worker) -> String {
    gateway(address, mode, cli) + &code(worker)
}

pub fn gateway(address: SocketAddr, mode: Mode, cli: &Cli) -> String {
    let mut text = format!(
        "Atelier {} listens on http://{address}/\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    line("API docs", &format!("http://{address}/docs"));
    match mode {
        Mode::Embedded => {
            let folder = cli.stores.data_dir.display();
            line("mode", &format!("embedded, everything in {folder}"));
            match cli.gateway.admin_token.as_deref() {
                Some(token) if cli.gateway.admin_token_is_ours => {
                    line("admin token", &format!("{token} (kept in {folder})"));
                }
                // Whoever set it knows it, and this may be kept where others read.
                _ => line("admin token", "as ATELIER_ADMIN_TOKEN has it"),
            }
        }
        Mode::Distributed => line("mode", "distributed (Postgres, Redis, MongoDB)"),
    }
    text
}

pub fn worker(address: SocketAddr, worker: &Worker) -> String {
    let health = format!(
        "Atelier worker {} answers on http://{address}/readyz\n",
        env!("CARGO_PKG_VERSION")
    );
    health + &code(worker)
}

fn code(worker: &Worker) -> String {
    let languages: Vec<String> = worker
        .info()
        .languages
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let found = if languages.is_empty() {
        "none found".to_owned()
    } else {
        languages.join(", ")
    };
    format!(
        "  {:<12} {}\n  {:<12} {}\n",
        "languages",
        found,
        "sandbox",
        worker.info().sandbox_tier
    )
}
