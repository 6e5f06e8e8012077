//! The worker's side of the gVisor driver: probing, slots, a folder and a bundle for each program.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::bundle::{self, Order};
use super::runsc::Runsc;
use super::step::Running;
use crate::sandbox::landlock::folder::{Folder, Folders};
use crate::sandbox::ns::inside::files::{self, FileToWrite};
use crate::sandbox::{
    Artifact, Layer, LayerReport, Limits, Outcome, OutputSink, Policy, Program, Sandbox,
    SandboxError, Skipped, Step, StepKind, StepOutcome, Tier, Verdict, toolchains,
};

/// What tells whose kernel one is under.
const KERNEL: &str = "/proc/version";

/// How the gVisor driver is to work.
#[derive(Debug, Clone)]
pub struct GvisorConfig {
    /// The program, as a path or a name in `PATH`.
    pub runsc: PathBuf,
    /// Programs running at one time.
    pub slots: usize,
    /// The most a program may ask for.
    pub ceiling: Limits,
    /// First of the users of programs; a range of `slots` from here must be nobody's.
    pub first_user: u32,
    /// Where programs' folders, bundles and runsc's state are; the best place there is by default.
    pub work_folder: Option<PathBuf>,
}

/// The gVisor driver.
#[derive(Debug)]
pub struct GvisorSandbox {
    config: GvisorConfig,
    runsc: Runsc,
    tier: Tier,
    folders: Folders,
    toolchain_folders: Vec<String>,
    slots: Semaphore,
    users: parking_lot::Mutex<Vec<u32>>,
    next: AtomicU32,
    stop: CancellationToken,
}

impl GvisorSandbox {
    /// Looks for `runsc`, runs a first program under it and judges the tier.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] when it is not there or runs nothing, [`SandboxError::TierTooWeak`] when the policy
    /// asks for more.
    pub async fn start(config: GvisorConfig, policy: Policy) -> Result<Self, SandboxError> {
        let unavailable = |reason: String| SandboxError::Unavailable(format!("runsc: {reason}"));
        let place = config.work_folder.as_ref().and_then(|path| path.to_str());
        let folders = Folders::open_as("gvisor", place).map_err(unavailable)?;
        let state = folders.path().join("state");
        private_folder(&state).map_err(|error| unavailable(error.to_string()))?;
        let mut runsc = Runsc {
            program: config.runsc.clone(),
            state,
            cgroups: true,
        };
        let version = match runsc.version().await {
            Ok(version) => version,
            Err(reason) => {
                folders.close();
                return Err(unavailable(reason));
            }
        };
        let users = (0..u32::try_from(config.slots.max(1)).unwrap_or(1))
            .map(|slot| config.first_user.saturating_add(slot))
            .collect();
        let mut sandbox = Self {
            slots: Semaphore::new(config.slots.max(1)),
            users: parking_lot::Mutex::new(users),
            toolchain_folders: toolchains::folders(),
            tier: Tier::none("gvisor"),
            runsc: runsc.clone(),
            next: AtomicU32::new(0),
            stop: CancellationToken::new(),
            folders,
            config,
        };
        let mut found = sandbox.probe().await;
        if found.is_err() {
            // Without the right to make control groups it may run all the same.
            runsc.cgroups = false;
            sandbox.runsc = runsc;
            found = sandbox.probe().await;
        }
        let judged = found
            .map_err(unavailable)
            .and_then(|kernel| Tier::judge("gvisor", sandbox.layers(&version, &kernel)))
            .and_then(|tier| policy.check(&tier).map(|()| tier));
        match judged {
            Ok(tier) => sandbox.tier = tier,
            Err(error) => {
                sandbox.folders.close();
                return Err(error);
            }
        }
        Ok(sandbox)
    }

    /// Asks, from within, whose kernel it is.
    async fn probe(&self) -> Result<String, String> {
        let program = Program::command(["/bin/cat", KERNEL]);
        let outcome = self.run(program, OutputSink::none(), CancellationToken::new());
        let outcome = outcome.await.map_err(|error| error.to_string())?;
        let step = outcome.run.ok_or("nothing was run")?;
        if step.exit_code != Some(0) {
            let said = String::from_utf8_lossy(&step.stderr).trim().to_owned();
            return Err(format!("a first program fails: {said}"));
        }
        Ok(String::from_utf8_lossy(&step.stdout).trim().to_owned())
    }

