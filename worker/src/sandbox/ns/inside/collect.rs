//! Bringing files out of a box: by the box's own user, through no link, regular files only.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType, Mode, OFlags};

use super::work::{WALLED, open_work};
use crate::sandbox::ns::wire::CHUNK_BYTES;
use crate::sandbox::{ArtifactRequest, Skipped};

/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 32;
/// Most names looked at.
const MAX_NAMES: usize = 16_384;
/// Most refusals told.
const MAX_SKIPPED: usize = 256;
/// Most bytes of a path told with one: all together are told in one report, where a byte may take six.
const MAX_TOLD_BYTES: usize = 512;

struct Search<'a> {
    request: &'a ArtifactRequest,
    take: &'a mut dyn FnMut(Piece<'_>) -> io::Result<()>,
    files_left: usize,
    bytes_left: u64,
    names_left: usize,
    skipped: Vec<Skipped>,
}

/// Part of what is brought out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A file begins: its path.
    Begin(&'a str),
    /// Bytes of the file begun last, at most [`CHUNK_BYTES`].
    Bytes(&'a [u8]),
}

/// Hands on every file that matches, piece by piece; returns what matched and was left.
///
/// Nothing else runs in the box by now, so nothing changes under our eyes.
pub fn collect(
    work: &str,
    request: &ArtifactRequest,
    take: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<Vec<Skipped>> {
    let mut search = Search {
        request,
        take,
        files_left: request.max_files,
        bytes_left: request.max_bytes,
        names_left: MAX_NAMES,
        skipped: Vec::new(),
    };
    search.folder(&open_work(work)?, "", 0)?;
    Ok(search.skipped)
}

impl Search<'_> {
    fn folder(&mut self, folder: &OwnedFd, prefix: &str, depth: usize) -> io::Result<()> {
        let mut entries: Vec<_> = Dir::read_from(folder)?
            .take(self.names_left.saturating_add(2))
            .flatten()
            .filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
            .collect();
        entries.sort_by(|a, b| a.file_name().cmp(b.file_name()));
        for entry in entries {
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if self.names_left == 0 {
                self.skip(path, "too many files in the work folder");
                return Ok(());
            }
            self.names_left -= 1;
            let flags = OFlags::RDONLY
                | OFlags::NONBLOCK
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC
                | OFlags::NOCTTY;
            if entry.file_type() == FileType::Directory {
                if depth >= MAX_DEPTH {
                    self.skip(path, "too deep");
                    continue;
                }
                match rustix::fs::openat2(
                    folder,
                    entry.file_name(),
                    flags | OFlags::DIRECTORY,
                    Mode::empty(),
                    WALLED,
                ) {
                    Ok(inner) => self.folder(&inner, &format!("{path}/"), depth + 1)?,
                    Err(error) => self.skip(path, &error.to_string()),
                }
                continue;
            }
            if !self
                .request
                .patterns
                .iter()
                .any(|pattern| matches(pattern, &path))
            {
                continue;
            }
            // Named before it is opened: opening a FIFO or device has effects of its own.
            if entry.file_type() != FileType::RegularFile {
                self.skip(path, "not a regular file");
                continue;
            }
            match rustix::fs::openat2(folder, entry.file_name(), flags, Mode::empty(), WALLED) {
                Ok(file) => self.file(&file, path)?,
                Err(error) => self.skip(path, &error.to_string()),
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &OwnedFd, path: String) -> io::Result<()> {
        let found = rustix::fs::fstat(file)?;
        let size = u64::try_from(found.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            self.skip(path, "not a regular file");
            return Ok(());
        }
        if self.files_left == 0 {
            self.skip(path, "more files than asked for");
            return Ok(());
        }
        if size > self.bytes_left {
            self.skip(path, "more bytes than asked for");
            return Ok(());
        }
        self.files_left -= 1;
        self.bytes_left -= size;
        (self.take)(Piece::Begin(&path))?;
        let (mut left, mut buffer) = (size, vec![0; CHUNK_BYTES]);
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(CHUNK_BYTES)
                .min(CHUNK_BYTES);
            let length = rustix::io::read(file, buffer.get_mut(..most).unwrap_or_default())?;
            if length == 0 {
                break;
            }
            left -= length as u64;
            (self.take)(Piece::Bytes(buffer.get(..length).unwrap_or_default()))?;
        }
        Ok(())
    }

    fn skip(&mut self, mut path: String, reason: &str) {
        if self.skipped.len() < MAX_SKIPPED {
            if path.len() > MAX_TOLD_BYTES {
                path.truncate(path.floor_char_boundary(MAX_TOLD_BYTES));
                path.push('…');
            }
            self.skipped.push(Skipped {
                path,
                reason: reason.to_owned(),
            });
        }
    }
}

/// Whether `pattern` matches all of `path`: `*` within a name, `**` over folders, `?` one character.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), path.split('/').collect());
    matches_names(&pattern, &path)
}

fn matches_names(pattern: &[&str], path: &[&str]) -> bool {
    // Positions in the pattern that the path so far can stand at: linear, whatever the pattern.
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    let skip_empty = |reached: &mut Vec<bool>| {
        for index in 0..pattern.len() {
            if reached[index] && pattern[index] == "**" {
                reached[index + 1] = true;
            }
        }
    };
    skip_empty(&mut reached);
    for name in path {
        let mut next = vec![false; pattern.len() + 1];
        for (index, part) in pattern.iter().enumerate() {
            if reached[index] {
                if *part == "**" {
                    next[index] = true;
                } else if matches_name(part, name) {
                    next[index + 1] = true;
                }
            }
        }
        skip_empty(&mut next);
        reached = next;
    }
    reached[pattern.len()]
}

fn matches_name(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == name[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((star_at, star_read)) = star else {
                    return false;
                };
                star = Some((star_at, star_read + 1));
                at = star_at + 1;
                read = star_read + 1;
            }
        }
    }
    pattern[at..].iter().all(|wanted| *wanted == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, path, expected) in [
            ("out.txt", "out.txt", true),
            ("out.txt", "a/out.txt", false),
            ("*.png", "plot.png", true),
            ("*.png", "a/plot.png", false),
            ("**/*.png", "plot.png", true),
            ("**/*.png", "a/b/plot.png", true),
            ("a/**", "a/b/c", true),
            ("a/**", "b/c", false),
            ("?.c", "x.c", true),
            ("?.c", "xy.c", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "any/thing", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_of_stars_does_not_take_forever() {
        let pattern = "**/".repeat(200) + "x";
        let path = "y/".repeat(30) + "z";
        assert!(!matches(&pattern, &path));
        assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
    }
}
