//! Each limit, reached on purpose: the verdict, and what was spent until then.

use std::time::Instant;

use atelier_shared::domain::job::JobState;
use atelier_worker::sandbox::{
    AccountingChoice, Limits, NsConfig, NsSandbox, Program, Sandbox as _, Step, TierLevel, Verdict,
};
use libtest_mimic::{Failed, Trial};

use crate::fixture::{ANY, config, python, run, sh, shared, shell, step, test, text};

const MIB: u64 = 1024 * 1024;

pub fn tests() -> Vec<Trial> {
    vec![
        test("wall_time_is_limited", wall_time),
        test("a_program_that_stops_itself_is_still_timed_out", stopped),
        test("cpu_time_is_limited_over_all_processes", cpu_time),
        test("memory_is_limited_for_one_process", memory_of_one),
        test("memory_is_limited_over_all_processes", memory_of_many),
        test("files_in_memory_count_as_memory", memory_of_files),
        test("anonymous_files_count_as_memory", memory_of_anonymous_files),
        test("what_waits_in_sockets_counts_as_memory", memory_of_sockets),
        test("output_is_cut_and_the_program_killed", output),
        test("both_outputs_count_together", both_outputs),
        test("a_fork_bomb_meets_the_process_limit", fork_bomb),
        test("threads_count_as_processes", threads),
        test(
            "a_program_can_neither_kill_nor_stop_its_box",
            against_the_box,
        ),
        test("disk_is_limited", disk),
        test("inodes_are_limited", inodes),
        test("temporary_folders_are_limited", temporary_folders),
        test("open_files_are_limited", open_files),
        test("a_runaway_recursion_is_the_programs_own_fault", recursion),
        test("the_compile_step_has_limits_of_its_own", compile_limits),
        test(
            "a_run_that_may_have_less_than_compiling_left_is_out_of_memory",
            less_than_compiling_left,
        ),
        test(
            "without_cgroups_the_limits_hold_and_the_tier_is_reduced",
            unaided,
        ),
    ]
}

async fn wall_time() -> Result<(), Failed> {
    let mut program = sh("echo before; sleep 30 & sleep 30");
    program.limits.wall_ms = 300;
    let started = Instant::now();
    let outcome = run(shared(), program).await?;
    assert_eq!(outcome.state(), JobState::TimedOut);
    let step = outcome.run.ok_or("no run step")?;
    assert_eq!(
        (step.verdict, step.signal, text(&step.stdout).as_str()),
        (Verdict::TimedOut, Some(9), "before\n")
    );
    assert!((300..3000).contains(&step.usage.wall_ms), "{step:?}");
    assert!(started.elapsed().as_secs() < 5);
    Ok(())
}

async fn stopped() -> Result<(), Failed> {
    let mut program = sh("kill -STOP $$");
    program.limits.wall_ms = 300;
    assert_eq!(step(shared(), program).await?.verdict, Verdict::TimedOut);
    Ok(())
}

async fn cpu_time() -> Result<(), Failed> {
    // Four processes, each far below the limit on its own.
    let mut program = sh("for i in 1 2 3 4; do (while :; do :; done) & done; wait");
    program.limits.cpu_ms = 600;
    let outcome = run(shared(), program).await?;
    assert_eq!(outcome.state(), JobState::TimedOut);
    let step = outcome.run.ok_or("no run step")?;
    assert_eq!(step.verdict, Verdict::CpuExceeded);
    assert!((600..2000).contains(&step.usage.cpu_ms), "{step:?}");
    Ok(())
}

fn hungry(source: &str) -> Program {
    let mut program = python(source);
    program.limits.memory_bytes = 64 * MIB;
    program
}

async fn killed_for_memory(program: Program) -> Result<(), Failed> {
    let outcome = run(shared(), program).await?;
    assert_eq!(outcome.state(), JobState::OutOfMemory, "{outcome:?}");
    let peak = outcome.run.ok_or("no run step")?.usage.max_memory_bytes;
    assert!(peak <= 64 * MIB, "{peak}");
    Ok(())
}

async fn memory_of_one() -> Result<(), Failed> {
    killed_for_memory(hungry("x = []\nwhile True: x.append(bytearray(1 << 20))")).await
}

async fn memory_of_many() -> Result<(), Failed> {
    // Each takes 20 MB, and the first process goes on when one is killed.
    killed_for_memory(hungry("import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n        x = bytearray(b'x') * (20 << 20)\n        time.sleep(10)\n        os._exit(0)\ntime.sleep(10)\n")).await
}

async fn memory_of_sockets() -> Result<(), Failed> {
    // Packets that nobody reads until the end. Where cgroups count them with the rest it is too much memory; where they are
    // counted apart, those beyond the limit are dropped.
    let source = "import socket\nall = []\nsender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor _ in range(120):\n    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)\n    s.bind(('127.0.0.1', 0))\n    s.setblocking(False)\n    all.append(s)\n    for _ in range(160):\n        try: sender.sendto(b'x' * 6000, s.getsockname())\n        except OSError: break\nkept = 0\nfor s in all:\n    try:\n        while True: kept += len(s.recv(6000))\n    except OSError: pass\nprint(kept)\n";
    let outcome = run(shared(), hungry(source)).await?;
    if outcome.state() == JobState::OutOfMemory {
        return Ok(());
    }
    let said = text(&outcome.run.ok_or("no run step")?.stdout);
    let kept: u64 = said.trim().parse()?;
    assert!(kept <= 64 * MIB / 2, "{kept} bytes waited in sockets");
    Ok(())
}

