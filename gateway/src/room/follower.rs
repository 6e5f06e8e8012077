//! What a connection's own task does with its room's feed: begins and replays what the room ordered, catches up from the
//! log, fetches the document.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{Epoch, Seq};
use atelier_shared::recovery;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::actor::{BoardSnapshot, Command};
use super::admission::leave_presence;
use super::connection::{Connection, Start};
use super::dialect::Dialect;
use super::json::outgoing;
use super::lost::Replayed;
use super::outbound::Phase;
use super::past::Past;
use super::registry::{Handle, Rooms};
use super::session::CLOSE_PATIENCE;
use super::shared_socket::SharedSocket;
use super::yjs::message;

/// Entries replayed from the log at a time.
const REPLAY_PAGE: usize = 256;

/// The socket is gone, or the room is; there is nobody to tell.
#[derive(Debug)]
pub struct Gone;

/// One connection in one room.
pub struct Follower {
    pub rooms: Rooms,
    pub handle: Handle,
    pub connection: Arc<Connection>,
}

impl Follower {
    pub async fn tell(&self, command: Command) -> Result<(), Gone> {
        self.handle.mailbox.send(command).await.map_err(|_| Gone)
    }

    /// The connection is over: its room is told, or presence where the room's task is not there to do it.
    pub async fn leave(&self) {
        let id = self.connection.id;
        self.rooms.sockets.remove(&id);
        self.rooms.metrics.connections.dec();
        let leave = Command::Leave { connection: id };
        if self.handle.mailbox.send(leave).await.is_err() {
            let client_id = &self.connection.client_id;
            Box::pin(leave_presence(&self.rooms, &self.handle, client_id, id)).await;
        }
    }

    pub fn event(&self, kind: &str, details: &str) {
        let (room, who) = (&self.handle.shared.id, &self.connection.client_id);
        self.rooms.metrics.traffic.event(kind, room, who, details);
    }

    /// Carries out what the room ordered: first frames, board, replay, last frames; then the ring has it.
    pub async fn begin(&self, start: Start) -> Result<(), Gone> {
        self.connection.push(start.first);
        if let Some(document) = start.document {
            let frame = match self.connection.dialect {
                Dialect::Json => document.sync_frame().await,
                Dialect::Yjs | Dialect::Hocuspocus => document.whole(&self.connection).await,
            };
            self.connection.send_large(frame);
            self.flush().await?;
        }
        if let Some(board) = start.board {
            for frame in board_frames(&board).await {
                self.connection.push([frame]);
                self.flush().await?;
            }
        }
        if let Some((epoch, after)) = start.replay
            && !self.replay(epoch, after, start.delivered, true).await?
        {
            // The epoch ended under it: the room is about to order a restart.
            return Ok(());
        }
        self.connection.push(start.last);
        self.pass_over_up_to(start.cursor);
        self.connection
            .follow(start.cursor, Some(start.latest_seen), start.delivered);
        Ok(())
    }

    /// Fell off the ring: entries come from the log until the ring has the next one.
    pub async fn catch_up(&self) -> Result<(), Gone> {
        loop {
            let delivered = self.connection.delivered();
            let (position, last) = {
                let feed = self.handle.shared.feed.read();
                (feed.ring.position_after(delivered), feed.ring.last_seq())
            };
            if let Some(cursor) = position {
                // What was not in the log (who came and went) was missed: the room tells it whole.
                let connection = self.connection.id;
                self.tell(Command::Users { connection }).await?;
                self.pass_over_up_to(cursor);
                self.connection.follow(cursor, None, delivered);
                return Ok(());
            }
            let epoch = self.handle.shared.epoch();
            if !self.replay(epoch, delivered, last, false).await? {
                return Ok(());
            }
        }
    }

    /// What it alone was told in between, and the log does not tell again, comes now.
    fn pass_over_up_to(&self, cursor: u64) {
        let frames = {
            let feed = self.handle.shared.feed.read();
            self.connection.passes_over(&feed, cursor)
        };
        self.connection.push(frames);
    }

