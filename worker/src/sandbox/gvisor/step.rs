//! One step under gVisor: started, listened to, watched, ended.

use std::time::{Duration, Instant};

use atelier_shared::domain::job::Usage;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::runsc::{Runsc, Stats};
use crate::sandbox::landlock::folder::Folder;
use crate::sandbox::{
    Channel, Limits, OutputChunk, OutputSink, SandboxError, StepKind, StepOutcome, Verdict,
};

/// How often a container is asked what it has used, and its files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a killed container may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes read from a program at once, and chunks that wait.
const CHUNK_BYTES: usize = 16 * 1024;
const CHUNKS: usize = 8;
/// `runsc run` exits with this beside a signal's number when a signal ended the program, and with this alone when it
/// failed itself.
const SIGNALED: i32 = 128;
const HIGHEST_SIGNAL: i32 = 64;

/// What a step is run with.
pub struct Running<'a> {
    pub runsc: &'a Runsc,
    pub id: &'a str,
    pub kind: StepKind,
    pub limits: &'a Limits,
    pub folder: &'a Folder,
    pub output: &'a mut OutputSink,
    pub cancel: &'a CancellationToken,
}

/// What is known of a step while it runs.
struct Watched {
    started: Instant,
    verdict: Option<Verdict>,
    stats: Stats,
    peak_bytes: u64,
    pids_peak: u64,
    captured: [BytesMut; 2],
    truncated: bool,
}

impl Running<'_> {
    /// Listens to a started `runsc run` until the container has ended and is forgotten.
    pub async fn watch(
        mut self,
        mut child: Child,
        input: Bytes,
    ) -> Result<StepOutcome, SandboxError> {
        let lost = |error: std::io::Error| SandboxError::Lost(format!("runsc: {error}"));
        let (sender, mut chunks) = mpsc::channel(CHUNKS);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(SandboxError::Lost("runsc: no pipes".into()));
        };
        let readers = [
            tokio::spawn(read(stdout, Channel::Stdout, sender.clone())),
            tokio::spawn(read(stderr, Channel::Stderr, sender)),
        ];
        // A program that reads none of it must not be waited for.
        let writer = tokio::spawn(async move {
            let _ = stdin.write_all(&input).await;
        });
        let mut watched = Watched {
            started: Instant::now(),
            verdict: None,
            stats: Stats::default(),
            peak_bytes: 0,
            pids_peak: 0,
            captured: Default::default(),
            truncated: false,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.limits.wall_ms);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = loop {
            let verdict = tokio::select! {
                status = child.wait() => break status.map_err(lost)?,
                Some((channel, bytes)) = chunks.recv() => self.take(&mut watched, channel, bytes).await,
                _ = looks.tick() => self.look(&mut watched).await,
                () = sleep_until(deadline) => Some(Verdict::TimedOut),
                () = self.cancel.cancelled() => Some(Verdict::Cancelled),
            };
            if verdict.is_some() {
                watched.verdict = verdict;
                self.runsc.kill(self.id).await;
                match timeout(END_TIMEOUT, child.wait()).await {
                    Ok(status) => break status.map_err(lost)?,
                    Err(_) => {
                        self.runsc.delete(self.id).await;
                        child.kill().await.map_err(lost)?;
                        break child.wait().await.map_err(lost)?;
                    }
                }
            }
        };
        writer.abort();
        self.runsc.delete(self.id).await;
        // All that held the pipes is gone.
        let rest = async {
            while let Some((channel, bytes)) = chunks.recv().await {
                if let Some(verdict) = self.take(&mut watched, channel, bytes).await {
                    watched.verdict.get_or_insert(verdict);
                }
            }
        };
        let _ = timeout(END_TIMEOUT, rest).await;
        for reader in readers {
            reader.abort();
        }
        Ok(watched.outcome(self.limits, status.code()))
    }

    /// Some: it has said too much.
    async fn take(
        &mut self,
        watched: &mut Watched,
        channel: Channel,
        mut bytes: Bytes,
    ) -> Option<Verdict> {
        let said: usize = watched.captured.iter().map(BytesMut::len).sum();
        let room = usize::try_from(self.limits.output_bytes)
            .unwrap_or(usize::MAX)
            .saturating_sub(said);
        let cut = bytes.len() > room;
        bytes.truncate(room);
        let captured = &mut watched.captured[usize::from(channel == Channel::Stderr)];
        let offset = captured.len() as u64;
        captured.extend_from_slice(&bytes);
        if !bytes.is_empty() {
            let step = self.kind;
            self.output
                .send(OutputChunk {
                    step,
                    channel,
                    offset,
                    bytes,
                })
                .await;
        }
        watched.truncated |= cut;
        cut.then_some(Verdict::OutputLimit)
    }

    /// Some: it has used too much.
    async fn look(&mut self, watched: &mut Watched) -> Option<Verdict> {
        if let Some(stats) = self.runsc.stats(self.id).await {
            watched.peak_bytes = watched.peak_bytes.max(stats.memory_bytes);
            watched.pids_peak = watched.pids_peak.max(stats.pids);
            watched.stats = stats;
        }
        if watched.stats.cpu_us >= self.limits.cpu_ms.saturating_mul(1000) {
            return Some(Verdict::CpuExceeded);
        }
        if watched.stats.memory_bytes > self.limits.memory_bytes {
            return Some(Verdict::OutOfMemory);
        }
        let (bytes, names) = (self.limits.disk_bytes, self.limits.inodes);
        let size = self.folder.measure(bytes, names);
        (size.unfathomable || size.bytes > bytes || size.names > names)
            .then_some(Verdict::DiskExceeded)
    }
}

