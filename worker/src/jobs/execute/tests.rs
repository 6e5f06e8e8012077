//! A run over the embedded stores: what it leaves behind, and that a kill between any two of its steps leaves the same.

mod cancelling;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use atelier_shared::Backends;
use atelier_shared::domain::entry::Body;
use atelier_shared::domain::ids::{JobId, RoomId, UserId};
use atelier_shared::domain::job::{AskedLimits, JobResult, JobSpec, SourceFile};
use atelier_shared::domain::room::{Access, Retention, Room, RoomKind};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{Delivery, HistoryQuery};
use bytes::Bytes;
use clap::Parser;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::sandbox::{
    Channel, OutputChunk, OutputSink, Program, StepKind, StepOutcome, Tier, TierLevel, Verdict,
};

type Work = Box<
    dyn Fn(OutputSink, CancellationToken) -> BoxFuture<'static, Result<Outcome, SandboxError>>
        + Send
        + Sync,
>;

/// A sandbox that does what the test says, and counts.
struct Scripted {
    tier: Tier,
    work: Work,
    runs: AtomicUsize,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

#[async_trait]
impl Sandbox for Scripted {
    fn tier(&self) -> &Tier {
        &self.tier
    }

    async fn run(
        &self,
        program: Program,
        output: OutputSink,
        cancel: CancellationToken,
    ) -> Result<Outcome, SandboxError> {
        if program.files.is_empty() {
            // A toolchain is asked for its version.
            return Ok(exited(0, "5.2.15"));
        }
        self.runs.fetch_add(1, Ordering::SeqCst);
        (self.work)(output, cancel).await
    }
}

fn exited(code: i32, stdout: &str) -> Outcome {
    step(Verdict::Exited, Some(code), stdout)
}

fn step(verdict: Verdict, exit_code: Option<i32>, stdout: &str) -> Outcome {
    let usage = atelier_shared::domain::job::Usage {
        wall_ms: 12,
        ..Default::default()
    };
    let step = StepOutcome {
        verdict,
        exit_code,
        signal: None,
        stdout: Bytes::from(stdout.to_owned()),
        stderr: Bytes::new(),
        truncated: false,
        usage,
        message: None,
    };
    Outcome {
        compile: None,
        run: Some(step),
        artifacts: Vec::new(),
        artifacts_skipped: Vec::new(),
    }
}

#[derive(Parser)]
struct Stores {
    #[command(flatten)]
    stores: atelier_shared::config::StoreConfig,
}

struct Bench {
    execution: Arc<Execution>,
    sandbox: Arc<Scripted>,
    room: RoomId,
    backends: Backends,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new<F, R>(work: F) -> Self
    where
        F: Fn(OutputSink, CancellationToken) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Outcome, SandboxError>> + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let mut stores = Stores::parse_from(["test"]).stores;
        (stores.database_url, stores.redis_url, stores.mongo_url) = (None, None, None);
        stores.data_dir = folder.path().to_owned();
        let backends = Backends::open(&stores).await.unwrap();
        let sandbox = Arc::new(Scripted {
            tier: Tier {
                driver: "scripted",
                level: TierLevel::Full,
                layers: Vec::new(),
            },
            work: Box::new(move |output, cancel| Box::pin(work(output, cancel))),
            runs: AtomicUsize::new(0),
        });
        let room = room(&backends).await;
        let execution = Arc::new(Execution {
            records: backends.records.clone(),
            archive: backends.archive.clone(),
            log: backends.log.clone(),
            queue: backends.queue.clone(),
            output: backends.output.clone(),
            files: backends.files.clone(),
            presence: backends.presence.clone(),
            toolchains: Toolchains::discover(&*sandbox).await.unwrap(),
            sandbox: sandbox.clone(),
            ceiling: Limits::CEILING,
            keep_results: Duration::from_secs(3_600),
            artifact_bytes: 1 << 20,
        });
        Self {
            execution,
            sandbox,
            room,
            backends,
            _folder: folder,
        }
    }