    fn layers(&self, version: &str, kernel: &str) -> Vec<LayerReport> {
        let hosts = std::fs::read_to_string(KERNEL).unwrap_or_default();
        let own_kernel = if kernel.is_empty() || kernel == hosts.trim() {
            Err("a program sees the host's".to_owned())
        } else {
            Ok(version.to_owned())
        };
        let held = || {
            if self.runsc.cgroups {
                Ok("cgroup by runsc".to_owned())
            } else {
                Err("runsc runs without control groups only".to_owned())
            }
        };
        let inside = || Ok("by its own kernel".to_owned());
        vec![
            LayerReport::new(Layer::OwnKernel, own_kernel),
            LayerReport::new(Layer::OwnHostUser, inside()),
            LayerReport::new(Layer::NoNetwork, inside()),
            LayerReport::new(Layer::MemoryControl, held()),
            LayerReport::new(Layer::ProcessControl, held()),
            LayerReport::new(Layer::CpuAccounting, Ok("events of runsc".to_owned())),
        ]
    }

    async fn run_in(
        &self,
        folder: &Folder,
        name: &str,
        user: u32,
        program: Program,
        output: &mut OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Outcome, SandboxError> {
        let to_write: Vec<FileToWrite> = program
            .files
            .iter()
            .map(|file| FileToWrite {
                path: file.path.clone(),
                content: file.content.clone(),
                executable: file.executable,
            })
            .collect();
        let work = folder.work.clone();
        blocking(move || files::write_all(&work, &to_write, Some(user)))
            .await?
            .map_err(|refusal| SandboxError::invalid(refusal.field, refusal.reason))?;
        let mut outcome = Outcome {
            compile: None,
            run: None,
            artifacts: Vec::new(),
            artifacts_skipped: Vec::new(),
        };
        if let Some(step) = &program.compile {
            let limits = program.compile_limits.unwrap_or(program.limits);
            let limits = Limits {
                disk_bytes: program.limits.disk_bytes,
                inodes: program.limits.inodes,
                pids: program.limits.pids,
                ..limits
            };
            let id = format!("{name}-compile");
            let kind = StepKind::Compile;
            let ended = self.step(folder, &id, user, kind, step, &limits, output, cancel);
            let ended = ended.await?;
            let passed = ended.verdict == Verdict::Exited && ended.exit_code == Some(0);
            outcome.compile = Some(ended);
            if !passed {
                return Ok(outcome);
            }
        }
        let (id, kind) = (format!("{name}-run"), StepKind::Run);
        let (step, limits) = (&program.run, &program.limits);
        let ended = self.step(folder, &id, user, kind, step, limits, output, cancel);
        let ended = ended.await?;
        let exited = ended.verdict == Verdict::Exited;
        outcome.run = Some(ended);
        if let Some(request) = program.artifacts.filter(|_| exited) {
            let work = folder.work.clone();
            let collected = blocking(move || {
                let mut found: Vec<(String, Vec<u8>)> = Vec::new();
                let skipped = files::collect(&work, &request, &mut |piece| {
                    match piece {
                        files::Piece::Begin(path) => found.push((path.to_owned(), Vec::new())),
                        files::Piece::Bytes(bytes) => {
                            if let Some((_, content)) = found.last_mut() {
                                content.extend_from_slice(bytes);
                            }
                        }
                    }
                    Ok(())
                });
                skipped.map(|skipped| (found, skipped))
            });
            match collected.await? {
                Ok((found, skipped)) => {
                    outcome.artifacts = found
                        .into_iter()
                        .map(|(path, content)| Artifact {
                            path,
                            content: Bytes::from(content),
                        })
                        .collect();
                    outcome.artifacts_skipped = skipped;
                }
                Err(error) => outcome.artifacts_skipped.push(Skipped {
                    path: String::new(),
                    reason: error.to_string(),
                }),
            }
        }
        Ok(outcome)
    }

    #[expect(clippy::too_many_arguments, reason = "a step, and where it is run")]
    async fn step(
        &self,
        folder: &Folder,
        id: &str,
        user: u32,
        kind: StepKind,
        step: &Step,
        limits: &Limits,
        output: &mut OutputSink,
        cancel: &CancellationToken,
    ) -> Result<StepOutcome, SandboxError> {
        let lost = |error: std::io::Error| SandboxError::Lost(format!("runsc: {error}"));
        let bundle = bundle_of(self.folders.path(), id);
        let order = Order {
            id,
            step,
            limits,
            work: &folder.work,
            user,
            toolchain_folders: &self.toolchain_folders,
            cgroups: self.runsc.cgroups,
        };
        private_folder(&bundle).map_err(lost)?;
        let written = bundle::write(&bundle, &order);
        let child = written.and_then(|()| self.runsc.run(&bundle, id).spawn());
        let ended = match child {
            Ok(child) => {
                let running = Running {
                    runsc: &self.runsc,
                    id,
                    kind,
                    limits,
                    folder,
                    output,
                    cancel,
                };
                running.watch(child, step.stdin.clone()).await
            }
            Err(error) => Err(lost(error)),
        };
        // Nothing of a program's is in it: only mount points and what we wrote.
        if let Err(error) = std::fs::remove_dir_all(&bundle) {
            tracing::warn!(%error, "a bundle is left");
        }
        ended
    }
}

fn bundle_of(place: &Path, id: &str) -> PathBuf {
    place.join(format!("bundle-{id}"))
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SandboxError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| SandboxError::Lost(error.to_string()))
}

