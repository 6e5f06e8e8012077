//! Messages as the archive folds them: by place, by word, by thread, for whose eyes, and gone when they are deleted.

use atelier_shared::Mode;
use atelier_shared::domain::entry::{Body, Record};
use atelier_shared::domain::ids::{Epoch, MessageId, RoomId, Seq, UserId};
use atelier_shared::domain::message::{MessageKind, ReactionAction};
use atelier_shared::domain::search;
use atelier_shared::ports::{Archive, MessageQuery};

use super::{Writer, entries, opened};
use crate::fixture::{self, Outcome};

fn query(reader: UserId, q: &str) -> MessageQuery {
    MessageQuery {
        before: None,
        reader,
        words: search::words(q),
        thread: None,
        limit: 10,
    }
}

async fn found(archive: &dyn Archive, room: &RoomId, query: &MessageQuery) -> (Vec<u64>, bool) {
    let page = archive.messages(room, query).await.expect("a page");
    (page.messages.iter().map(|m| m.seq.0).collect(), page.more)
}

fn said(record: &Record) -> MessageId {
    record.body.message_id().expect("a message")
}

fn edited(writer: &Writer, message: &Record, of: u64, content: &str) -> Record {
    writer.record(Body::ChatEdited {
        message_id: said(message),
        of: Seq(of),
        content: content.into(),
        mentions: Vec::new(),
    })
}

fn reacted(writer: &Writer, message: &Record, of: u64, action: ReactionAction) -> Record {
    writer.record(Body::Reaction {
        message_id: said(message),
        of: Seq(of),
        emoji: "🎉".into(),
        action,
        base: Vec::new(),
    })
}

fn deleted(writer: &Writer, message: &Record, of: u64) -> Record {
    writer.record(Body::ChatDeleted {
        message_id: said(message),
        of: Seq(of),
    })
}

pub async fn messages_are_found_by_their_words_as_they_are_now(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    let room = opened(here).await;
    let (ana, ben) = (Writer::new(), Writer::new());
    let first = ana.says("The quick brown fox");
    let second = ben.says("quicksand, 東京");
    let batch = vec![first.clone(), second.clone(), ana.says("slow")];
    here.append(&room, Epoch(1), &entries(1, batch)).await?;
    let ask = async |q: &str| found(there, &room, &query(ana.user, q)).await.0;
    assert_eq!(ask("QUICK").await, [2, 1]);
    assert_eq!(ask("quick fox").await, [1]);
    assert_eq!(ask("東").await, [2]);
    assert_eq!(ask("").await, [3, 2, 1]);
    assert_eq!(ask("uick").await, [0_u64; 0], "not in the middle of a word");
    let one = MessageQuery {
        limit: 1,
        before: Some(Seq(3)),
        ..query(ana.user, "")
    };
    assert_eq!(found(there, &room, &one).await, (vec![2], true));

    // Edited in a later batch, deleted in one more: nothing is found by words that are gone.
    let edit = vec![edited(&ana, &first, 1, "a slow red fox")];
    here.append(&room, Epoch(1), &entries(4, edit)).await?;
    assert_eq!(ask("quick").await, [2]);
    assert_eq!(ask("slow fox").await, [1]);
    let gone = vec![deleted(&ana, &first, 1), deleted(&ben, &second, 2)];
    here.append(&room, Epoch(1), &entries(5, gone)).await?;
    assert_eq!(ask("fox").await, [0_u64; 0]);
    assert_eq!(ask("").await, [3, 2, 1], "they keep their places");
    // Nor does any entry hold them still.
    for entry in there.read(&room, Seq(0), 100).await? {
        let text = serde_json::to_string(&entry.record)?;
        assert!(!text.contains("fox") && !text.contains("quick"), "{text}");
    }
    let found = there.messages_by_id(&room, &[said(&first)]).await?;
    assert_eq!(found[0].deleted_ms(), Some(first.ts_ms));
    assert_eq!(found[0].kind(), Some(MessageKind::ChatMessage));
    assert!(
        there
            .messages_by_id(&room, &[MessageId::generate()])
            .await?
            .is_empty()
    );
    let elsewhere = opened(here).await;
    assert!(
        there
            .messages_by_id(&elsewhere, &[said(&first)])
            .await?
            .is_empty()
    );
    Ok(())
}

pub async fn reactions_threads_and_figures_are_folded_for_the_readers_eyes(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (here, there) = (&*archives.here, &*archives.there);
    let room = opened(here).await;
    let (ana, ben, eve) = (Writer::new(), Writer::new(), Writer::new());
    let root = ana.says("root");
    let mut answer = ben.says("answer");
    if let Body::ChatMessage {
        reply_to, thread, ..
    } = &mut answer.body
    {
        (*reply_to, *thread) = (Some(said(&root)), Some(said(&root)));
    }
    let secret = Record {
        audience: Some(vec![ana.user, ben.user]),
        ..ben.record(Body::DirectMessage {
            id: MessageId::generate(),
            to: ana.user,
            content: "psst".into(),
        })
    };
    let batch = vec![
        root.clone(),
        answer,
        secret,
        ana.says("aside"),
        reacted(&ben, &root, 1, ReactionAction::Add),
        reacted(&ben, &root, 1, ReactionAction::Add),
        reacted(&eve, &root, 1, ReactionAction::Add),
    ];
    here.append(&room, Epoch(1), &entries(1, batch)).await?;
    let more = vec![reacted(&eve, &root, 1, ReactionAction::Remove)];
    here.append(&room, Epoch(1), &entries(8, more)).await?;
    let message = there.messages_by_id(&room, &[said(&root)]).await?;
    let users: Vec<UserId> = message[0]
        .users_of("🎉")
        .iter()
        .map(|u| u.user_id)
        .collect();
    assert_eq!(users, [ben.user], "each person once, and one took it back");
    let thread = MessageQuery {
        thread: Some(said(&root)),
        ..query(eve.user, "")
    };
    assert_eq!(found(there, &room, &thread).await, (vec![2, 1], false));
    assert_eq!(found(there, &room, &query(eve.user, "")).await.0, [4, 2, 1]);
    assert_eq!(
        found(there, &room, &query(eve.user, "psst")).await.0,
        [0_u64; 0]
    );
    assert_eq!(found(there, &room, &query(ana.user, "psst")).await.0, [3]);
    let total = async |reader| {
        let counts = there.message_counts(&room, reader).await.expect("figures");
        let sum = |of: fn(&atelier_shared::domain::message::MessageCounts) -> i64| {
            counts.iter().map(of).sum::<i64>()
        };
        (
            sum(|c| c.messages),
            sum(|c| c.replies),
            sum(|c| c.reactions),
        )
    };
    assert_eq!(total(ana.user).await, (4, 1, 1));
    assert_eq!(total(eve.user).await, (3, 1, 1));
    Ok(())
}
