//! The document type that drawing programs put before an SVG: it says nothing and is taken away.

use std::borrow::Cow;

/// Public identifiers of SVG's own document types begin so.
const PUBLIC: &str = "-//W3C//DTD SVG ";
/// And their addresses, which are never asked, so.
const SYSTEM: [&str; 2] = ["http://www.w3.org/", "https://www.w3.org/"];
const START: &str = "<!DOCTYPE";

/// The text without SVG's own document type, blanks in its place. Any other one (with entities, of somebody's own) stays
/// where it is, for the reader to refuse.
pub fn without(text: &str) -> Cow<'_, str> {
    let Some((at, end)) = standard(text) else {
        return Cow::Borrowed(text);
    };
    let blank: String = text[at..end]
        .chars()
        .map(|c| if c == '\n' { c } else { ' ' })
        .collect();
    Cow::Owned(format!("{}{blank}{}", &text[..at], &text[end..]))
}

/// Where it begins and ends: before the root, behind the declaration and comments.
fn standard(text: &str) -> Option<(usize, usize)> {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        at += rest.len()
            - rest
                .trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n'])
                .len();
        let rest = &text[at..];
        let close = if rest.starts_with("<!--") {
            "-->"
        } else if rest.starts_with("<?") {
            "?>"
        } else {
            break;
        };
        at += rest.find(close)? + close.len();
    }
    let inside = text[at..].strip_prefix(START)?;
    let length = inside.find('>')?;
    let words = &inside[..length];
    is_standard(words).then_some((at, at + START.len() + length + 1))
}

/// ` svg`, or with a public identifier and an address of the W3C's; nothing declared within.
fn is_standard(words: &str) -> bool {
    let Some(rest) = words.trim_start().strip_prefix("svg") else {
        return false;
    };
    if !words.starts_with(char::is_whitespace) || words.contains(['[', '<']) {
        return false;
    }
    if rest.trim().is_empty() {
        return true;
    }
    let ours = || {
        let rest = rest.trim_start().strip_prefix("PUBLIC")?;
        let (public, rest) = literal(rest)?;
        let known = public.starts_with(PUBLIC);
        if rest.trim().is_empty() {
            return Some(known);
        }
        let (system, rest) = literal(rest)?;
        let addressed = SYSTEM.iter().any(|start| system.starts_with(start));
        Some(known && addressed && rest.trim().is_empty())
    };
    rest.starts_with(char::is_whitespace) && ours().unwrap_or(false)
}

/// What stands in quotes next, and what is behind it.
fn literal(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svg_s_own_document_type_goes_and_every_other_stays() {
        for own in [
            "<!DOCTYPE svg>",
            "<!DOCTYPE svg PUBLIC \"-//W3C//DTD SVG 1.1//EN\"\n \"http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd\">",
            "<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 20010904//EN' 'http://www.w3.org/TR/2001/REC-SVG-20010904/DTD/svg10.dtd' >",
        ] {
            let text = format!("<?xml version='1.0'?>\n<!-- <a> -->{own}<svg/>");
            let without = without(&text);
            assert_eq!(without.len(), text.len());
            assert!(
                !without.contains("DOCTYPE") && without.ends_with("<svg/>"),
                "{own}"
            );
        }
        for other in [
            "<!DOCTYPE svg [<!ENTITY a 'b'>]>",
            "<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'http://www.w3.org/x.dtd' [<!ENTITY a 'b'>]>",
            "<!DOCTYPE svg SYSTEM 'file:///etc/passwd'>",
            "<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'http://elsewhere.example/x.dtd'>",
            "<!DOCTYPE html>",
            "<!DOCTYPE svg PUBLIC '",
            "<!DOCTYPEsvg>",
            "<svg/><!DOCTYPE svg>",
        ] {
            let text = format!("{other}<svg/>");
            assert_eq!(without(&text), text, "{other}");
        }
    }
}
