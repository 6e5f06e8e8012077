//! Every setting of the worker: a flag and an environment variable, with its default, its unit and its bounds.

use std::time::Duration;

use atelier_shared::domain::job::{QUEUE_ARCHIVE, QUEUE_CODE};
use clap::Args;

use crate::bridge::LaneConfig;
use crate::sandbox::{Limits, Policy, TierLevel};

const MIB: u64 = 1024 * 1024;

/// Which queues to serve, how much at a time, and how code is run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerConfig {
    /// Queues to take jobs from; several separated by commas. Route code to pods of its own with this
    #[arg(long = "queues", env = "WORKER_QUEUES", value_delimiter = ',',
        default_values = [QUEUE_CODE, QUEUE_ARCHIVE], value_parser = [QUEUE_CODE, QUEUE_ARCHIVE])]
    pub queues: Vec<String>,
    /// Programs run at a time; 0 = one per core
    #[arg(long, env = "CODE_CONCURRENCY", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub code_concurrency: u16,
    /// Jobs of the archive, and of other upkeep, done at a time
    #[arg(long, env = "UPKEEP_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub upkeep_concurrency: u16,
    /// Programs of one tenant (a project, or a person) run at a time by all workers together
    #[arg(long, env = "CODE_PER_TENANT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub code_per_tenant: u32,
    /// Seconds after which a job whose worker went silent is given to another
    #[arg(long, env = "JOB_LEASE", default_value_t = 30, value_parser = clap::value_parser!(u64).range(3..=600))]
    pub job_lease: u64,
    /// Seconds that running jobs get to finish when the worker is told to stop; then they are handed back
    #[arg(long, env = "WORKER_DRAIN", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub worker_drain: u64,
    /// Days that results of jobs are kept
    #[arg(long, env = "RESULT_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    pub result_days: u64,
    /// The weakest sandbox that may run code: full, or reduced where the machine lacks a layer
    #[arg(long, env = "SANDBOX_TIER", default_value = "full")]
    pub sandbox_tier: TierLevel,
    /// First of the host user ids that boxes run under; a range of its own for each worker of one machine
    #[arg(long, env = "SANDBOX_FIRST_USER", default_value_t = 61_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000_000))]
    pub sandbox_first_user: u32,
    /// MiB of compiled programs kept in memory, so that the same source is not compiled again; 0 = none
    #[arg(long, env = "COMPILE_CACHE_MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=65_536))]
    pub compile_cache_mib: u64,
    /// Most seconds of wall clock a job may ask for, for compiling and for running
    #[arg(long, env = "CODE_MAX_WALL", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub code_max_wall: u64,
    /// Most seconds of CPU time a job may ask for
    #[arg(long, env = "CODE_MAX_CPU", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub code_max_cpu: u64,
    /// Most MiB of memory a job may ask for
    #[arg(long, env = "CODE_MAX_MEMORY", default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    pub code_max_memory: u64,
    /// Most processes and threads a job may ask for
    #[arg(long, env = "CODE_MAX_PIDS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub code_max_pids: u32,
    /// Most MiB of output a job may ask for
    #[arg(long, env = "CODE_MAX_OUTPUT", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=5))]
    pub code_max_output: u64,
    /// Most MiB of files a job may ask for
    #[arg(long, env = "CODE_MAX_DISK", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=8_192))]
    pub code_max_disk: u64,
}

impl WorkerConfig {
    /// Does this worker take jobs from `queue`?
    pub fn serves(&self, queue: &str) -> bool {
        self.queues.iter().any(|name| name == queue)
    }

    pub fn code_lane(&self) -> LaneConfig {
        LaneConfig {
            concurrency: self.code_slots(),
            in_flight_per_tenant: self.code_per_tenant,
            ..self.upkeep_lane()
        }
    }

    /// For queues whose tenants are rooms or the installation itself: nobody can flood them.
    pub fn upkeep_lane(&self) -> LaneConfig {
        LaneConfig {
            concurrency: self.upkeep_concurrency.into(),
            in_flight_per_tenant: u32::MAX,
            lease: Duration::from_secs(self.job_lease),
            renew_every: Duration::from_secs(self.job_lease) / 3,
        }
    }

    /// Boxes, and programs run at a time.
    pub fn code_slots(&self) -> usize {
        match self.code_concurrency {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            chosen => chosen.into(),
        }
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.worker_drain)
    }

    pub fn keep_results(&self) -> Duration {
        Duration::from_secs(self.result_days * 24 * 60 * 60)
    }

    pub fn policy(&self) -> Policy {
        Policy {
            minimum: self.sandbox_tier,
        }
    }

    /// Bytes of compiled programs kept; `None`: every program is compiled where it runs.
    pub fn compile_cache(&self) -> Option<usize> {
        let bytes = self.compile_cache_mib * MIB;
        (bytes > 0).then(|| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// The most a job may ask for.
    pub fn ceiling(&self) -> Limits {
        Limits {
            wall_ms: self.code_max_wall * 1_000,
            cpu_ms: self.code_max_cpu * 1_000,
            memory_bytes: self.code_max_memory * MIB,
            pids: self.code_max_pids,
            output_bytes: self.code_max_output * MIB,
            disk_bytes: self.code_max_disk * MIB,
            ..Limits::CEILING
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        worker: WorkerConfig,
    }

    /// Parses the flags alone: what the environment of the test run says does not count.
    fn parse(flags: &[&str]) -> Result<WorkerConfig, String> {
        let all = ["atelier"].iter().chain(flags);
        let command = Command::command().mut_args(|arg| arg.env(None::<&str>));
        command
            .try_get_matches_from(all)
            .and_then(|matches| Command::from_arg_matches(&matches))
            .map(|command| command.worker)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_serve_everything_within_the_sandbox_s_own_ceiling() {
        let config = parse(&[]).unwrap();
        assert!(config.serves(QUEUE_CODE) && config.serves(QUEUE_ARCHIVE));
        assert!(config.code_slots() >= 1);
        assert!(config.ceiling().wall_ms <= Limits::CEILING.wall_ms);
        assert!(config.code_lane().renew_every * 2 < config.code_lane().lease);
    }

    #[test]
    fn queues_are_chosen_by_name_and_a_wrong_name_is_refused() {
        let config = parse(&["--queues", "archive"]).unwrap();
        assert!(!config.serves(QUEUE_CODE) && config.serves(QUEUE_ARCHIVE));
        let refusal = parse(&["--queues", "archive,nonsense"]).unwrap_err();
        assert!(refusal.contains("nonsense"), "{refusal}");
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_name() {
        for (flag, value) in [
            ("--job-lease", "1"),
            ("--code-max-output", "100"),
            ("--sandbox-tier", "none"),
            ("--upkeep-concurrency", "0"),
        ] {
            let refusal = parse(&[flag, value]).unwrap_err();
            assert!(refusal.contains(flag), "{refusal}");
        }
    }
}
