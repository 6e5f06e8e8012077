//! A client of y-websocket's dialect that reads only when it is told to: the sync protocol over a bare socket.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, TextRef, Transact, Update};

use super::client::Closed;
use super::door::{Door, Socket};
use super::{PATIENCE, Told};

const SYNC: u8 = 0;
const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;
const AUTH: u8 = 2;
const DENIED: u8 = 0;

/// A document of one's own, and perhaps a connection.
pub struct YjsClient {
    pub doc: Doc,
    text: TextRef,
    socket: Option<Socket>,
    /// `update`s that came, its own coming back among them.
    pub updates: usize,
    /// Why things were not taken.
    denied: Vec<String>,
}

impl YjsClient {
    pub fn offline() -> Self {
        let doc = Doc::new();
        let text = doc.get_or_insert_text("content");
        Self {
            doc,
            text,
            socket: None,
            updates: 0,
            denied: Vec::new(),
        }
    }

    pub fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    /// Writes at the end, for nobody else yet.
    pub fn write(&self, what: &str) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        let end = self.text.len(&transaction);
        self.text.insert(&mut transaction, end, what);
        transaction.encode_update_v1()
    }

    /// Comes in and asks for what it lacks, as a provider does. Whatever is asked of it it answers when it reads.
    pub async fn connect(&mut self, door: &Door) -> Told {
        self.socket = Some(door.socket().await?);
        let have = self.doc.transact().state_vector().encode_v1();
        self.send(STEP_1, &have).await
    }

    pub async fn send_update(&mut self, update: &[u8]) -> Told {
        self.send(UPDATE, update).await
    }

    async fn send(&mut self, step: u8, bytes: &[u8]) -> Told {
        let mut message = vec![SYNC, step];
        let mut length = bytes.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(bytes);
        let socket = self.socket.as_mut().context("it is offline")?;
        socket.send(Message::binary(message)).await?;
        Ok(())
    }

    /// Reads one message. `Some`: the socket has ended.
    async fn read(&mut self) -> anyhow::Result<Option<Closed>> {
        let socket = self.socket.as_mut().context("it is offline")?;
        let message = timeout(PATIENCE, socket.next())
            .await
            .context("nothing comes")?;
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(Some(frame)))) => {
                return Ok(Some(Closed {
                    code: frame.code.into(),
                    reason: frame.reason.to_string(),
                }));
            }
            Some(Ok(_)) => return Ok(None),
            Some(Err(_)) | None => {
                return Ok(Some(Closed {
                    code: 1006,
                    reason: String::new(),
                }));
            }
        };
        if let [AUTH, DENIED, _length, reason @ ..] = &bytes[..] {
            let reason = String::from_utf8_lossy(reason).into_owned();
            self.denied.push(reason);
            return Ok(None);
        }
        let [SYNC, step, rest @ ..] = &bytes[..] else {
            return Ok(None);
        };
        let length_ends = rest.iter().position(|byte| byte & 0x80 == 0);
        let body = &rest[length_ends.context("a length")? + 1..];
        match *step {
            STEP_1 => {
                let theirs = StateVector::decode_v1(body)?;
                let lacks = self.doc.transact().encode_state_as_update_v1(&theirs);
                self.send(STEP_2, &lacks).await?;
            }
            STEP_2 | UPDATE => {
                self.updates += usize::from(*step == UPDATE);
                let update = Update::decode_v1(body)?;
                self.doc.transact_mut().apply_update(update)?;
            }
            other => bail!("a sync message of kind {other}"),
        }
        Ok(None)
    }

    /// Reads until the text has so many bytes. `Some`: the socket has ended before.
    pub async fn read_to(
        &mut self,
        bytes: u32,
        patience: Duration,
    ) -> anyhow::Result<Option<Closed>> {
        let reading = async {
            while self.text.len(&self.doc.transact()) < bytes {
                if let Some(closed) = self.read().await? {
                    return Ok(Some(closed));
                }
            }
            Ok(None)
        };
        timeout(patience, reading)
            .await
            .with_context(|| format!("the text never had {bytes} bytes"))?
    }

    /// Reads until it is told why something is not taken.
    pub async fn denied(&mut self) -> anyhow::Result<String> {
        let reading = async {
            while self.denied.is_empty() {
                if let Some(closed) = self.read().await? {
                    bail!("closed instead: {closed:?}");
                }
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, reading).await.context("never denied")??;
        Ok(self.denied.remove(0))
    }

    /// Reads until its own update came back, which is how a provider knows that it is stored.
    pub async fn confirmed(&mut self) -> Told {
        let before = self.updates;
        let reading = async {
            while self.updates == before {
                if let Some(closed) = self.read().await? {
                    bail!("closed instead: {closed:?}");
                }
                ensure!(self.denied.is_empty(), "denied: {:?}", self.denied);
            }
            Ok(())
        };
        // Messages that only keep it content come all the while.
        timeout(PATIENCE * 2, reading)
            .await
            .context("its own update never came back")?
    }
}
