//! A first look at a file's markup, in one pass and constant memory, before it is parsed: everything that would make
//! parsing itself dear (or read anything but the file) is refused here.

use super::error::SvgError;
use super::{ATTRIBUTES_MAX, DEPTH_MAX, ELEMENTS_MAX};

/// Refuses DTDs, processing instructions, too many elements, too deep nesting, too many attributes. What is no
/// well-formed markup is left to the parser.
pub fn check(text: &str) -> Result<(), SvgError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let (mut depth, mut elements) = (0_usize, 0_usize);
    while let Some(open) = text[at..].find('<').map(|found| at + found) {
        let rest = &text[open..];
        let skip = |end: &str| rest.find(end).map_or(text.len(), |i| open + i + end.len());
        if rest.starts_with("<!--") {
            at = skip("-->");
        } else if rest.starts_with("<![CDATA[") {
            at = skip("]]>");
        } else if rest.starts_with("<!") {
            let reason = "document types other than SVG's own, and entities, are refused; remove the DOCTYPE";
            return Err(SvgError::at_byte(text, open, "!DOCTYPE", reason));
        } else if rest.starts_with("<?xml") && rest[5..].starts_with(char::is_whitespace) {
            at = skip("?>");
        } else if rest.starts_with("<?") {
            let reason = "processing instructions are refused";
            return Err(SvgError::at_byte(text, open, "?", reason));
        } else if rest.starts_with("</") {
            depth = depth.saturating_sub(1);
            at = skip(">");
        } else {
            let name = name_at(rest);
            let refuse = |reason: String| Err(SvgError::at_byte(text, open, name, reason));
            let tag = tag(bytes, open + 1);
            if tag.attributes > ATTRIBUTES_MAX {
                return refuse(format!("more than {ATTRIBUTES_MAX} attributes"));
            }
            elements += 1;
            if elements > ELEMENTS_MAX {
                return refuse(format!("more than {ELEMENTS_MAX} elements in the file"));
            }
            if depth >= DEPTH_MAX {
                return refuse(format!("elements are nested deeper than {DEPTH_MAX}"));
            }
            if !tag.closed {
                depth += 1;
            }
            at = tag.end;
        }
    }
    Ok(())
}

/// The local name of the start tag that `rest` begins with.
fn name_at(rest: &str) -> &str {
    let name = rest[1..]
        .split(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '<'))
        .next()
        .unwrap_or("");
    name.rsplit(':').next().unwrap_or(name)
}

struct Tag {
    /// Just after its `>`.
    end: usize,
    attributes: usize,
    /// `<a/>`
    closed: bool,
}

fn tag(bytes: &[u8], from: usize) -> Tag {
    let mut attributes = 0;
    let mut quote = None;
    let mut last = 0;
    for (at, byte) in bytes.iter().copied().enumerate().skip(from) {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'=') => attributes += 1,
            (None, b'>') => {
                return Tag {
                    end: at + 1,
                    attributes,
                    closed: last == b'/',
                };
            }
            (None, _) => {}
        }
        last = byte;
    }
    Tag {
        end: bytes.len(),
        attributes,
        closed: false,
    }
}
