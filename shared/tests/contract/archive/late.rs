//! Rooms that were removed and made again: what was under way in the old one shows nowhere in the new one.

use atelier_shared::Mode;
use atelier_shared::domain::backup::{Backup, BackupReason};
use atelier_shared::domain::ids::{BackupId, Epoch, RoomId, Seq};
use atelier_shared::domain::state::{Checkpoint, RoomState};
use atelier_shared::ports::{Archive, Result};
use chrono::{SubsecRound, Utc};

use super::{chat, opened, read_all};
use crate::fixture::{self, Outcome};

fn checkpoint(epoch: Epoch, seq: u64, padding: usize) -> Checkpoint {
    let mut state = RoomState::default();
    let padding = "x".repeat(padding);
    state.metadata.insert("of".into(), epoch.0.into());
    state.metadata.insert("padding".into(), padding.into());
    Checkpoint {
        epoch,
        seq: Seq(seq),
        state,
    }
}

fn backup() -> Backup {
    Backup {
        id: BackupId::generate(),
        seq: Seq(3),
        made_at: Utc::now().trunc_subsecs(3),
        reason: BackupReason::Scheduled,
        strokes: 0,
        document_bytes: 0,
        bytes: 1,
        hash: String::new(),
    }
}

/// Three entries in its first life, forgotten, and five in the next.
async fn second_life(archive: &dyn Archive) -> Result<(RoomId, Epoch)> {
    let room = opened(archive).await;
    let append = async |epoch, count| {
        let head = archive.append(&room, epoch, &chat(1, count)).await;
        head.expect("append")
    };
    append(Epoch(1), 3).await;
    assert!(archive.forget_room(&room, Epoch(1)).await?);
    let epoch = archive.head(&room).await?.epoch;
    append(epoch, 5).await;
    Ok((room, epoch))
}

pub async fn a_checkpoint_of_an_epoch_that_is_over_is_not_kept(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    let (room, epoch) = second_life(here).await?;
    let late = checkpoint(Epoch(1), 3, 0);
    assert!(!there.save_checkpoint(&room, &late).await?);
    assert_eq!(here.checkpoint(&room).await?, None);
    let ours = checkpoint(epoch, 2, 0);
    assert!(there.save_checkpoint(&room, &ours).await?);
    assert!(!there.save_checkpoint(&room, &late).await?);
    assert_eq!(here.checkpoint(&room).await?, Some(ours));
    Ok(())
}

/// Both take a while, and the room goes and comes again meanwhile.
pub async fn a_checkpoint_and_a_backup_under_way_do_not_outlive_their_room(mode: Mode) -> Outcome {
    const SIZE: usize = 12 << 20;
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    for _ in 0..4 {
        let room = opened(here).await;
        here.append(&room, Epoch(1), &chat(1, 3)).await?;
        let (large, state, about) = (checkpoint(Epoch(1), 3, SIZE), vec![b'x'; SIZE], backup());
        let removed = async {
            let forgot = here.forget_room(&room, Epoch(1)).await;
            assert!(forgot.expect("an answer"));
            let epoch = here.head(&room).await.expect("a head").epoch;
            here.append(&room, epoch, &chat(1, 5))
                .await
                .expect("append");
        };
        let (saved, kept, ()) = tokio::join!(
            there.save_checkpoint(&room, &large),
            there.put_backup(&room, Epoch(1), &about, &state),
            removed,
        );
        // Whichever came first.
        let _ = (saved?, kept?);
        assert!(here.checkpoint(&room).await?.is_none(), "a dead room's");
        assert!(here.backups(&room, None, 10).await?.is_empty());
        assert_eq!(read_all(here, &room, 10).await.len(), 5);
    }
    Ok(())
}

pub async fn a_backup_of_an_epoch_that_is_over_is_refused_and_covers_nothing(
    mode: Mode,
) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    let (room, epoch) = second_life(here).await?;
    for over in [Epoch(0), Epoch(1)] {
        assert!(!there.put_backup(&room, over, &backup(), b"x").await?);
        there.mark_backed_up(&room, over, Seq(9)).await?;
    }
    assert!(here.backups(&room, None, 10).await?.is_empty());
    assert!(here.changed_rooms(1_000_000).await?.contains(&room));
    assert!(there.put_backup(&room, epoch, &backup(), b"x").await?);
    there.mark_backed_up(&room, epoch, Seq(5)).await?;
    assert_eq!(here.backups(&room, None, 10).await?.len(), 1);
    assert!(!here.changed_rooms(1_000_000).await?.contains(&room));
    Ok(())
}

pub async fn a_forgetting_that_is_late_takes_nothing_from_the_next_life(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    let (room, epoch) = second_life(here).await?;
    assert!(there.put_backup(&room, epoch, &backup(), b"x").await?);
    for over in [Epoch(0), Epoch(1), Epoch(epoch.0 + 1)] {
        assert!(!there.forget_room(&room, over).await?);
    }
    let head = here.head(&room).await?;
    assert_eq!((head.epoch, head.seq), (epoch, Seq(5)));
    assert_eq!(read_all(here, &room, 10).await.len(), 5);
    assert_eq!(here.backups(&room, None, 10).await?.len(), 1);
    // Of a room that was never opened only backups can be there.
    let kept = RoomId::generate();
    assert!(here.put_backup(&kept, Epoch(0), &backup(), b"x").await?);
    assert!(there.forget_room(&kept, Epoch(0)).await?);
    assert!(here.backups(&kept, None, 10).await?.is_empty());
    Ok(())
}

pub async fn rooms_with_backups_are_walked_each_once(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let here = &*archives.here;
    // One name begins the other.
    let name = RoomId::generate();
    let longer: Vec<RoomId> = ["-a", "0", "a"]
        .iter()
        .map(|end| format!("{name}{end}").parse().expect("a name"))
        .collect();
    let mut written = longer;
    written.push(name);
    for room in &written {
        for _ in 0..2 {
            assert!(here.put_backup(room, Epoch(0), &backup(), b"x").await?);
        }
    }
    let mut walked: Vec<RoomId> = Vec::new();
    loop {
        // Others write into the same archive.
        let page = archives.there.rooms_with_backups(walked.last(), 3).await?;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        walked.extend(page);
    }
    for room in &written {
        assert_eq!(walked.iter().filter(|found| *found == room).count(), 1);
    }
    Ok(())
}
