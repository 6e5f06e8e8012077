//! What ordinary programs see, and what comes back of them.

use atelier_shared::domain::job::JobState;
use atelier_worker::sandbox::{
    ArtifactRequest, Channel, OutputSink, Program, ProgramFile, Sandbox as _, SandboxError, Step,
    StepKind, Verdict,
};
use libtest_mimic::{Failed, Trial};
use tokio_util::sync::CancellationToken;

use crate::fixture::{ANY, config, python, run, sh, shared, shell, step, test, text};

pub fn tests() -> Vec<Trial> {
    vec![
        test("output_and_exit_code_come_back", output_and_exit_code),
        test(
            "files_input_arguments_and_environment_reach_the_program",
            everything_in,
        ),
        test("nothing_of_the_worker_is_in_the_environment", environment),
        test(
            "a_program_has_three_descriptors_and_its_own_output_can_be_reopened",
            descriptors,
        ),
        test("output_is_seen_while_the_program_runs", live_output),
        test(
            "a_slow_reader_slows_the_program_and_loses_nothing",
            slow_reader,
        ),
        test(
            "the_run_step_sees_what_the_compile_step_made",
            compile_then_run,
        ),
        test(
            "a_failed_compile_step_keeps_the_program_from_running",
            compile_fails,
        ),
        test("a_program_that_is_not_there_is_told_by_name", not_there),
        test("files_come_out_by_pattern", artifacts),
        test(
            "names_that_are_too_long_to_be_told_cost_no_result",
            long_names,
        ),
        test("all_arguments_that_a_job_may_have_fit", most_arguments),
        test("files_are_synced_as_far_as_a_program_sees", synced),
        test(
            "files_beyond_the_disk_limit_are_refused_by_field",
            too_many_files,
        ),
        test("a_box_is_used_once", used_once),
        test(
            "other_disk_limits_get_a_box_made_to_measure",
            made_to_measure,
        ),
        test("programs_run_side_by_side_up_to_the_slots", side_by_side),
        test("loopback_works_within_a_box", loopback),
        test("usage_is_told", usage),
        test("a_signal_is_told_apart_from_an_exit_code", signals),
        test("more_programs_than_slots_wait_their_turn", many),
    ]
}

async fn output_and_exit_code() -> Result<(), Failed> {
    let step = shell(shared(), "echo out; echo err >&2; exit 7").await?;
    assert_eq!(step.verdict, Verdict::Exited);
    assert_eq!(
        (
            step.exit_code,
            text(&step.stdout).as_str(),
            text(&step.stderr).as_str()
        ),
        (Some(7), "out\n", "err\n")
    );
    assert!(!step.truncated);
    Ok(())
}

async fn everything_in() -> Result<(), Failed> {
    let mut program = sh(
        "cat a/b/data.txt; cat; echo \"$1 $WORD $PWD\"; ls -l a/b/data.txt tool | cut -c1-10; ./tool",
    );
    program.run.argv.extend(["name".into(), "argument".into()]);
    program
        .run
        .env
        .push(("WORD".into(), "ünïcode = yes".into()));
    program.run.stdin = "from input\n".into();
    let file = |path: &str, content: &str, executable| ProgramFile {
        path: path.into(),
        content: content.to_owned().into(),
        executable,
    };
    program
        .files
        .push(file("a/b/data.txt", "from a file\n", false));
    program
        .files
        .push(file("tool", "#!/bin/sh\necho from a tool\n", true));
    let step = step(shared(), program).await?;
    let expected = "from a file\nfrom input\nargument ünïcode = yes /box\n-rw-r--r--\n-rwxr-xr-x\nfrom a tool\n";
    assert_eq!(
        (text(&step.stdout).as_str(), text(&step.stderr).as_str()),
        (expected, "")
    );
    Ok(())
}

async fn environment() -> Result<(), Failed> {
    let step = step(shared(), Program::command(["/usr/bin/env"])).await?;
    let said = text(&step.stdout);
    let mut names: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "PATH", "PWD", "TMPDIR", "USER"]);
    Ok(())
}

