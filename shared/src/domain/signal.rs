//! What pods tell one another about a room beside its entries. Never stored; a lost signal is repaired from
//! [`crate::ports::Presence`] or the log, never relied on alone.

use serde::{Deserialize, Serialize};

use super::Invalid;
use super::ids::{ClientId, ConnectionId, Epoch, JobId, PodId, Seq, UserId};
use super::presence::Member;
use super::room::word_enum;
use std::str::FromStr;

word_enum!(
    /// Kinds of ephemeral message; the latest of each kind from each client is all that matters.
    EphemeralKind, "type" {
        Cursor = "cursor",
        Selection = "selection",
        CursorUpdate = "cursor_update",
        ViewportUpdate = "viewport_update",
        PresenceUpdate = "presence_update",
        Typing = "typing",
        Receipt = "receipt",
    }
);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "s", rename_all = "snake_case")]
pub enum Signal {
    /// The latest value of one kind from one client; `frame` is the JSON text that the others receive.
    Ephemeral {
        pod: PodId,
        client_id: ClientId,
        kind: EphemeralKind,
        frame: String,
    },
    /// Somebody entered, or changed what others see of them.
    Present {
        member: Box<Member>,
    },
    /// A connection is gone; told once for each (presence removes it by compare-and-delete).
    Left {
        client_id: ClientId,
        connection: ConnectionId,
        reason: Option<String>,
    },
    /// What one editor shows of itself (Yjs awareness), by the connection that brought it; the highest clock counts.
    Awareness {
        pod: PodId,
        connection: ConnectionId,
        client: u64,
        clock: u64,
        /// JSON text; `None`: gone.
        state: Option<String>,
    },
    /// A pod has just loaded the room, or missed something: the others say again what their own editors show.
    AwarenessQuery {
        pod: PodId,
    },
    /// Any text from one client for all who follow the document (Hocuspocus).
    Stateless {
        pod: PodId,
        payload: String,
    },
    /// All up to `seq` is in the archive.
    Archived {
        epoch: Epoch,
        seq: Seq,
    },
    /// The log was lost or rolled back; everybody reloads.
    EpochRaised {
        epoch: Epoch,
    },
    /// The pod that holds this connection closes it: its own principal came again.
    Replaced {
        connection: ConnectionId,
    },
    /// Is whoever holds this connection still there? The pod that has it asks the socket and answers `Alive`.
    Challenge {
        connection: ConnectionId,
    },
    Alive {
        connection: ConnectionId,
    },
    /// Close this person's connections (kicked, membership lost).
    Removed {
        user_id: UserId,
        reason: String,
    },
    /// A piece of a running program's output; read again from the job by offset when lost.
    RunOutput {
        run_id: JobId,
        stream: String,
        chunk: String,
        offset: u64,
    },
    /// The room's row changed (who may enter, what is allowed): it is read again.
    Changed,
    /// Told to everybody who is connected here, ahead of what will become of the room.
    Notice {
        code: String,
        message: String,
        in_ms: u64,
    },
    /// The room is gone.
    Closed {
        reason: String,
    },
}
