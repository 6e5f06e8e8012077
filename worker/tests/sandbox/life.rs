//! Births and deaths: cancelling, a killed helper, a killed worker, and what is left behind (nothing).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use atelier_shared::domain::job::JobState;
use atelier_worker::sandbox::{
    ArtifactRequest, NsConfig, NsSandbox, OutputSink, Policy, Sandbox as _, SandboxError, TierLevel,
};
use libtest_mimic::{Completion, Failed, Trial};
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    ANY, block_on, config, python, run, sh, shared, shell, start, test, text, wait_until,
};

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "a_cancelled_program_is_killed_and_its_output_so_far_kept",
            cancel,
        ),
        test(
            "a_program_cancelled_while_it_waits_never_runs",
            cancel_waiting,
        ),
        test("a_program_whose_caller_went_away_is_killed", dropped),
        test(
            "a_killed_helper_loses_its_program_retryably_and_is_replaced",
            helper_killed,
        ),
        test(
            "when_the_worker_is_killed_helper_and_boxes_die",
            worker_killed,
        ),
        test("nothing_runs_on_after_a_program_ended", leftovers),
        test("nothing_is_left_after_shutdown", shutdown),
        test("groups_of_a_killed_helper_are_swept_by_the_next", swept),
        test(
            "the_helper_has_no_environment_and_left_the_hosts_files",
            helper_is_bare,
        ),
        test("links_fifos_and_sockets_are_no_artifacts", no_artifacts),
        test("a_box_cannot_see_the_files_of_another", other_files),
        test(
            "the_full_tier_is_reached_on_a_machine_that_gives_everything",
            full_tier,
        ),
        Trial::ignorable_test(
            "without_root_boxes_run_and_the_tier_says_what_is_missing",
            || block_on(rootless()),
        ),
        test("started_by_hand_the_helper_says_so", by_hand),
    ]
}

async fn cancel() -> Result<(), Failed> {
    let cancel = CancellationToken::new();
    let (sink, mut chunks) = OutputSink::channel(4);
    let token = cancel.clone();
    let stop = async move {
        let first = chunks.recv().await;
        token.cancel();
        first
    };
    let started = Instant::now();
    let (outcome, first) = tokio::join!(
        shared().run(sh("echo started; sleep 60"), sink, cancel),
        stop
    );
    let outcome = outcome?;
    assert!(first.is_some());
    assert_eq!(outcome.state(), JobState::Cancelled);
    assert_eq!(
        outcome.run.map(|step| text(&step.stdout)).as_deref(),
        Some("started\n")
    );
    assert!(started.elapsed().as_secs() < 5);
    Ok(())
}

async fn cancel_waiting() -> Result<(), Failed> {
    let sandbox = NsSandbox::start(
        NsConfig {
            slots: 1,
            warm: 1,
            ..config()
        },
        ANY,
    )
    .await?;
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let (sink, mut chunks) = OutputSink::channel(4);
    let running = sandbox.run(sh("echo up; sleep 60"), sink, first.clone());
    let waiting = async {
        chunks.recv().await;
        second.cancel();
        let outcome = sandbox
            .run(sh("echo never"), OutputSink::none(), second.clone())
            .await;
        first.cancel();
        outcome
    };
    let (_, outcome) = tokio::join!(running, waiting);
    let outcome = outcome?;
    assert_eq!(
        (outcome.state(), outcome.run.is_none()),
        (JobState::Cancelled, true)
    );
    sandbox.shutdown().await;
    Ok(())
}

async fn dropped() -> Result<(), Failed> {
    let (sink, mut chunks) = OutputSink::channel(4);
    let marker = "sleep 61.5";
    tokio::select! {
        _ = shared().run(sh(&format!("echo up; {marker}; true")), sink, CancellationToken::new()) => {}
        _ = chunks.recv() => {}
    }
    wait_until("the program ends", || processes(marker).is_empty()).await
}

