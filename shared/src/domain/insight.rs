//! Insights: titled notes with tags and links, shared with a team.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Invalid;
use super::ids::{InsightId, PlaceId, UserId};
use super::room::word_enum;

/// Longest title, in characters.
pub const TITLE_MAX_CHARS: usize = 200;
/// Longest body, in bytes.
pub const BODY_MAX_BYTES: usize = 65_536;
pub const TAGS_MAX: usize = 20;
pub const TAG_MAX_CHARS: usize = 32;
pub const LINKS_MAX: usize = 20;
const LINK_ID_MAX_BYTES: usize = 64;

word_enum!(
    /// What a link leads to.
    LinkKind, "links.kind" { Room = "room", Message = "message", Run = "run" }
);

/// Where an insight comes from. Whoever follows it needs the right to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub kind: LinkKind,
    pub id: String,
    /// The room that a message is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<String>,
}

/// One insight as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insight {
    pub id: InsightId,
    /// `None`: the author's alone.
    pub team: Option<PlaceId>,
    pub author: UserId,
    pub title: String,
    pub body: String,
    pub tags: Vec<String>,
    pub links: Vec<Link>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Insight {
    /// What a search looks into.
    pub fn words(&self) -> String {
        format!("{}\n{}\n{}", self.title, self.body, self.tags.join("\n")).to_lowercase()
    }
}

fn unreadable(text: &str) -> bool {
    text.chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r'))
}

pub fn title(text: &str) -> Result<String, Invalid> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > TITLE_MAX_CHARS {
        let reason = format!("must have 1 to {TITLE_MAX_CHARS} characters");
        return Err(Invalid::new("title", reason));
    }
    if unreadable(text) || text.contains('\n') {
        return Err(Invalid::new("title", "must not hold control characters"));
    }
    Ok(text.to_owned())
}

pub fn body(text: &str) -> Result<String, Invalid> {
    if text.len() > BODY_MAX_BYTES {
        let reason = format!("must have at most {BODY_MAX_BYTES} bytes");
        return Err(Invalid::new("body", reason));
    }
    if unreadable(text) {
        return Err(Invalid::new("body", "must not hold control characters"));
    }
    Ok(text.to_owned())
}

/// Tags in lower case, each once, in order.
pub fn tags(tags: &[String]) -> Result<Vec<String>, Invalid> {
    let mut kept: Vec<String> = Vec::new();
    for tag in tags.iter().take(TAGS_MAX + 1) {
        let tag = tag.trim().to_lowercase();
        let long = tag.is_empty() || tag.chars().count() > TAG_MAX_CHARS;
        if long || tag.chars().any(char::is_control) {
            let reason = format!("each must have 1 to {TAG_MAX_CHARS} visible characters");
            return Err(Invalid::new("tags", reason));
        }
        if !kept.contains(&tag) {
            kept.push(tag);
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(Invalid::new("tags", format!("must be at most {TAGS_MAX}")));
    }
    kept.sort_unstable();
    Ok(kept)
}

pub fn links(links: Vec<Link>) -> Result<Vec<Link>, Invalid> {
    if links.len() > LINKS_MAX {
        return Err(Invalid::new(
            "links",
            format!("must be at most {LINKS_MAX}"),
        ));
    }
    let visible = |id: &str| {
        !id.is_empty() && id.len() <= LINK_ID_MAX_BYTES && id.bytes().all(|b| b.is_ascii_graphic())
    };
    for link in &links {
        if !visible(&link.id) || !link.room_id.as_deref().is_none_or(visible) {
            return Err(Invalid::new(
                "links.id",
                "must be the id of a room, message or run",
            ));
        }
        if link.kind == LinkKind::Message && link.room_id.is_none() {
            return Err(Invalid::new(
                "links.room_id",
                "must name the message's room",
            ));
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_words_of_their_own() {
        let given = ["Rust ", "rust", "Async"].map(str::to_owned);
        assert_eq!(tags(&given).unwrap(), ["async", "rust"]);
        for bad in [
            vec![String::new()],
            vec!["x".repeat(33)],
            vec!["a".to_owned(); 21],
        ] {
            assert_eq!(tags(&bad).unwrap_err().field, "tags");
        }
    }

    #[test]
    fn a_message_is_found_by_its_room() {
        let link = |room: Option<&str>| Link {
            kind: LinkKind::Message,
            id: "m".into(),
            room_id: room.map(str::to_owned),
        };
        assert!(links(vec![link(Some("r"))]).is_ok());
        assert_eq!(links(vec![link(None)]).unwrap_err().field, "links.room_id");
    }
}
