//! What a file is, by its first bytes; what it is called and what its sender says it is do not count.

use super::svg;
use crate::config::ConfigError;

/// First bytes that are enough to tell every type.
pub const HEAD_BYTES: usize = 512;

/// Types that can be allowed (`ALLOWED_FILE_TYPES`).
pub const KNOWN: [&str; 7] = [
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/bmp",
    SVG,
    PDF,
];
pub const SVG: &str = "image/svg+xml";
pub const PDF: &str = "application/pdf";

/// What the first bytes say. SVG is only supposed: it has to be read to be sure.
pub fn of(head: &[u8]) -> Option<&'static str> {
    let found = infer::get(head).map(|kind| kind.mime_type());
    let known = KNOWN.iter().copied().find(|known| Some(*known) == found);
    match known {
        Some("image/bmp") if !is_bmp(head) => None,
        Some(known) => Some(known),
        None => svg::may_be_svg(head).then_some(SVG),
    }
}

/// Two letters are little to go by (a text may begin with "BM"): the header behind them must be one of a bitmap.
fn is_bmp(head: &[u8]) -> bool {
    let number = |at: usize| -> Option<u32> {
        let bytes = head.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    number(6) == Some(0) && matches!(number(14), Some(12 | 40 | 52 | 56 | 64 | 108 | 124))
}

/// The setting's words as types; refuses one that could not be told from others.
pub fn allowed(setting: &[String]) -> Result<Vec<&'static str>, ConfigError> {
    let mut types = Vec::new();
    for word in setting.iter().map(|word| word.trim().to_ascii_lowercase()) {
        let word = if word == "image/jpg" {
            "image/jpeg".to_owned()
        } else {
            word
        };
        if word.is_empty() {
            continue;
        }
        let known = KNOWN.iter().copied().find(|known| *known == word);
        let known = known.ok_or_else(|| {
            let reason = format!("\"{word}\" is not one of: {}", KNOWN.join(", "));
            ConfigError::new("ALLOWED_FILE_TYPES", reason)
        })?;
        if !types.contains(&known) {
            types.push(known);
        }
    }
    Ok(types)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_by_their_first_bytes() {
        let mut bmp = b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bmp.resize(64, 0);
        for (head, kind) in [
            (&b"\xff\xd8\xff\xe0\0\x10JFIF\0"[..], Some("image/jpeg")),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Some("image/png")),
            (b"GIF89a\x01\0\x01\0", Some("image/gif")),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some("image/webp")),
            (&bmp, Some("image/bmp")),
            (b"%PDF-1.7\n", Some("application/pdf")),
            (b"<?xml version='1.0'?><svg", Some("image/svg+xml")),
            (b"BMW is no bitmap, though it begins like one", None),
            (b"MZ\x90\0\x03", None),
            (b"#!/bin/sh\n", None),
            (b"plain text", None),
            (b"", None),
        ] {
            assert_eq!(of(head), kind, "{:?}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn an_unknown_type_in_the_setting_is_refused_by_name() {
        let words = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
        assert_eq!(
            allowed(&words("image/png, image/jpg,image/png")).unwrap(),
            ["image/png", "image/jpeg"]
        );
        let error = allowed(&words("text/html")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("ALLOWED_FILE_TYPES: \"text/html\""),
            "{error}"
        );
    }
}