async fn helper_killed() -> Result<(), Failed> {
    let sandbox = start().await?;
    let helper = sandbox.helper_process_id().await.ok_or("no helper")?;
    let (sink, mut chunks) = OutputSink::channel(4);
    let running = sandbox.run(
        sh("echo up; sleep 62.5; true"),
        sink,
        CancellationToken::new(),
    );
    let killing = async {
        chunks.recv().await;
        kill(helper);
    };
    let (outcome, ()) = tokio::join!(running, killing);
    match outcome {
        Err(error @ SandboxError::Lost(_)) => assert!(error.is_retryable()),
        other => return Err(format!("expected a lost program, got {other:?}").into()),
    }
    wait_until("its boxes end", || processes("sleep 62.5").is_empty()).await?;
    assert_eq!(
        text(&shell(&sandbox, "echo again").await?.stdout),
        "again\n"
    );
    assert_ne!(sandbox.helper_process_id().await, Some(helper));
    sandbox.shutdown().await;
    Ok(())
}

/// The test binary as a worker of its own: starts a sandbox, runs a long program, waits to be killed.
pub fn be_a_worker(first_host_user: u32) -> ! {
    let result = block_on(async move {
        let sandbox = NsSandbox::start(
            NsConfig {
                first_host_user,
                slots: 1,
                warm: 2,
                ..NsConfig::default()
            },
            ANY,
        )
        .await?;
        // The parent waits for the marker to appear.
        run(&sandbox, sh("sleep 63.5; true")).await?;
        Ok(())
    });
    std::process::exit(i32::from(result.is_err()));
}

async fn worker_killed() -> Result<(), Failed> {
    let user = config().first_host_user;
    let mut worker = Command::new(std::env::current_exe()?)
        .args(["be-a-worker", &user.to_string()])
        .stdin(Stdio::null())
        .spawn()?;
    wait_until("its program runs", || !processes("sleep 63.5").is_empty()).await?;
    let family = descendants(worker.id());
    // The helper, two or three boxes, the shell, the sleep.
    assert!(family.len() >= 4, "{family:?}");
    kill(worker.id());
    worker.wait()?;
    wait_until("all of them end", || family.iter().all(|pid| !alive(*pid))).await
}

async fn leftovers() -> Result<(), Failed> {
    let source = "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            os.execv('/bin/sleep', ['sleep', '64.5'])\n        os._exit(0)\ntime.sleep(0.2)\nprint('left')\n";
    let outcome = run(shared(), python(source)).await?;
    assert_eq!(
        outcome.run.map(|step| text(&step.stdout)).as_deref(),
        Some("left\n")
    );
    // Not "soon": when the outcome is here they are gone.
    assert_eq!(processes("sleep\u{0}64.5"), Vec::<u32>::new());
    Ok(())
}

async fn shutdown() -> Result<(), Failed> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let sandbox = start().await?;
    let helper = sandbox.helper_process_id().await.ok_or("no helper")?;
    for _ in 0..5 {
        shell(&sandbox, "sleep 30 & true").await?;
    }
    let family = descendants(helper);
    assert!(!group_folders(helper).is_empty() || sandbox.tier().level < TierLevel::Full);
    sandbox.shutdown().await;
    assert!(
        family.iter().chain([&helper]).all(|pid| !alive(*pid)),
        "{family:?}"
    );
    assert_eq!(group_folders(helper), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo")?, mounts);
    match shell(&sandbox, "true").await {
        Err(_) => Ok(()),
        Ok(step) => Err(format!("it still runs programs: {step:?}").into()),
    }
}

async fn swept() -> Result<(), Failed> {
    let sandbox = start().await?;
    if sandbox.tier().level < TierLevel::Full {
        return Ok(());
    }
    let helper = sandbox.helper_process_id().await.ok_or("no helper")?;
    let family = descendants(helper);
    kill(helper);
    wait_until("its boxes end", || family.iter().all(|pid| !alive(*pid))).await?;
    assert!(!group_folders(helper).is_empty());
    shell(&sandbox, "true").await?;
    assert_eq!(group_folders(helper), Vec::<PathBuf>::new());
    sandbox.shutdown().await;
    Ok(())
}

