//! What people and rooms may be called, and what a message may contain.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::UnicodeEmoji;
use unicode_segmentation::UnicodeSegmentation;

use super::Invalid;
use super::svg::Rgba;

/// Longest name of a person, in characters after NFKC.
pub const NAME_MAX_CHARS: usize = 32;
/// Longest name of a room or another place, in characters after NFKC.
pub const LABEL_MAX_CHARS: usize = 64;
/// Longest content of a chat message or comment, in bytes.
pub const CONTENT_MAX_BYTES: usize = 16_384;
/// Longest emoji, in bytes: families of skin tones have some forty.
const EMOJI_MAX_BYTES: usize = 64;
/// Longest spelling of a colour, in bytes.
const COLOR_MAX_BYTES: usize = 64;
/// Longest URL a client may present (avatars).
const URL_MAX_BYTES: usize = 2_048;

/// Normalises a person's name: NFKC, trimmed, 1–32 characters, no control or bidi-override characters. Joined emoji and
/// scripts that need joiners are as they were written.
pub fn name(field: &'static str, text: &str) -> Result<String, Invalid> {
    normalised(field, text, NAME_MAX_CHARS)
}

/// Normalises what a room, a workspace, a project or a team is called: as [`name`], of 1–64 characters.
pub fn label(field: &'static str, text: &str) -> Result<String, Invalid> {
    normalised(field, text, LABEL_MAX_CHARS)
}

fn normalised(field: &'static str, text: &str, most: usize) -> Result<String, Invalid> {
    let too_long = || Invalid::new(field, format!("must have at most {most} characters"));
    // The bound before NFKC keeps a hostile megabyte from being normalised first; NFKC grows text 18-fold at most.
    if text.len() > most * 4 * 18 {
        return Err(too_long());
    }
    let name: String = text.nfkc().collect::<String>().trim().to_owned();
    let count = name.chars().count();
    if name.chars().all(|c| is_joiner(c) || c.is_whitespace()) {
        return Err(Invalid::new(field, "must not be empty"));
    }
    if count > most {
        return Err(too_long());
    }
    if name
        .chars()
        .any(|c| c.is_control() || is_hidden(c) && !is_joiner(c))
    {
        return Err(Invalid::new(
            field,
            "must not hold control or text-direction characters",
        ));
    }
    Ok(name)
}

/// Bidi overrides, isolates and marks, zero-width characters and line separators: what lets one name pass for another.
pub(crate) fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}'
        | '\u{2060}'..='\u{2069}' | '\u{061c}' | '\u{feff}')
}

/// What joins emoji to one, and what Persian and Indic scripts are spelled with.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// The name that two spellings of one name share, for uniqueness: NFKC and lower case, without what only joins.
pub fn key(name: &str) -> String {
    let seen = name.nfkc().filter(|c| !is_joiner(*c));
    seen.collect::<String>().to_lowercase()
}

/// A name for somebody who has none, by any number that stands for them.
pub fn made_up(number: u64) -> String {
    format!("User{}", number % 100_000)
}

