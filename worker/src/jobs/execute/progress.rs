//! How far a program says it is: lines `::progress <percent> [message]` among its output, in any language and under any
//! sandbox. The lines stay in the output.

use atelier_shared::domain::job::{PROGRESS_MESSAGE_MAX_BYTES, Progress};

const MARK: &[u8] = b"::progress ";
/// Of a longer line nothing is taken: no number and message are so long.
const LINE_MAX_BYTES: usize = MARK.len() + 8 + 4 * PROGRESS_MESSAGE_MAX_BYTES;

/// Reads one stream as it comes, in whatever pieces.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The line so far, as long as it may be one of ours.
    line: Vec<u8>,
    /// The line is not one of ours; its end is waited for.
    other: bool,
}

impl Reader {
    /// The last step that these bytes complete.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Progress> {
        let mut last = None;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.add(text);
            if ended {
                if !self.other
                    && let Some(progress) = parse(&self.line)
                {
                    last = Some(progress);
                }
                self.line.clear();
                self.other = false;
            }
        }
        last
    }

    fn add(&mut self, text: &[u8]) {
        if self.other {
            return;
        }
        let room = LINE_MAX_BYTES - self.line.len();
        self.line
            .extend_from_slice(text.get(..room).unwrap_or(text));
        let common = self.line.len().min(MARK.len());
        if text.len() > room || self.line.get(..common) != MARK.get(..common) {
            self.other = true;
            self.line = Vec::new();
        }
    }
}

fn parse(line: &[u8]) -> Option<Progress> {
    let text = String::from_utf8_lossy(line.strip_prefix(MARK)?);
    let text = text.trim();
    let (number, message) = text.split_once(' ').unwrap_or((text, ""));
    let percent = number.trim_end_matches('%').parse().ok()?;
    if percent > 100 {
        return None;
    }
    let message: String = message.trim().chars().filter(|c| !c.is_control()).collect();
    Some(Progress {
        percent,
        message: message[..message.floor_char_boundary(PROGRESS_MESSAGE_MAX_BYTES)].to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(percent: u8, message: &str) -> Option<Progress> {
        Some(Progress {
            percent,
            message: message.into(),
        })
    }

    #[test]
    fn a_line_is_found_however_it_is_cut() {
        let text = b"x\n::progress 42 half way \xf0\x9f\xa6\x80\ny";
        for cut in 0..text.len() {
            let mut reader = Reader::default();
            let first = reader.read(&text[..cut]);
            let second = reader.read(&text[cut..]);
            assert_eq!(second.or(first), step(42, "half way 🦀"), "cut at {cut}");
        }
    }

    #[test]
    fn the_last_of_many_counts_and_what_is_none_is_left() {
        let mut reader = Reader::default();
        assert_eq!(reader.read(b"::progress 1\n::progress 2%\r\n"), step(2, ""));
        for none in [
            "::progress 101\n",
            "::progress -1\n",
            "::progress\n",
            "::progress x\n",
            " ::progress 5\n",
            "say ::progress 5\n",
            "::progress 5",
        ] {
            assert_eq!(Reader::default().read(none.as_bytes()), None, "{none:?}");
        }
    }

    #[test]
    fn an_endless_line_costs_nothing_and_hides_nothing_after_it() {
        let mut reader = Reader::default();
        for _ in 0..1000 {
            assert_eq!(reader.read(&[b'x'; 1000]), None);
            assert_eq!(reader.line.capacity(), 0);
        }
        assert_eq!(reader.read(b"::progress 7\n::progress 8\n"), step(8, ""));
        let long = format!("::progress 9 {}\n", "ü".repeat(150));
        let message = "ü".repeat(100);
        assert_eq!(reader.read(long.as_bytes()), step(9, &message));
        assert_eq!(
            reader.read(&[b"::progress 9 ".as_slice(), &[b'x'; 5000], b"\n"].concat()),
            None
        );
    }
}