async fn descriptors() -> Result<(), Failed> {
    let source = "import os\nprint(sorted(int(n) for n in os.listdir('/proc/self/fd')), flush=True)\nopen('/dev/stdout', 'w').write('again\\n')\nopen('/dev/stderr', 'w').write('error\\n')\n";
    let step = step(shared(), python(source)).await?;
    // The fourth is the folder being listed.
    assert_eq!(
        (text(&step.stdout).as_str(), text(&step.stderr).as_str()),
        ("[0, 1, 2, 3]\nagain\n", "error\n")
    );
    Ok(())
}

async fn live_output() -> Result<(), Failed> {
    let (sink, mut chunks) = OutputSink::channel(8);
    // The program waits for a file that only a second look at its output could have asked for.
    let running = shared().run(
        sh("echo first; sleep 1; echo second >&2; echo third"),
        sink,
        CancellationToken::new(),
    );
    let reading = async {
        let mut seen = Vec::new();
        let mut first_at = None;
        while let Some(chunk) = chunks.recv().await {
            first_at.get_or_insert_with(std::time::Instant::now);
            seen.push(chunk);
        }
        (seen, first_at)
    };
    let (outcome, (seen, first_at)) = tokio::join!(running, reading);
    let outcome = outcome?;
    assert!(
        first_at.is_some_and(|at| at.elapsed().as_millis() > 900),
        "the first line came with the end"
    );
    let of = |channel| {
        let mut bytes = Vec::new();
        for chunk in seen.iter().filter(|chunk| chunk.channel == channel) {
            assert_eq!(
                (chunk.step, chunk.offset),
                (StepKind::Run, bytes.len() as u64)
            );
            bytes.extend_from_slice(&chunk.bytes);
        }
        text(&bytes)
    };
    assert_eq!(
        (of(Channel::Stdout).as_str(), of(Channel::Stderr).as_str()),
        ("first\nthird\n", "second\n")
    );
    assert_eq!(
        outcome.run.map(|step| text(&step.stdout)).as_deref(),
        Some("first\nthird\n")
    );
    Ok(())
}

async fn slow_reader() -> Result<(), Failed> {
    let mut program = sh("head -c 6000000 /dev/zero | tr '\\0' 'x'; echo end");
    program.limits.output_bytes = 8_000_000;
    let (sink, mut chunks) = OutputSink::channel(1);
    let running = shared().run(program, sink, CancellationToken::new());
    let reading = async {
        let mut length = 0;
        while let Some(chunk) = chunks.recv().await {
            tokio::task::yield_now().await;
            length += chunk.bytes.len();
        }
        length
    };
    let (outcome, length) = tokio::join!(running, reading);
    let step = outcome?.run.ok_or("no run step")?;
    assert_eq!(
        (length, step.stdout.len(), step.verdict),
        (6_000_004, 6_000_004, Verdict::Exited)
    );
    assert!(step.stdout.ends_with(b"xend\n"));
    Ok(())
}

async fn compile_then_run() -> Result<(), Failed> {
    let mut program = sh("./made");
    let script = "echo compiling; printf '#!/bin/sh\\necho made\\n' > made; chmod +x made; mkdir t; echo x > /tmp/seen";
    program.compile = Some(Step {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        ..Step::default()
    });
    let outcome = run(shared(), program).await?;
    let said = |step: &Option<atelier_worker::sandbox::StepOutcome>| {
        step.as_ref().map(|step| text(&step.stdout))
    };
    assert_eq!(said(&outcome.compile).as_deref(), Some("compiling\n"));
    assert_eq!(said(&outcome.run).as_deref(), Some("made\n"));
    assert_eq!(outcome.state(), JobState::Succeeded);
    Ok(())
}

async fn compile_fails() -> Result<(), Failed> {
    let mut program = sh("echo never");
    program.compile = Some(Step {
        argv: vec!["/bin/sh".into(), "-c".into(), "echo no >&2; exit 3".into()],
        ..Step::default()
    });
    let outcome = run(shared(), program).await?;
    assert_eq!(
        (outcome.state(), outcome.run.is_none()),
        (JobState::Failed, true)
    );
    assert_eq!(outcome.compile.and_then(|step| step.exit_code), Some(3));
    Ok(())
}

