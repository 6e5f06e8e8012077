//! What a crowd speaks: how its clients come in, what they say first, and how a message is framed.

use crate::{frame, yjs};

/// A protocol, as this and other servers speak it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Atelier's own.
    Json,
    /// y-websocket.
    Yjs,
    Hocuspocus,
    SocketIo,
}

impl Dialect {
    /// The request's path.
    pub fn path(self, group: &str, room: usize, place: usize) -> String {
        match self {
            Self::Json => format!("/api/ws/{group}-{room}?client_id=r{room}p{place}"),
            // y-websocket's server takes the whole path for the document's name.
            Self::Yjs => format!("/yjs/{group}-{room}"),
            Self::Hocuspocus => "/hocuspocus".into(),
            Self::SocketIo => {
                format!("/socket.io/?EIO=4&transport=websocket&room={group}-{room}")
            }
        }
    }

    /// Appends what a client says when it comes in.
    pub fn push_opening(self, group: &str, room: usize, index: usize, out: &mut Vec<u8>) {
        match self {
            Self::Json => {
                let join =
                    format!(r##"{{"type":"join","name":"Person {index}","color":"#3B82F6"}}"##);
                frame::push_client(frame::TEXT, join.as_bytes(), out);
            }
            Self::Yjs => frame::push_client(frame::BINARY, &yjs::STEP_1, out),
            Self::Hocuspocus => {
                let name = document(group, room);
                for message in [&yjs::NO_TOKEN[..], &yjs::STEP_1] {
                    let message = yjs::of_document(&name, message);
                    frame::push_client(frame::BINARY, &message, out);
                }
            }
            // "Connect" to the default namespace.
            Self::SocketIo => frame::push_client(frame::TEXT, b"40", out),
        }
    }

    /// Appends a frame that edits the room's document.
    pub fn push_update(self, group: &str, room: usize, update: &[u8], out: &mut Vec<u8>) {
        let mut message = yjs::update_message(update);
        if self == Self::Hocuspocus {
            message = yjs::of_document(&document(group, room), &message);
        }
        frame::push_client(frame::BINARY, &message, out);
    }

    /// Appends what a client sends now and then lest it be taken for dead: Hocuspocus closes after a minute without a
    /// message. Nothing for those whose pings are enough.
    pub fn push_sign_of_life(self, group: &str, room: usize, out: &mut Vec<u8>) {
        match self {
            Self::Json | Self::SocketIo => {}
            Self::Yjs => frame::push_client(frame::BINARY, &yjs::NO_AWARENESS, out),
            Self::Hocuspocus => {
                let message = yjs::of_document(&document(group, room), &yjs::NO_AWARENESS);
                frame::push_client(frame::BINARY, &message, out);
            }
        }
    }
}

fn document(group: &str, room: usize) -> String {
    format!("{group}-{room}")
}
