//! Why a file is refused: the element, where it stands, and what is wrong with it.

use thiserror::Error;

/// A refusal that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("<{element}> at line {line}, column {column}: {reason}")]
pub struct SvgError {
    /// The element's local name; `svg` where the file as a whole is meant.
    pub element: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    pub reason: String,
}

/// Longest part of a file that an error repeats, in characters.
const QUOTED_MAX: usize = 40;

impl SvgError {
    /// At a byte of the text.
    pub fn at_byte(text: &str, byte: usize, element: &str, reason: impl Into<String>) -> Self {
        let before = &text[..text.floor_char_boundary(byte)];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Self {
            element: shown(element),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            reason: reason.into(),
        }
    }

    pub fn at(node: roxmltree::Node<'_, '_>, reason: impl Into<String>) -> Self {
        let text = node.document().input_text();
        Self::at_byte(text, node.range().start, node.tag_name().name(), reason)
    }
}

/// Text out of a file, short and without control characters.
pub fn shown(text: &str) -> String {
    let mut short: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(QUOTED_MAX)
        .collect();
    if text.chars().count() > QUOTED_MAX {
        short.push('…');
    }
    short
}
