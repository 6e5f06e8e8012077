//! A file is whole or absent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use atelier_shared::Mode;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;

use super::{broken, noise, pieces, read, whole};
use crate::fixture::{self, Outcome};

/// More than one part, and not a whole number of them.
const LARGE: usize = 20 * (1 << 20) + 12_345;

pub async fn a_file_is_read_back_as_it_was_put(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    shelf.files.ping().await?;
    for (key, size) in [
        ("empty", 0),
        ("rooms/a/small.txt", 1),
        ("parts", 16 << 20),
        ("large", LARGE),
    ] {
        let bytes = noise(size);
        let put = shelf.files.put(key, pieces(&bytes, 1_000_003)).await?;
        assert_eq!((put.key.as_str(), put.size), (key, size as u64));
        assert_eq!(shelf.files.head(key).await?, Some(put), "{key}");
        assert!(
            read(&*shelf.files, key).await.is_some_and(|b| b == bytes),
            "{key}"
        );
    }
    Ok(())
}

pub async fn a_put_overwrites(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    shelf.files.put("k", whole(b"the first, longer")).await?;
    shelf.files.put("k", whole(b"second")).await?;
    assert_eq!(
        read(&*shelf.files, "k").await.as_deref(),
        Some(&b"second"[..])
    );
    Ok(())
}

/// Everything below the folder that is a file, whatever it is called.
fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

pub async fn a_failed_put_leaves_nothing_and_what_was_there_stays(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    for size in [3, LARGE] {
        let failed = shelf.files.put("fresh/a", broken(noise(size))).await;
        assert_eq!(
            failed.expect_err("a torn stream").operation,
            "receive upload"
        );
        assert_eq!(shelf.files.head("fresh/a").await?, None);
        assert_eq!(
            leftovers(&shelf.folder),
            Vec::<PathBuf>::new(),
            "{size} bytes"
        );
    }
    shelf.files.put("old", whole(b"old")).await?;
    assert!(shelf.files.put("old", broken(noise(LARGE))).await.is_err());
    assert_eq!(
        read(&*shelf.files, "old").await.as_deref(),
        Some(&b"old"[..])
    );
    let left = leftovers(&shelf.folder);
    assert!(left.len() == 1 && left[0].ends_with("old"), "{left:?}");
    Ok(())
}

pub async fn a_put_whose_caller_went_away_leaves_nothing(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    let (sender, receiver) = mpsc::channel(1);
    let files = shelf.files.clone();
    let put = tokio::spawn(async move {
        let upload = stream::unfold(receiver, |mut r| async { r.recv().await.map(|b| (b, r)) });
        files.put("gone", upload.boxed()).await
    });
    let piece = noise(1 << 20);
    // Past the first part, so that something is on its way.
    for _ in 0..20 {
        sender
            .send(Ok(piece.clone()))
            .await
            .map_err(|_| "the put ended early")?;
    }
    put.abort();
    assert!(put.await.expect_err("aborted").is_cancelled());
    let empty = async {
        while !leftovers(&shelf.folder).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), empty)
        .await
        .map_err(|_| format!("left: {:?}", leftovers(&shelf.folder)))?;
    Ok(())
}

pub async fn a_file_is_absent_until_it_is_whole(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    let (sender, receiver) = mpsc::channel::<atelier_shared::ports::Result<Bytes>>(1);
    let files = shelf.files.clone();
    let put = tokio::spawn(async move {
        let upload = stream::unfold(receiver, |mut r| async { r.recv().await.map(|b| (b, r)) });
        files.put("slow/file", upload.boxed()).await
    });
    for _ in 0..20 {
        sender
            .send(Ok(noise(1 << 20)))
            .await
            .map_err(|_| "the put ended early")?;
        assert_eq!(shelf.files.head("slow/file").await?, None);
        assert!(shelf.files.get("slow/file", None).await?.is_none());
        assert!(shelf.files.list("", None, 10).await?.is_empty());
    }
    drop(sender);
    assert_eq!(put.await??.size, 20 << 20);
    assert_eq!(shelf.files.list("", None, 10).await?.len(), 1);
    Ok(())
}

/// The bytes of all files below the folder.
fn stored(folder: &Path) -> u64 {
    let size = |file| std::fs::metadata(file).map_or(0, |meta| meta.len());
    leftovers(folder).into_iter().map(size).sum()
}

/// What was taken from the stream and is not in the folder yet is held in memory.
pub async fn a_large_file_passes_through_little_memory(mode: Mode) -> Outcome {
    const PIECES: u64 = 50;
    /// A part, a piece in hand and one in the channel; twice, for what is being moved.
    const HELD_MAX: u64 = (2 * (8 + 2)) << 20;
    let shelf = fixture::files(mode).await;
    let (sender, receiver) = mpsc::channel(1);
    let files = shelf.files.clone();
    let put = tokio::spawn(async move {
        let upload = stream::unfold(receiver, |mut r| async { r.recv().await.map(|b| (b, r)) });
        files.put("film", upload.boxed()).await
    });
    for n in 1..=PIECES {
        let piece = Bytes::from(vec![n.to_le_bytes()[0]; 1 << 20]);
        sender
            .send(Ok(piece))
            .await
            .map_err(|_| "the put ended early")?;
        let held = (n << 20).saturating_sub(stored(&shelf.folder));
        assert!(held <= HELD_MAX, "{} of {n} MiB held", held >> 20);
    }
    drop(sender);
    assert_eq!(put.await??.size, PIECES << 20);

    let mut film = shelf.files.get("film", None).await?.ok_or("no film")?;
    let mut at = 0_u64;
    while let Some(piece) = film.next().await {
        let piece = piece?;
        assert!(piece.len() <= 1 << 20, "{} bytes in one piece", piece.len());
        for byte in piece {
            assert_eq!(byte, ((at >> 20) + 1).to_le_bytes()[0], "byte {at}");
            at += 1;
        }
    }
    assert_eq!(at, PIECES << 20);
    Ok(())
}

pub async fn keys_that_could_leave_the_store_are_refused_everywhere(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    let outside = shelf.folder.with_file_name("outside");
    std::fs::write(&outside, "secret")?;
    for key in [
        "../outside",
        "a/../../outside",
        "/etc/passwd",
        "",
        "a//b",
        "a\\..\\b",
        "a b",
        "a\0",
    ] {
        assert!(
            shelf.files.put(key, whole(b"x")).await.is_err(),
            "put {key:?}"
        );
        assert!(shelf.files.get(key, None).await.is_err(), "get {key:?}");
        assert!(shelf.files.head(key).await.is_err(), "head {key:?}");
        assert!(shelf.files.delete(key).await.is_err(), "delete {key:?}");
        assert!(
            shelf.files.list("", Some(key), 1).await.is_err(),
            "list after {key:?}"
        );
    }
    for prefix in ["..", "../", "/etc", "a/../.."] {
        assert!(
            shelf.files.list(prefix, None, 1).await.is_err(),
            "list {prefix:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(outside)?, "secret");
    Ok(())
}