/// A slot's user, given back when dropped; and the container that a dropped run leaves is killed.
struct Held<'a> {
    sandbox: &'a GvisorSandbox,
    user: u32,
    folder: Option<Folder>,
    name: String,
    ended: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.sandbox.users.lock().push(self.user);
        let Some(folder) = self.folder.take() else {
            return;
        };
        if self.ended {
            if let Err(error) = folder.remove() {
                tracing::warn!(%error, "a program's folder is left");
            }
            return;
        }
        // Whoever waited for it went away.
        let (runsc, name) = (self.sandbox.runsc.clone(), self.name.clone());
        let place = self.sandbox.folders.path().to_owned();
        tokio::spawn(async move {
            for step in ["compile", "run"] {
                let id = format!("{name}-{step}");
                let bundle = bundle_of(&place, &id);
                if !bundle.exists() {
                    continue;
                }
                runsc.kill(&id).await;
                runsc.delete(&id).await;
                if let Err(error) = std::fs::remove_dir_all(&bundle) {
                    tracing::warn!(%error, "a bundle is left");
                }
            }
            if let Err(error) = folder.remove() {
                tracing::warn!(%error, "a program's folder is left");
            }
        });
    }
}

#[async_trait]
impl Sandbox for GvisorSandbox {
    fn tier(&self) -> &Tier {
        &self.tier
    }

    async fn run(
        &self,
        program: Program,
        mut output: OutputSink,
        cancel: CancellationToken,
    ) -> Result<Outcome, SandboxError> {
        program.check(&self.config.ceiling)?;
        let permit = tokio::select! {
            permit = self.slots.acquire() => permit,
            () = cancel.cancelled() => return Ok(Outcome {
                compile: None,
                run: None,
                artifacts: Vec::new(),
                artifacts_skipped: Vec::new(),
            }),
        };
        let lost = |reason: &str| SandboxError::Lost(reason.to_owned());
        let _permit = permit.map_err(|_| lost("the sandbox is shut down"))?;
        let user = self.users.lock().pop().ok_or_else(|| lost("no user"))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut held = Held {
            sandbox: self,
            user,
            folder: None,
            name: format!("atelier-{}-{number}", std::process::id()),
            ended: false,
        };
        let folder = self.folders.make(number, Some(user));
        let folder = folder.map_err(|error| lost(&format!("work folder: {error}")))?;
        let folder = &*held.folder.insert(folder);
        let name = held.name.clone();
        let ended = tokio::select! {
            ended = self.run_in(folder, &name, user, program, &mut output, &cancel) => ended,
            () = self.stop.cancelled() => return Err(lost("the sandbox is shut down")),
        };
        held.ended = true;
        ended
    }

    async fn shutdown(&self) {
        self.slots.close();
        self.stop.cancel();
        self.folders.close();
    }
}
