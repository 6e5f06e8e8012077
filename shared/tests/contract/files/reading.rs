//! Getting a file, or part of it.

use atelier_shared::Mode;

use super::{gather, noise, pieces, read, whole};
use crate::fixture::{self, Outcome};

pub async fn what_is_not_there_is_none_and_can_be_deleted(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    shelf.files.put("folder/file", whole(b"x")).await?;
    for key in ["nothing", "folder", "folder/other"] {
        assert_eq!(shelf.files.head(key).await?, None, "{key}");
        assert!(shelf.files.get(key, None).await?.is_none(), "{key}");
        assert!(shelf.files.get(key, Some(0..1)).await?.is_none(), "{key}");
    }
    shelf.files.delete("nothing").await?;
    shelf.files.delete("folder/file").await?;
    shelf.files.delete("folder/file").await?;
    assert_eq!(read(&*shelf.files, "folder/file").await, None);
    Ok(())
}

pub async fn a_range_is_cut_to_what_the_file_has(mode: Mode) -> Outcome {
    const SIZE: usize = 9 << 20;
    let shelf = fixture::files(mode).await;
    let bytes = noise(SIZE);
    shelf.files.put("k", pieces(&bytes, 70_000)).await?;
    let size = SIZE as u64;
    for (from, to, cut) in [
        (0, 1, 0..1),
        (0, size, 0..SIZE),
        (5_000_000, 8_500_000, 5_000_000..8_500_000),
        (size - 1, size, SIZE - 1..SIZE),
        (size - 5, u64::MAX, SIZE - 5..SIZE),
        (size, size + 1, 0..0),
        (u64::MAX - 1, u64::MAX, 0..0),
        (7, 7, 0..0),
    ] {
        let part = shelf
            .files
            .get("k", Some(from..to))
            .await?
            .ok_or("no file")?;
        assert!(gather(part).await == bytes[cut], "{from}..{to}");
    }
    shelf.files.put("empty", whole(b"")).await?;
    let part = shelf
        .files
        .get("empty", Some(0..10))
        .await?
        .ok_or("no file")?;
    assert!(gather(part).await.is_empty());
    Ok(())
}