    async fn submit(&self, language: &str) -> Row {
        let row = Row {
            id: JobId::generate(),
            owner: UserId::generate(),
            owner_name: "Ada".into(),
            room_id: Some(self.room.clone()),
            project_id: None,
            priority: 0,
            spec: spec(language),
            state: JobState::Queued,
            attempts: 0,
            revivals: 0,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            asked_by: None,
            created_at: Utc::now(),
            started_at: None,
            finished_at: None,
        };
        self.execution.records.create_job(&row).await.unwrap();
        row
    }

    async fn run(&self, row: &Row, number: u32) -> Result<(), Failure> {
        self.run_as(row, number, CancellationToken::new()).await
    }

    async fn run_as(
        &self,
        row: &Row,
        number: u32,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        self.attempt(row, number, 0, cancel).await
    }

    async fn attempt(
        &self,
        row: &Row,
        number: u32,
        lapses: u32,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        let attempt = Attempt {
            id: row.id.to_string(),
            number,
            most: 3,
            lapses,
            enqueued_at: Utc::now(),
            traceparent: None,
            cancel,
        };
        ExecuteJob { job_id: row.id }
            .run(attempt, self.execution.clone())
            .await
    }

    async fn state(&self, row: &Row) -> JobState {
        self.execution
            .records
            .job(row.id)
            .await
            .unwrap()
            .unwrap()
            .state
    }

    async fn result(&self, row: &Row) -> Option<JobResult> {
        self.execution
            .archive
            .result(row.id, Utc::now())
            .await
            .unwrap()
    }

    /// What the room was told of this run, in order.
    async fn told(&self, row: &Row) -> Vec<&'static str> {
        let head = self.execution.log.head(&self.room).await.unwrap().unwrap();
        let entries = atelier_shared::recovery::read_after(
            &*self.execution.log,
            &*self.execution.archive,
            &self.room,
            head.epoch,
            atelier_shared::domain::ids::Seq(0),
            10_000,
        );
        let entries = entries.await.unwrap().unwrap();
        let of_this_run = entries.iter().filter(|entry| match &entry.record.body {
            Body::RunStarted { run_id, .. } | Body::RunFinished { run_id, .. } => *run_id == row.id,
            _ => false,
        });
        of_this_run.map(|entry| entry.record.body.kind()).collect()
    }

    fn runs(&self) -> usize {
        self.sandbox.runs.load(Ordering::SeqCst)
    }
}

async fn room(backends: &Backends) -> RoomId {
    let id = RoomId::generate();
    let room = Room {
        id: id.clone(),
        name: "room".into(),
        kind: RoomKind::Open,
        access: Access::Open,
        listed: true,
        retention: Retention::Keep,
        allows: Vec::new(),
        created_by: None,
        creator_address: None,
        project_id: None,
        role_version: 1,
        created_at: Utc::now(),
        last_activity_at: Utc::now(),
    };
    assert!(backends.records.create_room(&room).await.unwrap());
    id
}

fn spec(language: &str) -> JobSpec {
    JobSpec {
        language: language.into(),
        version: None,
        files: vec![SourceFile {
            path: "main.sh".into(),
            content: "echo hi".into(),
            encoding: None,
        }],
        entrypoint: None,
        stdin: String::new(),
        args: Vec::new(),
        env: BTreeMap::new(),
        limits: AskedLimits::default(),
        callback_url: None,
    }
}

const BOTH: [&str; 2] = ["run_started", "run_finished"];

#[tokio::test]
async fn a_run_leaves_a_result_a_final_row_and_two_entries() {
    let bench = Bench::new(|_, _| async { Ok(exited(0, "hi\n")) }).await;
    let row = bench.submit("bash").await;
    bench.run(&row, 1).await.unwrap();
    let result = bench.result(&row).await.unwrap();
    assert_eq!(
        (result.status, result.exit_code, result.stdout.as_str()),
        (JobState::Succeeded, Some(0), "hi\n")
    );
    assert_eq!((result.usage.wall_ms, result.attempts), (12, 1));
    assert_eq!(
        result.trace_id.as_deref(),
        Some("0af7651916cd43dd8448eb211c80319c")
    );
    assert_eq!(bench.state(&row).await, JobState::Succeeded);
    assert_eq!(bench.told(&row).await, BOTH);
    bench.run(&row, 2).await.unwrap();
    assert_eq!(bench.runs(), 1, "delivered again, not run again");
    assert_eq!(bench.told(&row).await, BOTH);
}

