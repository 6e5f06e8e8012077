//! What only a journal can break.

use std::path::Path;

use atelier_shared::config::StoreConfig;
use atelier_shared::domain::entry::Record;

use super::*;
use crate::fixture::{config, open};

/// What kill -9 leaves: the log's files as they lie while it is open, opened elsewhere.
async fn crashed(
    folder: &Path,
) -> Result<(std::sync::Arc<dyn RoomLog>, tempfile::TempDir), PortError> {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder).expect("the log's folder") {
        let entry = entry.expect("an entry");
        if entry.file_name().to_string_lossy().starts_with("log.") {
            let to = copy.path().join(entry.file_name());
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
    let config = StoreConfig {
        data_dir: copy.path().to_owned(),
        ..StoreConfig::default()
    };
    Ok((open(config).await.log, copy))
}

pub async fn a_crash_loses_nothing_acknowledged(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let (gone, moved) = (RoomId::generate(), RoomId::generate());
    for room in [&gone, &moved] {
        logs.here.seed(room, FIRST, Seq(7), 0, now_ms()).await?;
        add(&*logs.here, room, &messages(1)).await?;
    }
    let records = [chat(&author("a"), "kept", Some("r"))];
    add(&*logs.here, &room, &records).await?;
    add(&*logs.here, &room, &messages(10)).await?;
    logs.here
        .confirm_archived(&room, FIRST, Seq(4), Seq(3))
        .await?;
    logs.here.set_role_version(&room, 5).await?;
    logs.here
        .confirm_archived(&gone, FIRST, Seq(8), Seq(0))
        .await?;
    assert!(logs.here.unload(&gone, FIRST, Seq(8)).await?);
    logs.here
        .seed(&moved, Epoch(2), Seq(9), 0, now_ms())
        .await?;
    let before = head(&*logs.here, &room).await?;

    let (log, _copy) = crashed(&logs.folder).await?;
    assert_eq!(log.head(&room).await?, Some(before));
    assert_eq!(log.head(&gone).await?, None);
    let of_moved = head(&*log, &moved).await?;
    assert_eq!((of_moved.epoch, of_moved.seq), (Epoch(2), Seq(9)));
    let entries = read_all(&*log, &room).await?;
    assert_eq!(seqs(&entries), (4..=11).collect::<Vec<_>>());
    assert_eq!(entries, read_all(&*logs.here, &room).await?);
    assert_eq!(
        log.dirty_rooms(None, 10).await?,
        std::slice::from_ref(&room)
    );
    let again = Append {
        role_version: 5,
        ..to(&room, &records)
    };
    assert_eq!(log.append(again).await?.0, [Appended::Duplicate(Seq(1))]);
    let more = messages(1);
    let more = Append {
        role_version: 5,
        ..to(&room, &more)
    };
    assert_eq!(log.append(more).await?.0, [Appended::New(Seq(12))]);
    DONE
}

/// Taken, refused and doubled writes of many rooms.
pub async fn many_rooms_writers_get_each_their_answer(mode: Mode) -> Outcome {
    each_writers_answer(&room_logs(mode).await).await
}

/// What is acknowledged is on the disk: the same answers, some of them of one sync.
pub async fn a_synced_log_answers_and_tells_alike(mode: Mode) -> Outcome {
    let config = StoreConfig {
        sync_log: true,
        ..config(mode).await
    };
    let (folder, log) = (config.data_dir.clone(), open(config).await.log);
    let logs = RoomLogs {
        here: log.clone(),
        there: log,
        namespace: String::new(),
        folder,
    };
    each_writers_answer(&logs).await?;
    let room = RoomId::generate();
    logs.here.seed(&room, FIRST, Seq(0), 0, now_ms()).await?;
    let mut reader = Reader::of(&*logs.here, &room).await?;
    let records = messages(100);
    let appends = records.chunks(1).map(|one| add(&*logs.here, &room, one));
    let mut taken = futures::future::try_join_all(appends).await?.concat();
    taken.sort_unstable();
    assert_eq!(taken, (1..=100).map(Seq).collect::<Vec<_>>());
    assert_eq!(
        seqs(&reader.entries(100).await),
        (1..=100).collect::<Vec<_>>()
    );
    let (log, _copy) = crashed(&logs.folder).await?;
    assert_eq!(read_all(&*log, &room).await?.len(), 100);
    DONE
}

async fn each_writers_answer(logs: &RoomLogs) -> Outcome {
    let rooms: Vec<RoomId> = (0..40).map(|_| RoomId::generate()).collect();
    let all = rooms.iter().enumerate().map(|(n, room)| {
        let log = &logs.here;
        async move {
            let record = [chat(&author("a"), "", Some("r"))];
            let seed = log.seed(room, FIRST, Seq(n as u64), 0, now_ms());
            let first = log.append(to(room, &record));
            let again = log.append(to(room, &record));
            let wrong = log.append(Append {
                epoch: Epoch(9),
                ..to(room, &record)
            });
            let confirm = log.confirm_archived(room, FIRST, Seq(n as u64 + 1), Seq(0));
            // Sent in this order, before any is answered.
            let (seed, first, again, wrong, confirm) =
                futures::join!(seed, first, again, wrong, confirm);
            let seq = Seq(n as u64 + 1);
            assert_eq!(seed?.seq, Seq(n as u64));
            assert_eq!(first.expect("taken").0, [Appended::New(seq)]);
            assert_eq!(again.expect("known").0, [Appended::Duplicate(seq)]);
            assert!(matches!(wrong, Err(Refusal::Epoch(head)) if head.seq == seq));
            assert!(confirm?);
            Ok::<_, PortError>(())
        }
    });
    futures::future::try_join_all(all).await?;
    DONE
}

/// Much passes through: the journal is written anew, and holds what counts.
pub async fn a_journal_does_not_grow_with_what_is_over(mode: Mode) -> Outcome {
    const LARGE: usize = 256 * 1024;
    const TIMES: u64 = 120;
    let (logs, busy) = opened(mode).await?;
    let quiet = RoomId::generate();
    logs.here.seed(&quiet, FIRST, Seq(3), 0, now_ms()).await?;
    let ada = author("a");
    let kept: Vec<Record> = (0..50)
        .map(|n| chat(&ada, &format!("kept {n}"), Some(&n.to_string())))
        .collect();
    add(&*logs.here, &quiet, &kept).await?;
    let before = head(&*logs.here, &quiet).await?;
    let mut largest = 0;
    for n in 1..=TIMES {
        let record = [chat(&ada, &"x".repeat(LARGE), Some(&n.to_string()))];
        add(&*logs.here, &busy, &record).await?;
        let trim_to = Seq(n.saturating_sub(2));
        logs.here
            .confirm_archived(&busy, FIRST, Seq(n), trim_to)
            .await?;
        let length = std::fs::metadata(logs.folder.join("log.journal"))?.len();
        largest = largest.max(length);
        assert_eq!(read_all(&*logs.here, &busy).await?.len() as u64, n.min(2));
    }
    assert!(
        largest < TIMES * LARGE as u64 * 2 / 3,
        "the journal has {largest} bytes"
    );
    let (log, _copy) = crashed(&logs.folder).await?;
    for log in [&logs.here, &log] {
        assert_eq!(log.head(&quiet).await?, Some(before));
        let entries = read_all(&**log, &quiet).await?;
        assert_eq!(seqs(&entries), (4..=53).collect::<Vec<_>>());
        assert_eq!(content(&entries[49]), "kept 49");
        let again = log.append(to(&quiet, &kept[..1])).await?;
        assert_eq!(again.0, [Appended::Duplicate(Seq(4))]);
        let of_trimmed = [chat(&ada, "", Some("1"))];
        let again = log.append(to(&busy, &of_trimmed)).await?;
        assert_eq!(again.0, [Appended::Duplicate(Seq(1))]);
        assert_eq!(seqs(&read_all(&**log, &busy).await?), [TIMES - 1, TIMES]);
    }
    DONE
}

/// A ref belongs to its room, also where the room is long gone and another stands in its place.
pub async fn a_room_never_knows_the_refs_of_one_that_is_gone(mode: Mode) -> Outcome {
    const LARGE: usize = 1024 * 1024;
    let (logs, busy) = opened(mode).await?;
    let gone = RoomId::generate();
    logs.here.seed(&gone, FIRST, Seq(0), 0, now_ms()).await?;
    let said = [chat(&author("tab1"), "", Some("1"))];
    add(&*logs.here, &gone, &said).await?;
    logs.here
        .confirm_archived(&gone, FIRST, Seq(1), Seq(1))
        .await?;
    assert!(logs.here.unload(&gone, FIRST, Seq(1)).await?);
    let length = || std::fs::metadata(logs.folder.join("log.journal")).map(|m| m.len());
    let (mut largest, mut n) = (0, 0);
    while largest <= length()? {
        largest = length()?;
        n += 1;
        add(
            &*logs.here,
            &busy,
            &[chat(&author("b"), &"x".repeat(LARGE), None)],
        )
        .await?;
        logs.here
            .confirm_archived(&busy, FIRST, Seq(n), Seq(n))
            .await?;
        assert!(n < 100, "the journal is not written anew: {largest} bytes");
    }
    let (log, _copy) = crashed(&logs.folder).await?;
    let later = RoomId::generate();
    log.seed(&later, FIRST, Seq(0), 0, now_ms()).await?;
    let taken = log.append(to(&later, &said)).await?;
    assert_eq!(taken.0, [Appended::New(Seq(1))]);
    DONE
}

pub async fn a_malformed_entry_names_its_room(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(2)).await?;
    let path = logs.folder.join("log.journal");
    let mut bytes = std::fs::read(&path)?;
    let second = b"message 1\"";
    let at = bytes.windows(second.len()).position(|at| at == second);
    let at = at.expect("the second entry") + second.len() - 1;
    // The string does not end here any more.
    bytes[at] = b'\n';
    std::fs::write(&path, bytes)?;
    let error = logs
        .here
        .read(&room, FIRST, Seq(0), 10)
        .await
        .expect_err("malformed");
    assert!(
        error.to_string().contains(room.as_str()) && !error.is_retryable(),
        "{error}"
    );
    let first = logs.here.read(&room, FIRST, Seq(0), 1).await?;
    assert_eq!(seqs(&first.expect("a log")), [1]);
    DONE
}
