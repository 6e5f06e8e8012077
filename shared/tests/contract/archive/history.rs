//! What a person scrolls back through.

use atelier_shared::Mode;
use atelier_shared::domain::entry::{Body, Record};
use atelier_shared::domain::ids::{Epoch, JobId, Seq, UserId};
use atelier_shared::ports::HistoryQuery;

use super::{Writer, entries, opened, seqs};
use crate::fixture::{self, Outcome};

fn query(kinds: &[&'static str], before: Option<u64>, limit: usize) -> HistoryQuery {
    HistoryQuery {
        kinds: kinds.to_vec(),
        before: before.map(Seq),
        reader: None,
        limit,
    }
}

/// Seqs divisible by 3 are runs, the others chat.
pub async fn history_is_newest_first_by_kind_and_in_pages(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let writer = Writer::new();
    let records = (1..=12).map(|seq| match seq % 3 {
        0 => writer.record(Body::RunStarted {
            run_id: JobId::generate(),
            language: "c".into(),
        }),
        _ => writer.says(&seq.to_string()),
    });
    let written = entries(1, records);
    archives.here.append(&room, Epoch(1), &written).await?;
    let ask = async |kinds: &[&'static str], before, limit| {
        let page = archives
            .there
            .history(&room, &query(kinds, before, limit))
            .await;
        let page = page.expect("history");
        for entry in &page.entries {
            assert!(written.contains(entry));
        }
        (seqs(&page.entries), page.more)
    };
    assert_eq!(ask(&[], None, 5).await, (vec![12, 11, 10, 9, 8], true));
    assert_eq!(
        ask(&[], Some(8), 7).await,
        (vec![7, 6, 5, 4, 3, 2, 1], false)
    );
    assert_eq!(ask(&[], Some(8), 6).await, (vec![7, 6, 5, 4, 3, 2], true));
    assert_eq!(ask(&["run_started"], None, 2).await, (vec![12, 9], true));
    assert_eq!(ask(&["run_started"], Some(9), 2).await, (vec![6, 3], false));
    let both = ["run_started", "chat_message"];
    assert_eq!(ask(&both, Some(5), 3).await, (vec![4, 3, 2], true));
    assert_eq!(ask(&["draw"], None, 3).await, (vec![], false));
    assert_eq!(ask(&[], Some(1), 3).await, (vec![], false));
    Ok(())
}

pub async fn history_shows_a_reader_only_what_is_for_them(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = opened(&*archives.here).await;
    let (anna, ben) = (Writer::new(), Writer::new());
    let whisper = |to: UserId| Record {
        audience: Some(vec![anna.user, to]),
        ..anna.says("psst")
    };
    let nobodys = Record {
        audience: Some(Vec::new()),
        ..anna.says("into the void")
    };
    let someone = UserId::generate();
    let records = [
        anna.says("all"),
        whisper(ben.user),
        whisper(someone),
        nobodys,
        ben.says("all"),
    ];
    archives
        .here
        .append(&room, Epoch(1), &entries(1, records))
        .await?;
    for kinds in [&[][..], &["chat_message"]] {
        let ask = async |reader, limit| {
            let query = HistoryQuery {
                reader,
                ..query(kinds, None, limit)
            };
            let page = archives.here.history(&room, &query).await.expect("history");
            (seqs(&page.entries), page.more)
        };
        assert_eq!(ask(Some(anna.user), 9).await, (vec![5, 3, 2, 1], false));
        assert_eq!(ask(Some(ben.user), 9).await, (vec![5, 2, 1], false));
        assert_eq!(ask(Some(UserId::generate()), 9).await, (vec![5, 1], false));
        assert_eq!(ask(None, 9).await, (vec![5, 1], false));
        // What is hidden does not count as more.
        assert_eq!(ask(None, 2).await, (vec![5, 1], false));
        assert_eq!(ask(Some(ben.user), 2).await, (vec![5, 2], true));
    }
    Ok(())
}