#[tokio::test]
async fn a_job_that_killed_two_workers_is_quarantined_and_not_run() {
    let bench = Bench::new(|_, _| async { Ok(exited(0, "hi\n")) }).await;
    let row = bench.submit("bash").await;
    let attempt = |lapses| bench.attempt(&row, lapses + 1, lapses, CancellationToken::new());
    let failure = attempt(2).await.unwrap_err();
    assert!(matches!(failure, Failure::Final(_)), "{failure}");
    assert_eq!((bench.runs(), bench.state(&row).await), (0, JobState::Dead));
    let result = bench.result(&row).await.unwrap();
    assert_eq!((result.status, result.attempts), (JobState::Dead, 2));
    let message = result.message.unwrap();
    assert!(message.contains("2 workers died"), "{message}");
    // One that had its result already is not taken for poison.
    let row = bench.submit("bash").await;
    bench.run(&row, 1).await.unwrap();
    let again = bench.attempt(&row, 3, 2, CancellationToken::new());
    again.await.unwrap();
    assert_eq!(bench.state(&row).await, JobState::Succeeded);
}

/// Kills the run at its k-th await, for every k it has, and lets another worker have it.
#[tokio::test]
async fn a_kill_between_any_two_steps_ends_in_one_state_and_one_result() {
    let bench = Bench::new(|_, _| async {
        tokio::task::yield_now().await;
        Ok(exited(3, "out"))
    })
    .await;
    let mut finished_at_once = false;
    let mut kills = 0;
    while !finished_at_once {
        let row = bench.submit("bash").await;
        let runs_before = bench.runs();
        {
            let mut first = pin!(bench.run(&row, 1));
            let mut polls = 0;
            finished_at_once = poll_fn(|cx| {
                if first.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                polls += 1;
                if polls > kills {
                    Poll::Ready(false)
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        let result_before = bench.result(&row).await;
        let runs_between = bench.runs();
        bench.run(&row, 2).await.unwrap();
        let result = bench.result(&row).await.expect("one result");
        assert_eq!(result.status, JobState::Failed, "after {kills} awaits");
        assert_eq!(
            bench.state(&row).await,
            JobState::Failed,
            "after {kills} awaits"
        );
        assert_eq!(bench.told(&row).await, BOTH, "after {kills} awaits");
        if let Some(before) = result_before {
            assert_eq!(result, before, "the first result stays");
            assert_eq!(
                bench.runs(),
                runs_between,
                "a finished program never runs again"
            );
        }
        assert!(bench.runs() - runs_before <= 2);
        kills += 1;
        assert!(kills < 500, "it never finishes");
    }
    assert!(kills > 5, "it has awaits to be killed at: {kills}");
}

#[tokio::test]
async fn two_holders_at_once_leave_one_result_and_one_story() {
    let turn = Arc::new(AtomicUsize::new(0));
    let bench = Bench::new(move |_, _| {
        let n = turn.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(exited(0, &format!("{n}")))
        }
    })
    .await;
    let row = bench.submit("bash").await;
    let (late, present) = tokio::join!(bench.run(&row, 1), bench.run(&row, 2));
    late.unwrap();
    present.unwrap();
    assert_eq!(bench.runs(), 2);
    assert_eq!(bench.state(&row).await, JobState::Succeeded);
    assert!(bench.result(&row).await.is_some());
    assert_eq!(bench.told(&row).await, BOTH);
}

#[tokio::test]
async fn a_cancelled_run_ends_cancelled() {
    let bench = Bench::new(|_, cancel| async move {
        cancel.cancelled().await;
        Ok(step(Verdict::Cancelled, None, "half"))
    })
    .await;
    let row = bench.submit("bash").await;
    let cancel = CancellationToken::new();
    let (ran, ()) = tokio::join!(bench.run_as(&row, 1, cancel.clone()), async {
        while bench.runs() == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    ran.unwrap();
    assert_eq!(bench.state(&row).await, JobState::Cancelled);
    assert_eq!(bench.result(&row).await.unwrap().stdout, "half");
}

#[tokio::test]
async fn a_lost_sandbox_is_tried_again_and_is_dead_at_the_last_attempt() {
    let bench = Bench::new(|_, _| async { Err(SandboxError::Lost("helper died".into())) }).await;
    let row = bench.submit("bash").await;
    let failure = bench.run(&row, 1).await.unwrap_err();
    assert!(matches!(failure, Failure::Retry(_)), "{failure:?}");
    assert_eq!(bench.state(&row).await, JobState::Running);
    // Its letter is written by whoever settles it.
    let failure = bench.run(&row, 3).await.unwrap_err();
    assert!(matches!(failure, Failure::Final(_)), "{failure:?}");
    assert_eq!(bench.state(&row).await, JobState::Dead);
    let result = bench.result(&row).await.unwrap();
    assert!(result.message.unwrap().contains("helper died"));
    assert_eq!(bench.told(&row).await, BOTH);
}

#[tokio::test]
async fn a_language_that_is_not_here_is_rejected_in_words() {
    let bench = Bench::new(|_, _| async { Ok(exited(0, "")) }).await;
    let row = bench.submit("cobol").await;
    bench.run(&row, 1).await.unwrap();
    assert_eq!(bench.state(&row).await, JobState::Rejected);
    let message = bench.result(&row).await.unwrap().message.unwrap();
    assert!(message.contains("cobol"), "{message}");
    assert_eq!(bench.runs(), 0);
}

#[tokio::test]
async fn the_room_sees_output_while_it_is_made() {
    let bench = Bench::new(|output, _| async move {
        let mut output = output;
        for (offset, bytes) in [(0, "héllo "), (7, "world")] {
            let bytes = Bytes::from(bytes);
            let (step, channel) = (StepKind::Run, Channel::Stdout);
            output
                .send(OutputChunk {
                    step,
                    channel,
                    offset,
                    bytes,
                })
                .await;
        }
        drop(output);
        Ok(exited(0, "héllo world"))
    })
    .await;
    let row = bench.submit("bash").await;
    let mut room = bench.execution.log.subscribe(&bench.room).await.unwrap();
    bench.run(&row, 1).await.unwrap();
    let mut seen = String::new();
    while seen.len() < "héllo world".len() {
        let delivery = tokio::time::timeout(Duration::from_secs(5), room.next()).await;
        if let Some(Delivery::Signal(signal)) = delivery.expect("output")
            && let Signal::RunOutput {
                run_id,
                stream,
                chunk,
                offset,
            } = *signal
        {
            assert_eq!(
                (run_id, stream.as_str(), offset),
                (row.id, "stdout", seen.len() as u64)
            );
            seen.push_str(&chunk);
        }
    }
    assert_eq!(seen, "héllo world");
}

#[tokio::test]
async fn a_job_without_row_or_without_room_is_no_failure() {
    let bench = Bench::new(|_, _| async { Ok(exited(0, "")) }).await;
    let gone = Row {
        id: JobId::generate(),
        ..bench.submit("bash").await
    };
    bench.run(&gone, 1).await.unwrap();
    assert_eq!(bench.runs(), 0);
    let row = bench.submit("bash").await;
    let room = &bench.room;
    bench
        .execution
        .records
        .delete_room(room, Utc::now())
        .await
        .unwrap();
    bench.run(&row, 1).await.unwrap();
    assert_eq!(bench.state(&row).await, JobState::Succeeded);
    let history = HistoryQuery {
        kinds: Vec::new(),
        before: None,
        reader: None,
        limit: 10,
    };
    assert!(
        bench
            .execution
            .archive
            .history(room, &history)
            .await
            .unwrap()
            .entries
            .is_empty()
    );
}

#[tokio::test]
async fn a_job_given_up_is_dead_unless_it_had_ended() {
    let bench = Bench::new(|_, _| async { Ok(exited(0, "")) }).await;
    let row = bench.submit("bash").await;
    bench
        .execution
        .give_up(&row, 3, "lease lapsed", Utc::now())
        .await
        .unwrap();
    assert_eq!(bench.state(&row).await, JobState::Dead);
    assert_eq!(
        bench.result(&row).await.unwrap().message.as_deref(),
        Some("lease lapsed")
    );
    let row = bench.submit("bash").await;
    bench.run(&row, 1).await.unwrap();
    bench
        .execution
        .give_up(&row, 3, "lease lapsed", Utc::now())
        .await
        .unwrap();
    assert_eq!(bench.state(&row).await, JobState::Succeeded);
}