async fn read(
    mut pipe: impl AsyncRead + Unpin,
    channel: Channel,
    chunks: mpsc::Sender<(Channel, Bytes)>,
) {
    loop {
        let mut bytes = BytesMut::with_capacity(CHUNK_BYTES);
        match pipe.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if chunks.send((channel, bytes.freeze())).await.is_err() {
            return;
        }
    }
}

impl Watched {
    fn outcome(mut self, limits: &Limits, code: Option<i32>) -> StepOutcome {
        let signal = code
            .map(|code| code - SIGNALED)
            .filter(|signal| (1..=HIGHEST_SIGNAL).contains(signal));
        // The kernel of its own is killed for memory as a whole, and `runsc run` can only say that it is gone.
        let near_its_memory = self.peak_bytes >= limits.memory_bytes / 10 * 9;
        let gone = code.is_none() || code == Some(SIGNALED) || signal == Some(libc::SIGKILL);
        let verdict = match self.verdict {
            Some(ours) => ours,
            None if gone && near_its_memory => Verdict::OutOfMemory,
            None if signal == Some(libc::SIGXCPU) => Verdict::CpuExceeded,
            None if signal.is_some() || code.is_none() => Verdict::Signaled,
            None => Verdict::Exited,
        };
        let message = match verdict {
            Verdict::TimedOut => Some(format!("killed after {} ms", limits.wall_ms)),
            Verdict::CpuExceeded => Some(format!("killed after {} ms of CPU time", limits.cpu_ms)),
            Verdict::OutOfMemory => Some(format!(
                "killed beyond {} bytes of memory",
                limits.memory_bytes
            )),
            Verdict::OutputLimit => Some(format!(
                "killed after {} bytes of output",
                limits.output_bytes
            )),
            Verdict::DiskExceeded => Some(format!(
                "killed beyond {} bytes of files, {} files, or folders too deep",
                limits.disk_bytes, limits.inodes
            )),
            Verdict::Cancelled => Some("cancelled".to_owned()),
            Verdict::Exited | Verdict::Signaled | Verdict::NotStarted => None,
        };
        let ours = !matches!(verdict, Verdict::Exited | Verdict::Signaled);
        let [stdout, stderr] = std::mem::take(&mut self.captured);
        StepOutcome {
            verdict,
            exit_code: code.filter(|_| verdict == Verdict::Exited),
            signal: signal.or(ours.then_some(libc::SIGKILL)),
            stdout: stdout.freeze(),
            stderr: stderr.freeze(),
            truncated: self.truncated,
            usage: Usage {
                wall_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                cpu_ms: self.stats.cpu_us / 1000,
                max_memory_bytes: self.peak_bytes,
                pids_max: self.pids_peak,
            },
            message,
        }
    }
}
