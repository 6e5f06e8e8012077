//! What one binary connection says, answered or handed to its room: on the connection's own task, so that whoever asks for
//! much reads nothing more until they have it.

use std::sync::atomic::Ordering;

use atelier_shared::domain::document::EMPTY_UPDATE;
use atelier_shared::domain::entry::Body;
use bytes::Bytes;
use chrono::Utc;

use super::message::{self, Message};
use super::{hocuspocus, lib0};
use crate::metrics::MessageLabels;
use crate::room::actor::Command;
use crate::room::connection::Connection;
use crate::room::dialect::Dialect;
use crate::room::document::{DocumentSnapshot, NotTaken};
use crate::room::follower::{Follower, Gone};
use crate::room::json::incoming::Durable;

/// The state vector of somebody who has nothing.
const NO_STATE: [u8; 1] = [0];

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Taken,
    /// It can't be taken, for this reason; its sender may be told.
    Refused(String),
}

impl From<lib0::Malformed> for Heard {
    fn from(malformed: lib0::Malformed) -> Self {
        Self::Refused(malformed.to_string())
    }
}

impl Follower {
    pub async fn hear(&self, message: Message<'_>) -> Result<Heard, Gone> {
        self.count(message.kind());
        self.spoke().await?;
        let connection = self.connection.id;
        match message {
            Message::Step1(state_vector) => return self.answer_step_1(state_vector).await,
            Message::Step2(update) => {
                self.connection.answered.store(true, Ordering::Relaxed);
                return self.edit(update).await;
            }
            Message::Update(update) => return self.edit(update).await,
            Message::Awareness(shown) if shown.is_empty() => {}
            Message::Awareness(shown) => {
                let may_echo = self.connection.answered.load(Ordering::Relaxed);
                self.tell(Command::Awareness {
                    connection,
                    shown,
                    may_echo,
                })
                .await?;
            }
            Message::QueryAwareness => self.tell(Command::QueryAwareness { connection }).await?,
        }
        Ok(Heard::Taken)
    }

    pub fn count(&self, kind: &'static str) {
        let received = &self.rooms.metrics.messages_received;
        received.get_or_create(&MessageLabels { kind }).inc();
        self.rooms.metrics.traffic.message();
    }

    /// Any application message keeps its person present, and brings back who was dropped for silence.
    pub async fn spoke(&self) -> Result<(), Gone> {
        if self.stirs() {
            self.comes_back().await?;
        }
        Ok(())
    }

    /// Its person is present. True: they had been dropped for silence.
    pub fn stirs(&self) -> bool {
        let connection = &self.connection;
        let now_ms = Utc::now().timestamp_millis();
        connection.spoke_ms.store(now_ms, Ordering::Relaxed);
        let dropped = &connection.dropped;
        dropped.load(Ordering::Relaxed) && dropped.swap(false, Ordering::Relaxed)
    }

    pub async fn comes_back(&self) -> Result<(), Gone> {
        let (connection, join) = (self.connection.id, Box::default());
        self.tell(Command::Join { connection, join }).await
    }

    /// Sends what the client lacks: always an answer, also an empty one, or it would never be synced.
    async fn answer_step_1(&self, state_vector: &[u8]) -> Result<Heard, Gone> {
        let document = self.handle.document().await.map_err(|_| Gone)?;
        let connection = &self.connection;
        let (frame, ours) = match document {
            // It was allowed when the client came.
            None => {
                let nothing = message::step_2(&EMPTY_UPDATE);
                (connection.binary_frame(&nothing), NO_STATE.to_vec())
            }
            Some(document) => {
                let frame = if *state_vector == NO_STATE {
                    document.whole(connection).await
                } else {
                    let theirs = Bytes::copy_from_slice(state_vector);
                    match document.diff(theirs).await {
                        Ok(diff) => connection.binary_frame(&message::step_2(&diff)),
                        Err(malformed) => return Ok(Heard::Refused(malformed.to_string())),
                    }
                };
                (frame, document.snapshot.state_vector())
            }
        };
        connection.send_large(frame);
        if connection.dialect == Dialect::Hocuspocus {
            // A provider counts its own changes as unsaved until it has been asked for them.
            connection.send_raw(connection.binary_frame(&message::step_1(&ours)));
        }
        self.flush().await?;
        Ok(Heard::Taken)
    }

    /// Checks an update, and hands it to the room to be logged.
    async fn edit(&self, update: &[u8]) -> Result<Heard, Gone> {
        if *update == EMPTY_UPDATE {
            self.connection.applied();
            return Ok(Heard::Taken);
        }
        let data = Bytes::copy_from_slice(update);
        let checked = Box::pin(self.handle.check(&data)).await;
        match checked.map_err(|_| Gone)? {
            Ok(()) => {}
            Err(NotTaken::Malformed(malformed)) => {
                if malformed.is_sound() {
                    // No editor's doing: its sender is told.
                    self.connection.not_applied(&malformed.to_string());
                }
                return Ok(Heard::Refused(malformed.to_string()));
            }
            Err(busy @ NotTaken::Busy) => {
                self.connection.refuse(&busy.error());
                return Ok(Heard::Taken);
            }
        }
        let message = Box::new(Durable {
            reference: None,
            body: Body::DocumentUpdate { data },
            to: None,
            audience: None,
            about: None,
            traceparent: None,
        });
        let connection = self.connection.id;
        self.tell(Command::Durable {
            connection,
            message,
        })
        .await?;
        Ok(Heard::Taken)
    }
}

impl Connection {
    /// An update of this connection is part of the document: Hocuspocus counts them.
    pub fn applied(&self) {
        if self.dialect == Dialect::Hocuspocus {
            self.send_raw(self.applied_frame());
        }
    }

    pub fn applied_frame(&self) -> Bytes {
        message::frame(&hocuspocus::sync_status(self.key(), true))
    }

    /// Its token runs out (Hocuspocus: a provider sends another when asked).
    pub fn ask_for_token(&self) {
        if self.dialect == Dialect::Hocuspocus {
            let ask = hocuspocus::ask_for_token(self.key());
            self.send_raw(message::frame(&ask));
        }
    }

    /// An update of this connection is not taken.
    pub fn not_applied(&self, reason: &str) {
        match self.dialect {
            Dialect::Json => {}
            Dialect::Yjs => self.send_raw(message::frame(&message::denied(reason))),
            Dialect::Hocuspocus => {
                let status = hocuspocus::sync_status(self.key(), false);
                self.send_raw(message::frame(&status));
            }
        }
    }
}

impl DocumentSnapshot {
    /// All of it as a step 2, in the connection's dialect: encoded once however many ask for it.
    pub async fn whole(&self, connection: &Connection) -> Bytes {
        let encoded = match (connection.dialect, connection.own_key()) {
            (Dialect::Yjs, _) => &self.in_yjs,
            (_, None) => &self.in_hocuspocus,
            // Under a name of its own.
            (_, Some(_)) => return self.step_2_for(connection).await,
        };
        let encoded = encoded.get_or_init(|| self.step_2_for(connection));
        encoded.await.clone()
    }

    async fn step_2_for(&self, connection: &Connection) -> Bytes {
        connection.binary_frame(&message::step_2(&self.state().await))
    }
}
