//! The newest state, switched whole.

use atelier_shared::Mode;
use atelier_shared::domain::document::{Document, write_var};
use atelier_shared::domain::ids::{Epoch, RoomId, Seq};
use atelier_shared::domain::state::{Checkpoint, RoomState};
use atelier_shared::ports::Archive;
use futures::future::join_all;

use super::{chat, opened};
use crate::fixture::{self, Outcome};

/// A state that says which seq it is of, `padding` bytes large.
fn checkpoint(seq: u64, padding: usize) -> Checkpoint {
    let mut state = RoomState::default();
    state.metadata.insert("at".into(), seq.into());
    state
        .metadata
        .insert("padding".into(), "é".repeat(padding / 2).into());
    Checkpoint {
        epoch: Epoch(1),
        seq: Seq(seq),
        state,
    }
}

async fn room_with(archive: &dyn Archive, count: u64) -> RoomId {
    let room = opened(archive).await;
    archive
        .append(&room, Epoch(1), &chat(1, count))
        .await
        .expect("append");
    room
}

pub async fn a_newer_checkpoint_wins_and_an_older_is_not_kept(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let archive = &archives.here;
    let room = room_with(&**archive, 20).await;
    assert_eq!(archive.checkpoint(&room).await?, None);
    assert!(archive.save_checkpoint(&room, &checkpoint(10, 0)).await?);
    assert!(!archive.save_checkpoint(&room, &checkpoint(9, 4)).await?);
    assert!(!archive.save_checkpoint(&room, &checkpoint(10, 4)).await?);
    assert_eq!(
        archives.there.checkpoint(&room).await?,
        Some(checkpoint(10, 0))
    );
    let saves = (1..=20).map(|seq| {
        let (archives, room) = (&archives, &room);
        async move {
            archives
                .there
                .save_checkpoint(room, &checkpoint(seq, 100))
                .await
        }
    });
    for saved in join_all(saves).await {
        saved?;
    }
    assert_eq!(archive.checkpoint(&room).await?, Some(checkpoint(20, 100)));
    Ok(())
}

pub async fn a_checkpoint_beyond_the_head_is_not_kept(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let archive = &archives.here;
    let room = room_with(&**archive, 3).await;
    assert!(!archive.save_checkpoint(&room, &checkpoint(4, 0)).await?);
    assert!(
        !archive
            .save_checkpoint(&RoomId::generate(), &checkpoint(1, 0))
            .await?
    );
    assert_eq!(archive.checkpoint(&room).await?, None);
    assert!(archive.save_checkpoint(&room, &checkpoint(3, 0)).await?);
    Ok(())
}

pub async fn a_checkpoint_larger_than_a_document_is_kept_whole(mode: Mode) -> Outcome {
    const SIZE: usize = 36 << 20;
    let archives = fixture::archive(mode).await;
    let room = room_with(&*archives.here, 3).await;
    for (seq, size) in [(1, SIZE), (2, 100), (3, SIZE)] {
        let large = checkpoint(seq, size);
        assert!(archives.here.save_checkpoint(&room, &large).await?);
        assert!(
            archives.there.checkpoint(&room).await? == Some(large),
            "seq {seq}"
        );
    }
    Ok(())
}

pub async fn a_checkpoint_is_read_whole_while_it_is_replaced(mode: Mode) -> Outcome {
    const COUNT: u64 = 40;
    let archives = fixture::archive(mode).await;
    let room = room_with(&*archives.here, COUNT).await;
    archives
        .here
        .save_checkpoint(&room, &checkpoint(1, 50_000))
        .await?;
    let writer = async {
        for seq in 2..=COUNT {
            let saved = archives
                .here
                .save_checkpoint(&room, &checkpoint(seq, 50_000))
                .await;
            assert!(saved.expect("save"));
        }
    };
    let reader = async {
        let mut last = 0;
        while last < COUNT {
            let read = archives
                .there
                .checkpoint(&room)
                .await
                .expect("read")
                .expect("one");
            assert!(read.seq.0 >= last, "{} after {last}", read.seq);
            last = read.seq.0;
            assert!(read == checkpoint(last, 50_000), "torn at {last}");
        }
    };
    tokio::join!(writer, reader);
    Ok(())
}

/// A document of client `client` that wrote so many letters at once.
fn document(client: u8, letters: usize) -> Document {
    let mut update = vec![1, 1, client, 0, 4, 1, 1, b't'];
    write_var(&mut update, letters as u64);
    update.extend(std::iter::repeat_n(b'x', letters));
    update.push(0);
    let mut document = Document::default();
    document.fold(&update.into());
    document
}

fn with_document(seq: u64, document: Document) -> Checkpoint {
    let mut checkpoint = checkpoint(seq, 0);
    checkpoint.state.document = document;
    checkpoint
}

pub async fn a_large_document_comes_back_with_its_checkpoint(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let room = room_with(&*archives.here, 3).await;
    // In two pieces, together larger than a row may be.
    let mut large = document(1, 7 << 20);
    large.fold(&document(2, 7 << 20).snapshot().state());
    let kept = with_document(2, large);
    assert!(archives.here.save_checkpoint(&room, &kept).await?);
    let read = archives.there.checkpoint(&room).await?.expect("one");
    assert!(read == kept, "as it was written");
    assert_eq!(read.state.document.held(), kept.state.document.held());
    Ok(())
}

pub async fn sizes_of_documents_are_known_without_reading_them(mode: Mode) -> Outcome {
    let archives = fixture::archive(mode).await;
    let (one, other) = (
        room_with(&*archives.here, 3).await,
        room_with(&*archives.here, 3).await,
    );
    let archive = &archives.here;
    archive
        .save_checkpoint(&one, &with_document(1, document(1, 1_000)))
        .await?;
    archive
        .save_checkpoint(&one, &with_document(2, document(1, 2_000)))
        .await?;
    archive.save_checkpoint(&other, &checkpoint(1, 0)).await?;
    let bytes = document(1, 2_000).bytes() as u64;
    let rooms = [one.clone(), other, RoomId::generate()];
    let sizes = archives.there.document_bytes(&rooms).await?;
    assert_eq!(sizes, [(one, bytes)].into());
    Ok(())
}