    /// Entries after `after` up to `to`, from log or archive, page by page. `own`: also those this very socket wrote, as
    /// entries; else they come as the acks they are owed. False: interrupted by a close, a new order or a new epoch.
    async fn replay(&self, epoch: Epoch, after: Seq, to: Seq, own: bool) -> Result<bool, Gone> {
        let b = self.rooms.backends.clone();
        let room = self.handle.shared.id.clone();
        let mut at = after;
        while at < to {
            let page =
                recovery::read_after(&*b.log, &*b.archive, &room, epoch, at, REPLAY_PAGE).await;
            let page = match page {
                Ok(Some(mut page)) => {
                    let nameless = self.rooms.profiles.anonymise_entries(&mut page).await;
                    nameless.map(|()| Some(page))
                }
                other => other,
            };
            let page = match page {
                Ok(Some(page)) if !page.is_empty() => page,
                Ok(Some(_)) | Err(_) => {
                    // The stores are away or not there yet: the reader waits, it does not lose its place.
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    if self.connection.phase() == Phase::Closing {
                        return Ok(false);
                    }
                    continue;
                }
                Ok(None) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    return Ok(false);
                }
            };
            let Replayed { page, receipts } = self.without_outdone(page).await?;
            let Some(past) = Past::of(&self.rooms, &self.handle, &page).await else {
                // As above.
                tokio::time::sleep(Duration::from_millis(250)).await;
                continue;
            };
            let frames: Vec<Bytes> = page
                .iter()
                .take_while(|entry| entry.seq <= to)
                .filter_map(|entry| match receipts.get(&entry.seq) {
                    Some(receipt) if !own => Some(receipt.clone()),
                    _ => self.shown(entry, &past, own),
                })
                .collect();
            at = page.last().map_or(to, |entry| entry.seq).min(to);
            self.connection.push(frames);
            self.connection.replayed(at);
            self.flush().await?;
            if self.connection.phase() == Phase::Closing {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn without_outdone(&self, page: Vec<Entry>) -> Result<Replayed, Gone> {
        let draws = |entry: &Entry| matches!(entry.record.body, Body::Draw(_));
        if self.connection.dialect != Dialect::Json || !page.iter().any(draws) {
            let receipts = BTreeMap::new();
            return Ok(Replayed { page, receipts });
        }
        let (reply, answer) = oneshot::channel();
        let connection = self.connection.id;
        self.tell(Command::NotOutdone {
            page,
            connection,
            reply,
        })
        .await?;
        answer.await.map_err(|_| Gone)
    }

    fn shown(&self, entry: &Entry, past: &Past, own: bool) -> Option<Bytes> {
        if !entry.visible_to(self.connection.person()) {
            return None;
        }
        let is_own = entry.record.author.connection == Some(self.connection.id);
        if self.connection.dialect != Dialect::Json {
            let Body::DocumentUpdate { data } = &entry.record.body else {
                return None;
            };
            if is_own && self.connection.dialect == Dialect::Hocuspocus {
                return Some(self.connection.applied_frame());
            }
            return Some(self.connection.binary_frame(&message::update(data)));
        }
        if is_own && !own {
            return outgoing::ack_of(entry);
        }
        let author = &entry.record.author.client_id;
        if let Body::Draw(batch) = &entry.record.body
            && batch.is_empty()
            && *author != self.connection.client_id
        {
            // All of it has lost since. Its author learns that it is stored.
            return None;
        }
        past.shown(entry, &self.rooms.identity)
    }

    /// Waits until everything pushed so far is in the kernel, while the room watches for progress.
    pub async fn flush(&self) -> Result<(), Gone> {
        loop {
            // Before the attempt: room that is made during it is not missed.
            let room = self.connection.shared_socket().map(SharedSocket::has_room);
            let all = self
                .connection
                .drain(&self.handle.shared.feed)
                .map_err(|_| Gone)?;
            if all || self.connection.phase() == Phase::Closing {
                return Ok(());
            }
            let writable = async {
                match room {
                    Some(room) => {
                        room.await;
                        Ok(())
                    }
                    None => self.connection.stream().writable().await,
                }
            };
            tokio::select! {
                writable = writable => writable.map_err(|_| Gone)?,
                // Given up on, perhaps.
                () = tokio::time::sleep(CLOSE_PATIENCE) => {}
            }
        }
    }
}

/// Encoded once, off the async threads, however many wait for it.
async fn board_frames(board: &Arc<BoardSnapshot>) -> Vec<Bytes> {
    let frames = board
        .frames
        .get_or_init(|| async {
            let snapshot = board.clone();
            let encode = move || outgoing::board(&snapshot.drawing.strokes(), snapshot.seq);
            tokio::task::spawn_blocking(encode)
                .await
                .unwrap_or_default()
        })
        .await;
    frames.clone()
}
