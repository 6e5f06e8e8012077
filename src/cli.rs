//! The command line: one command, and every setting as a flag or an environment variable.

use std::ffi::OsStr;
use std::net::SocketAddr;

use atelier_gateway::GatewayConfig;
use atelier_shared::config::StoreConfig;
use atelier_worker::WorkerConfig;
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};

/// A real-time collaboration server: rooms to draw, chat, edit and run code in.
///
/// Without settings the whole system runs alone, on SQLite in ./data. With DATABASE_URL, REDIS_URL and MONGO_URL set,
/// `gateway` and `worker` run as many times as needed.
#[derive(Debug, Parser)]
#[command(version, next_line_help = true)]
pub struct Cli {
    #[arg(value_enum, default_value_t = Command::All)]
    pub command: Command,
    /// For `admin`: `grant NAME`, `revoke NAME`, or `callback-secret`
    pub arguments: Vec<String>,
    #[command(flatten)]
    pub process: ProcessConfig,
    #[command(flatten)]
    pub stores: StoreConfig,
    #[command(flatten)]
    pub gateway: GatewayConfig,
    #[command(flatten)]
    pub worker: WorkerConfig,
}

impl Cli {
    /// From the command line and the environment; whoever writes what can't be read is told, and the process ends.
    pub fn read() -> Self {
        let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let matches = without(Self::command(), is_empty).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// The command without the environment variables that are set to nothing: so compose files and `.env` spell "not set".
fn without(command: clap::Command, is_empty: impl Fn(&OsStr) -> bool) -> clap::Command {
    command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(None::<&'static str>),
        _ => arg,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Command {
    /// Gateway and worker in one process
    All,
    /// HTTP and WebSockets only; needs distributed mode
    Gateway,
    /// Jobs only; needs distributed mode
    Worker,
    /// Bring the databases to this version's schema, and end
    Migrate,
    /// Print the OpenAPI document, and end
    Openapi,
    /// Make an account an administrator (`admin grant NAME`), or not any more (`admin revoke NAME`); print the secret that
    /// signs callbacks (`admin callback-secret`)
    Admin,
    /// The sandbox's helper; started by the worker itself
    SandboxInit,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessConfig {
    /// Address and port to listen on; a worker serves /livez, /readyz and /metrics there
    #[arg(long, env = "ATELIER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// What is logged: a level, or directives such as `info,atelier_gateway=debug`
    #[arg(long, env = "ATELIER_LOG", default_value = "info,sqlx=warn,fred=error")]
    pub log: String,
    /// How log lines are written, on standard error
    #[arg(long, env = "ATELIER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Where traces go (OTLP over gRPC), for instance http://127.0.0.1:4317; none where absent
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// The name under which traces are told apart
    #[arg(long, env = "OTEL_SERVICE_NAME", default_value = "atelier")]
    pub service_name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_or_a_malformed_value_is_named() {
        let message = |args: &[&str]| Cli::try_parse_from(args).unwrap_err().to_string();
        assert!(message(&["atelier", "--nope"]).contains("--nope"));
        assert!(message(&["atelier", "--listen", "x"]).contains("--listen"));
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        let command = without(Cli::command(), |name| name == "TRUSTED_PROXIES");
        let reads = |id: &str| {
            let mut args = command.get_arguments();
            args.find(|arg| arg.get_id() == id).unwrap().get_env()
        };
        assert_eq!(reads("trusted_proxies"), None);
        assert_eq!(reads("listen"), Some(OsStr::new("ATELIER_LISTEN")));
    }
}
