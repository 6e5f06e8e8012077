//! The gVisor driver with a stand-in for `runsc`: how it is called, what is made of its answers, and what is left
//! (nothing). What gVisor itself stops is not shown here: there is no runsc on the machines these tests were written on.

use std::path::{Path, PathBuf};

use atelier_shared::domain::job::JobState;
use atelier_worker::sandbox::{
    ArtifactRequest, GvisorConfig, GvisorSandbox, Limits, Outcome, OutputSink, Policy, Program,
    ProgramFile, Sandbox as _, SandboxError, Step, TierLevel, Verdict,
};
use libtest_mimic::{Completion, Failed, Trial};
use tokio_util::sync::CancellationToken;

use crate::fixture::{ANY, block_on, config, python, sh, text, wait_until};
use crate::life::{is_root, processes};

const FAKE: &str = include_str!("fake_runsc.py");

/// A program's files belong to a user of its own, which takes root to arrange.
fn test<F>(name: &str, body: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = Result<(), Failed>>,
{
    Trial::ignorable_test(name, move || {
        if !is_root() {
            return Ok(Completion::ignored_with("not run: it takes root"));
        }
        block_on(body()).map(|()| Completion::Completed)
    })
}

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "gvisor::a_program_is_compiled_and_run_and_its_files_brought_out",
            whole,
        ),
        test(
            "gvisor::limits_and_cancelling_kill_the_container_and_delete_it",
            ended,
        ),
        test(
            "gvisor::a_caller_that_goes_away_leaves_no_container",
            dropped,
        ),
        test(
            "gvisor::a_runsc_that_shows_the_hosts_kernel_is_refused",
            hosts_kernel,
        ),
    ]
}

struct Stage {
    place: tempfile::TempDir,
    sandbox: GvisorSandbox,
}

fn setting(place: &Path, fake: &str) -> std::io::Result<GvisorConfig> {
    use std::os::unix::fs::PermissionsExt as _;
    let runsc = place.join("runsc");
    std::fs::write(&runsc, fake)?;
    std::fs::set_permissions(&runsc, std::fs::Permissions::from_mode(0o755))?;
    std::fs::create_dir_all(place.join("work"))?;
    Ok(GvisorConfig {
        runsc,
        slots: 2,
        ceiling: Limits::CEILING,
        first_user: config().first_host_user,
        work_folder: Some(place.join("work")),
    })
}

impl Stage {
    async fn set() -> Result<Self, Failed> {
        let place = tempfile::tempdir()?;
        let setting = setting(place.path(), FAKE)?;
        let sandbox = GvisorSandbox::start(setting, Policy::default()).await?;
        let tier = sandbox.tier();
        assert_eq!(
            (tier.driver, tier.level),
            ("gvisor", TierLevel::Full),
            "{tier}"
        );
        assert!(tier.to_string().contains("fake-1"), "{tier}");
        Ok(Self { place, sandbox })
    }

    async fn run(&self, program: Program) -> Result<Outcome, SandboxError> {
        let cancel = CancellationToken::new();
        self.sandbox.run(program, OutputSink::none(), cancel).await
    }

    fn calls(&self) -> Vec<Vec<String>> {
        let said = std::fs::read_to_string(self.place.path().join("calls")).unwrap_or_default();
        let call = |line: &str| serde_json::from_str(line).expect("a call");
        said.lines().map(call).collect()
    }

    /// The calls of a kind that name this step's container.
    fn called(&self, command: &str, step: &str) -> usize {
        let wanted = |call: &&Vec<String>| {
            call.iter().any(|word| word == command)
                && call
                    .iter()
                    .any(|word| word.starts_with("atelier-") && word.ends_with(step))
        };
        self.calls().iter().filter(wanted).count()
    }

    fn left(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        let boxes = std::fs::read_dir(self.place.path().join("work"))
            .into_iter()
            .flatten()
            .flatten();
        for folder in boxes {
            let inside = std::fs::read_dir(folder.path())
                .into_iter()
                .flatten()
                .flatten();
            left.extend(
                inside
                    .map(|entry| entry.path())
                    .filter(|path| !path.ends_with("state")),
            );
            let state = std::fs::read_dir(folder.path().join("state"))
                .into_iter()
                .flatten()
                .flatten();
            left.extend(state.map(|entry| entry.path()));
        }
        left
    }

    async fn close(self) -> Result<(), Failed> {
        wait_until("nothing to be left", || self.left().is_empty()).await?;
        self.sandbox.shutdown().await;
        assert_eq!(
            std::fs::read_dir(self.place.path().join("work"))?.count(),
            0
        );
        Ok(())
    }
}