/// Is it a name the server made up (`User123`)?
pub fn is_made_up(name: &str) -> bool {
    name.strip_prefix("User")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// A CSS colour, as front ends have them: `#rgb`, `#rrggbb`, `#rrggbbaa`, a name, `rgb()`, `rgba()`, `hsl()` or `hsla()`; kept
/// and told as it was given.
pub fn color(field: &'static str, text: &str) -> Result<(), Invalid> {
    let plain = text.len() <= COLOR_MAX_BYTES && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if plain && Rgba::parse(text).is_some() {
        return Ok(());
    }
    Err(Invalid::new(
        field,
        "must be a CSS colour, like #3B82F6, teal or rgb(59, 130, 246)",
    ))
}

/// An `https:` or `http:` URL of at most 2048 bytes.
pub fn web_url(field: &'static str, text: &str) -> Result<(), Invalid> {
    let web = text.starts_with("https://") || text.starts_with("http://");
    // A parser takes them out, or writes them otherwise; who keeps the text has them as they are.
    let clean = !text.chars().any(char::is_control);
    if web && clean && text.len() <= URL_MAX_BYTES && url::Url::parse(text).is_ok() {
        return Ok(());
    }
    Err(Invalid::new(
        field,
        "must be an http(s) URL of at most 2048 bytes",
    ))
}

/// The text of a message: 1–16,384 bytes.
pub fn content(field: &'static str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    if text.len() > CONTENT_MAX_BYTES {
        return Err(Invalid::new(
            field,
            format!("must have at most {CONTENT_MAX_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// One emoji: a single grapheme cluster that holds an emoji character (a digit alone is none).
pub fn emoji(field: &'static str, text: &str) -> Result<(), Invalid> {
    let one = text.len() <= EMOJI_MAX_BYTES && text.graphemes(true).count() == 1;
    if one && !text.is_ascii() && text.chars().any(UnicodeEmoji::is_emoji_char) {
        return Ok(());
    }
    Err(Invalid::new(field, "must be one emoji"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_bounded() {
        assert_eq!(name("name", "  Ａlice ").unwrap(), "Alice");
        for bad in [
            "",
            "   ",
            "a\u{202e}b",
            "a\nb",
            &"x".repeat(33),
            &"x".repeat(1 << 20),
        ] {
            assert_eq!(name("name", bad).unwrap_err().field, "name");
        }
        assert_eq!(
            name("name", "👩\u{200d}💻 Ana").unwrap(),
            "👩\u{200d}💻 Ana"
        );
        assert!(name("name", "\u{200d} \u{200c}").is_err(), "nothing to see");
        assert_eq!(key("A\u{200d}na"), key("ana"), "they look alike");
        assert!(label("name", &"x".repeat(64)).is_ok());
        let long = label("name", &"x".repeat(65)).unwrap_err();
        assert!(long.reason.contains("64"), "{}", long.reason);
    }

    #[test]
    fn a_url_holds_nothing_unreadable() {
        assert!(web_url("url", "https://a.example/x y?z").is_ok());
        for bad in [
            "",
            "ftp://a",
            "https://",
            "https://a/\0",
            "http://a/\tb",
            "https://a/\u{85}",
        ] {
            assert_eq!(web_url("url", bad).unwrap_err().field, "url", "{bad:?}");
        }
    }

    #[test]
    fn an_emoji_is_one_grapheme_cluster() {
        for one in ["👍", "❤️", "👩🏽‍🚀", "🇩🇪", "1️⃣", "👨‍👩‍👧‍👦"]
        {
            assert!(emoji("emoji", one).is_ok(), "{one}");
        }
        for bad in ["", "a", "1", "é", "👍👍", "👍a", ":+1:", " "] {
            assert_eq!(emoji("emoji", bad).unwrap_err().field, "emoji", "{bad:?}");
        }
    }

    #[test]
    fn a_colour_is_whatever_css_calls_one_and_nothing_else() {
        for fine in [
            "#3B82F6",
            "#abc",
            "#3b82f680",
            "red",
            "RebeccaPurple",
            "rgb(1,2,3)",
            "rgba(0, 0, 0, .5)",
            "hsl(120 50% 50% / 0.3)",
        ] {
            assert!(color("color", fine).is_ok(), "{fine}");
        }
        let long = format!("rgb({},2,3)", "1".repeat(64));
        for bad in [
            "",
            "#12",
            "reddish",
            "url(#a)",
            "url(javascript:alert(1))",
            "red;background:url(//x)",
            "rgb(1,2,3);x",
            "rgb(1,2,3)\"onload=\"x",
            "var(--x)",
            "rgb(1,\n2,3)",
            &long,
        ] {
            assert_eq!(color("color", bad).unwrap_err().field, "color", "{bad:?}");
        }
    }

    #[test]
    fn made_up_names_are_recognised() {
        assert!(is_made_up("User123"));
        assert!(!is_made_up("User"));
        assert!(!is_made_up("Userland"));
    }
}
