//! The worker's side of the namespace driver: slots, the helper's life, and one conversation per program.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::accounting::AccountingChoice;
use super::keeper::Helper;
use super::kind::BoxKind;
use super::wire::{
    self, Configuration, Done, Failure, Inbox, Kind, MAX_REPORT_BYTES, OutputHead, StepReport,
};
use crate::sandbox::{
    Artifact, Channel, Limits, Outcome, OutputChunk, OutputSink, Policy, Program, Sandbox,
    SandboxError, StepKind, StepOutcome, Tier, toolchains,
};

/// Least time between two starts of a helper.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// How long the helper may take to report a cancelled program.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes read from the helper at once.
const READ_BYTES: usize = 128 * 1024;
/// Most boxes of one helper.
const MAX_SLOTS: usize = 256;

/// How the namespace driver is to work.
#[derive(Debug, Clone)]
pub struct NsConfig {
    /// With [`BoxKind::Landlock`] one program runs at a time, whatever `slots` says.
    pub kind: BoxKind,
    /// Where boxes of [`BoxKind::Landlock`] have their folders: a file system on which programs can be started, best one
    /// in memory that is theirs alone. The best there is by default.
    pub work_folder: Option<PathBuf>,
    /// Programs running at one time; at most 256.
    pub slots: usize,
    /// Boxes kept ready; each costs well under a megabyte.
    pub warm: usize,
    /// First of the host users given to boxes. The range of `2 * slots + warm` from here must be nobody's, and
    /// another range for each worker of one machine.
    pub first_host_user: u32,
    pub accounting: AccountingChoice,
    /// The most a program may ask for.
    pub ceiling: Limits,
    /// The executable that runs `sandbox-init`; this one by default.
    pub helper: PathBuf,
}

impl Default for NsConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            kind: BoxKind::Namespaces,
            work_folder: None,
            slots: cores,
            warm: cores,
            first_host_user: 61_000,
            accounting: AccountingChoice::Auto,
            ceiling: Limits::CEILING,
            helper: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// The namespace driver, and that of boxes without them.
#[derive(Debug)]
pub struct NsSandbox {
    config: NsConfig,
    policy: Policy,
    tier: Tier,
    configuration: Configuration,
    helper: Mutex<Link>,
    slots: Semaphore,
    slot_count: usize,
}

/// The helper in use, and when it was started.
#[derive(Debug)]
struct Link {
    helper: Option<Helper>,
    started: Instant,
    stopped: bool,
}

