//! Backups: listed newest first, read whole, removed, and who needs one.

use atelier_shared::Mode;
use atelier_shared::backups;
use atelier_shared::domain::backup::{Backup, BackupReason, Keep};
use atelier_shared::domain::ids::{BackupId, Epoch, RoomId, Seq};
use chrono::{SubsecRound, Utc};

use super::{chat, opened};
use crate::fixture::{self, Outcome};

fn backup(seq: u64) -> Backup {
    Backup {
        id: BackupId::generate(),
        seq: Seq(seq),
        made_at: Utc::now().trunc_subsecs(3),
        reason: BackupReason::Asked,
        strokes: 2,
        document_bytes: 3,
        bytes: 4,
        hash: "é".into(),
    }
}

pub async fn backups_are_listed_newest_first_and_read_whole(mode: Mode) -> Outcome {
    // Larger than a document of MongoDB may be.
    const SIZE: usize = 20 << 20;
    let archives = fixture::archive(mode).await;
    let (room, other) = (RoomId::generate(), RoomId::generate());
    assert!(archives.here.backups(&room, None, 10).await?.is_empty());
    let mut made = Vec::new();
    for (seq, size) in [(1, SIZE), (2, 0), (3, 1)] {
        let backup = backup(seq);
        let state: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let kept = archives.here.put_backup(&room, Epoch(0), &backup, &state);
        assert!(kept.await?);
        let read = archives.there.backup(&room, backup.id).await?;
        assert!(read == Some((backup.clone(), state)), "of {size} bytes");
        assert!(archives.here.backup(&other, backup.id).await?.is_none());
        made.insert(0, backup);
    }
    archives
        .here
        .put_backup(&other, Epoch(0), &backup(9), b"x")
        .await?;
    assert_eq!(archives.there.backups(&room, None, 10).await?, made);
    assert_eq!(archives.there.backups(&room, None, 2).await?, made[..2]);
    let older = archives.there.backups(&room, Some(made[1].id), 10).await?;
    assert_eq!(older, made[2..]);
    Ok(())
}

pub async fn a_removed_backup_is_gone_and_the_others_stay(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = RoomId::generate();
    let made: Vec<_> = (1..=4).map(backup).collect();
    for backup in &made {
        archives
            .here
            .put_backup(&room, Epoch(0), backup, b"state")
            .await?;
    }
    let gone = [made[0].id, made[2].id, BackupId::generate()];
    archives.there.remove_backups(&room, &gone).await?;
    archives.there.remove_backups(&room, &gone).await?;
    let left = archives.here.backups(&room, None, 10).await?;
    assert_eq!(left, [made[3].clone(), made[1].clone()]);
    assert!(archives.here.backup(&room, made[0].id).await?.is_none());
    let state = archives.here.backup(&room, made[1].id).await?;
    assert_eq!(state.map(|(_, state)| state), Some(b"state".to_vec()));
    Ok(())
}

pub async fn a_room_needs_a_backup_until_one_covers_all_that_is_archived(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let archive = &archives.here;
    let room = opened(&**archive).await;
    let changed = async || -> atelier_shared::ports::Result<bool> {
        let rooms = archives.there.changed_rooms(1_000_000).await?;
        Ok(rooms.contains(&room))
    };
    assert!(!changed().await?, "nothing is archived");
    archive.append(&room, Epoch(1), &chat(1, 2)).await?;
    assert!(changed().await?);
    archive.mark_backed_up(&room, Epoch(1), Seq(1)).await?;
    assert!(changed().await?, "the second entry is in no backup");
    archive.mark_backed_up(&room, Epoch(1), Seq(2)).await?;
    assert!(!changed().await?);
    archive.append(&room, Epoch(1), &chat(3, 1)).await?;
    assert!(changed().await?);
    archive.mark_backed_up(&room, Epoch(1), Seq(5)).await?;
    assert!(!changed().await?, "a backup made from the log may be ahead");
    Ok(())
}

/// A log that was rolled back comes to other content at places that an older backup is beyond.
pub async fn a_backup_of_further_on_does_not_stand_for_what_a_room_has_become(
    mode: Mode,
) -> Outcome {
    let archives = fixture::archive(mode).await;
    let archive = &*archives.here;
    let room = opened(archive).await;
    archive
        .put_backup(&room, Epoch(1), &backup(100), b"x")
        .await?;
    archive.append(&room, Epoch(1), &chat(1, 2)).await?;
    let keep = Keep::DEFAULT;
    let made = backups::take_if_changed(archive, &room, keep).await?;
    assert_eq!(made.map(|backup| backup.seq), Some(Seq(2)));
    archive.append(&room, Epoch(1), &chat(3, 1)).await?;
    let made = backups::take_if_changed(archive, &room, keep).await?;
    assert!(made.is_none(), "messages are not in it");
    let changed = archives.there.changed_rooms(1_000_000).await?;
    assert!(!changed.contains(&room), "it is looked at again and again");
    Ok(())
}