async fn not_there() -> Result<(), Failed> {
    let step = step(shared(), Program::command(["/usr/bin/no-such-program"])).await?;
    assert_eq!(step.verdict, Verdict::NotStarted);
    let message = step.message.unwrap_or_default();
    assert!(
        message.contains("/usr/bin/no-such-program") && message.contains("No such file"),
        "{message}"
    );
    Ok(())
}

async fn artifacts() -> Result<(), Failed> {
    let mut program = sh(
        "mkdir -p out/deep; echo one > out/one.txt; head -c 200000 /dev/zero > out/deep/big.bin; echo no > other",
    );
    program.artifacts = Some(ArtifactRequest {
        patterns: vec!["out/**".into()],
        max_files: 10,
        max_bytes: 1_000_000,
    });
    let outcome = run(shared(), program).await?;
    let mut found: Vec<(&str, u64)> = outcome
        .artifacts
        .iter()
        .map(|file| (file.path.as_str(), file.size()))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("out/deep/big.bin", 200_000), ("out/one.txt", 4)]);
    assert!(
        outcome.artifacts_skipped.is_empty(),
        "{:?}",
        outcome.artifacts_skipped
    );

    let mut program = sh("for i in 1 2 3; do head -c 600 /dev/zero > $i; done");
    program.artifacts = Some(ArtifactRequest {
        patterns: vec!["*".into()],
        max_files: 10,
        max_bytes: 1000,
    });
    let outcome = run(shared(), program).await?;
    assert_eq!(
        (outcome.artifacts.len(), outcome.artifacts_skipped.len()),
        (1, 2),
        "{outcome:?}"
    );
    Ok(())
}

async fn too_many_files() -> Result<(), Failed> {
    let mut program = sh("true");
    program.limits.disk_bytes = 64 * 1024;
    program.files.push(ProgramFile {
        path: "big".into(),
        content: vec![0; 100_000].into(),
        executable: false,
    });
    match run(shared(), program).await {
        Err(SandboxError::Invalid { field, .. }) if field == "files[0]" => Ok(()),
        other => Err(format!("expected a refusal, got {other:?}").into()),
    }
}

async fn used_once() -> Result<(), Failed> {
    for _ in 0..4 {
        let step = shell(shared(), "ls -A /box /tmp /dev/shm | grep -v : | grep .; touch /box/mine /tmp/mine /dev/shm/mine").await?;
        assert_eq!(
            (text(&step.stdout).as_str(), step.exit_code),
            ("", Some(0)),
            "{}",
            text(&step.stderr)
        );
    }
    Ok(())
}

async fn made_to_measure() -> Result<(), Failed> {
    let mut program = sh("head -c 100000000 /dev/zero > big && ls -l big | cut -d' ' -f5");
    program.limits.disk_bytes = 128 * 1024 * 1024;
    program.limits.memory_bytes = 256 * 1024 * 1024;
    let step = step(shared(), program).await?;
    assert_eq!(
        (text(&step.stdout).as_str(), step.exit_code),
        ("100000000\n", Some(0)),
        "{step:?}"
    );
    Ok(())
}

async fn side_by_side() -> Result<(), Failed> {
    let sandbox = atelier_worker::sandbox::NsSandbox::start(
        atelier_worker::sandbox::NsConfig {
            slots: 12,
            warm: 2,
            ..config()
        },
        ANY,
    )
    .await?;
    // Twelve boxes at once also means many descriptors in the helper.
    let started = std::time::Instant::now();
    let programs = (0..12).map(|number| {
        let sandbox = &sandbox;
        async move {
            let step = shell(sandbox, &format!("sleep 0.5; echo {number}")).await?;
            assert_eq!(text(&step.stdout), format!("{number}\n"));
            Ok::<_, Failed>(())
        }
    });
    futures::future::try_join_all(programs).await?;
    assert!(
        started.elapsed().as_secs_f64() < 4.0,
        "they ran one after another: {:?}",
        started.elapsed()
    );
    sandbox.shutdown().await;
    Ok(())
}