async fn memory_of_files() -> Result<(), Failed> {
    // The disk allows 64 MiB, so with anything else it is too much memory.
    killed_for_memory(hungry("x = bytearray(b'x') * (20 << 20)\nopen('big', 'wb').write(b'x' * (30 << 20))\nopen('/tmp/big', 'wb').write(b'x' * (15 << 20))\nopen('/dev/shm/big', 'wb').write(b'x' * (15 << 20))\n")).await
}

async fn memory_of_anonymous_files() -> Result<(), Failed> {
    killed_for_memory(hungry(
        "import os\nf = os.memfd_create('x')\nwhile True: os.write(f, b'x' * (1 << 20))",
    ))
    .await
}

async fn output() -> Result<(), Failed> {
    let outcome = run(shared(), sh("yes")).await?;
    assert_eq!(outcome.state(), JobState::OutputLimit);
    let step = outcome.run.ok_or("no run step")?;
    assert_eq!(
        (step.verdict, step.truncated, step.stdout.len() as u64),
        (Verdict::OutputLimit, true, MIB)
    );
    assert!(step.usage.wall_ms < 5000, "{step:?}");
    Ok(())
}

async fn both_outputs() -> Result<(), Failed> {
    let mut program = sh("yes & yes >&2");
    program.limits.output_bytes = 100_000;
    let step = step(shared(), program).await?;
    assert_eq!(
        (step.verdict, step.stdout.len() + step.stderr.len()),
        (Verdict::OutputLimit, 100_000)
    );

    let mut silent = sh("echo much too much");
    silent.limits.output_bytes = 4;
    let step = crate::fixture::step(shared(), silent).await?;
    assert_eq!(
        (step.verdict, step.truncated, text(&step.stdout).as_str()),
        (Verdict::OutputLimit, true, "much")
    );
    Ok(())
}

async fn fork_bomb() -> Result<(), Failed> {
    let mut program = Program::command(["/usr/bin/bash", "-c", ":(){ :|:& };:; sleep 30"]);
    program.limits.wall_ms = 1000;
    let step = step(shared(), program).await?;
    assert!((20..=64).contains(&step.usage.pids_max), "{:?}", step.usage);
    assert!(step.usage.wall_ms < 5000, "{:?}", step.usage);
    // The machine is as it was.
    assert_eq!(text(&shell(shared(), "echo well").await?.stdout), "well\n");
    Ok(())
}

async fn threads() -> Result<(), Failed> {
    let source = "import threading, time\nn = 1\ntry:\n    while True:\n        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n        n += 1\nexcept RuntimeError:\n    print(n)\n";
    let step = step(shared(), python(source)).await?;
    assert_eq!(
        (text(&step.stdout).as_str(), step.usage.pids_max),
        ("64\n", 64),
        "{step:?}"
    );
    Ok(())
}

async fn against_the_box() -> Result<(), Failed> {
    let script = "for s in KILL STOP TERM SEGV ABRT; do kill -$s 1; done; echo alive; kill -9 -1; sleep 1; echo never";
    let step = shell(shared(), script).await?;
    // Everybody but the first process and the one that asked.
    assert_eq!(
        (text(&step.stdout).as_str(), step.verdict),
        ("alive\nnever\n", Verdict::Exited),
        "{step:?}"
    );
    Ok(())
}

async fn disk() -> Result<(), Failed> {
    let mut program = sh(
        "head -c 3000000 /dev/zero > a; echo $?; head -c 3000000 /dev/zero > b; echo $?; du -sk . | cut -f1",
    );
    program.limits.disk_bytes = 4 * MIB;
    let said = text(&step(shared(), program).await?.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first(), Some(&"0"), "{said}");
    assert_ne!(lines.get(1), Some(&"0"), "{said}");
    let kilobytes: u64 = lines.get(2).ok_or("no size")?.parse()?;
    assert!(kilobytes <= 4096, "{said}");
    Ok(())
}

async fn inodes() -> Result<(), Failed> {
    let source = "n = 0\ntry:\n    while True:\n        open(f'f{n}', 'w').close()\n        n += 1\nexcept OSError as e:\n    print(n, e.strerror)\n";
    // One is the program's own file.
    assert_eq!(
        text(&step(shared(), python(source)).await?.stdout),
        "4095 No space left on device\n"
    );
    Ok(())
}

async fn temporary_folders() -> Result<(), Failed> {
    for folder in ["/tmp", "/dev/shm"] {
        let step = shell(
            shared(),
            &format!("head -c 30000000 /dev/zero > {folder}/big; echo $?; stat -c %s {folder}/big"),
        )
        .await?;
        assert_eq!(text(&step.stdout), "1\n16777216\n", "{folder}");
    }
    Ok(())
}

