//! SVG from strangers: read strictly, and written anew from what is allowed.
//!
//! Only what a picture needs survives: elements of an allow-list, attributes without a namespace, references within the
//! file. Scripts, event handlers, HTML, references to elsewhere, styles that could load something are left out, as are
//! comments, metadata and editors' own elements. What can't be read safely at all (entities, a DTD of somebody's own, what
//! is no XML, elements without end) is refused.

use std::fmt::Write;

use atelier_shared::domain::svg::{check_cost, doctype};
use roxmltree::{Document, Node, ParsingOptions};

const SVG: &str = "http://www.w3.org/2000/svg";
const XLINK: &str = "http://www.w3.org/1999/xlink";
const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// Elements and texts of one file; more refuse it (each costs about a hundred bytes while it is read).
const NODES_MAX: u32 = 200_000;
/// How deep elements may lie in one another.
const DEPTH_MAX: usize = 256;

/// What a picture is made of. Everything else is left out, with all that is in it.
const ELEMENTS: &[&str] = &[
    "a",
    "animate",
    "animateMotion",
    "animateTransform",
    "circle",
    "clipPath",
    "defs",
    "desc",
    "ellipse",
    "feBlend",
    "feColorMatrix",
    "feComponentTransfer",
    "feComposite",
    "feConvolveMatrix",
    "feDiffuseLighting",
    "feDisplacementMap",
    "feDistantLight",
    "feDropShadow",
    "feFlood",
    "feFuncA",
    "feFuncB",
    "feFuncG",
    "feFuncR",
    "feGaussianBlur",
    "feImage",
    "feMerge",
    "feMergeNode",
    "feMorphology",
    "feOffset",
    "fePointLight",
    "feSpecularLighting",
    "feSpotLight",
    "feTile",
    "feTurbulence",
    "filter",
    "g",
    "image",
    "line",
    "linearGradient",
    "marker",
    "mask",
    "mpath",
    "path",
    "pattern",
    "polygon",
    "polyline",
    "radialGradient",
    "rect",
    "set",
    "stop",
    "style",
    "svg",
    "switch",
    "symbol",
    "text",
    "textPath",
    "title",
    "tspan",
    "use",
    "view",
];
/// Pictures that may lie within a picture.
const EMBEDDED: &[&str] = &[
    "data:image/png;base64,",
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/gif;base64,",
    "data:image/webp;base64,",
];

/// Is it worth reading as SVG at all: text that begins like markup?
pub fn may_be_svg(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'<')
}

/// The picture without what has no place in one; `Err`: why it can't be read, in words for who sent it. `Ok(None)`: it is
/// XML or HTML, but no SVG.
pub fn sanitise(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(None);
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = &*doctype::without(text);
    if let Err(error) = check_cost(text) {
        return if text.contains("<svg") {
            Err(error.to_string())
        } else {
            Ok(None)
        };
    }
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    let document = match Document::parse_with_options(text, options) {
        Ok(document) => document,
        Err(roxmltree::Error::DtdDetected) if text.contains("<svg") => {
            return Err("its !DOCTYPE is not SVG's own or declares entities; remove it".to_owned());
        }
        Err(error) if text.contains("<svg") => return Err(format!("it is not sound XML: {error}")),
        Err(_) => return Ok(None),
    };
    let root = document.root_element();
    if root.tag_name().name() != "svg" || root.tag_name().namespace() != Some(SVG) {
        return Ok(None);
    }
    write(root).map(|text| Some(text.into_bytes()))
}

enum Step<'a> {
    Open(Node<'a, 'a>, usize),
    Close(&'a str),
}

/// Walks without recursion: how deep a file goes is its maker's choice.
fn write<'a>(root: Node<'a, 'a>) -> Result<String, String> {
    let mut out = String::new();
    let mut steps = vec![Step::Open(root, 1)];
    while let Some(step) = steps.pop() {
        let (node, depth) = match step {
            Step::Open(node, depth) => (node, depth),
            Step::Close(name) => {
                let _ = write!(out, "</{name}>");
                continue;
            }
        };
        if depth > DEPTH_MAX {
            return Err(format!("its elements lie more than {DEPTH_MAX} deep"));
        }
        if node.is_text() {
            escape(&mut out, node.text().unwrap_or_default());
        }
        if !node.is_element() || !is_kept(node) {
            continue;
        }
        open(&mut out, node, node == root);
        steps.push(Step::Close(node.tag_name().name()));
        let mut child = node.last_child();
        while let Some(node) = child {
            steps.push(Step::Open(node, depth + 1));
            child = node.prev_sibling();
        }
    }
    Ok(out)
}

