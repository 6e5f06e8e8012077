//! Attacks, as a table. Each is tried twice: bare on this machine, where it must succeed or it shows nothing here and
//! is listed as not run; then in a box, where it must not.

mod probes;

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use atelier_worker::sandbox::{ProgramFile, Verdict};
use libtest_mimic::{Completion, Failed, Trial};

use crate::fixture::{PYTHON, block_on, python, shared, step, text};

/// How an attack is tried without a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// As it is: it changes nothing beyond its own process and temporary folder.
    Bare,
    /// In a mount namespace of its own, since it would change the machine's.
    OwnMounts,
}

/// One attack: Python that calls `escaped` with what it got hold of.
#[derive(Debug)]
pub struct Probe {
    pub name: &'static str,
    pub control: Control,
    pub source: &'static str,
}

const PRELUDE: &str = include_str!("prelude.py");

/// What the outside offers to attacks, for as long as the tests run.
struct Bait {
    tcp_port: u16,
    abstract_name: String,
    path: std::path::PathBuf,
    _kept: (
        std::net::TcpListener,
        std::os::unix::net::UnixListener,
        std::os::unix::net::UnixListener,
        tempfile::TempDir,
    ),
}

static BAIT: LazyLock<Bait> = LazyLock::new(|| {
    let bait = || -> std::io::Result<Bait> {
        let tcp = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let abstract_name = format!("atelier-bait-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name)?;
        let hidden = std::os::unix::net::UnixListener::bind_addr(&address)?;
        let folder = tempfile::Builder::new().prefix("atelier-bait").tempdir()?;
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let path = folder.path().join("socket");
        let named = std::os::unix::net::UnixListener::bind(&path)?;
        Ok(Bait {
            tcp_port: tcp.local_addr()?.port(),
            abstract_name,
            path,
            _kept: (tcp, hidden, named, folder),
        })
    };
    bait().expect("loopback and Unix sockets")
});

/// Takes the bait away: what lives in a static is never dropped.
pub fn close() {
    if let Some(bait) = LazyLock::get(&BAIT)
        && let Some(folder) = bait.path.parent()
    {
        let _ = std::fs::remove_dir_all(folder);
    }
}

pub fn tests() -> Vec<Trial> {
    let trial = |probe: &'static Probe| {
        Trial::ignorable_test(format!("abuse::{}", probe.name), move || {
            block_on(attack(probe))
        })
    };
    probes::PROBES.iter().map(trial).collect()
}

/// `first` is the process that stands behind everything: the box's own first, or the worker where there is no box.
fn source(probe: &Probe, first: u32) -> String {
    let bait = format!(
        "PORT = {}\nABSTRACT = {:?}\nSOCKET = {:?}\nSECRET = {:?}\nWORKER = {}\nFIRST = {first}\n",
        BAIT.tcp_port,
        BAIT.abstract_name,
        BAIT.path.display().to_string(),
        // Not as it is in the environment, or the probe would find itself.
        crate::SECRET_VALUE.chars().rev().collect::<String>(),
        std::process::id(),
    );
    format!("{PRELUDE}\n{bait}\n{}\nfinish()\n", probe.source)
}

async fn attack(probe: &Probe) -> Result<Completion, Failed> {
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(Completion::ignored_with(
            "not run: the probes know the system calls of x86_64 only",
        ));
    }
    let bare = bare(probe, &source(probe, std::process::id()))?;
    if !bare.contains("ESCAPED") {
        return Ok(Completion::ignored_with(format!(
            "not run: without a sandbox it gets nowhere either ({})",
            bare.trim()
        )));
    }
    let mut program = python(&source(probe, 1));
    program.files.push(ProgramFile {
        path: "own".into(),
        content: "own".into(),
        executable: false,
    });
    let step = step(shared(), program).await?;
    let said = text(&step.stdout);
    if step.verdict != Verdict::Exited || said.trim() != "STOPPED" {
        return Err(format!(
            "bare: {bare}\nin a box: {said}{}\n{:?} {:?}",
            text(&step.stderr),
            step.verdict,
            step.signal
        )
        .into());
    }
    Ok(Completion::Completed)
}

/// The attack without a sandbox, in an empty folder.
fn bare(probe: &Probe, source: &str) -> Result<String, Failed> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("own"), "own")?;
    let mut command = match probe.control {
        Control::Bare => Command::new(PYTHON),
        Control::OwnMounts => {
            let mut command = Command::new("/usr/bin/unshare");
            command.args(["--mount", "--propagation", "private", PYTHON]);
            command
        }
    };
    let mut child = command
        .args(["-B", "-"])
        .current_dir(folder.path())
        .env_remove(crate::SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .ok_or("no input")?
        .write_all(source.as_bytes())?;
    let said = child.wait_with_output()?;
    Ok(text(&said.stdout) + text(&said.stderr).lines().last().unwrap_or_default())
}