async fn open_files() -> Result<(), Failed> {
    let source = "import resource\nfiles = []\ntry:\n    while True: files.append(open('/dev/null'))\nexcept OSError as e:\n    print(len(files), e.strerror)\ntry:\n    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n    print('raised')\nexcept ValueError:\n    print('refused')\n";
    assert_eq!(
        text(&step(shared(), python(source)).await?.stdout),
        "253 Too many open files\nrefused\n"
    );
    Ok(())
}

async fn recursion() -> Result<(), Failed> {
    let source = "import ctypes, sys, resource\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)\n";
    let outcome = run(shared(), python(source)).await?;
    assert!(
        matches!(
            outcome.state(),
            JobState::Killed | JobState::Failed | JobState::OutOfMemory
        ),
        "{:?}",
        outcome.state()
    );
    Ok(())
}

async fn compile_limits() -> Result<(), Failed> {
    use atelier_worker::sandbox::{Limits, Step};
    let sleep = |seconds: &str| Step {
        argv: vec!["/bin/sleep".into(), seconds.into()],
        ..Step::default()
    };
    let mut program = Program::command(["/bin/sleep", "0.5"]);
    program.compile = Some(sleep("0.5"));
    program.compile_limits = Some(Limits {
        wall_ms: 5000,
        ..Limits::default()
    });
    program.limits.wall_ms = 100;
    let outcome = run(shared(), program).await?;
    let verdict = |step: &Option<atelier_worker::sandbox::StepOutcome>| {
        step.as_ref().map(|step| step.verdict)
    };
    assert_eq!(
        (verdict(&outcome.compile), verdict(&outcome.run)),
        (Some(Verdict::Exited), Some(Verdict::TimedOut))
    );

    let mut program = sh("echo never");
    program.compile = Some(sleep("5"));
    program.compile_limits = Some(Limits {
        wall_ms: 100,
        ..Limits::default()
    });
    let outcome = run(shared(), program).await?;
    assert_eq!(
        (verdict(&outcome.compile), outcome.run.is_none()),
        (Some(Verdict::TimedOut), true)
    );
    Ok(())
}

async fn unaided() -> Result<(), Failed> {
    let config = NsConfig {
        accounting: AccountingChoice::Unaided,
        ..config()
    };
    let refused =
        NsSandbox::start(config.clone(), atelier_worker::sandbox::Policy::default()).await;
    let refused = refused
        .err()
        .ok_or("full was asked for, and given without cgroups")?
        .to_string();
    assert!(refused.contains("memory control"), "{refused}");

    let sandbox = NsSandbox::start(config, ANY).await?;
    assert_eq!(
        (sandbox.tier().level, sandbox.slots()),
        (TierLevel::Reduced, 1)
    );
    let limited = |mut program: Program, change: fn(&mut atelier_worker::sandbox::Limits)| {
        change(&mut program.limits);
        program
    };
    let ends = [
        (sh("echo fine"), Verdict::Exited),
        (
            limited(sh("sleep 9"), |limits| limits.wall_ms = 200),
            Verdict::TimedOut,
        ),
        (
            limited(
                sh("for i in 1 2 3; do (while :; do :; done) & done; wait"),
                |limits| limits.cpu_ms = 500,
            ),
            Verdict::CpuExceeded,
        ),
        (
            limited(
                python(
                    "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        x = bytearray(b'x') * (20 << 20)\n        time.sleep(10)\ntime.sleep(10)\n",
                ),
                |limits| limits.memory_bytes = 64 * MIB,
            ),
            Verdict::OutOfMemory,
        ),
        (sh("yes"), Verdict::OutputLimit),
    ];
    for (program, verdict) in ends {
        let said = format!("{:?}", program.run.argv);
        assert_eq!(step(&sandbox, program).await?.verdict, verdict, "{said}");
    }
    let bomb = limited(
        Program::command(["/usr/bin/bash", "-c", ":(){ :|:& };:; sleep 30"]),
        |limits| limits.wall_ms = 500,
    );
    let used = step(&sandbox, bomb).await?.usage;
    assert!(used.pids_max <= 64, "{used:?}");
    sandbox.shutdown().await;
    Ok(())
}

async fn less_than_compiling_left() -> Result<(), Failed> {
    let mut program = sh("echo never");
    program.limits.memory_bytes = 32 * MIB;
    program.limits.disk_bytes = 256 * MIB;
    program.compile = Some(Step {
        argv: ["/bin/sh", "-c", "head -c 100000000 /dev/zero > left"]
            .map(Into::into)
            .to_vec(),
        ..Step::default()
    });
    program.compile_limits = Some(Limits {
        memory_bytes: 512 * MIB,
        ..program.limits
    });
    let outcome = run(shared(), program).await?;
    assert_eq!(outcome.state(), JobState::OutOfMemory, "{outcome:?}");
    assert_eq!(outcome.compile.ok_or("no compile step")?.exit_code, Some(0));
    Ok(())
}
