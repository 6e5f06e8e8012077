//! Lists of files.

use atelier_shared::Mode;
use atelier_shared::ports::Files;

use super::whole;
use crate::fixture::{self, Outcome};

async fn keys(files: &dyn Files, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let listed = files.list(prefix, after, limit).await.expect("list");
    listed
        .into_iter()
        .map(|meta| {
            assert_eq!(meta.size, 3);
            meta.key
        })
        .collect()
}

pub async fn a_list_is_in_key_order_and_in_pages(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    // `-` and `.` come before `/` and digits: folders sort among files by their whole keys.
    let mut all: Vec<String> = (0..30).map(|n| format!("d{}/f{n}", n % 4)).collect();
    all.extend(["d1-x", "d1.x", "d1_x", "d10", "D1"].map(String::from));
    for key in &all {
        shelf.files.put(key, whole(b"abc")).await?;
    }
    all.sort();
    assert_eq!(keys(&*shelf.files, "", None, 1_000).await, all);
    for page in [1, 7, 35] {
        let mut got: Vec<String> = Vec::new();
        loop {
            let after = got.last().cloned();
            let more = keys(&*shelf.files, "", after.as_deref(), page).await;
            assert!(more.len() <= page);
            if more.is_empty() {
                break;
            }
            got.extend(more);
        }
        assert_eq!(got, all, "pages of {page}");
    }
    // After a key that is not there.
    assert_eq!(keys(&*shelf.files, "", Some("d1-"), 1).await, ["d1-x"]);
    assert!(keys(&*shelf.files, "", None, 0).await.is_empty());
    Ok(())
}

pub async fn a_prefix_is_a_folder(mode: Mode) -> Outcome {
    let shelf = fixture::files(mode).await;
    for key in [
        "rooms/a/1",
        "rooms/a/sub/2",
        "rooms/ab/3",
        "rooms/a-",
        "other",
    ] {
        shelf.files.put(key, whole(b"abc")).await?;
    }
    for prefix in ["rooms/a", "rooms/a/"] {
        let found = keys(&*shelf.files, prefix, None, 10).await;
        assert_eq!(found, ["rooms/a/1", "rooms/a/sub/2"]);
        let found = keys(&*shelf.files, prefix, Some("rooms/a/1"), 10).await;
        assert_eq!(found, ["rooms/a/sub/2"]);
    }
    assert!(keys(&*shelf.files, "nowhere", None, 10).await.is_empty());
    Ok(())
}