impl NsSandbox {
    /// Starts the helper, probes the machine from inside a first box and judges the tier.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] when no box can be built, [`SandboxError::TierTooWeak`] when the policy asks for more.
    pub async fn start(config: NsConfig, policy: Policy) -> Result<Self, SandboxError> {
        let configuration = Configuration {
            kind: config.kind,
            work_folder: config
                .work_folder
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned()),
            slots: config.slots.clamp(1, MAX_SLOTS),
            warm: config.warm.clamp(1, MAX_SLOTS),
            first_host_user: config.first_host_user,
            accounting: config.accounting,
            toolchain_folders: toolchains::folders(),
            usual: Limits::default(),
        };
        let started = Instant::now();
        let helper = Helper::start(config.helper.clone(), &configuration).await?;
        let tier = Tier::judge(config.kind.name(), helper.ready.layers.clone())?;
        if let Err(refusal) = policy.check(&tier) {
            helper.stop().await;
            return Err(refusal);
        }
        let slot_count = helper.ready.slots;
        let slots = Semaphore::new(slot_count);
        let helper = Mutex::new(Link {
            helper: Some(helper),
            started,
            stopped: false,
        });
        Ok(Self {
            config,
            policy,
            tier,
            configuration,
            helper,
            slots,
            slot_count,
        })
    }

    /// Programs that run at one time.
    pub fn slots(&self) -> usize {
        self.slot_count
    }

    /// The helper's process id, for tests and operators.
    pub async fn helper_process_id(&self) -> Option<u32> {
        self.helper
            .lock()
            .await
            .helper
            .as_ref()
            .map(|helper| helper.process_id)
    }

    /// Ends the helper and every box, and waits until they have cleared up. Programs still running are lost.
    pub async fn shutdown(&self) {
        let mut link = self.helper.lock().await;
        link.stopped = true;
        if let Some(helper) = link.helper.take() {
            helper.stop().await;
        }
    }

    /// Opens a conversation with the helper, starting another one if it is gone.
    async fn open(&self) -> Result<UnixStream, SandboxError> {
        let lost = |error: std::io::Error| SandboxError::Lost(error.to_string());
        let mut link = self.helper.lock().await;
        for _ in 0..2 {
            if link.stopped {
                return Err(SandboxError::Lost("the sandbox is shut down".into()));
            }
            if let Some(helper) = &mut link.helper {
                let (ours, theirs) = UnixStream::pair().map_err(lost)?;
                let theirs: OwnedFd = theirs.into_std().map_err(lost)?.into();
                if !helper.has_ended() && helper.hand_over(&theirs).await.is_ok() {
                    return Ok(ours);
                }
                tracing::warn!(
                    process_id = helper.process_id,
                    "the sandbox's helper is gone; starting another"
                );
                link.helper = None;
            }
            sleep(RESTART_PAUSE.saturating_sub(link.started.elapsed())).await;
            link.started = Instant::now();
            let helper = Helper::start(self.config.helper.clone(), &self.configuration).await;
            let helper = helper.map_err(|error| {
                SandboxError::Lost(format!("the helper can't be started again: {error}"))
            })?;
            self.policy.check(&Tier::judge(
                self.config.kind.name(),
                helper.ready.layers.clone(),
            )?)?;
            link.helper = Some(helper);
        }
        Err(SandboxError::Lost(
            "the helper ends as soon as it is started".into(),
        ))
    }
}

#[async_trait]
impl Sandbox for NsSandbox {
    fn tier(&self) -> &Tier {
        &self.tier
    }

    async fn run(
        &self,
        program: Program,
        output: OutputSink,
        cancel: CancellationToken,
    ) -> Result<Outcome, SandboxError> {
        program.check(&self.config.ceiling)?;
        let frame =
            wire::program(&program).map_err(|error| SandboxError::Lost(error.to_string()))?;
        let never_ran = Outcome {
            compile: None,
            run: None,
            artifacts: Vec::new(),
            artifacts_skipped: Vec::new(),
        };
        let permit = tokio::select! {
            permit = self.slots.acquire() => permit,
            () = cancel.cancelled() => return Ok(never_ran),
        };
        let _permit = permit.map_err(|_| SandboxError::Lost("the sandbox is shut down".into()))?;
        let stream = self.open().await?;
        let mut conversation = Conversation::new(stream, output);
        conversation.hold(frame, cancel).await
    }

    async fn shutdown(&self) {
        Self::shutdown(self).await;
    }
}

/// One program's exchange with the helper. Dropping it closes the socket, upon which the helper kills the box.
struct Conversation {
    stream: UnixStream,
    inbox: Inbox,
    output: OutputSink,
    captured: [[BytesMut; 2]; 2],
    artifacts: Vec<(String, BytesMut)>,
}

impl Conversation {
    fn new(stream: UnixStream, output: OutputSink) -> Self {
        Self {
            stream,
            inbox: Inbox::new(MAX_REPORT_BYTES),
            output,
            captured: Default::default(),
            artifacts: Vec::new(),
        }
    }

    async fn hold(
        &mut self,
        frame: Vec<u8>,
        cancel: CancellationToken,
    ) -> Result<Outcome, SandboxError> {
        let lost = |error: std::io::Error| SandboxError::Lost(error.to_string());
        let asked = tokio::select! {
            written = self.stream.write_all(&frame) => { written.map_err(lost)?; None }
            () = cancel.cancelled() => Some(()),
        };
        drop(frame);
        if asked.is_none() {
            tokio::select! {
                outcome = self.listen() => return outcome,
                () = cancel.cancelled() => {}
            }
        }
        // The end of our side means "stop"; what it did until then is still reported.
        self.stream.shutdown().await.map_err(lost)?;
        let end = timeout(CANCEL_TIMEOUT, self.listen()).await;
        end.map_err(|_| {
            SandboxError::Lost(format!("no report within {CANCEL_TIMEOUT:?} of cancelling"))
        })?
    }

