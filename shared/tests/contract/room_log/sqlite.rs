//! What only SQLite can break.

use atelier_shared::config::StoreConfig;
use sqlx::Connection;

use super::*;
use crate::fixture::open;

async fn by_hand(logs: &RoomLogs, sql: &'static str) -> Result<u64, sqlx::Error> {
    let path = logs.folder.join("log.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
    let done = sqlx::query(sql).execute(&mut connection).await?;
    Ok(done.rows_affected())
}

/// What kill -9 leaves: the files as they lie while the log is open.
pub async fn a_crash_loses_nothing_acknowledged(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let records = [chat(&author("a"), "kept", Some("r"))];
    add(&*logs.here, &room, &records).await?;
    add(&*logs.here, &room, &messages(10)).await?;
    logs.here
        .confirm_archived(&room, FIRST, Seq(4), Seq(3))
        .await?;
    let before = head(&*logs.here, &room).await?;

    let copy = tempfile::tempdir()?;
    for file in ["log.db", "log.db-wal"] {
        let from = logs.folder.join(file);
        std::fs::copy(from, copy.path().join(file))?;
    }
    let config = StoreConfig {
        data_dir: copy.path().to_owned(),
        ..StoreConfig::default()
    };
    let log = open(config).await.log;
    assert_eq!(log.head(&room).await?, Some(before));
    assert_eq!(
        seqs(&read_all(&*log, &room).await?),
        (4..=11).collect::<Vec<_>>()
    );
    assert_eq!(
        log.dirty_rooms(None, 10).await?,
        std::slice::from_ref(&room)
    );
    assert_eq!(
        log.append(to(&room, &records)).await?.0,
        [Appended::Duplicate(Seq(1))]
    );
    assert_eq!(add(&*log, &room, &messages(1)).await?, [Seq(12)]);
    DONE
}

/// Taken, refused and doubled writes of many rooms that share a transaction.
pub async fn a_group_of_writes_keeps_each_writers_answer(mode: Mode) -> Outcome {
    let logs = room_logs(mode).await;
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

pub async fn expired_refs_are_swept(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    let ada = author("a");
    let records: Vec<Record> = (0..20)
        .map(|n| chat(&ada, "", Some(&n.to_string())))
        .collect();
    add(&*logs.here, &room, &records).await?;
    let records = messages(1);
    let later = Append {
        now_ms: now_ms() + 25 * 60 * 60 * 1_000,
        ..to(&room, &records)
    };
    logs.here.append(later).await?;
    assert_eq!(
        by_hand(&logs, "DELETE FROM refs").await?,
        0,
        "refs were left"
    );
    DONE
}

pub async fn a_malformed_entry_names_its_room(mode: Mode) -> Outcome {
    let (logs, room) = opened(mode).await?;
    add(&*logs.here, &room, &messages(2)).await?;
    by_hand(&logs, "UPDATE entries SET record = '{' WHERE seq = 2").await?;
    let error = logs
        .here
        .read(&room, FIRST, Seq(0), 10)
        .await
        .expect_err("malformed");
    assert!(
        error.to_string().contains(room.as_str()) && !error.is_retryable(),
        "{error}"
    );
    assert_eq!(
        seqs(
            &logs
                .here
                .read(&room, FIRST, Seq(0), 1)
                .await?
                .expect("a log")
        ),
        [1]
    );
    DONE
}
