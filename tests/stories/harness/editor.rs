//! Somebody with an editor: a socket, and a Yjs document of their own.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, TextRef, Transact, Update};

use super::{Client, Door, Told};

/// Somebody with an editor: a socket and their own copy of the document.
pub struct Editor {
    pub client: Client,
    pub doc: Doc,
    text: TextRef,
    /// Frames that are applied.
    pub seen: usize,
}

impl Editor {
    pub async fn enter(door: &Door) -> anyhow::Result<Self> {
        let client = door.enter().await?;
        client.expect("users").await?;
        let doc = Doc::new();
        let text = doc.get_or_insert_text("content");
        Ok(Self {
            client,
            doc,
            text,
            seen: 0,
        })
    }

    /// Types at a place; the increment that says so.
    pub fn type_at(&self, place: u32, what: &str) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        let place = place.min(self.text.len(&transaction));
        self.text.insert(&mut transaction, place, what);
        transaction.encode_update_v1()
    }

    pub fn append(&self, what: &str) -> Vec<u8> {
        self.type_at(u32::MAX, what)
    }

    pub fn cut(&self, place: u32, length: u32) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        let all = self.text.len(&transaction);
        let place = place.min(all);
        self.text
            .remove_range(&mut transaction, place, length.min(all - place));
        transaction.encode_update_v1()
    }

    pub fn state(&self) -> Vec<u8> {
        let transaction = self.doc.transact();
        transaction.encode_state_as_update_v1(&StateVector::default())
    }

    pub fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    pub fn apply(&self, frame: &Value) -> Told {
        let update = hex::decode(frame["data"].as_str().context("data")?)?;
        let update = Update::decode_v1(&update)?;
        self.doc.transact_mut().apply_update(update)?;
        Ok(())
    }

    /// Applies whatever came since the last time.
    pub fn catch_up(&mut self) -> Told {
        let frames = self.client.frames();
        for frame in &frames[self.seen..] {
            if frame["type"] == "update" || frame["type"] == "sync" {
                self.apply(frame)?;
            }
        }
        self.seen = frames.len();
        Ok(())
    }

    /// Waits until the text is what the story says.
    pub async fn reads(&mut self, wanted: &str) -> Told {
        let client = &self.client;
        let (doc, text) = (&self.doc, &self.text);
        let applied = std::cell::Cell::new(self.seen);
        let reads = client
            .until(
                &format!("the text {wanted:?}"),
                Duration::from_secs(60),
                |frames| {
                    for frame in &frames[applied.replace(frames.len())..] {
                        let bytes = match frame["type"].as_str() {
                            Some("update" | "sync") => frame["data"].as_str(),
                            _ => None,
                        };
                        let update = bytes.and_then(|text| hex::decode(text).ok());
                        let update = update.and_then(|bytes| Update::decode_v1(&bytes).ok());
                        if let Some(update) = update {
                            let _ = doc.transact_mut().apply_update(update);
                        }
                    }
                    text.get_string(&doc.transact()) == wanted
                },
            )
            .await;
        self.seen = applied.get();
        reads.with_context(|| format!("it reads {:?}", self.text()))
    }

    pub async fn send(&self, update: &[u8]) -> Told {
        self.client.send(message(update)).await
    }

    /// Sends and waits until it is logged; its seq.
    pub async fn log(&self, update: &[u8]) -> anyhow::Result<u64> {
        self.client.log(message(update)).await
    }
}

/// The `update` that carries these bytes.
pub fn message(update: &[u8]) -> Value {
    json!({"type": "update", "data": hex::encode(update)})
}
