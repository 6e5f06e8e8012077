//! After a round: is what everybody sees what the log adds up to, and is everything in the log that must be there, once?

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use serde_json::Value;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Transact, Update};

use super::board::Board;
use super::member::Member;
use super::plan::Act;
use super::told::kind_of;
use super::view::heard_of;
use crate::harness::{Client, Rest, Told};

/// The log as the members together may see it.
pub struct Log {
    entries: BTreeMap<u64, Value>,
    /// What each may see.
    seen: Vec<BTreeSet<u64>>,
}

impl Log {
    pub async fn read(members: &mut [Member]) -> anyhow::Result<Self> {
        let mut log = Self {
            entries: BTreeMap::new(),
            seen: Vec::new(),
        };
        for member in members {
            let entries = member.whole_log().await.context("the whole log")?;
            let mut seen = BTreeSet::new();
            let mut last = 0;
            for entry in entries {
                let seq = entry["seq"].as_u64().context("seq")?;
                ensure!(seq > last, "the log repeats {seq} behind {last}");
                last = seq;
                seen.insert(seq);
                if let Some(before) = log.entries.get(&seq) {
                    let same = heard_of(before) == heard_of(&entry);
                    ensure!(same, "two readers see {seq} as {before} and as {entry}");
                }
                log.entries.insert(seq, entry);
            }
            log.seen.push(seen);
        }
        Ok(log)
    }

    /// Nothing is missing, nothing is twice.
    pub fn check_entries(&self, members: &[Member]) -> Told {
        let mut at: BTreeMap<String, u64> = BTreeMap::new();
        for (seq, entry) in &self.entries {
            let token = token_of(entry);
            if token.is_empty() {
                continue;
            }
            let before = at.insert(token.clone(), *seq);
            ensure!(
                before.is_none(),
                "{token} is stored twice, at {before:?} and {seq}"
            );
        }
        let mut hidden = BTreeSet::new();
        for member in members {
            for (reference, own) in &member.own {
                let found = at.get(reference).copied();
                let Some(seq) = own.seq() else {
                    ensure!(
                        found.is_none(),
                        "{reference} was refused and stands at {found:?}"
                    );
                    continue;
                };
                match own.act {
                    // Where all of it is in.
                    Act::Type => ensure!(
                        found.is_some_and(|found| found <= seq),
                        "{reference}, acknowledged as {seq}, stands at {found:?}"
                    ),
                    Act::Cut => {}
                    Act::Edit | Act::Delete | Act::React => {
                        // May be hidden since: what it spoke about was deleted.
                        hidden.insert(seq);
                        let is = self.entries.get(&seq);
                        let kind = |entry: &&Value| entry["type"] == kind_of(own.act);
                        ensure!(
                            is.is_none_or(|entry| kind(&entry)),
                            "{reference}, acknowledged as {seq}, is {is:?}"
                        );
                    }
                    _ => {
                        let is = self.entries.get(&seq).with_context(|| {
                            format!("{reference}, acknowledged as {seq}, is missing in the log")
                        })?;
                        let deleted = is["deleted_at"].is_string();
                        ensure!(
                            found == Some(seq) || deleted,
                            "{reference}, acknowledged as {seq}, stands at {found:?}; there is {is}"
                        );
                    }
                }
            }
        }
        let last = self.entries.keys().next_back().copied().unwrap_or(0);
        let holes: Vec<u64> = (1..=last)
            .filter(|seq| !self.entries.contains_key(seq) && !hidden.contains(seq))
            .collect();
        ensure!(holes.is_empty(), "holes in the log: {holes:?}");
        let all: Vec<&String> = members.iter().flat_map(|member| &member.once).collect();
        for token in at.keys() {
            let written = members.iter().any(|member| member.own.contains_key(token));
            ensure!(written || all.contains(&token), "nobody wrote {token}");
        }
        Ok(())
    }

    /// Every member heard what it may see from where it came in, and nothing else.
    pub fn check_hearing(&self, members: &[Member]) -> Told {
        for (member, seen) in members.iter().zip(&self.seen) {
            for (seq, entry) in self.entries.range(member.start + 1..) {
                let told = heard_of(entry);
                // What was said without a ref is not said back.
                let unsaid = member.once.contains(&told.token);
                // Compared as what they add up to; or of a message that was deleted before them, which is told to nobody.
                let joined = matches!(
                    told.kind.as_str(),
                    "draw" | "update" | "chat_edited" | "chat_deleted" | "reaction_update"
                );
                if !seen.contains(seq) || joined || unsaid {
                    continue;
                }
                let heard = member
                    .view
                    .heard
                    .get(seq)
                    .with_context(|| format!("{} never heard {seq}: {entry}", member.name))?;
                let changed =
                    heard.token != told.token && !told.token.is_empty() && !heard.token.is_empty();
                ensure!(
                    !changed,
                    "{} heard {heard:?} at {seq}, where {told:?} stands",
                    member.name
                );
            }
            for (seq, heard) in &member.view.heard {
                let may_be_hidden = matches!(
                    heard.kind.as_str(),
                    "chat_edited" | "chat_deleted" | "reaction_update"
                );
                ensure!(
                    seen.contains(seq) || may_be_hidden,
                    "{} heard {heard:?} at {seq}, which is not in the log",
                    member.name
                );
            }
        }
        Ok(())
    }

