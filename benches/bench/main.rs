//! `make bench`: what Atelier costs beside programs that do only the unavoidable, in ratios within one run.
//!
//! One program in several roles: it starts itself as the bare relay and as the launcher that puts a server on its core.

mod bare_epoll;
mod bare_state;
mod frame;
mod histogram;
mod http;
mod load;
mod noop;
mod peers;
mod process;
mod redis;
mod report;
mod rows;
mod server;
mod yjs;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use bare_epoll::Writes;
use report::Section;

#[derive(Debug, Parser)]
#[command(
    name = "bench",
    about = "Atelier beside its bare counterparts, in one run"
)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What is measured, and for how long.
#[derive(Debug, clap::Args)]
struct Settings {
    /// What to measure, comma-separated
    #[arg(long, env = "BENCH_ROWS", value_enum, value_delimiter = ',', default_values_t = Measure::ALL)]
    rows: Vec<Measure>,
    /// How often each is measured; contestants take turns
    #[arg(long, env = "BENCH_REPETITIONS", default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100))]
    repetitions: usize,
    /// Seconds of one paced run; the other rows take parts of it
    #[arg(long, env = "BENCH_SECONDS", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Where the report goes, as JSON
    #[arg(long, env = "BENCH_REPORT")]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Fan-out at 10 messages a second in each room
    Paced,
    /// Fan-out with four messages always under way in each room
    Burst,
    /// Memory of idle connections
    Idle,
    /// Latency between two gateways; needs the stores of distributed mode
    Pods,
    /// Start of a program in the sandbox
    Sandbox,
    /// Jobs: through Redis beside BullMQ, and from submitting to the result
    Jobs,
    /// Fan-out and latency between two servers, beside stock servers from npm
    Peers,
    /// Many people join a room with a large document at once
    Storm,
    /// Memory for each connection, room and document, beside stock servers from npm
    Memory,
    /// Logins beside bare password hashes
    Logins,
    /// A profile that was read before
    Profile,
    /// A page of ten thousand rooms
    Listing,
    /// Uploads beside `cp`
    Upload,
}

impl Measure {
    const ALL: [Self; 13] = [
        Self::Paced,
        Self::Burst,
        Self::Idle,
        Self::Pods,
        Self::Sandbox,
        Self::Jobs,
        Self::Peers,
        Self::Storm,
        Self::Memory,
        Self::Logins,
        Self::Profile,
        Self::Listing,
        Self::Upload,
    ];
}

/// How something is measured.
type Way = fn(&Settings) -> Result<Vec<Section>>;

/// What has a file of its own; paced and burst share their servers.
const WAYS: [(Measure, &str, Way); 11] = [
    (Measure::Idle, "idle connections", |settings| {
        Ok(vec![rows::idle::measure(settings)?])
    }),
    (Measure::Pods, "between two gateways", rows::pods::measure),
    (Measure::Sandbox, "sandbox", rows::sandbox::measure),
    (Measure::Jobs, "jobs", rows::jobs::measure),
    (Measure::Peers, "other servers", rows::peers::measure),
    (Measure::Storm, "join storm", rows::storm::measure),
    (Measure::Memory, "memory", rows::memory::measure),
    (Measure::Logins, "logins", rows::rest::logins),
    (Measure::Profile, "profile", rows::rest::profile),
    (Measure::Listing, "list of rooms", rows::rest::listing),
    (Measure::Upload, "uploads", rows::upload::measure),
];

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
enum Role {
    /// The bare relay
    #[command(hide = true)]
    BareEpoll { writes: Writes },
    /// Gives everybody the same bytes
    #[command(hide = true)]
    BareState { bytes: usize },
    /// No-op jobs through our queue
    #[command(hide = true)]
    NoopJobs { jobs: usize },
    /// Becomes a command, on one core
    #[command(hide = true)]
    OnCore {
        core: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

impl Settings {
    fn paced(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn burst(&self) -> Duration {
        Duration::from_secs_f64(self.seconds / 2.0)
    }

    fn pods(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn wants(&self, measure: Measure) -> bool {
        self.rows.contains(&measure)
    }
}

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("sandbox-init") {
        atelier_worker::sandbox::init::main();
    }
    let cli = Cli::parse();
    match cli.role {
        Some(Role::BareEpoll { writes }) => return Ok(bare_epoll::run(writes)?),
        Some(Role::BareState { bytes }) => return Ok(bare_state::run(bytes)?),
        Some(Role::NoopJobs { jobs }) => return noop::run(jobs),
        Some(Role::OnCore { core, command }) => {
            let mut target = Command::new(&command[0]);
            target.args(&command[1..]);
            return Err(process::become_command(&core, target).into());
        }
        None if !cli.bench => {
            // `cargo test --all-targets` comes by here: it wants to know that this builds, not how fast the machine is.
            say("nothing is measured without --bench; use `make bench`");
            return Ok(());
        }
        None => {}
    }
    measure(&cli.settings)
}

fn measure(settings: &Settings) -> Result<()> {
    if cfg!(debug_assertions) {
        say("this is no optimised build: the figures mean little");
    }
    if !process::has_two_cores() {
        say("there is one core only: servers and load generator take time from each other");
    }
    let open_files = process::raise_open_files()?;
    if open_files < 9_000 {
        bail!("9,000 open files are needed, the limit is {open_files} (ulimit -Hn)");
    }
    let began = Instant::now();
    let (mut sections, mut failed) = (Vec::new(), Vec::new());
    let (paced, burst) = (
        settings.wants(Measure::Paced),
        settings.wants(Measure::Burst),
    );
    if paced || burst {
        say("fan-out ...");
        sections.extend(rows::fanout::measure(settings, paced, burst)?);
    }
    for (measure, name, way) in WAYS {
        if settings.wants(measure) {
            let since = Instant::now();
            say(&format!("{name} ..."));
            match way(settings) {
                Ok(measured) => sections.extend(measured),
                Err(error) => {
                    say(&format!("{name}: {error:#}"));
                    failed.push(name);
                }
            }
            say(&format!("{name}: {:.0} s", since.elapsed().as_secs_f64()));
        }
    }
    let machine = report::machine();
    report::print(&machine, &sections)?;
    let file = settings.report.clone().unwrap_or_else(default_report);
    let used = json!({ "repetitions": settings.repetitions, "seconds": settings.seconds });
    report::save(&file, &machine, &used, &sections)?;
    say(&format!(
        "{:.0} s; {}",
        began.elapsed().as_secs_f64(),
        file.display()
    ));
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

/// `bench/report.json` in the folder that Cargo builds into.
fn default_report() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    target.join("bench/report.json")
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be 0.1 to 600 seconds".into()),
    }
}

/// A word on how it goes, beside the table.
fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}
