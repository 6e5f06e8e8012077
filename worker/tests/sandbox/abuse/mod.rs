//! Attacks, as a table. Each is tried bare on this machine, where it must succeed or it shows nothing here and is listed
//! as not run; then under every driver of this machine, where it must not. What a driver can't stop by its nature stands
//! in a list with the reason, and is listed as not stopped.

mod probes;

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use atelier_worker::sandbox::{ProgramFile, Verdict};
use libtest_mimic::{Completion, Failed, Trial};

use crate::fixture::{PYTHON, block_on, landlock, python, shared, step, text};

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

/// What the driver without namespaces can't stop: there is no other view of the machine in which it could not be seen.
const NOT_STOPPED_BY_LANDLOCK: &[(&str, &str)] = &[
    (
        "signal_anybody",
        "whether a process id is taken is told by how a signal to it is refused",
    ),
    (
        "name_of_the_system",
        "a link into /usr, which is shown for its toolchains",
    ),
    (
        "stat_host_files",
        "Landlock rules open files, not asking for their size and owner",
    ),
];

const PRELUDE: &str = include_str!("prelude.py");

/// What the outside offers to attacks, for as long as the tests run.
struct Bait {
    tcp_port: u16,
    abstract_name: String,
    path: std::path::PathBuf,
    datagrams: std::path::PathBuf,
    /// Of memory that everybody on the machine may read; -1 where there is no `ipcmk`.
    shared_memory: i64,
    _kept: (
        std::net::TcpListener,
        std::os::unix::net::UnixListener,
        std::os::unix::net::UnixListener,
        std::os::unix::net::UnixDatagram,
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
        let datagrams = folder.path().join("datagrams");
        let letters = std::os::unix::net::UnixDatagram::bind(&datagrams)?;
        std::fs::set_permissions(
            &datagrams,
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )?;
        let made = Command::new("/usr/bin/ipcmk").args(["-M", "4096"]).output();
        let made = made.map(|said| text(&said.stdout)).unwrap_or_default();
        let shared_memory = made
            .split_whitespace()
            .last()
            .and_then(|id| id.parse().ok());
        Ok(Bait {
            datagrams,
            shared_memory: shared_memory.unwrap_or(-1),
            tcp_port: tcp.local_addr()?.port(),
            abstract_name,
            path,
            _kept: (tcp, hidden, named, letters, folder),
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
        let _ = Command::new("/usr/bin/ipcrm")
            .args(["-m", &bait.shared_memory.to_string()])
            .status();
    }
}

/// A driver that attacks are tried under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Ns,
    Landlock,
}

impl Driver {
    fn not_stopped(self, probe: &Probe) -> Option<&'static str> {
        let list: &[(&str, &'static str)] = match self {
            Self::Ns => &[],
            Self::Landlock => NOT_STOPPED_BY_LANDLOCK,
        };
        let row = list.iter().find(|(name, _)| *name == probe.name);
        row.map(|(_, reason)| *reason)
    }
}

pub fn tests() -> Vec<Trial> {
    let under = |driver: Driver, name: &'static str| {
        probes::PROBES.iter().map(move |probe| {
            Trial::ignorable_test(format!("{name}::{}", probe.name), move || {
                block_on(attack(driver, probe))
            })
        })
    };
    under(Driver::Ns, "abuse")
        .chain(under(Driver::Landlock, "abuse_landlock"))
        .collect()
}

/// `first` is the process that stands behind everything: the box's own first, or the worker where there is no box.
fn source(probe: &Probe, first: &str) -> String {
    let bait = format!(
        "PORT = {}\nABSTRACT = {:?}\nSOCKET = {:?}\nDATAGRAMS = {:?}\nMEMORY = {}\nSECRET = {:?}\nWORKER = {}\nFIRST = {first}\n",
        BAIT.tcp_port,
        BAIT.abstract_name,
        BAIT.path.display().to_string(),
        BAIT.datagrams.display().to_string(),
        BAIT.shared_memory,
        // Not as it is in the environment, or the probe would find itself.
        crate::SECRET_VALUE.chars().rev().collect::<String>(),
        std::process::id(),
    );
    // A probe that is refused halfway has got hold of what it has until then. Rust's quotes are Python's, for ASCII.
    format!(
        "{PRELUDE}\n{bait}\ntry:\n    exec({:?})\nexcept OSError:\n    pass\nfinish()\n",
        probe.source
    )
}

async fn attack(driver: Driver, probe: &Probe) -> Result<Completion, Failed> {
    if cfg!(not(target_arch = "x86_64")) {
        return Ok(Completion::ignored_with(
            "not run: the probes know the system calls of x86_64 only",
        ));
    }
    let (sandbox, first) = match driver {
        Driver::Ns => (shared(), "1"),
        Driver::Landlock => match landlock() {
            Ok(sandbox) => (&**sandbox, "os.getppid()"),
            Err(reason) => return Ok(Completion::ignored_with(format!("not run: {reason}"))),
        },
    };
    let bare = bare(probe, &source(probe, &std::process::id().to_string()))?;
    if !bare.contains("ESCAPED") {
        return Ok(Completion::ignored_with(format!(
            "not run: without a sandbox it gets nowhere either ({})",
            bare.trim()
        )));
    }
    let mut program = python(&source(probe, first));
    program.files.push(ProgramFile {
        path: "own".into(),
        content: "own".into(),
        executable: false,
    });
    let step = step(sandbox, program).await?;
    let said = text(&step.stdout);
    let stopped = step.verdict == Verdict::Exited && said.trim() == "STOPPED";
    match driver.not_stopped(probe) {
        None if stopped => Ok(Completion::Completed),
        Some(_) if stopped => Err("it is stopped now: take it off the list".into()),
        Some(reason) if said.contains("ESCAPED") => {
            Ok(Completion::ignored_with(format!("NOT STOPPED: {reason}")))
        }
        _ => Err(format!(
            "bare: {bare}\nin a box: {said}{}\n{:?} {:?}",
            text(&step.stderr),
            step.verdict,
            step.signal
        )
        .into()),
    }
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
