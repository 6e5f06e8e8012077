//! What comes of the work that a room's task begins and does not wait for. What was asked of the log says in which epoch: by the
//! time it is answered another may have begun.

use atelier_shared::domain::document::{Document, Malformed, Merge};
use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{ConnectionId, Epoch, Ref, Seq};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::state::RoomState;
use atelier_shared::ports::{LogHead, Refusal, Result};
use bytes::Bytes;

use super::epoch::{LastApplied, Looked};
use super::json::outgoing::ErrorFrame;
use super::names::NameAsked;
use super::pending::{Pending, Place};
use super::roles::RolesRead;
use super::submit::Found;

/// Everybody in the room, as presence knows them.
#[derive(Debug)]
pub struct People {
    pub members: Vec<Member>,
    /// Presence has remembered for so long that whoever is missing is gone.
    pub complete: bool,
}

/// What came of work that the room's task did not wait for.
pub enum Done {
    Appended {
        epoch: Epoch,
        batch: Vec<Pending>,
        result: Result<(Vec<Place>, bool), Refusal>,
    },
    /// Entries read back for a hole; `None`: another epoch.
    Repaired {
        epoch: Epoch,
        read: Result<Option<Vec<Entry>>>,
    },
    Looked(Looked),
    /// What stands where the last entry was applied.
    LastRead {
        epoch: Epoch,
        last: LastApplied,
        there: Option<Box<Entry>>,
    },
    Activated(Result<Box<(LogHead, RoomState, Seq)>>),
    People(Result<People>),
    /// Changed members are in presence, but for these.
    PeopleWritten {
        unwritten: Vec<ConnectionId>,
    },
    /// Connections of this pod took their places in presence again, as they were when that began.
    PeopleEntered(Vec<ConnectionId>),
    Roles(Result<Option<Box<RolesRead>>>),
    Found(Found),
    /// A submission was carried out elsewhere, or refused. An ack is of the log of this epoch.
    Submitted {
        connection: ConnectionId,
        reference: Option<Ref>,
        epoch: Epoch,
        told: std::result::Result<Option<Bytes>, ErrorFrame>,
    },
    /// The ack of a resend.
    Again {
        connection: ConnectionId,
        epoch: Epoch,
        ack: Bytes,
    },
    Published,
    Merged {
        merge: Merge,
        merged: Option<std::result::Result<Bytes, Malformed>>,
    },
    DocumentRead(Result<Document>),
    NameAsked(Box<NameAsked>),
    Nothing,
}
