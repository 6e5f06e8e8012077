//! One document of a Hocuspocus socket: waits for its token, takes its place in the room, and speaks for it until it leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::hocuspocus::{self, Frame, Said};
use super::message::{self, Message};
use super::socket::{Denied, Doorkeeper};
use super::talk::Heard;
use crate::identity::Principal;
use crate::room::actor::Command;
use crate::room::follower::{Follower, Gone};
use crate::room::outbound::Phase;
use crate::room::pace::Rate;
use crate::room::registry::Rooms;
use crate::room::shared_socket::SharedSocket;

/// Messages that wait for one document.
pub const WAITING_MAX: usize = 64;

/// What the socket's task hands over.
#[derive(Debug)]
pub enum Arrived {
    /// A frame for this document, whole; the permit bounds how many bytes wait on one socket.
    Frame(Bytes, OwnedSemaphorePermit),
    /// The socket gave a sign of life.
    Sound,
}

pub struct Channel {
    pub rooms: Rooms,
    pub doorkeeper: Arc<dyn Doorkeeper>,
    pub socket: Arc<SharedSocket>,
    pub key: Box<str>,
    pub arrivals: mpsc::Receiver<Arrived>,
    /// It has its place in a room; one that has not may be forgotten for the sake of others.
    pub is_in: Arc<AtomicBool>,
}

/// Why a document's connection is over.
enum End {
    /// The client let go of it, or was sent away: it may present a token again.
    Left,
    /// Came in without a token, and has one now.
    Again(String),
    Gone,
}

impl Channel {
    pub async fn run(mut self) {
        let mut denied = false;
        let mut next = self.first(denied).await;
        while let Some((token, early)) = next.take() {
            let Some(follower) = self.let_in(&token).await else {
                denied = true;
                next = self.first(denied).await;
                continue;
            };
            denied = false;
            let mut guest = Guest {
                rate: Rate::new(&self.rooms.config),
                has_token: !token.is_empty(),
                follower,
            };
            self.is_in.store(true, Ordering::Relaxed);
            let outcome = guest.stay(early, &mut self.arrivals).await;
            self.is_in.store(false, Ordering::Relaxed);
            guest.follower.leave().await;
            next = match outcome {
                Ok(End::Left) => self.first(denied).await,
                Ok(End::Again(token)) => Some((token, None)),
                Ok(End::Gone) | Err(Gone) => None,
            };
        }
    }

    /// The token. Providers before version 3 send none where none is configured: then their first sync message is what they
    /// come in with, unless they were just denied. What else comes is of a provider that was let go of.
    async fn first(&mut self, denied: bool) -> Option<(String, Option<Bytes>)> {
        loop {
            let Arrived::Frame(frame, _permit) = self.arrivals.recv().await? else {
                continue;
            };
            let Ok(Frame::Of { said, .. }) = hocuspocus::parse(&frame) else {
                continue;
            };
            match said {
                Said::Auth { token } => return Some((token.to_owned(), None)),
                Said::Message(Message::Step1(_)) if !denied => {
                    return Some((String::new(), Some(frame.clone())));
                }
                _ => {}
            }
        }
    }

    async fn let_in(&self, token: &str) -> Option<Follower> {
        let let_in = self.doorkeeper.let_in(&self.key, token).await;
        match let_in {
            Ok(admission) => Some(admission.share(&self.socket).await),
            Err(Denied::No(reason)) => {
                self.deny(&reason);
                None
            }
            Err(Denied::Later { code, reason }) => {
                self.socket.close(code, &reason);
                None
            }
        }
    }

    fn deny(&self, reason: &str) {
        let denied = hocuspocus::permission_denied(&self.key, reason);
        if !self.socket.send(message::frame(&denied)) {
            self.socket.close(4508, "answers are not read");
        }
    }
}

/// A document's connection that was let in.
struct Guest {
    follower: Follower,
    rate: Rate,
    has_token: bool,
}

