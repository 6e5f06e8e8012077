//! What one member sees of its room, folded from the frames it was sent, and what must hold of the frames themselves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Text, TextRef, Transact, Update};

use super::board::Board;
use crate::harness::Told;

/// An entry of the log, as far as its readers can tell entries from one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub kind: String,
    /// The token in it; empty where an entry of this kind holds none.
    pub token: String,
}

pub struct View {
    /// Entries by seq, without draws: those are joined on their way, and compared as the drawing they make.
    pub heard: BTreeMap<u64, Heard>,
    pub board: Board,
    /// The seq of the last `clear`.
    pub cleared: u64,
    pub doc: Doc,
    text: TextRef,
    pub people: BTreeSet<String>,
    /// Who has left since they were last seen here.
    left: BTreeSet<String>,
    /// `user_left`s of each, on this socket.
    pub leaves: BTreeMap<String, usize>,
    /// Messages that others may react to: ids, with the seq they were said at.
    pub messages: BTreeMap<String, u64>,
}

impl View {
    pub fn new() -> Self {
        let doc = Doc::new();
        let text = doc.get_or_insert_text("content");
        Self {
            heard: BTreeMap::new(),
            board: Board::default(),
            cleared: 0,
            doc,
            text,
            people: BTreeSet::new(),
            left: BTreeSet::new(),
            leaves: BTreeMap::new(),
            messages: BTreeMap::new(),
        }
    }

    pub fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    /// Types, or cuts; the increment that says so.
    pub fn type_at(&self, place: u32, what: &str) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        let length = self.text.len(&transaction);
        self.text
            .insert(&mut transaction, place % (length + 1), what);
        transaction.encode_update_v1()
    }

    pub fn cut(&self, place: u32, length: u32) -> Option<Vec<u8>> {
        let mut transaction = self.doc.transact_mut();
        let all = self.text.len(&transaction);
        let length = (length % 6 + 1).min(all);
        if length == 0 {
            return None;
        }
        self.text
            .remove_range(&mut transaction, place % (all - length + 1), length);
        Some(transaction.encode_update_v1())
    }

    pub fn merge(&self, frame: &Value) -> Told {
        let update = hex::decode(frame["data"].as_str().context("data")?)?;
        let update = Update::decode_v1(&update)?;
        self.doc.transact_mut().apply_update(update)?;
        Ok(())
    }

    pub fn draw(&mut self, draw: &Value, by: &str, seq: u64) {
        if draw["clear"] == true {
            self.cleared = self.cleared.max(seq);
        }
        self.board.draw(draw, by);
    }

    /// An entry that is no draw.
    pub fn hear(&mut self, seq: u64, heard: Heard) -> Told {
        if let Some(before) = self.heard.get(&seq) {
            bail!("seq {seq} was {before:?} and is {heard:?}");
        }
        self.heard.insert(seq, heard);
        Ok(())
    }

    /// What it knows beyond `seq` does not count any more.
    pub fn forget_after(&mut self, seq: u64) {
        self.heard.split_off(&(seq + 1));
        self.messages.retain(|_, at| *at <= seq);
    }

    pub fn new_socket(&mut self) {
        self.left.clear();
        self.leaves.clear();
        self.people.clear();
    }

    pub fn listed(&mut self, users: &Value) {
        self.people.clear();
        for user in users.as_array().into_iter().flatten() {
            let id = user["id"].as_str().unwrap_or_default().to_owned();
            self.left.remove(&id);
            self.people.insert(id);
        }
    }

    pub fn joined(&mut self, frame: &Value) {
        let id = frame["userId"].as_str().unwrap_or_default().to_owned();
        self.left.remove(&id);
        self.people.insert(id);
    }

    pub fn left(&mut self, frame: &Value) -> Told {
        let id = frame["userId"].as_str().unwrap_or_default().to_owned();
        self.people.remove(&id);
        *self.leaves.entry(id.clone()).or_default() += 1;
        ensure!(
            self.left.insert(id.clone()),
            "{id} left twice without having come back"
        );
        Ok(())
    }
}

/// What an entry is about, for whoever compares two sights of it.
pub fn heard_of(frame: &Value) -> Heard {
    let kind = frame["type"].as_str().unwrap_or_default().to_owned();
    let token = match kind.as_str() {
        "chat_message" | "direct_message" | "chat_edited" => {
            frame["content"].as_str().unwrap_or_default().to_owned()
        }
        "session_update" => {
            let values = frame["data"].as_object().into_iter().flatten();
            values
                .filter_map(|(_, value)| value.as_str())
                .next()
                .unwrap_or_default()
                .to_owned()
        }
        "update" => {
            let bytes = hex::decode(frame["data"].as_str().unwrap_or_default());
            token_in(&bytes.unwrap_or_default())
        }
        _ => String::new(),
    };
    Heard { kind, token }
}

/// Tokens are typed between brackets. (A clock of 91 is a bracket, too, to whoever looks at the bytes.)
fn token_in(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|b| char::from(*b)).collect();
    let is_token = |text: &&str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '~');
        text.contains('~') && text.chars().all(fits)
    };
    let token = text
        .split('[')
        .filter_map(|rest| Some(rest.split_once(']')?.0))
        .find(is_token);
    token.unwrap_or_default().to_owned()
}
