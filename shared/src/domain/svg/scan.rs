//! A first look at a file's markup, in one pass and constant memory, before it is parsed: everything that would make
//! parsing itself dear (or read anything but the file) is refused here.

use super::error::SvgError;
use super::{ATTRIBUTES_MAX, DEPTH_MAX, ELEMENTS_MAX, NAMESPACES_MAX};

/// Refuses DTDs, processing instructions, too many elements, too deep nesting, and what [`check_cost`] refuses. What is no
/// well-formed markup is left to the parser.
pub fn check(text: &str) -> Result<(), SvgError> {
    let (mut costs, mut elements) = (Costs::default(), 0_usize);
    for (open, mark) in marks(text) {
        let refuse = |element, reason: String| Err(SvgError::at_byte(text, open, element, reason));
        match mark {
            Mark::Doctype => {
                let reason = "document types other than SVG's own, and entities, are refused; remove the DOCTYPE";
                return refuse("!DOCTYPE", reason.into());
            }
            Mark::Instruction => {
                return refuse("?", "processing instructions are refused".into());
            }
            Mark::End => costs.end(),
            Mark::Start(name, tag) => {
                elements += 1;
                if elements > ELEMENTS_MAX {
                    let reason = format!("more than {ELEMENTS_MAX} elements in the file");
                    return refuse(name, reason);
                }
                if costs.depth() >= DEPTH_MAX {
                    let reason = format!("elements are nested deeper than {DEPTH_MAX}");
                    return refuse(name, reason);
                }
                costs.start(&tag).or_else(|reason| refuse(name, reason))?;
            }
        }
    }
    Ok(())
}

/// Refuses what makes parsing itself dear, in any XML: the parser compares the attributes of an element with one another,
/// and the namespaces that it declares with all that are in force there.
///
/// # Errors
/// Which element has too many, and where.
pub fn check_cost(text: &str) -> Result<(), SvgError> {
    let mut costs = Costs::default();
    for (open, mark) in marks(text) {
        match mark {
            // The parser goes no further.
            Mark::Doctype => return Ok(()),
            Mark::Instruction => {}
            Mark::End => costs.end(),
            Mark::Start(name, tag) => costs
                .start(&tag)
                .map_err(|reason| SvgError::at_byte(text, open, name, reason))?,
        }
    }
    Ok(())
}

/// The elements that are open, by how many namespaces each declares.
#[derive(Default)]
struct Costs {
    open: Vec<usize>,
    namespaces: usize,
}

impl Costs {
    fn depth(&self) -> usize {
        self.open.len()
    }

    fn start(&mut self, tag: &Tag) -> Result<(), String> {
        if tag.attributes > ATTRIBUTES_MAX {
            return Err(format!("more than {ATTRIBUTES_MAX} attributes"));
        }
        if self.namespaces + tag.namespaces > NAMESPACES_MAX {
            return Err(format!(
                "more than {NAMESPACES_MAX} namespaces are declared on it and the elements around it"
            ));
        }
        if !tag.closed {
            self.namespaces += tag.namespaces;
            self.open.push(tag.namespaces);
        }
        Ok(())
    }

    fn end(&mut self) {
        self.namespaces -= self.open.pop().unwrap_or(0);
    }
}

enum Mark<'a> {
    Doctype,
    Instruction,
    /// The local name.
    Start(&'a str, Tag),
    End,
}

/// What is marked up, but for comments, character data and the XML declaration, and where each begins.
fn marks(text: &str) -> impl Iterator<Item = (usize, Mark<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let open = at + text[at..].find('<')?;
            let rest = &text[open..];
            let skip = |end: &str| rest.find(end).map_or(text.len(), |i| open + i + end.len());
            if rest.starts_with("<!--") {
                at = skip("-->");
            } else if rest.starts_with("<![CDATA[") {
                at = skip("]]>");
            } else if rest.starts_with("<!") {
                at = skip(">");
                return Some((open, Mark::Doctype));
            } else if rest.starts_with("<?xml") && rest[5..].starts_with(char::is_whitespace) {
                at = skip("?>");
            } else if rest.starts_with("<?") {
                at = skip("?>");
                return Some((open, Mark::Instruction));
            } else if rest.starts_with("</") {
                at = skip(">");
                return Some((open, Mark::End));
            } else {
                let tag = tag(text.as_bytes(), open + 1);
                at = tag.end;
                return Some((open, Mark::Start(name_at(rest), tag)));
            }
        }
    })
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
    /// Of these, such as declare a namespace.
    namespaces: usize,
    /// `<a/>`
    closed: bool,
}

fn tag(bytes: &[u8], from: usize) -> Tag {
    let (mut attributes, mut namespaces) = (0, 0);
    let mut quote = None;
    let mut last = 0;
    for (at, byte) in bytes.iter().copied().enumerate().skip(from) {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'=') => attributes += 1,
            (None, b'x') if bytes[at..].starts_with(b"xmlns") => namespaces += 1,
            (None, b'>') => {
                return Tag {
                    end: at + 1,
                    attributes,
                    namespaces,
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
        namespaces,
        closed: false,
    }
}