/// Is it a part of a picture, and harmless whatever its attributes say?
fn is_kept(node: Node<'_, '_>) -> bool {
    let (name, namespace) = (node.tag_name().name(), node.tag_name().namespace());
    if namespace != Some(SVG) || !ELEMENTS.contains(&name) {
        return false;
    }
    if name == "style" {
        let css: String = node.children().filter_map(|child| child.text()).collect();
        return is_harmless_css(&css);
    }
    // An animation that sets a reference would get around what is checked of it.
    let sets = folded(node.attribute("attributeName").unwrap_or_default());
    !sets.contains("href") && !sets.starts_with("on")
}

fn open(out: &mut String, node: Node<'_, '_>, is_root: bool) {
    let name = node.tag_name().name();
    out.push('<');
    out.push_str(name);
    if is_root {
        let _ = write!(out, " xmlns=\"{SVG}\"");
    }
    let mut has_href = false;
    for attribute in node.attributes() {
        let (key, value) = (attribute.name(), attribute.value());
        let key = match (attribute.namespace(), key) {
            (None, key) => key,
            (Some(XLINK), "href") => "href",
            (Some(XML), "space") => "xml:space",
            (Some(XML), "lang") => "xml:lang",
            _ => continue,
        };
        if !is_harmless(name, key, value) {
            continue;
        }
        // One with the namespace and one without would be one name twice.
        if key == "href" && std::mem::replace(&mut has_href, true) {
            continue;
        }
        let _ = write!(out, " {key}=\"");
        escape(out, value);
        out.push('"');
    }
    out.push('>');
}

/// Without white space, control characters and capitals, which browsers overlook in places.
fn folded(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace() && !c.is_control())
        .flat_map(char::to_lowercase)
        .collect()
}

fn is_harmless(element: &str, key: &str, value: &str) -> bool {
    let value_folded = folded(value);
    if key.get(..2).is_some_and(|on| on.eq_ignore_ascii_case("on")) {
        return false;
    }
    match key {
        "href" => {
            let picture = matches!(element, "image" | "feImage")
                && EMBEDDED.iter().any(|start| value_folded.starts_with(start));
            return picture || value_folded.starts_with('#');
        }
        "src" | "base" | "srcdoc" | "ping" | "requiredExtensions" => return false,
        "style" if !is_harmless_css(value) => return false,
        _ => {}
    }
    let spelt_otherwise = value_folded.contains('\\') && value_folded.contains('(');
    let scripted = value_folded.contains("javascript:") || value_folded.contains("data:");
    refers_within(&value_folded) && !scripted && !spelt_otherwise
}

fn is_harmless_css(css: &str) -> bool {
    let folded = folded(css);
    // A backslash would spell the words below in another way.
    let harmful = [
        "\\",
        "@import",
        "expression(",
        "-moz-binding",
        "behavior:",
        "image-set(",
        "javascript:",
        "src(",
    ];
    !harmful.iter().any(|word| folded.contains(word)) && refers_within(&folded)
}

/// Does every `url(…)` point into the file itself? `folded` has no white space and no capitals.
fn refers_within(folded: &str) -> bool {
    folded.match_indices("url(").all(|(at, found)| {
        folded[at + found.len()..]
            .trim_start_matches(['"', '\''])
            .starts_with('#')
    })
}

fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(inside: &str) -> String {
        format!(
            "<svg xmlns='{SVG}' xmlns:xlink='{XLINK}' xmlns:i='urn:editor' viewBox='0 0 9 9'>{inside}</svg>"
        )
    }

    #[test]
    fn struck_pictures_and_names_are_made_harmless_or_refused() {
        let samples = crate::fuzz::texts(&[
            &svg(
                "<g><path d='M0 0L1 1' style='fill:red'/><a xlink:href='#b'><text>t</text></a></g>",
            ),
            &svg("<image href='data:image/png;base64,AAAA'/><style>a{fill:url(#b)}</style>"),
            &svg("<script>alert(1)</script><circle onload='x()' r='1'/>"),
        ]);
        crate::fuzz::strike(&samples, |input| {
            if let Ok(Some(harmless)) = sanitise(input) {
                let text = String::from_utf8(harmless.clone()).expect("it is text");
                assert!(
                    !text.contains("<script") && !text.contains(" onload"),
                    "{text}"
                );
                assert!(matches!(sanitise(&harmless), Ok(Some(_))), "{text}");
            }
        });
        let samples = crate::fuzz::texts(&[
            "cat.png",
            "../../etc/passwd",
            "C:\\a\\b.tar.gz",
            "gpj.\u{202e}exe",
        ]);
        crate::fuzz::strike(&samples, |input| {
            let name = atelier_shared::domain::file::clean_name(&String::from_utf8_lossy(input));
            assert!(!name.is_empty() && name.len() <= 255 && !name.contains(['/', '\\', '\0']));
            assert_ne!(name, "..");
        });
    }

    #[test]
    fn a_picture_passes_and_what_is_no_picture_is_left_out() {
        let given = svg("<!-- c --><metadata><i:x/></metadata><i:guide/>\
             <defs><linearGradient id='g'><stop offset='0'/></linearGradient></defs>\
             <rect fill='url(#g)' i:note='x' width='3'/><use xlink:href='#g'/><text xml:space='preserve'>a &lt; b</text>\
             <image href='data:image/png;base64,AAAA'/><style>rect { fill: url( \"#g\" ) }</style>");
        let clean = sanitise(given.as_bytes()).unwrap().unwrap();
        let text = String::from_utf8(clean.clone()).unwrap();
        for kept in [
            "viewBox=\"0 0 9 9\"",
            "fill=\"url(#g)\"",
            "href=\"#g\"",
            "a &lt; b",
            "<style>",
        ] {
            assert!(text.contains(kept), "{kept} is missing in {text}");
        }
        for gone in ["metadata", "guide", "note", "<!--"] {
            assert!(!text.contains(gone), "{gone} is in {text}");
        }
        assert_eq!(
            sanitise(&clean).unwrap().unwrap(),
            clean,
            "clean stays as it is"
        );
    }

    #[test]
    fn what_could_do_harm_is_taken_out() {
        for (inside, left) in [
            ("<script>alert(1)</script>", ""),
            ("<SCRIPT/>", ""),
            ("<g onload='x()'/>", "<g></g>"),
            ("<g ONLOAD='x()' id='a'/>", "<g id=\"a\"></g>"),
            ("<foreignObject><g/></foreignObject><g/>", "<g></g>"),
            (
                "<g><h:body xmlns:h='http://www.w3.org/1999/xhtml'/></g>",
                "<g></g>",
            ),
            ("<a href='javascript:x()'/>", "<a></a>"),
            ("<a xlink:href=' java&#9;script:x()'/>", "<a></a>"),
            (
                "<use href='#a' xlink:href='#b'/>",
                "<use href=\"#a\"></use>",
            ),
            ("<use href='http://x.example/y.svg#z'/>", "<use></use>"),
            ("<image href='//x.example/y.png'/>", "<image></image>"),
            (
                "<image href='data:image/svg+xml;base64,AAAA'/>",
                "<image></image>",
            ),
            ("<rect fill='url(http://x.example)'/>", "<rect></rect>"),
            (
                "<rect style='fill:u\\72l(http://x.example)'/>",
                "<rect></rect>",
            ),
            ("<rect fill='u\\72l(http://x.example)'/>", "<rect></rect>"),
            ("<style>@import 'http://x.example'</style>", ""),
            ("<style>a{b:url( http://x.example )}</style>", ""),
            ("<set attributeName='href' to='javascript:x()'/>", ""),
            (
                "<animate attributeName='xlink:href' values='#a;javascript:x()'/>",
                "",
            ),
            ("<iframe/>", ""),
            ("<handler/>", ""),
        ] {
            let clean = sanitise(svg(inside).as_bytes()).unwrap().unwrap();
            let clean = String::from_utf8(clean).unwrap();
            let whole = format!("<svg xmlns=\"{SVG}\" viewBox=\"0 0 9 9\">{left}</svg>");
            assert_eq!(clean, whole, "{inside}");
        }
    }

    #[test]
    fn what_cannot_be_read_safely_is_refused() {
        let entity = format!("<!DOCTYPE svg [<!ENTITY x 'y'>]>{}", svg("&x;"));
        let reason = sanitise(entity.as_bytes()).unwrap_err();
        assert!(reason.contains("!DOCTYPE"), "{reason}");
        let wide: String = (0..200_000).map(|i| format!(" a{i}=''")).collect();
        let reason = sanitise(svg(&format!("<g{wide}/>")).as_bytes()).unwrap_err();
        assert!(
            reason.starts_with("<g> at") && reason.contains("attributes"),
            "{reason}"
        );
        assert!(sanitise(svg("<g>").as_bytes()).is_err());
        let own = "<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd'>";
        let own = format!("<?xml version='1.0'?>{own}{}", svg("<g/>"));
        assert!(matches!(sanitise(own.as_bytes()), Ok(Some(_))));
        for depth in [300, 90_000] {
            let deep = format!("{}{}", "<g>".repeat(depth), "</g>".repeat(depth));
            assert!(sanitise(svg(&deep).as_bytes()).is_err(), "{depth}");
        }
    }

    #[test]
    fn other_markup_is_no_svg() {
        for other in ["<html><body/></html>", "<svg/>", "<a", "plain"] {
            assert!(
                !matches!(sanitise(other.as_bytes()), Ok(Some(_))),
                "{other}"
            );
        }
        assert!(may_be_svg(b"\xef\xbb\xbf \n<?xml") && !may_be_svg(b"GIF89a") && !may_be_svg(b""));
    }
}
