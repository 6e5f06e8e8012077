//! Every setting of the worker: a flag and an environment variable, with its default, its unit and its bounds.

use std::path::PathBuf;
use std::time::Duration;

use atelier_shared::domain::job::{
    QUEUE_ARCHIVE, QUEUE_BACKUP, QUEUE_CALLBACK, QUEUE_CLEANUP, QUEUE_CODE,
};
use clap::Args;
use ipnet::IpNet;

use crate::bridge::LaneConfig;
use crate::sandbox::{DriverChoice, Limits, Policy, TierLevel};

const MIB: u64 = 1024 * 1024;

/// The queues that this program knows how to serve.
const SERVED: [&str; 5] = [
    QUEUE_CODE,
    QUEUE_ARCHIVE,
    QUEUE_CALLBACK,
    QUEUE_CLEANUP,
    QUEUE_BACKUP,
];
/// Longer than a handshake takes from reading the room's row to being in the room.
const ROOM_SETTLES: Duration = Duration::from_secs(2);
/// Callbacks of one tenant under way at a time: one that answers slowly does not hold up the others'.
const CALLBACKS_PER_TENANT: u32 = 2;

/// `name=jobs`.
fn queue_concurrency(text: &str) -> Result<(String, u16), String> {
    let (name, jobs) = text.split_once('=').ok_or("expected queue=number")?;
    if !SERVED.contains(&name) {
        return Err(format!("{name}: must be one of {}", SERVED.join(", ")));
    }
    match jobs.parse() {
        Ok(jobs @ 1..=256) => Ok((name.to_owned(), jobs)),
        _ => Err(format!("{name}: must be 1 to 256 jobs")),
    }
}

