//! Who may write: the epoch, raised by compare-and-set.

use atelier_shared::Mode;
use atelier_shared::domain::ids::{Epoch, RoomId, Seq};
use atelier_shared::ports::ArchiveHead;
use futures::future::join_all;

use super::{chat, opened, read_all, seqs, stale};
use crate::fixture::{self, Outcome};

const fn head(epoch: u64, seq: u64) -> ArchiveHead {
    ArchiveHead {
        epoch: Epoch(epoch),
        seq: Seq(seq),
        opened: false,
    }
}

pub async fn an_epoch_is_opened_by_compare_and_set(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (archive, room) = (&archives.here, RoomId::generate());
    assert_eq!(archive.open_epoch(&room, Epoch(0)).await?, head(0, 0));
    assert_eq!(archive.open_epoch(&room, Epoch(1)).await?, head(0, 0));
    archive.raise_epoch(&room, Epoch(0)).await?;
    for not_its in [0, 2] {
        assert_eq!(archive.open_epoch(&room, Epoch(not_its)).await?, head(1, 0));
    }
    let opened = ArchiveHead {
        opened: true,
        ..head(1, 0)
    };
    for _ in 0..2 {
        assert_eq!(archive.open_epoch(&room, Epoch(1)).await?, opened);
    }
    assert_eq!(archives.there.head(&room).await?, opened);
    // Writing keeps it, a refused raise keeps it, a raise ends it.
    let written = archive.append(&room, Epoch(1), &chat(1, 1)).await?;
    assert!(written.opened);
    assert!(archive.raise_epoch(&room, Epoch(0)).await?.opened);
    assert_eq!(archive.raise_epoch(&room, Epoch(1)).await?, head(2, 1));
    Ok(())
}

pub async fn a_room_never_opened_is_epoch_0_and_its_first_raise_makes_1(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let archive = &archives.here;
    let room = RoomId::generate();
    assert_eq!(archive.head(&room).await?, head(0, 0));
    assert_eq!(archive.raise_epoch(&room, Epoch(0)).await?, head(1, 0));
    assert_eq!(archives.there.head(&room).await?, head(1, 0));
    // From an epoch that is not its own: nothing, and the head as it is.
    assert_eq!(archive.raise_epoch(&room, Epoch(0)).await?, head(1, 0));
    assert_eq!(archive.raise_epoch(&room, Epoch(7)).await?, head(1, 0));
    archive.append(&room, Epoch(1), &chat(1, 3)).await?;
    assert_eq!(archive.raise_epoch(&room, Epoch(1)).await?, head(2, 3));
    Ok(())
}

pub async fn of_twenty_raises_from_one_epoch_one_counts(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = RoomId::generate();
    for from in 0..3 {
        let raises = (0..20).map(|n| {
            let archive = if n % 2 == 0 {
                &archives.here
            } else {
                &archives.there
            };
            archive.raise_epoch(&room, Epoch(from))
        });
        for raised in join_all(raises).await {
            assert_eq!(raised?, head(from + 1, 0));
        }
    }
    Ok(())
}

pub async fn a_writer_in_another_epoch_is_refused_and_writes_nothing(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let archive = &archives.here;
    let room = opened(&**archive).await;
    archive.append(&room, Epoch(1), &chat(1, 2)).await?;
    archive.raise_epoch(&room, Epoch(1)).await?;
    for epoch in [1, 3] {
        let refused = archive.append(&room, Epoch(epoch), &chat(3, 2)).await;
        assert_eq!(stale(refused), head(2, 2), "epoch {epoch}");
    }
    // Not even what would be skipped: the writer must learn that its epoch is over.
    let repeated = archive.append(&room, Epoch(1), &chat(1, 2)).await;
    assert_eq!(stale(repeated), head(2, 2));
    assert_eq!(seqs(&read_all(&**archive, &room, 10).await), [1, 2]);
    assert_eq!(
        archive.append(&room, Epoch(2), &chat(3, 1)).await?,
        head(2, 3)
    );
    Ok(())
}

pub async fn nothing_is_ever_of_epoch_0(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = RoomId::generate();
    let refused = archives.here.append(&room, Epoch(0), &chat(1, 1)).await;
    assert_eq!(stale(refused), head(0, 0));
    assert!(archives.here.read(&room, Seq(0), 10).await?.is_empty());
    Ok(())
}

/// A writer of the old epoch, and one that raises it and writes in the new: what the raise found written is all that
/// the old one ever wrote.
pub async fn of_writers_in_two_epochs_exactly_one_wins(mode: Mode) -> Outcome {
    const ROUNDS: u64 = 40;
    let archives = fixture::archive(mode).await;
    let mut first = [0, 0];
    for round in 0..ROUNDS {
        let room = opened(&*archives.here).await;
        let (old, new) = (chat(1, 5), chat(1, 5));
        // From "at the same time" over "in the middle of the other's append" to "long before", each of them first in turn.
        let pause = std::time::Duration::from_micros(round * round * 50);
        let (old_pause, new_pause) = match round % 2 {
            0 => (std::time::Duration::ZERO, pause),
            _ => (pause, std::time::Duration::ZERO),
        };
        let old_writer = async {
            tokio::time::sleep(old_pause).await;
            archives.here.append(&room, Epoch(1), &old).await
        };
        let new_writer = async {
            tokio::time::sleep(new_pause).await;
            let raised = archives.there.raise_epoch(&room, Epoch(1)).await?;
            let written = archives.there.append(&room, raised.epoch, &new).await?;
            Ok::<_, atelier_shared::ports::StaleEpoch>((raised, written))
        };
        let (old_outcome, new_outcome) = tokio::join!(old_writer, new_writer);
        let (raised, written) = new_outcome?;
        assert_eq!(written, head(2, 5));
        let kept = read_all(&*archives.here, &room, 100).await;
        if raised == head(2, 5) {
            first[0] += 1;
            assert_eq!(kept, old);
            assert_eq!(old_outcome?, head(1, 5));
        } else {
            first[1] += 1;
            assert_eq!(raised, head(2, 0));
            assert_eq!(kept, new, "written in an epoch that was over");
            assert_eq!(stale(old_outcome).epoch, Epoch(2));
        }
    }
    // Else the test says nothing.
    assert!(mode == Mode::Embedded || !first.contains(&0), "{first:?}");
    Ok(())
}
