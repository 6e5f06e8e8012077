//! How text is searched: by whole words and beginnings of words, in any case and spelling. One rule for what is archived
//! and what is not yet.

use std::collections::BTreeSet;
use std::ops::Bound;

use unicode_normalization::UnicodeNormalization;

/// Different words of one message that are found; a message may hold 16 KiB of them.
const WORDS_MAX: usize = 1_000;
/// A longer word is found by its beginning.
const WORD_MAX_BYTES: usize = 64;

/// The different words of a text, lower case, in NFKC. Letters and digits that stand together make a word; scripts that
/// are written without spaces, and symbols such as emoji, make one of each character; punctuation is none.
pub fn words(text: &str) -> BTreeSet<String> {
    // Most text of most rooms; it is in NFKC, and much cheaper to go through.
    if text.is_ascii() {
        return words_of(text.chars().map(|c| c.to_ascii_lowercase()));
    }
    words_of(text.nfkc().flat_map(char::to_lowercase))
}

fn words_of(text: impl Iterator<Item = char>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut word = String::new();
    for c in text {
        if found.len() >= WORDS_MAX {
            return found;
        }
        if c.is_alphanumeric() && !stands_alone(c) {
            if word.len() + c.len_utf8() <= WORD_MAX_BYTES {
                word.push(c);
            }
            continue;
        }
        if !word.is_empty() {
            found.insert(std::mem::take(&mut word));
        }
        if stands_alone(c) {
            found.insert(c.to_string());
        }
    }
    if !word.is_empty() {
        found.insert(word);
    }
    found
}

/// Does each asked word begin one of these?
pub fn matches(words: &BTreeSet<String>, asked: &BTreeSet<String>) -> bool {
    asked.iter().all(|begin| {
        words
            .range::<str, _>((Bound::Included(begin.as_str()), Bound::Unbounded))
            .next()
            .is_some_and(|word| word.starts_with(begin.as_str()))
    })
}

/// The least text that is greater than all that begin so: `[begin, after(begin))` holds them all.
pub fn after(begin: &str) -> String {
    format!("{begin}\u{10ffff}")
}

/// Han, kana and Thai, and everything that is neither letter nor digit nor the punctuation and space of writing.
fn stands_alone(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{0e00}'..='\u{0e7f}' | '\u{20000}'..='\u{3ffff}'
        | '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_by_their_beginning_in_any_case() {
        let text = words("Hello, WORLD: naïve_name 東京 🎉");
        for asked in [
            "hello", "HEL", "wor hel", "naïve", "name", "東", "🎉", "東京",
        ] {
            assert!(matches(&text, &words(asked)), "{asked}");
        }
        for asked in ["ello", "hello there", "京都"] {
            assert!(!matches(&text, &words(asked)), "{asked}");
        }
    }

    #[test]
    fn a_word_is_bounded_and_so_is_their_number() {
        let long = "x".repeat(10_000);
        assert!(matches(&words(&long), &words(&long)));
        let many: String = (0..5_000).map(|n| format!("{n} ")).collect();
        assert_eq!(words(&many).len(), WORDS_MAX);
    }
}