async fn whole() -> Result<(), Failed> {
    let stage = Stage::set().await?;
    let mut program = python(
        "import sys, os\nopen('out.txt', 'w').write('made')\nos.symlink('/etc/shadow', 'link')\nprint(open('compiled').read(), input(), sys.argv[1])\nsys.exit(3)\n",
    );
    program.run.argv.push("argument".into());
    program.run.stdin = "input\n".into();
    program.compile = Some(Step {
        argv: vec![
            "/bin/sh".into(),
            "-c".into(),
            "echo -n compiled > compiled; echo warned >&2".into(),
        ],
        ..Step::default()
    });
    program.files.push(ProgramFile {
        path: "deep/er/data".into(),
        content: "data".into(),
        executable: false,
    });
    program.artifacts = Some(ArtifactRequest {
        patterns: vec!["*".into()],
        max_files: 10,
        max_bytes: 1000,
    });
    let outcome = stage.run(program).await?;
    let compile = outcome.compile.as_ref().ok_or("no compile step")?;
    assert_eq!(
        (compile.exit_code, text(&compile.stderr).as_str()),
        (Some(0), "warned\n")
    );
    let run = outcome.run.as_ref().ok_or("no run step")?;
    assert_eq!(text(&run.stdout), "compiled input argument\n", "{run:?}");
    assert_eq!(
        (outcome.state(), run.exit_code),
        (JobState::Failed, Some(3))
    );
    let made = outcome.artifacts.iter().find(|file| file.path == "out.txt");
    assert_eq!(made.map(|file| &file.content[..]), Some(&b"made"[..]));
    assert!(
        outcome
            .artifacts_skipped
            .iter()
            .any(|file| file.path == "link")
    );
    // As the documentation says: global flags, the command, its own flags, the container.
    let calls = stage.calls();
    let run = calls
        .iter()
        .rfind(|call| call.contains(&"run".to_owned()))
        .ok_or("no run")?;
    assert_eq!(
        (run[0].as_str(), run[2].as_str(), run[3].as_str()),
        ("--root", "--network=none", "run")
    );
    assert_eq!((run[4].as_str(), run.len()), ("--bundle", 7));
    assert_eq!(
        (
            stage.called("delete", "-compile"),
            stage.called("delete", "-run") >= 1
        ),
        (1, true)
    );
    assert_eq!(stage.called("kill", "-run"), 0);
    stage.close().await
}

/// What a case changes of the limits.
type Change = fn(&mut Limits);

async fn ended() -> Result<(), Failed> {
    let stage = Stage::set().await?;
    let cases: [(&str, Verdict, Change); 4] = [
        ("sleep 70.5; true", Verdict::TimedOut, |limits| {
            limits.wall_ms = 500;
        }),
        ("yes", Verdict::OutputLimit, |limits| {
            limits.output_bytes = 5_000;
        }),
        ("while :; do :; done", Verdict::CpuExceeded, |limits| {
            limits.cpu_ms = 500;
        }),
        (
            "while :; do head -c 1000000 /dev/zero >> big; done",
            Verdict::DiskExceeded,
            |limits| {
                limits.disk_bytes = 5_000_000;
            },
        ),
    ];
    for (script, verdict, limit) in cases {
        let mut program = sh(script);
        limit(&mut program.limits);
        let before = stage.called("kill", "-run");
        let step = stage.run(program).await?.run.ok_or("no run step")?;
        assert_eq!(step.verdict, verdict, "{script}: {step:?}");
        assert!(step.message.is_some(), "{step:?}");
        assert_eq!(stage.called("kill", "-run"), before + 1, "{script}");
        if verdict == Verdict::OutputLimit {
            assert_eq!((step.stdout.len(), step.truncated), (5_000, true));
        }
    }
    let died = stage
        .run(sh("kill -SEGV $$"))
        .await?
        .run
        .ok_or("no run step")?;
    assert_eq!((died.verdict, died.signal), (Verdict::Signaled, Some(11)));
    let cancel = CancellationToken::new();
    let (sink, mut chunks) = OutputSink::channel(4);
    let token = cancel.clone();
    let stop = async move {
        chunks.recv().await;
        token.cancel();
    };
    let script = sh("echo up; sleep 70.5; true");
    let (outcome, ()) = tokio::join!(stage.sandbox.run(script, sink, cancel), stop);
    let outcome = outcome?;
    assert_eq!(outcome.state(), JobState::Cancelled);
    assert_eq!(
        outcome.run.map(|step| text(&step.stdout)).as_deref(),
        Some("up\n")
    );
    assert_eq!(processes("sleep\u{0}70.5"), Vec::<u32>::new());
    let runs = stage.called("run", "-run");
    assert_eq!(
        stage.called("delete", "-run"),
        runs,
        "each that was run was deleted"
    );
    stage.close().await
}

async fn dropped() -> Result<(), Failed> {
    let stage = Stage::set().await?;
    let (sink, mut chunks) = OutputSink::channel(4);
    tokio::select! {
        _ = stage.sandbox.run(sh("echo up; sleep 71.5; true"), sink, CancellationToken::new()) => {}
        _ = chunks.recv() => {}
    }
    wait_until("the program to end", || {
        processes("sleep\u{0}71.5").is_empty()
    })
    .await?;
    wait_until("the container to be deleted", || {
        stage.called("delete", "-run") >= 2
    })
    .await?;
    stage.close().await
}

async fn hosts_kernel() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    let honest = FAKE.replace("[\"/bin/cat\", \"/proc/version\"]", "None");
    assert_ne!(honest, FAKE);
    let setting = setting(place.path(), &honest)?;
    let refused = GvisorSandbox::start(setting, ANY).await;
    let refusal = refused.err().ok_or("it was started")?.to_string();
    assert!(refusal.contains("own kernel"), "{refusal}");
    assert_eq!(std::fs::read_dir(place.path().join("work"))?.count(), 0);
    Ok(())
}