    /// Takes frames until the last. Cancel-safe: a frame is acted upon once it is whole, and reading is.
    async fn listen(&mut self) -> Result<Outcome, SandboxError> {
        let lost = |error: std::io::Error| SandboxError::Lost(error.to_string());
        loop {
            while let Some((kind, body)) = self.inbox.next().map_err(lost)? {
                if let Some(outcome) = self.take(kind, body).await? {
                    return Ok(outcome);
                }
            }
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            if self.stream.read_buf(&mut buffer).await.map_err(lost)? == 0 {
                return Err(SandboxError::Lost("the helper ended".into()));
            }
            self.inbox.push(&buffer);
        }
    }

    async fn take(&mut self, kind: Kind, mut body: Bytes) -> Result<Option<Outcome>, SandboxError> {
        let lost = |error: std::io::Error| SandboxError::Lost(error.to_string());
        match kind {
            Kind::Output => {
                let head = OutputHead::decode(&mut body)
                    .ok_or_else(|| SandboxError::Lost("malformed output".into()))?;
                self.buffer(head.step, head.channel)
                    .extend_from_slice(&body);
                let chunk = OutputChunk {
                    step: head.step,
                    channel: head.channel,
                    offset: head.offset,
                    bytes: body,
                };
                self.output.send(chunk).await;
            }
            Kind::ArtifactPath => self
                .artifacts
                .push((wire::parse(&body).map_err(lost)?, BytesMut::new())),
            Kind::ArtifactData => {
                if let Some((_, content)) = self.artifacts.last_mut() {
                    content.extend_from_slice(&body);
                }
            }
            Kind::Done => {
                let done: Done = wire::parse(&body).map_err(lost)?;
                return Ok(Some(self.outcome(done)));
            }
            Kind::Failed => {
                let failure: Failure = wire::parse(&body).map_err(lost)?;
                return Err(match failure.field {
                    Some(field) => SandboxError::invalid(field, failure.reason),
                    None => SandboxError::Lost(failure.reason),
                });
            }
            _ => {
                return Err(SandboxError::Lost(
                    "the helper said something unexpected".into(),
                ));
            }
        }
        Ok(None)
    }

    fn buffer(&mut self, step: StepKind, channel: Channel) -> &mut BytesMut {
        let [compile, run] = &mut self.captured;
        let [stdout, stderr] = if step == StepKind::Compile {
            compile
        } else {
            run
        };
        if channel == Channel::Stdout {
            stdout
        } else {
            stderr
        }
    }

    fn outcome(&mut self, done: Done) -> Outcome {
        let compile = done
            .compile
            .map(|report| self.step(StepKind::Compile, report));
        let run = done.run.map(|report| self.step(StepKind::Run, report));
        let artifacts = std::mem::take(&mut self.artifacts);
        let artifacts = artifacts.into_iter().map(|(path, content)| Artifact {
            path,
            content: content.freeze(),
        });
        Outcome {
            compile,
            run,
            artifacts: artifacts.collect(),
            artifacts_skipped: done.skipped,
        }
    }

    fn step(&mut self, kind: StepKind, report: StepReport) -> StepOutcome {
        StepOutcome {
            verdict: report.verdict,
            exit_code: report.exit_code,
            signal: report.signal,
            stdout: std::mem::take(self.buffer(kind, Channel::Stdout)).freeze(),
            stderr: std::mem::take(self.buffer(kind, Channel::Stderr)).freeze(),
            truncated: report.truncated,
            usage: report.usage,
            message: report.message,
        }
    }
}