/// Which queues to serve, how much at a time, and how code is run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerConfig {
    /// Queues to take jobs from; several separated by commas. Route code to pods of its own with this
    #[arg(long = "queues", env = "WORKER_QUEUES", value_delimiter = ',',
        default_values = SERVED, value_parser = SERVED)]
    pub queues: Vec<String>,
    /// Jobs of a queue done at a time by this worker, where the settings below are not meant: `archive=16,callback=2`
    #[arg(long, env = "QUEUE_CONCURRENCY", value_delimiter = ',', value_parser = queue_concurrency)]
    pub queue_concurrency: Vec<(String, u16)>,
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
    /// Seconds between backups of a room that changes all the while
    #[arg(long, env = "BACKUP_INTERVAL", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub backup_interval: u64,
    /// Days that results of jobs are kept
    #[arg(long, env = "RESULT_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    pub result_days: u64,
    /// Most MiB of files that a job leaves behind and that are kept with its result; 0 keeps none
    #[arg(long, env = "ARTIFACT_MAX_MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(0..=256))]
    pub artifact_max_mib: u64,
    /// Signs what is posted to the callback_url of a job: HMAC-SHA256 over time and body. Where absent, a secret derived
    /// from the key that signs tokens; `atelier admin callback-secret` prints the one in use
    #[arg(long, env = "CALLBACK_SECRET", hide_env_values = true)]
    pub callback_secret: Option<String>,
    /// Networks that are called back although they are not public, as 10.0.0.0/8; several separated by commas
    #[arg(long, env = "CALLBACK_NETWORKS", value_delimiter = ',')]
    pub callback_networks: Vec<IpNet>,
    /// How often empty rooms are looked for, seconds
    #[arg(long, env = "CLEANUP_SCHEDULER_INTERVAL", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub cleanup_scheduler_interval: u64,
    /// An ephemeral room is removed so long after it emptied, seconds
    #[arg(long, env = "ROOM_CLEANUP_DELAY", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub room_cleanup_delay: u64,
    /// How often people that a crash left in rooms are looked for, seconds
    #[arg(long, env = "USER_CLEANUP_INTERVAL", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub user_cleanup_interval: u64,
    /// How often everything is cleaned, orphaned files included, seconds
    #[arg(long, env = "ROOM_CLEANUP_INTERVAL", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub room_cleanup_interval: u64,
    /// Files that nobody has are left alone for so long, seconds
    #[arg(long, env = "FILE_CLEANUP_GRACE", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub file_cleanup_grace: u64,
    /// Whoever is in a room that an administrator has cleaned is told so long before, seconds
    #[arg(long, env = "CLEANUP_NOTICE", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub cleanup_notice: u64,
    /// What a room held that the cleanup removed can be brought back for so long, seconds
    #[arg(long, env = "REMOVED_ROOM_KEEP", default_value_t = 604_800, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub removed_room_keep: u64,
    /// What keeps the code that is run apart from the machine
    #[arg(long, env = "SANDBOX_DRIVER", value_enum, default_value_t = DriverChoice::Auto)]
    pub sandbox_driver: DriverChoice,
    /// Where programs of the drivers landlock and gvisor have their folders; best a file system of their own, in memory.
    /// Absent: the best place found
    #[arg(long, env = "SANDBOX_WORK_DIR")]
    pub sandbox_work_dir: Option<PathBuf>,
    /// The program of the driver gvisor
    #[arg(long, env = "SANDBOX_RUNSC", default_value = "runsc")]
    pub sandbox_runsc: PathBuf,
    /// The weakest sandbox that may run code: full, reduced where the machine lacks a layer, or basic: no namespaces
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

    /// How `queue` is served.
    pub fn lane(&self, queue: &str) -> LaneConfig {
        LaneConfig {
            concurrency: match queue {
                QUEUE_CODE => self.code_slots(),
                _ => usize::from(
                    self.concurrency_of(queue)
                        .unwrap_or(self.upkeep_concurrency),
                ),
            },
            in_flight_per_tenant: match queue {
                QUEUE_CODE => self.code_per_tenant,
                QUEUE_CALLBACK => CALLBACKS_PER_TENANT,
                // Their tenants are rooms or the installation itself: nobody can flood them.
                _ => u32::MAX,
            },
            lease: Duration::from_secs(self.job_lease),
            renew_every: Duration::from_secs(self.job_lease) / 3,
        }
    }

    fn concurrency_of(&self, queue: &str) -> Option<u16> {
        let named = self.queue_concurrency.iter();
        named
            .filter(|(name, _)| name == queue)
            .map(|(_, jobs)| *jobs)
            .next_back()
    }

    pub fn cleanup(&self) -> crate::jobs::cleanup::Policy {
        crate::jobs::cleanup::Policy {
            room_delay: Duration::from_secs(self.room_cleanup_delay),
            file_grace: Duration::from_secs(self.file_cleanup_grace),
            notice: Duration::from_secs(self.cleanup_notice),
            settle: ROOM_SETTLES,
            keep: Duration::from_secs(self.removed_room_keep),
            rooms_every: Duration::from_secs(self.cleanup_scheduler_interval),
            people_every: Duration::from_secs(self.user_cleanup_interval),
            everything_every: Duration::from_secs(self.room_cleanup_interval),
        }
    }

    /// Boxes, and programs run at a time.
    pub fn code_slots(&self) -> usize {
        match self
            .concurrency_of(QUEUE_CODE)
            .unwrap_or(self.code_concurrency)
        {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            chosen => chosen.into(),
        }
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.worker_drain)
    }

    pub fn backup_interval(&self) -> Duration {
        Duration::from_secs(self.backup_interval)
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
        let lane = config.lane(QUEUE_CODE);
        assert!(lane.renew_every * 2 < lane.lease);
    }

    #[test]
    fn queues_are_chosen_by_name_and_a_wrong_name_is_refused() {
        let config = parse(&["--queues", "archive"]).unwrap();
        assert!(!config.serves(QUEUE_CODE) && config.serves(QUEUE_ARCHIVE));
        let refusal = parse(&["--queues", "archive,nonsense"]).unwrap_err();
        assert!(refusal.contains("nonsense"), "{refusal}");
    }

    #[test]
    fn a_queue_s_own_concurrency_wins() {
        let config = parse(&["--queue-concurrency", "archive=3,code_execution=5"]).unwrap();
        let at_once = |queue| config.lane(queue).concurrency;
        assert_eq!((at_once(QUEUE_ARCHIVE), at_once(QUEUE_CODE)), (3, 5));
        assert_eq!(
            at_once(QUEUE_CALLBACK),
            usize::from(config.upkeep_concurrency)
        );
        for bad in ["archive", "archive=0", "nonsense=1", "archive=257"] {
            assert!(parse(&["--queue-concurrency", bad]).is_err(), "{bad}");
        }
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