async fn helper_is_bare() -> Result<(), Failed> {
    assert!(
        std::env::var_os(crate::SECRET).is_some(),
        "the worker's own secret is what must not be found"
    );
    let helper = shared().helper_process_id().await.ok_or("no helper")?;
    for pid in descendants(helper).into_iter().chain([helper]) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = text(&environment);
        // Programs of other tests have what every program has.
        let of_a_program = pid != helper && environment.contains("HOME=/box");
        assert!(
            environment.is_empty() || of_a_program,
            "{pid}: {environment}"
        );
        assert!(!environment.contains(crate::SECRET), "{pid}: {environment}");
    }
    let root = std::fs::read_dir(format!("/proc/{helper}/root"))?;
    let mut names: Vec<String> = root
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for foreign in ["root", "home", "var", "srv", "boot", "sys", "run"] {
        assert!(!names.contains(&foreign.to_owned()), "{names:?}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{helper}/mountinfo"))?;
    assert!(
        mounts.lines().all(|line| !line.contains(" / / rw")),
        "{mounts}"
    );
    Ok(())
}

async fn no_artifacts() -> Result<(), Failed> {
    let mut program = sh(
        "echo real > real; ln -s /etc/passwd link; ln -s /etc folder; mkfifo fifo; \
        ln real hard; mkdir d; ln -s ../real d/up; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"",
    );
    program.artifacts = Some(ArtifactRequest {
        patterns: vec!["**".into()],
        max_files: 100,
        max_bytes: 100_000,
    });
    let outcome = run(shared(), program).await?;
    let found: BTreeSet<&str> = outcome
        .artifacts
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    // A hard link can only lead to a file of the box itself: nothing else is on its file system.
    assert_eq!(found, BTreeSet::from(["hard", "real"]));
    assert!(
        outcome
            .artifacts
            .iter()
            .all(|file| &file.content[..] == b"real\n")
    );
    let skipped: BTreeSet<&str> = outcome
        .artifacts_skipped
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(
        skipped,
        BTreeSet::from(["link", "folder", "fifo", "d/up", "sock"])
    );

    let step = shell(
        shared(),
        "ln /etc/passwd stolen || ln /usr/bin/env stolen || ln /tmp/x stolen; echo $?",
    )
    .await?;
    assert_eq!(
        text(&step.stdout),
        "1\n",
        "a file of another file system was linked"
    );
    Ok(())
}

async fn other_files() -> Result<(), Failed> {
    let (sink, mut chunks) = OutputSink::channel(4);
    let cancel = CancellationToken::new();
    let hide = "echo secret-4711 | tee /box/secret /tmp/secret /dev/shm/secret > /dev/null; ipcmk -M 4711 > /dev/null; echo up; sleep 60";
    let hiding = shared().run(sh(hide), sink, cancel.clone());
    let seeking = async {
        chunks.recv().await;
        let seek = "cat /box/secret /tmp/secret /dev/shm/secret /proc/*/root/box/secret /proc/*/cwd/secret 2>/dev/null; ipcs -m | grep 4711; ls /proc | grep -c '^[0-9]'"; // hygiene: allow
        let found = shell(shared(), seek).await;
        cancel.cancel();
        found
    };
    let (_, found) = tokio::join!(hiding, seeking);
    let said = text(&found?.stdout);
    let count: u32 = said
        .trim()
        .parse()
        .map_err(|_| format!("something was found: {said}"))?;
    assert!(count <= 6, "{said}");
    Ok(())
}

async fn full_tier() -> Result<(), Failed> {
    let tier = shared().tier();
    eprintln!("{tier}");
    // What this machine doesn't give is no mistake of ours; that it is told is.
    if tier.level < TierLevel::Full {
        assert!(!tier.missing().is_empty());
        assert!(NsSandbox::start(config(), Policy::default()).await.is_err());
    }
    Ok(())
}

