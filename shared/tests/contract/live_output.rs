//! Promises of the LiveOutput port.

use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::JobId;
use atelier_shared::domain::job::Progress;
use atelier_shared::ports::{OUTPUT_PIECES_MAX, OutputPiece};
use libtest_mimic::Trial;

use crate::fixture::{self, Outcome, both};

const PATIENCE: Duration = Duration::from_secs(30);

pub fn trials(trials: &mut Vec<Trial>) {
    both(
        trials,
        "live_output",
        "what_is_said_on_one_pod_is_read_in_order_on_another",
        read_elsewhere,
    );
    both(
        trials,
        "live_output",
        "a_later_attempt_silences_the_earlier",
        attempts,
    );
    both(
        trials,
        "live_output",
        "a_talkative_program_keeps_its_last_pieces",
        capped,
    );
    both(
        trials,
        "live_output",
        "the_last_step_of_the_present_attempt_is_read_by_all",
        progress,
    );
}

async fn progress(mode: Mode) -> Outcome {
    let pods = fixture::pods(mode).await;
    let (here, there) = (pods.here.output, pods.there.output);
    let job = JobId::generate();
    let step = |percent, message: &str| Progress {
        percent,
        message: message.into(),
    };
    assert!(!here.progress(job, 1, &step(1, "nobody speaks")).await?);
    assert!(here.begin(job, 1).await?);
    let mut waker = there.waker(job).await?;
    waker.mark_unchanged();
    for percent in [10, 20] {
        assert!(here.progress(job, 1, &step(percent, "Zoë")).await?);
    }
    tokio::time::timeout(PATIENCE, waker.changed()).await??;
    assert!(here.append(job, 1, &piece(0, "x")).await?);
    let page = there.read(job, 1, 0, 0).await?;
    assert_eq!(page.progress, Some(step(20, "Zoë")));
    assert_eq!((page.pieces.len(), page.next), (0, 0), "the progress alone");
    let page = there.read(job, 1, page.next, 10).await?;
    assert_eq!(texts(&page.pieces), ["x"]);
    // What an earlier attempt said of itself is void.
    assert!(there.begin(job, 2).await?);
    assert!(!here.progress(job, 1, &step(90, "late")).await?);
    assert_eq!(here.read(job, 2, 0, 1).await?.progress, None);
    assert!(there.progress(job, 2, &step(5, "")).await?);
    here.end(job).await?;
    assert_eq!(there.read(job, 2, 0, 1).await?.progress, None);
    Ok(())
}

fn piece(offset: u64, text: &str) -> OutputPiece {
    OutputPiece {
        stream: "stdout".into(),
        offset,
        text: text.into(),
    }
}

fn texts(pieces: &[OutputPiece]) -> Vec<&str> {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

async fn read_elsewhere(mode: Mode) -> Outcome {
    let pods = fixture::pods(mode).await;
    let (here, there) = (pods.here.output, pods.there.output);
    let job = JobId::generate();
    let mut waker = there.waker(job).await?;
    waker.mark_unchanged();
    assert_eq!(there.read(job, 0, 0, 10).await?, Default::default());
    assert!(here.begin(job, 1).await?);
    assert!(here.append(job, 1, &piece(0, "Zoë\u{0}")).await?);
    tokio::time::timeout(PATIENCE, waker.changed()).await??;
    for n in 1..5 {
        assert!(here.append(job, 1, &piece(n, "x")).await?);
    }
    let page = there.read(job, 0, 0, 2).await?;
    assert_eq!(
        (page.attempt, texts(&page.pieces)),
        (1, vec!["Zoë\u{0}", "x"])
    );
    let rest = there.read(job, 1, page.next, 10).await?;
    assert_eq!(texts(&rest.pieces), ["x"; 3]);
    assert!(there.read(job, 1, rest.next, 10).await?.pieces.is_empty());
    // Other programs are other programs'.
    let other = there.read(JobId::generate(), 1, 0, 10).await?;
    assert_eq!(other.attempt, 0);
    waker.borrow_and_update();
    here.end(job).await?;
    tokio::time::timeout(PATIENCE, waker.changed()).await??;
    let page = there.read(job, 1, rest.next, 10).await?;
    assert_eq!((page.attempt, page.pieces.len()), (0, 0));
    Ok(())
}

async fn attempts(mode: Mode) -> Outcome {
    let pods = fixture::pods(mode).await;
    let (here, there) = (pods.here.output, pods.there.output);
    let job = JobId::generate();
    assert!(here.begin(job, 1).await?);
    assert!(here.append(job, 1, &piece(0, "first")).await?);
    let page = there.read(job, 0, 0, 10).await?;
    assert!(there.begin(job, 2).await?);
    assert!(!here.append(job, 1, &piece(5, "late")).await?);
    assert!(!here.begin(job, 1).await?);
    assert!(there.append(job, 2, &piece(0, "second")).await?);
    // A place in the first attempt is none in the second.
    let page = here.read(job, 1, page.next, 10).await?;
    assert_eq!((page.attempt, texts(&page.pieces)), (2, vec!["second"]));
    Ok(())
}

async fn capped(mode: Mode) -> Outcome {
    const EXTRA: usize = 10;
    let output = fixture::pods(mode).await.here.output;
    let job = JobId::generate();
    assert!(output.begin(job, 1).await?);
    let start = output.read(job, 1, 0, 1).await?;
    for n in 0..OUTPUT_PIECES_MAX + EXTRA {
        assert!(output.append(job, 1, &piece(n as u64, "x")).await?);
    }
    let page = output.read(job, 1, start.next, 1).await?;
    assert_eq!(page.pieces[0].offset, EXTRA as u64, "the hole is seen");
    let last = output.read(job, 1, 0, OUTPUT_PIECES_MAX * 2).await?;
    assert_eq!(last.pieces.len(), OUTPUT_PIECES_MAX);
    assert_eq!(last.next, (OUTPUT_PIECES_MAX + EXTRA) as u64);
    Ok(())
}
