//! What no element of an imported file may be or carry.

use roxmltree::Node;

use super::error::{SvgError, shown};

pub const SVG: &str = "http://www.w3.org/2000/svg";
const XHTML: &str = "http://www.w3.org/1999/xhtml";
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// Ours, or in no namespace, as files written by hand often are.
pub fn is_svg(node: Node<'_, '_>) -> bool {
    node.tag_name().namespace().is_none_or(|uri| uri == SVG)
}

/// Refuses what could run, load, or bring in what is not in this file; looked for everywhere, also where nothing is drawn.
pub fn check(node: Node<'_, '_>) -> Result<(), SvgError> {
    if let Some(reason) = refused(node) {
        return Err(SvgError::at(node, reason));
    }
    for attribute in node.attributes() {
        let name = attribute.name();
        let refuse = |reason: &str| {
            let reason = format!("attribute {}: {reason}", shown(name));
            Err(SvgError::at(node, reason))
        };
        let is_event = attribute.namespace().is_none()
            && name.len() > 2
            && name.is_char_boundary(2)
            && name[..2].eq_ignore_ascii_case("on")
            && name.bytes().all(|b| b.is_ascii_alphabetic());
        if is_event {
            return refuse("event handlers are refused");
        }
        if attribute.namespace() == Some(XML) && name == "base" {
            return refuse("external references are refused");
        }
        let value = attribute.value();
        let refers = matches!(name, "href" | "src");
        if refers && !matches!(value.trim_start().as_bytes().first(), None | Some(b'#')) {
            return refuse("external references are refused");
        }
        if name == "id" || name.starts_with("data-") || name.starts_with("aria-") {
            continue;
        }
        if value.contains('(') {
            if value.contains('\\') {
                return refuse("escapes in styles are refused");
            }
            if loads(value) {
                return refuse("external references are refused");
            }
        }
    }
    Ok(())
}

fn refused(node: Node<'_, '_>) -> Option<&'static str> {
    let name = node.tag_name().name().to_ascii_lowercase();
    if node.tag_name().namespace() == Some(XHTML) {
        return Some("HTML is refused");
    }
    if name == "script" {
        return Some("scripts are refused");
    }
    if !is_svg(node) {
        return None;
    }
    Some(match name.as_str() {
        "handler" | "listener" => "scripts are refused",
        "foreignobject" | "iframe" | "object" | "embed" | "audio" | "video" | "canvas" | "link"
        | "base" | "meta" => "foreign content is refused",
        "image" | "feimage" => "pictures are refused: only shapes can become strokes",
        "use" => "use is refused: put the shape itself in its place",
        "style" => "style sheets are refused: use attributes on the elements",
        "animate" | "animatemotion" | "animatetransform" | "animatecolor" | "set" | "discard" => {
            "animations are refused"
        }
        _ => return None,
    })
}

/// Does this CSS value fetch anything but a part of the file itself?
fn loads(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    if ["image(", "image-set(", "src(", "element("]
        .iter()
        .any(|function| value.contains(function))
    {
        return true;
    }
    value.split("url(").skip(1).any(|inside| {
        let target =
            inside.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\''));
        !target.starts_with('#')
    })
}