impl Guest {
    async fn stay(
        &mut self,
        early: Option<Bytes>,
        arrivals: &mut mpsc::Receiver<Arrived>,
    ) -> Result<End, Gone> {
        if let Some(frame) = early
            && let Some(end) = self.take(&frame).await?
        {
            return Ok(end);
        }
        loop {
            let connection = self.follower.connection.clone();
            if let Some(start) = connection.take_start() {
                self.follower.begin(*start).await?;
                continue;
            }
            // Before the attempt: room that is made during it is not missed.
            let room = connection.shared_socket().map(SharedSocket::has_room);
            let feed = &self.follower.handle.shared.feed;
            let all_written = connection.drain(feed).map_err(|_| Gone)?;
            match connection.phase() {
                Phase::Closing if all_written => return Ok(End::Left),
                Phase::Behind if all_written => {
                    self.follower.catch_up().await?;
                    continue;
                }
                _ => {}
            }
            tokio::select! {
                // Nothing more is taken from a client that does not read its answers.
                arrived = arrivals.recv(), if all_written => match arrived {
                    None => return Ok(End::Gone),
                    Some(Arrived::Sound) => self.sound().await?,
                    Some(Arrived::Frame(frame, _permit)) => {
                        self.sound().await?;
                        if let Some(end) = self.take(&frame).await? {
                            return Ok(end);
                        }
                    }
                },
                () = async { if let Some(room) = room { room.await } }, if !all_written => {}
                () = connection.wake.notified() => {}
            }
        }
    }

    /// A sign of life, for whoever asked for one.
    async fn sound(&self) -> Result<(), Gone> {
        let connection = &self.follower.connection;
        connection.heard(chrono::Utc::now().timestamp_millis());
        if connection.challenged.swap(false, Ordering::Relaxed) {
            let connection = connection.id;
            self.follower.tell(Command::Alive { connection }).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: &[u8]) -> Result<Option<End>, Gone> {
        if self.follower.connection.phase() == Phase::Closing {
            return Ok(None);
        }
        let heard = match hocuspocus::parse(frame) {
            Ok(Frame::Of { said, .. }) => match said {
                Said::Message(message) => self.follower.hear(message).await?,
                Said::Auth { token } if !self.has_token && !token.is_empty() => {
                    return Ok(Some(End::Again(token.to_owned())));
                }
                Said::Auth { token } => self.renew(token).await?,
                Said::Stateless(payload) => self.stateless(payload).await?,
                Said::Close => {
                    self.follower.count(said.kind());
                    return Ok(Some(End::Left));
                }
            },
            Ok(Frame::Ping | Frame::Pong) => Heard::Taken,
            Err(malformed) => malformed.into(),
        };
        if let Heard::Refused(reason) = heard {
            tracing::debug!(%reason, "a message was refused");
            self.follower.rooms.metrics.messages_refused.inc();
            self.follower.connection.count_refusal();
        }
        Ok(None)
    }

    async fn stateless(&mut self, payload: &str) -> Result<Heard, Gone> {
        self.follower.count("stateless");
        if self.rate.take(&self.follower.rooms.config).is_err() {
            return Ok(Heard::Refused("too many messages; slow down".into()));
        }
        self.follower.spoke().await?;
        let stateless = Command::Stateless {
            connection: self.follower.connection.id,
            payload: payload.to_owned(),
        };
        self.follower.tell(stateless).await?;
        Ok(Heard::Taken)
    }

    /// A token again: a new one for the same person, or the same once more.
    async fn renew(&self, token: &str) -> Result<Heard, Gone> {
        self.follower.count("auth");
        let connection = &self.follower.connection;
        if !token.is_empty() {
            let Ok(principal) = self.follower.rooms.identity.authenticate(token).await else {
                return Ok(Heard::Refused("this token does not count".into()));
            };
            if principal.user_id != connection.person() {
                connection.close(4403, "this token is somebody else's");
                return Ok(Heard::Taken);
            }
            self.renewed(principal).await?;
        }
        let connection = connection.id;
        self.follower.tell(Command::Scope { connection }).await?;
        Ok(Heard::Taken)
    }

    async fn renewed(&self, principal: Principal) -> Result<(), Gone> {
        let connection = self.follower.connection.id;
        self.follower
            .rooms
            .is_of_login(connection, principal.family);
        let principal = Box::new(principal);
        self.follower
            .tell(Command::Renewed {
                connection,
                principal,
            })
            .await
    }
}
