//! The helper process seen from the worker: started with nothing of ours, spoken to over one socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use super::wire::{self, Configuration, Inbox, Kind, MAX_REPORT_BYTES, Ready};
use crate::sandbox::SandboxError;

/// How long a helper may take to its first box.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a helper may take to clear up.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A helper process.
#[derive(Debug)]
pub struct Helper {
    control: UnixStream,
    pub process_id: u32,
    pub ready: Ready,
    ended: oneshot::Receiver<()>,
}

impl Helper {
    /// Starts a helper and waits for its first box.
    ///
    /// It gets no environment, no arguments but `sandbox-init` and no descriptor but its socket and standard error,
    /// so no credential of the worker is in its memory.
    pub async fn start(
        program: PathBuf,
        configuration: &Configuration,
    ) -> Result<Self, SandboxError> {
        let unavailable =
            |error: std::io::Error| SandboxError::Unavailable(format!("helper: {error}"));
        let (mut control, theirs) = UnixStream::pair().map_err(unavailable)?;
        let theirs = theirs.into_std().map_err(unavailable)?;
        theirs.set_nonblocking(false).map_err(unavailable)?;
        let (process_id, ended) = spawn(program, theirs.into()).await?;

        let frame = wire::message(Kind::Configure, configuration).map_err(unavailable)?;
        control.write_all(&frame).await.map_err(unavailable)?;
        let ready = timeout(START_TIMEOUT, first_word(&mut control)).await;
        let ready = ready.map_err(|_| {
            SandboxError::Unavailable(format!("the helper said nothing for {START_TIMEOUT:?}"))
        })??;
        Ok(Self {
            control,
            process_id,
            ready,
            ended,
        })
    }

    /// Is its process gone? Its socket says so later: a box that was just being made holds a copy until it dies as well.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.ended.try_recv(), Err(TryRecvError::Empty))
    }

    /// Hands a program's socket to the helper.
    ///
    /// # Errors
    /// When the helper is gone.
    pub async fn hand_over(&self, socket: &OwnedFd) -> std::io::Result<()> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let sockets = [socket.as_fd()];
            if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
                return Err(std::io::ErrorKind::OutOfMemory.into());
            }
            let parts = [IoSlice::new(&[1])];
            rustix::net::sendmsg(&self.control, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.control.async_io(Interest::WRITABLE, send).await
    }

    /// Lets the helper go and waits until it has cleared up.
    pub async fn stop(self) {
        drop(self.control);
        if timeout(STOP_TIMEOUT, self.ended).await.is_err() {
            tracing::warn!(
                process_id = self.process_id,
                "the sandbox's helper is slow to clear up"
            );
        }
    }
}

async fn first_word(control: &mut UnixStream) -> Result<Ready, SandboxError> {
    let unavailable = |error: std::io::Error| SandboxError::Unavailable(format!("helper: {error}"));
    let mut inbox = Inbox::new(MAX_REPORT_BYTES);
    let mut buffer = vec![0; 4096];
    loop {
        match inbox.next().map_err(unavailable)? {
            Some((Kind::Ready, body)) => return wire::parse(&body).map_err(unavailable),
            Some((Kind::Refused, body)) => {
                return Err(SandboxError::Unavailable(
                    wire::parse(&body).map_err(unavailable)?,
                ));
            }
            Some(_) => {
                return Err(SandboxError::Unavailable(
                    "the helper said something unexpected".into(),
                ));
            }
            None => {}
        }
        let length = control.read(&mut buffer).await.map_err(unavailable)?;
        if length == 0 {
            return Err(SandboxError::Unavailable(
                "the helper ended before its first word".into(),
            ));
        }
        inbox.push(buffer.get(..length).unwrap_or_default());
    }
}

/// Starts the process from a thread of its own that waits for it.
///
/// The helper asks to be killed when its parent dies, and to the kernel "parent" is the thread that started it:
/// one of the runtime's threads may end long before the worker does.
async fn spawn(
    program: PathBuf,
    socket: OwnedFd,
) -> Result<(u32, oneshot::Receiver<()>), SandboxError> {
    let (started, result) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let keep = move || {
        let mut command = Command::new(program);
        command.arg("sandbox-init").env_clear().current_dir("/");
        command
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // What a terminal or a service manager tells the worker's group is the worker's to hear: it lets programs end.
            .process_group(0);
        let child = command.spawn();
        // Our copy of its socket must close, or its end would never be seen.
        drop(command);
        match child {
            Ok(mut child) => {
                let _ = started.send(Ok(child.id()));
                let _ = child.wait();
                let _ = ended.send(());
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    };
    let unavailable = |error: std::io::Error| SandboxError::Unavailable(format!("helper: {error}"));
    std::thread::Builder::new()
        .name("sandbox-keeper".into())
        .spawn(keep)
        .map_err(unavailable)?;
    let process_id = result
        .await
        .map_err(|_| SandboxError::Unavailable("helper: its thread died".into()))?;
    Ok((process_id.map_err(unavailable)?, end))
}