    /// Everybody's drawing and text are what the log adds up to; a newcomer's too.
    pub fn check_state(&self, members: &[Member], newcomer: &Newcomer) -> Told {
        let (mut board, doc) = (Board::default(), Doc::new());
        let text = doc.get_or_insert_text("content");
        for entry in self.entries.values() {
            match entry["type"].as_str() {
                Some("draw") => board.draw(entry, entry["from"].as_str().unwrap_or_default()),
                Some("update") => {
                    let bytes = hex::decode(entry["data"].as_str().context("data")?)?;
                    let update = Update::decode_v1(&bytes)?;
                    doc.transact_mut().apply_update(update)?;
                }
                _ => {}
            }
        }
        let (board, text) = (board.shown(), text.get_string(&doc.transact()));
        let sights = members
            .iter()
            .map(|m| (m.name.as_str(), m.view.board.shown(), m.view.text()))
            .chain([("a newcomer", newcomer.board.shown(), newcomer.text.clone())]);
        for (name, theirs, reads) in sights {
            let differs = |id: &&String| board.get(*id) != theirs.get(*id);
            let ids: BTreeSet<&String> = board.keys().chain(theirs.keys()).collect();
            let wrong: Vec<String> = ids
                .into_iter()
                .filter(differs)
                .map(|id| format!("{id}: {:?} instead of {:?}", theirs.get(id), board.get(id)))
                .collect();
            ensure!(wrong.is_empty(), "{name} draws {wrong:?}");
            ensure!(reads == text, "{name} reads {reads:?} instead of {text:?}");
        }
        Ok(())
    }

    /// History shows each message as its last edit left it, and none that was deleted.
    pub async fn check_messages(&self, rest: &Rest, room: &str) -> Told {
        let mut wanted: BTreeMap<String, String> = BTreeMap::new();
        for entry in self.entries.values() {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            match entry["type"].as_str() {
                Some("chat_message") if entry["content"].is_string() => {
                    wanted.insert(text("id"), text("content"));
                }
                Some("chat_edited") if wanted.contains_key(&text("message_id")) => {
                    wanted.insert(text("message_id"), text("content"));
                }
                _ => {}
            }
        }
        let mut shown: BTreeMap<String, String> = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/api/v1/rooms/{room}/messages?limit=200{cursor}");
            let page = rest.get(&path).await?.expect(200)?;
            for item in page["items"].as_array().context("items")? {
                if let (Some(id), Some(content)) = (item["id"].as_str(), item["content"].as_str())
                    && item["type"] == "chat_message"
                {
                    shown.insert(id.to_owned(), content.to_owned());
                }
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let differs = |id: &&String| wanted.get(*id) != shown.get(*id);
        let ids: BTreeSet<&String> = wanted.keys().chain(shown.keys()).collect();
        let wrong: Vec<String> = ids
            .into_iter()
            .filter(differs)
            .map(|id| {
                let of_it = |entry: &&Value| entry["id"] == **id || entry["message_id"] == **id;
                let logged: Vec<&Value> = self.entries.values().filter(of_it).collect();
                let (is, should) = (shown.get(id), wanted.get(id));
                format!("{id}: {is:?} instead of {should:?}; logged: {logged:?}")
            })
            .collect();
        ensure!(wrong.is_empty(), "history shows {wrong:?}");
        Ok(())
    }
}

fn token_of(entry: &Value) -> String {
    match entry["type"].as_str() {
        Some("draw") => {
            let paths = entry["paths"].as_array().into_iter().flatten();
            let ids = paths.filter_map(|path| path["id"].as_str());
            ids.filter(|id| !id.ends_with('*')).take(1).collect()
        }
        _ => heard_of(entry).token,
    }
}

/// What somebody who comes in now is shown.
pub struct Newcomer {
    pub board: Board,
    pub text: String,
}

impl Newcomer {
    pub async fn of(client: &Client) -> anyhow::Result<Self> {
        client.expect("users").await?;
        let (mut board, doc) = (Board::default(), Doc::new());
        let text = doc.get_or_insert_text("content");
        for frame in client.frames() {
            match frame["type"].as_str() {
                Some("board") => board.show(&frame),
                Some("sync") => {
                    let bytes = hex::decode(frame["data"].as_str().context("data")?)?;
                    let update = Update::decode_v1(&bytes)?;
                    doc.transact_mut().apply_update(update)?;
                }
                _ => {}
            }
        }
        let text = text.get_string(&doc.transact());
        Ok(Self { board, text })
    }
}
