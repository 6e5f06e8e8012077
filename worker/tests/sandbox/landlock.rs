//! Boxes without namespaces: the limits hold, nothing is left, and what they are is told.

use std::path::Path;

use atelier_shared::domain::job::JobState;
use atelier_shared::domain::language::LANGUAGES;
use atelier_worker::sandbox::toolchains::Toolchains;
use atelier_worker::sandbox::{
    AccountingChoice, ArtifactRequest, BoxKind, CompileCache, DriverChoice, GvisorConfig, Limits,
    NsConfig, NsSandbox, OutputSink, Policy, Program, Sandbox, TierLevel, Verdict,
};
use libtest_mimic::{Completion, Failed, Trial};
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    ANY, block_on, config, job, landlock, python, run, sh, step, text, wait_until,
};
use crate::languages::PROGRAMS;
use crate::life::{all_processes, descendants, kill, processes};

const MIB: u64 = 1024 * 1024;

/// Needs boxes without namespaces; where the machine gives none the test is listed as not run.
fn test<F>(name: &str, body: impl FnOnce(&'static NsSandbox) -> F + Send + 'static) -> Trial
where
    F: Future<Output = Result<(), Failed>>,
{
    Trial::ignorable_test(format!("landlock::{name}"), move || {
        block_on(async {
            match landlock() {
                Ok(sandbox) => body(sandbox).await.map(|()| Completion::Completed),
                Err(reason) => Ok(Completion::ignored_with(format!("not run: {reason}"))),
            }
        })
    })
}

pub fn tests() -> Vec<Trial> {
    vec![
        test("its_tier_is_basic_and_code_is_refused_above_it", tier),
        test("every_language_that_is_here_runs", languages),
        test("memory_is_limited_for_one_and_over_all", memory),
        test("cpu_time_is_limited_over_all_processes", cpu),
        test("a_fork_bomb_meets_its_limit_and_ends_whole", fork_bomb),
        test(
            "wall_time_ends_what_ignores_every_signal_and_stops_itself",
            wall,
        ),
        test("output_is_cut_and_the_program_killed", output),
        test("disk_and_files_beyond_their_limits_end_the_program", disk),
        test("files_without_a_name_count_too", nameless_files),
        test("nothing_runs_on_after_a_program_ended", leftovers),
        test("a_program_can_t_kill_its_box_or_anybody", against_the_box),
        test(
            "a_box_s_files_are_gone_and_nobody_elses_to_read",
            files_of_others,
        ),
        test("links_and_fifos_are_no_artifacts", artifacts),
        test("a_cancelled_program_is_killed_whole", cancelled),
        test("a_killed_helper_takes_its_program_with_it", helper_killed),
        test("without_cgroups_the_limits_hold", unaided),
        test("nothing_is_left_after_shutdown", shutdown),
    ]
}

async fn tier(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let tier = sandbox.tier();
    eprintln!("{tier}");
    assert_eq!((tier.driver, tier.level), ("landlock", TierLevel::Basic));
    let gvisor = GvisorConfig {
        runsc: "/nonexistent/runsc".into(),
        slots: 1,
        ceiling: Limits::CEILING,
        first_user: config().first_host_user,
        work_folder: None,
    };
    let start = |choice, minimum| {
        let policy = Policy { minimum };
        atelier_worker::sandbox::start(choice, config(), gvisor.clone(), policy)
    };
    for minimum in [TierLevel::Reduced, TierLevel::Full] {
        let refused = start(DriverChoice::Landlock, minimum).await;
        let refusal = refused.err().ok_or("it was started")?.to_string();
        assert!(refusal.contains("basic"), "{refusal}");
    }
    let refused = start(DriverChoice::Gvisor, TierLevel::Basic).await;
    let refusal = refused.err().ok_or("there is no runsc")?.to_string();
    assert!(refusal.contains("runsc"), "{refusal}");
    let found = start(DriverChoice::Landlock, TierLevel::Basic).await?;
    assert_eq!(found.tier().driver, "landlock");
    found.shutdown().await;
    // Where anything would do, the strongest is taken.
    let found = start(DriverChoice::Auto, TierLevel::Basic).await?;
    assert_eq!(found.tier().driver, "ns");
    found.shutdown().await;
    Ok(())
}

async fn languages(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let inner = landlock()?.clone();
    let toolchains = Toolchains::discover(sandbox).await?;
    let cache = CompileCache::new(inner, 64 << 20);
    let mut ran = Vec::new();
    for found in toolchains.languages() {
        let row = LANGUAGES.iter().find(|row| row.name == found.name);
        let source = PROGRAMS.iter().find(|(name, _)| *name == found.name);
        let (Some(_), Some((_, source)), Some(_)) = (row, source, &found.version) else {
            eprintln!("{}: not run: {:?}", found.name, found.missing);
            continue;
        };
        let mut job = job(found.name, found.entry_file, source);
        job.stdin = "7\n".into();
        job.args = vec!["times".into()];
        let program = toolchains.program(&job, &Limits::CEILING)?;
        let cancel = CancellationToken::new();
        let outcome = cache.run(program, OutputSink::none(), cancel).await?;
        let said = outcome.run.as_ref().map(|step| text(&step.stdout));
        if said.as_deref() != Some("42 times\n") {
            return Err(format!("{}: {outcome:?}", found.name).into());
        }
        ran.push(found.name);
    }
    eprintln!("{ran:?}");
    assert!(ran.contains(&"python") && ran.contains(&"bash"), "{ran:?}");
    Ok(())
}

fn hungry(source: &str) -> Program {
    let mut program = python(source);
    program.limits.memory_bytes = 48 * MIB;
    program.limits.wall_ms = 10_000;
    program
}

async fn memory(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    for source in [
        "data = []\nwhile True: data.append(bytearray(1 << 20))\n",
        "import os, time\nfor _ in range(8): os.fork() or (b'x' * (20 << 20), time.sleep(8))\ntime.sleep(8)\n",
    ] {
        let outcome = run(sandbox, hungry(source)).await?;
        assert_eq!(outcome.state(), JobState::OutOfMemory, "{outcome:?}");
    }
    assert_eq!(
        text(&step(sandbox, sh("echo well")).await?.stdout),
        "well\n"
    );
    Ok(())
}

async fn cpu(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let mut program = sh("for i in 1 2 3 4; do (while :; do :; done) & done; wait");
    program.limits.cpu_ms = 600;
    let step = step(sandbox, program).await?;
    assert_eq!(step.verdict, Verdict::CpuExceeded, "{step:?}");
    Ok(())
}

const BOMB: &str = "import os\nwhile True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass\n";

async fn fork_bomb(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let before = of_boxes(sandbox).await?;
    let mut program = python(BOMB);
    program.limits.wall_ms = 1_000;
    let step = step(sandbox, program).await?;
    assert!(
        matches!(step.verdict, Verdict::TimedOut | Verdict::CpuExceeded),
        "{step:?}"
    );
    assert!(step.usage.pids_max <= 65, "{step:?}");
    settled(sandbox, before).await
}

async fn wall(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    for source in [
        "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: time.sleep(1)\n",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n",
        "import os, signal\npid = os.fork()\nos.setsid() if pid == 0 else None\nos.kill(os.getpid(), signal.SIGSTOP)\n",
    ] {
        let before = of_boxes(sandbox).await?;
        let mut program = python(source);
        program.limits.wall_ms = 500;
        assert_eq!(step(sandbox, program).await?.verdict, Verdict::TimedOut);
        settled(sandbox, before).await?;
    }
    Ok(())
}

async fn output(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let mut program = sh("yes & yes >&2; wait");
    program.limits.output_bytes = 100_000;
    let step = step(sandbox, program).await?;
    assert_eq!((step.verdict, step.truncated), (Verdict::OutputLimit, true));
    assert_eq!(step.stdout.len() + step.stderr.len(), 100_000);
    Ok(())
}

async fn disk(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    for source in [
        // By many files, in the folder for what is temporary, by names alone, and by depth.
        "n = 0\nwhile True:\n    open(f'f{n}', 'wb').write(b'x' * (1 << 20)); n += 1\n",
        "import tempfile\nkept = []\nwhile True:\n    kept.append(tempfile.NamedTemporaryFile(delete=False)); kept[-1].write(b'x' * 100_000); kept[-1].close()\n",
        "n = 0\nwhile True:\n    open(f'f{n}', 'w').close(); n += 1\n",
        "import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')\n",
    ] {
        let mut program = python(source);
        program.limits.disk_bytes = 8 * MIB;
        program.limits.memory_bytes = 512 * MIB;
        let outcome = run(sandbox, program).await?;
        assert_eq!(outcome.state(), JobState::Killed, "{source} {outcome:?}");
        let step = outcome.run.ok_or("no run step")?;
        assert_eq!(step.verdict, Verdict::DiskExceeded, "{source} {step:?}");
    }
    // A hole takes no place, and one file may be as large as all may be.
    let mut program = python(
        "open('big', 'wb').write(b'x' * (8 << 20))\nprint('whole')\nopen('big', 'ab').write(b'x')\n",
    );
    program.limits.disk_bytes = 9 * MIB;
    let whole = step(sandbox, program).await?;
    assert_eq!(text(&whole.stdout), "whole\n");
    Ok(())
}

async fn nameless_files(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let source = "import os, time\nkept = []\nfor n in range(16):\n    kept.append(open('x', 'wb')); os.unlink('x'); kept[-1].write(b'x' * (1 << 20)); kept[-1].flush()\ntime.sleep(5)\n";
    let mut program = python(source);
    program.limits.disk_bytes = 8 * MIB;
    let step = step(sandbox, program).await?;
    assert_eq!(step.verdict, Verdict::DiskExceeded, "{step:?}");
    Ok(())
}

async fn leftovers(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let source = "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            os.execv('/bin/sleep', ['sleep', '66.5'])\n        os._exit(0)\ntime.sleep(0.2)\nprint('left')\n";
    let step = step(sandbox, python(source)).await?;
    assert_eq!(text(&step.stdout), "left\n");
    // Not "soon": when the outcome is here they are gone.
    assert_eq!(processes("sleep\u{0}66.5"), Vec::<u32>::new());
    Ok(())
}

async fn against_the_box(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let helper = sandbox.helper_process_id().await;
    let source = "import os, signal\nfor who in (os.getppid(), -1, 1, -os.getppid()):\n    for what in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):\n        try: os.kill(who, what); who == -1 or print('sent', who, what)\n        except OSError: pass\nprint('alive')\n";
    let step = step(sandbox, python(source)).await?;
    assert_eq!(text(&step.stdout), "alive\n", "{step:?}");
    assert_eq!(sandbox.helper_process_id().await, helper);
    Ok(())
}

async fn files_of_others(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let hide = "echo secret-4712 > $HOME/secret; echo secret-4712 > $TMPDIR/secret; pwd";
    let hidden = step(sandbox, sh(hide)).await?;
    let place = text(&hidden.stdout);
    let place = Path::new(place.trim());
    assert!(place.is_absolute(), "{hidden:?}");
    let parent = place.parent().ok_or("a parent")?.to_owned();
    wait_until("the folder to go", || !parent.exists()).await?;
    // The folder beside it is the next box's, which waits.
    let beside = parent.parent().ok_or("a parent")?.display().to_string();
    let seek = format!(
        "ls {beside}; cat {beside}/*/work/* {beside}/*/tmp/*; ls / /tmp /root /proc; echo done"
    );
    let seek = seek.replace("done", "do''ne");
    let found = step(sandbox, sh(&seek)).await?;
    assert_eq!(text(&found.stdout), "done\n", "{found:?}");
    Ok(())
}

async fn artifacts(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let mut program = sh(
        "echo real > real; ln -s /etc/passwd link; ln -s /usr folder; mkfifo fifo; ln real hard; \
         ln /usr/bin/env stolen; mkdir d; echo deep > d/deep; ln -s ../../../../etc d/up; true",
    );
    program.artifacts = Some(ArtifactRequest {
        patterns: vec!["**".into()],
        max_files: 100,
        max_bytes: 100_000,
    });
    let outcome = run(sandbox, program).await?;
    let mut found: Vec<&str> = outcome
        .artifacts
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    found.sort_unstable();
    assert_eq!(found, ["d/deep", "hard", "real"], "{outcome:?}");
    Ok(())
}

async fn cancelled(sandbox: &'static NsSandbox) -> Result<(), Failed> {
    let before = of_boxes(sandbox).await?;
    let cancel = CancellationToken::new();
    let (sink, mut chunks) = OutputSink::channel(4);
    let token = cancel.clone();
    let stop = async move {
        chunks.recv().await;
        token.cancel();
    };
    let script = "(setsid sleep 67.5 &) ; echo up; sleep 67.5; true";
    let (outcome, ()) = tokio::join!(sandbox.run(sh(script), sink, cancel), stop);
    assert_eq!(outcome?.state(), JobState::Cancelled);
    settled(sandbox, before).await?;
    assert_eq!(processes("sleep\u{0}67.5"), Vec::<u32>::new());
    Ok(())
}

async fn helper_killed(_: &'static NsSandbox) -> Result<(), Failed> {
    let sandbox = own(AccountingChoice::Auto).await?;
    let helper = sandbox.helper_process_id().await.ok_or("no helper")?;
    let (sink, mut chunks) = OutputSink::channel(4);
    let script = "(setsid sleep 68.5 &) ; echo up; sleep 68.5; true";
    let running = sandbox.run(sh(script), sink, CancellationToken::new());
    let killing = async {
        chunks.recv().await;
        kill(helper);
    };
    let (outcome, ()) = tokio::join!(running, killing);
    assert!(outcome.is_err(), "{outcome:?}");
    wait_until("its program ends", || {
        processes("sleep\u{0}68.5").is_empty()
    })
    .await?;
    let again = step(&sandbox, sh("echo again")).await?;
    assert_eq!(text(&again.stdout), "again\n");
    sandbox.shutdown().await;
    Ok(())
}

async fn unaided(_: &'static NsSandbox) -> Result<(), Failed> {
    let sandbox = own(AccountingChoice::Unaided).await?;
    let outcome = run(
        &sandbox,
        hungry("data = []\nwhile True: data.append(bytearray(1 << 20))\n"),
    )
    .await?;
    let step_of = outcome.run.as_ref().ok_or("no run step")?;
    // The rlimit on the data segment makes Python say it itself.
    let told = text(&step_of.stderr).contains("MemoryError");
    assert!(
        told || outcome.state() == JobState::OutOfMemory,
        "{outcome:?}"
    );
    let many = "import os, time\nfor _ in range(8): os.fork() or (b'x' * (20 << 20), time.sleep(8))\ntime.sleep(8)\n";
    let outcome = run(&sandbox, hungry(many)).await?;
    assert_eq!(outcome.state(), JobState::OutOfMemory, "{outcome:?}");
    let mut bomb = python(BOMB);
    bomb.limits.wall_ms = 1_000;
    let bombed = step(&sandbox, bomb).await?;
    assert!(
        matches!(bombed.verdict, Verdict::TimedOut | Verdict::CpuExceeded),
        "{bombed:?}"
    );
    let mut burning = sh("for i in 1 2 3 4; do (while :; do :; done) & done; wait");
    burning.limits.cpu_ms = 600;
    assert_eq!(step(&sandbox, burning).await?.verdict, Verdict::CpuExceeded);
    sandbox.shutdown().await;
    Ok(())
}

async fn shutdown(_: &'static NsSandbox) -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    open_to_all(place.path())?;
    let sandbox = NsSandbox::start(
        NsConfig {
            kind: BoxKind::Landlock,
            work_folder: Some(place.path().to_owned()),
            ..config()
        },
        ANY,
    )
    .await?;
    let helper = sandbox.helper_process_id().await.ok_or("no helper")?;
    let shut =
        "mkdir -p a/b/c && echo x > a/b/c/x && chmod 000 a/b; (setsid sleep 69.5 &); echo up";
    let step = step(&sandbox, sh(shut)).await?;
    assert_eq!(text(&step.stdout), "up\n", "{step:?}");
    let family = descendants(helper);
    sandbox.shutdown().await;
    let alive = all_processes();
    assert!(
        family
            .iter()
            .chain([&helper])
            .all(|pid| !alive.contains(pid)),
        "{family:?}"
    );
    assert_eq!(std::fs::read_dir(place.path())?.count(), 0);
    Ok(())
}

/// Boxes pass through it.
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))
}

async fn own(accounting: AccountingChoice) -> Result<NsSandbox, Failed> {
    let config = NsConfig {
        kind: BoxKind::Landlock,
        accounting,
        ..config()
    };
    Ok(NsSandbox::start(config, ANY).await?)
}

/// How many processes the helper has while no program runs.
async fn of_boxes(sandbox: &NsSandbox) -> Result<usize, Failed> {
    let helper = sandbox.helper_process_id().await.ok_or("no helper")?;
    Ok(descendants(helper).len())
}

/// Waits until no more than that are left.
async fn settled(sandbox: &NsSandbox, before: usize) -> Result<(), Failed> {
    let helper = sandbox.helper_process_id().await.ok_or("no helper")?;
    wait_until("its processes to end", || {
        descendants(helper).len() <= before.max(1)
    })
    .await
}