async fn loopback() -> Result<(), Failed> {
    let source = "import socket, threading\ns = socket.create_server(('127.0.0.1', 0))\nthreading.Thread(target=lambda: s.accept()[0].sendall(b'hello'), daemon=True).start()\nprint(socket.create_connection(s.getsockname()).recv(9))\n";
    let step = step(shared(), python(source)).await?;
    assert_eq!(text(&step.stdout), "b'hello'\n", "{}", text(&step.stderr));
    Ok(())
}

async fn usage() -> Result<(), Failed> {
    let source = "import time, threading\nx = bytearray(40_000_000)\nt = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(5)]\n[a.start() for a in t]\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n";
    let used = step(shared(), python(source)).await?.usage;
    assert!(
        (300..5000).contains(&used.cpu_ms) && used.wall_ms >= 200,
        "{used:?}"
    );
    assert!(
        (40_000_000..120_000_000).contains(&used.max_memory_bytes),
        "{used:?}"
    );
    assert!((6..=8).contains(&used.pids_max), "{used:?}");
    Ok(())
}

async fn signals() -> Result<(), Failed> {
    let outcome = run(shared(), sh("kill -SEGV $$")).await?;
    assert_eq!(outcome.state(), JobState::Killed);
    let step = outcome.run.ok_or("no run step")?;
    assert_eq!(
        (step.verdict, step.signal, step.exit_code),
        (Verdict::Signaled, Some(11), None)
    );
    Ok(())
}

async fn many() -> Result<(), Failed> {
    let programs = (0..40).map(|number| async move {
        let step = shell(shared(), &format!("echo {number}")).await?;
        assert_eq!(text(&step.stdout), format!("{number}\n"));
        Ok::<_, Failed>(())
    });
    futures::future::try_join_all(programs).await?;
    Ok(())
}

/// 256 of them fit one report, and not one with the step's beside them.
async fn long_names() -> Result<(), Failed> {
    let source = "import os\nfor _ in range(16):\n    os.mkdir('d' * 250)\n    os.chdir('d' * 250)\nfor n in range(256):\n    os.symlink('x', f'{n:037}')\n";
    let mut program = python(source);
    program.artifacts = Some(ArtifactRequest {
        patterns: vec!["**".into()],
        max_files: 10,
        max_bytes: 1024,
    });
    let outcome = run(shared(), program).await?;
    assert_eq!(outcome.state(), JobState::Succeeded, "{outcome:?}");
    let skipped = outcome.artifacts_skipped;
    assert_eq!(skipped.len(), 256);
    for file in skipped {
        assert_eq!(file.reason, "not a regular file");
        assert!(file.path.len() < 600, "{}", file.path.len());
    }
    Ok(())
}

async fn most_arguments() -> Result<(), Failed> {
    // Each byte takes six in JSON.
    let longest = "\u{1}".repeat(4096);
    let mut program =
        python("import os, sys\nprint(len(sys.argv), os.environ['V63'] == '\\1' * 4096)");
    program.run.argv.extend(vec![longest.clone(); 64]);
    program.run.env = (0..64)
        .map(|n| (format!("V{n}"), longest.clone()))
        .collect();
    let step = step(shared(), program).await?;
    assert_eq!(text(&step.stdout), "65 True\n", "{step:?}");
    Ok(())
}

async fn synced() -> Result<(), Failed> {
    let source = "import mmap, os\nwith open('own', 'wb+') as file:\n    file.write(b'x' * 4096)\n    file.flush()\n    os.fsync(file)\n    os.fdatasync(file)\n    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)\n    mapped = mmap.mmap(file.fileno(), 4096)\n    mapped[:3] = b'abc'\n    mapped.flush()\nos.sync()\nprint(open('own').read(4))";
    let step = step(shared(), python(source)).await?;
    assert_eq!(text(&step.stdout), "abcx\n", "{step:?}");
    Ok(())
}