/// The test binary as a worker without root.
pub fn be_rootless() -> ! {
    let result = block_on(async move {
        let sandbox = NsSandbox::start(config(), ANY).await?;
        eprintln!("{}", sandbox.tier());
        let step = shell(
            &sandbox,
            "id -u; cat /etc/shadow; echo x > /box/y && cat /box/y; ls /proc | grep -c .",
        )
        .await?;
        if !text(&step.stdout).starts_with("1000\nx\n")
            || sandbox.tier().level != TierLevel::Reduced
        {
            return Err(format!("{step:?}").into());
        }
        sandbox.shutdown().await;
        Ok(())
    });
    if let Err(error) = &result {
        eprintln!("{}", error.message().unwrap_or("failed"));
    }
    std::process::exit(i32::from(result.is_err()));
}

async fn rootless() -> Result<Completion, Failed> {
    if !is_root() {
        return Ok(Completion::ignored_with(
            "the tests run without root, so all of them show it",
        ));
    }
    let me = tempfile::Builder::new()
        .prefix("atelier-rootless")
        .tempdir_in("/tmp")?;
    let copy = me.path().join("worker");
    std::fs::copy(std::env::current_exe()?, &copy)?;
    for path in [me.path(), &copy] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let said = Command::new("/usr/bin/setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .arg("be-rootless")
        .output()?;
    let said_text = text(&said.stderr);
    if said_text.contains("user namespaces are refused") {
        return Ok(Completion::ignored_with(
            "this kernel refuses user namespaces without root",
        ));
    }
    assert!(said.status.success(), "{said_text}");
    assert!(said_text.contains("own host user ("), "{said_text}");
    Ok(Completion::Completed)
}

async fn by_hand() -> Result<(), Failed> {
    let said = Command::new(std::env::current_exe()?)
        .arg("sandbox-init")
        .stdin(Stdio::null())
        .output()?;
    assert_eq!(said.status.code(), Some(2));
    assert!(
        text(&said.stderr).contains("not by hand"),
        "{}",
        text(&said.stderr)
    );
    Ok(())
}

pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0")))
}

pub fn kill(pid: u32) {
    let _ = Command::new("/bin/kill")
        .args(["-9", &pid.to_string()])
        .status();
}

fn alive(pid: u32) -> bool {
    // A zombie has no command line any more.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

pub fn all_processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Processes whose command line contains a text; words are separated by zero bytes or spaces.
pub fn processes(text: &str) -> Vec<u32> {
    let wanted = text.replace('\0', " ");
    let matches = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != std::process::id()
            && String::from_utf8_lossy(&line)
                .replace('\0', " ")
                .starts_with(&wanted)
    };
    all_processes().into_iter().filter(matches).collect()
}

pub fn descendants(of: u32) -> Vec<u32> {
    let parent = |pid: &u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let mut found = vec![of];
    let mut at = 0;
    let pairs: Vec<(u32, u32)> = all_processes()
        .into_iter()
        .filter_map(|pid| Some((pid, parent(&pid)?)))
        .collect();
    while at < found.len() {
        let here = found[at];
        found.extend(
            pairs
                .iter()
                .filter(|(_, parent)| *parent == here)
                .map(|(pid, _)| *pid),
        );
        at += 1;
    }
    found.split_off(1)
}

/// Folders of a helper anywhere in the cgroup file systems.
fn group_folders(helper: u32) -> Vec<PathBuf> {
    fn search(folder: PathBuf, name: &str, depth: u32, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return;
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            if entry.file_name().to_str() == Some(name) {
                found.push(entry.path());
            } else if depth > 0 {
                search(entry.path(), name, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    search(
        "/sys/fs/cgroup".into(),
        &format!("atelier-{helper}"),
        6,
        &mut found,
    );
    found
}
