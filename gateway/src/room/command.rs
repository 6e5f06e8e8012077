//! What connections and the edge ask of a room's task.

use std::sync::Arc;

use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{ConnectionId, Epoch, Seq};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::reactions::ChatState;
use atelier_shared::domain::room::Room;
use atelier_shared::ports::Result;
use tokio::sync::oneshot;

use super::coming::OnTheWay;
use super::connection::Connection;
use super::document::DocumentSnapshot;
use super::json::incoming::{Durable, Ephemeral, Join, Run, StandingChange};
use super::lost::Replayed;
use super::returning::Shown;
use super::yjs::awareness::Entry as Editor;
use crate::identity::Principal;

/// What connections and the edge ask of a room. Small: a mailbox has places for some even where nobody asks.
#[derive(Debug)]
pub enum Command {
    Enter(Box<Enter>),
    Leave {
        connection: ConnectionId,
    },
    Join {
        connection: ConnectionId,
        join: Box<Join>,
    },
    Resume {
        connection: ConnectionId,
        epoch: Epoch,
        seq: Seq,
        /// Somebody anonymous has shown who they are.
        shown: Option<Box<Shown>>,
    },
    Renewed {
        connection: ConnectionId,
        principal: Box<Principal>,
    },
    Ephemeral {
        connection: ConnectionId,
        value: Box<Ephemeral>,
    },
    Durable {
        connection: ConnectionId,
        message: Box<Durable>,
    },
    Standing {
        connection: ConnectionId,
        change: StandingChange,
    },
    Run {
        connection: ConnectionId,
        run: Box<Run>,
    },
    /// Puts simulated people in.
    Simulate {
        count: usize,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Takes out those of this pod.
    EndSimulated,
    /// What the folded state says of chat: for who replays entries.
    Chat {
        reply: oneshot::Sender<ChatState>,
    },
    /// Entries that are replayed to this connection, without drawing that lost against a later write.
    NotOutdone {
        page: Vec<Entry>,
        connection: ConnectionId,
        reply: oneshot::Sender<Replayed>,
    },
    /// A replay reached the present: the connection wants to know who is here now.
    Users {
        connection: ConnectionId,
    },
    /// What an editor shows of itself (binary dialects).
    Awareness {
        connection: ConnectionId,
        shown: Vec<Editor>,
        /// It may be nothing but what the connection was told: providers say that again.
        may_echo: bool,
    },
    /// Asked for what everybody shows.
    QueryAwareness {
        connection: ConnectionId,
    },
    /// Tells a connection what it may do (Hocuspocus).
    Scope {
        connection: ConnectionId,
    },
    /// Any text for everybody (Hocuspocus).
    Stateless {
        connection: ConnectionId,
        payload: String,
    },
    Members {
        reply: oneshot::Sender<Vec<Member>>,
    },
    /// The document as it is now, with all that this connection has sent before; `None`: not allowed in this room.
    Document {
        asker: Option<ConnectionId>,
        reply: oneshot::Sender<Option<Arc<DocumentSnapshot>>>,
    },
    /// So deep does the document nest, where the room knew of `then` levels.
    Counted {
        then: usize,
        levels: usize,
    },
    /// Is this connection, on whichever pod, still there? Answered only if it is.
    Challenge {
        connection: ConnectionId,
        reply: oneshot::Sender<()>,
    },
    /// A challenged socket answered.
    Alive {
        connection: ConnectionId,
    },
    /// This pod's people may be missing in presence.
    LookWhoIsHere,
}

/// Somebody comes in, admitted and with an open socket.
#[derive(Debug)]
pub struct Enter {
    pub connection: Arc<Connection>,
    pub member: Member,
    pub principal: Principal,
    pub room: Room,
    pub resume: Option<(Epoch, Seq)>,
    /// Whose place in presence it took.
    pub replaces: Option<ConnectionId>,
    pub on_the_way: OnTheWay,
}
