//! An uploaded file: what is known of it, what it may be called, and where its bytes lie.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ids::{FileId, RoomId, UserId};

/// The folder of the file store that uploads lie in.
pub const UPLOADS: &str = "uploads";
/// Longest name kept of a file, in bytes; a longer one is cut before its extension.
pub const FILE_NAME_MAX_BYTES: usize = 200;
/// Longest extension that a cut name keeps, in bytes.
const EXTENSION_MAX_BYTES: usize = 16;

/// One file as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    pub id: FileId,
    /// `None`: in no room yet.
    pub room: Option<RoomId>,
    /// `None`: somebody anonymous.
    pub uploader: Option<UserId>,
    pub uploader_name: String,
    pub name: String,
    pub content_type: String,
    pub size: u64,
    /// SHA-256 of the bytes as stored, hexadecimal.
    pub sha256: String,
    pub created_at: DateTime<Utc>,
}

impl StoredFile {
    /// May it be named in a room's message by this person: is it in that room, or nowhere yet and theirs?
    pub fn may_be_shown_in(&self, room: &RoomId, by: UserId) -> bool {
        match &self.room {
            Some(its) => its == room,
            None => self.uploader.is_none_or(|uploader| uploader == by),
        }
    }

    /// Does it go when this person's message about it goes? What somebody else uploaded stays.
    pub fn goes_with_message_of(&self, author: UserId) -> bool {
        self.uploader.is_none_or(|uploader| uploader == author)
    }
}

/// What a room's log keeps of a file that was shared in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    pub id: FileId,
    pub name: String,
    pub size: u64,
    pub content_type: String,
}

impl From<&StoredFile> for SharedFile {
    fn from(file: &StoredFile) -> Self {
        Self {
            id: file.id,
            name: file.name.clone(),
            size: file.size,
            content_type: file.content_type.clone(),
        }
    }
}

/// Where the bytes of a file lie in the file store.
pub fn key(id: FileId) -> String {
    format!("{UPLOADS}/{id}")
}

/// The file whose bytes lie under this key.
pub fn id_of_key(key: &str) -> Option<FileId> {
    key.strip_prefix(UPLOADS)?.strip_prefix('/')?.parse().ok()
}

/// A client's name for a file made harmless: the last part of a path, no control or text-direction characters, not too
/// long, never empty.
pub fn clean_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last
        .chars()
        .filter(|c| !c.is_control() && !super::names::is_hidden(*c))
        .collect();
    let clean = clean.trim().trim_matches('.').trim();
    if clean.is_empty() {
        return "file".to_owned();
    }
    if clean.len() <= FILE_NAME_MAX_BYTES {
        return clean.to_owned();
    }
    let extension = clean
        .rfind('.')
        .map(|at| &clean[at..])
        .filter(|extension| extension.len() <= EXTENSION_MAX_BYTES)
        .unwrap_or_default();
    let stem = &clean[..clean.floor_char_boundary(FILE_NAME_MAX_BYTES - extension.len())];
    format!("{stem}{extension}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_paths_and_what_could_harm() {
        for (given, kept) in [
            ("cat.png", "cat.png"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\ana\\cat.png", "cat.png"),
            ("a\r\nSet-Cookie: x=1", "aSet-Cookie: x=1"),
            ("gpj.\u{202e}exe", "gpj.exe"),
            ("..", "file"),
            ("", "file"),
            ("ü b.pdf", "ü b.pdf"),
        ] {
            assert_eq!(clean_name(given), kept, "{given:?}");
        }
        let long = clean_name(&format!("{}.jpeg", "é".repeat(300)));
        assert!(
            long.len() <= FILE_NAME_MAX_BYTES && long.ends_with(".jpeg"),
            "{long}"
        );
    }

    #[test]
    fn keys_lead_back_to_their_files() {
        let id = FileId::generate();
        assert_eq!(id_of_key(&key(id)), Some(id));
        assert_eq!(id_of_key("uploads/x"), None);
        assert_eq!(id_of_key(&format!("other/{id}")), None);
    }
}
