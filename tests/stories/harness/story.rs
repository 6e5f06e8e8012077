//! One story in one mode: runs it, gives it its processes, and clears up behind it whatever came of it.

use std::any::type_name;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use atelier_shared::Mode;
use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;

use super::cluster::{Cluster, Options};
use super::puppets::Interpreter;
use super::stores;
use super::{Told, process};

/// One runtime for all: its worker threads live as long as the program, and so do the processes they start.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // Whoever is first; a second one changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Runtime::new().expect("a tokio runtime")
});

/// The clusters that quiet stories share, one for each mode.
static SHARED: LazyLock<tokio::sync::Mutex<HashMap<&'static str, Cluster>>> =
    LazyLock::new(Default::default);

pub fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Embedded => "embedded",
        Mode::Distributed => "distributed",
    }
}

/// All stories, in the order they are told.
#[derive(Default)]
pub struct Stories(Vec<Trial>);

impl Stories {
    pub fn both<F: AsyncFn(Story) -> Told + Copy + Send + 'static>(&mut self, story: F) {
        self.embedded(story);
        self.distributed(story);
    }

    pub fn embedded<F: AsyncFn(Story) -> Told + Copy + Send + 'static>(&mut self, story: F) {
        self.add(Mode::Embedded, story);
    }

    pub fn distributed<F: AsyncFn(Story) -> Told + Copy + Send + 'static>(&mut self, story: F) {
        self.add(Mode::Distributed, story);
    }

    /// In both modes, with other people's clients: ignored where those are not installed, unless they are required.
    pub fn both_with<F: AsyncFn(Story) -> Told + Copy + Send + 'static>(
        &mut self,
        clients: Interpreter,
        story: F,
    ) {
        let available = clients.is_installed() || stores::are_required();
        self.add_if(available, Mode::Embedded, story);
        self.add_if(available, Mode::Distributed, story);
    }

    fn add<F: AsyncFn(Story) -> Told + Copy + Send + 'static>(&mut self, mode: Mode, story: F) {
        self.add_if(true, mode, story);
    }

    /// Named after the function: `module::sentence [mode]`.
    fn add_if<F: AsyncFn(Story) -> Told + Copy + Send + 'static>(
        &mut self,
        available: bool,
        mode: Mode,
        story: F,
    ) {
        let path = type_name::<F>();
        let name = path.split_once("::").map_or(path, |(_, name)| name);
        let name = format!("{name} [{}]", word(mode));
        let told = name.clone();
        let available = available
            && (mode == Mode::Embedded || stores::are_configured() || stores::are_required());
        let trial = Trial::test(name, move || run(&told, mode, story));
        self.0.push(trial.with_ignored_flag(!available));
    }

    pub fn trials(self) -> Vec<Trial> {
        self.0
    }
}

fn run(
    name: &str,
    mode: Mode,
    story: impl AsyncFn(Story) -> Told + Copy + 'static,
) -> Result<(), Failed> {
    if mode == Mode::Distributed && !stores::are_configured() {
        return Err(format!("{} must all be set", stores::SETTINGS.join(", ")).into());
    }
    let it = Story::new(name, mode);
    // The story runs on this thread, so that a panic is caught and the clearing up still happens.
    let told = catch_unwind(AssertUnwindSafe(|| RUNTIME.block_on(story(it.clone()))));
    let told = told.unwrap_or_else(|panic| Err(anyhow::anyhow!(panic_text(&*panic))));
    let cleared = RUNTIME.block_on(it.clear_up(told.is_ok()));
    match told.and(cleared) {
        Ok(()) => {
            let _ = std::fs::remove_dir_all(&it.0.folder);
            Ok(())
        }
        Err(error) => Err(format!("{error:#}\n{}", it.logs()).into()),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

/// A story under way; cheap to clone.
#[derive(Clone)]
pub struct Story(Arc<Inner>);

struct Inner {
    mode: Mode,
    folder: PathBuf,
    clusters: Mutex<Vec<Cluster>>,
    /// Logs of the shared cluster, and how long they were when this story began.
    shared_logs: Mutex<Vec<(PathBuf, u64)>>,
}

impl Story {
    fn new(name: &str, mode: Mode) -> Self {
        let file = name.replace("::", "-").replace([' ', '[', ']'], "_");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("stories")
            .join(file);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder for the story's logs");
        Self(Arc::new(Inner {
            mode,
            folder,
            clusters: Mutex::default(),
            shared_logs: Mutex::default(),
        }))
    }

    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// Where logs go; kept when the story fails.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Processes of this story's own, which it may kill.
    pub async fn cluster(&self, options: Options) -> anyhow::Result<Cluster> {
        let cluster = Cluster::start(self.0.mode, self.folder(), options).await?;
        self.keep(cluster.clone());
        Ok(cluster)
    }

    /// Ends with the story.
    pub fn keep(&self, cluster: Cluster) {
        lock(&self.0.clusters).push(cluster);
    }

    /// Processes that other stories use at the same time: two gateways and a worker (embedded: one process).
    pub async fn shared(&self) -> anyhow::Result<Cluster> {
        let mut shared = SHARED.lock().await;
        let word = word(self.0.mode);
        if !shared.contains_key(word) {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
                .join("stories")
                .join(format!("shared-{word}"));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder)?;
            let cluster = Cluster::start(self.0.mode, &folder, Options::default()).await?;
            shared.insert(word, cluster);
        }
        let cluster = shared[word].clone();
        let logs = cluster.logs().into_iter().map(|path| {
            let length = std::fs::metadata(&path).map_or(0, |data| data.len());
            (path, length)
        });
        lock(&self.0.shared_logs).extend(logs);
        Ok(cluster)
    }

    async fn clear_up(&self, gently: bool) -> Told {
        let clusters = std::mem::take(&mut *lock(&self.0.clusters));
        let mut outcome = Ok(());
        for cluster in clusters {
            outcome = outcome.and(cluster.end(gently).await);
        }
        outcome
    }

    /// The last lines of every process, for the failure's message.
    fn logs(&self) -> String {
        let mut own: Vec<(PathBuf, u64)> = std::fs::read_dir(self.folder())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| (entry.path(), 0))
            .collect();
        own.sort();
        own.extend(lock(&self.0.shared_logs).iter().cloned());
        let tails = own
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
        tails
            .map(|(path, from)| process::tail(&path, from))
            .collect()
    }
}

/// Ends the shared clusters in good order, and drops what all clusters kept in the services; what goes wrong is told.
pub fn end_all() -> Told {
    let ended = async {
        let mut outcome = Ok(());
        for (_, cluster) in SHARED.lock().await.drain() {
            outcome = outcome.and(cluster.drain_and_end().await);
        }
        outcome.and(stores::drop_all().await)
    };
    RUNTIME.block_on(ended)
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
