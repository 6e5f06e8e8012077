//! Anonymous memory of the server for each connection, room and byte of a document, on Atelier and on stock servers from npm.

use anyhow::Result;

use super::idle::still_bytes;
use crate::Settings;
use crate::load::{Crowd, Dialect, Shape};
use crate::peers::Peer;
use crate::process::{OnLoadCore, SERVER_CORE};
use crate::report::Section;
use crate::server::{self, Server};

/// What is there before: what a server needs once is not counted.
const BEFORE: Shape = Shape {
    rooms: 5,
    people: 100,
    senders: 0,
};
const CONNECTIONS: Shape = Shape {
    rooms: 20,
    people: 100,
    senders: 0,
};
const ROOMS: Shape = Shape {
    rooms: 1_000,
    people: 1,
    senders: 0,
};
const DOCUMENTS: Shape = Shape {
    rooms: 100,
    people: 1,
    senders: 0,
};
/// A document: so many pieces typed in turns by two people, as many bytes each.
const PIECES: usize = 2_000;
const PIECE: &str = "some fifty bytes of text, about what a sentence is. ";
const REPETITIONS_MOST: usize = 2;

pub fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let mut contestants: Vec<(String, Option<Peer>)> = vec![("atelier, /yjs".into(), None)];
    for peer in Peer::ALL.into_iter().filter(|peer| peer.is_installed()) {
        contestants.push((peer.name(None), Some(peer)));
    }
    let names: Vec<&str> = contestants.iter().map(|(name, _)| name.as_str()).collect();
    let bytes = (PIECES * PIECE.len()) as f64;
    let mut with_documents = vec!["the text itself"];
    with_documents.extend(names.iter().filter(|name| !name.starts_with("Socket.IO")));
    let mut sections = vec![
        Section::new(
            format!(
                "memory: connections, {} in rooms of 100",
                CONNECTIONS.rooms * CONNECTIONS.people
            ),
            "bytes each",
            &names,
        ),
        Section::new(
            format!("memory: rooms of one person, {}", ROOMS.rooms),
            "bytes each",
            &names,
        ),
        Section::new(
            format!(
                "memory: documents of {:.0} KB in {PIECES} edits, {}",
                bytes / 1e3,
                DOCUMENTS.rooms
            ),
            "bytes each",
            &with_documents,
        ),
    ];
    for _ in 0..settings.repetitions.min(REPETITIONS_MOST) {
        sections[2].rows[0].push(bytes, &[]);
        for (index, (_, peer)) in contestants.iter().enumerate() {
            let (server, dialect) = match peer {
                None => (server::embedded()?, Dialect::Yjs),
                Some(peer) => (peer.start(None, Some(SERVER_CORE))?, peer.dialect()),
            };
            let _core = OnLoadCore::enter()?;
            let mut seen = Growth::begin(&server, dialect)?;
            let _connections = seen.of(CONNECTIONS, "connections", &mut sections[0].rows[index])?;
            let _rooms = seen.of(ROOMS, "rooms", &mut sections[1].rows[index])?;
            if dialect == Dialect::SocketIo {
                continue;
            }
            let mut crowd = Crowd::enter(&[server.address], DOCUMENTS, dialect, "documents")?;
            crowd.type_in_turns();
            crowd.write_documents(PIECES, PIECE)?;
            let each = seen.grown()? / DOCUMENTS.rooms as f64;
            sections[2].rows[index + 1].push(each, &[]);
        }
    }
    Ok(sections)
}

/// A server's memory from one look to the next.
struct Growth<'a> {
    server: &'a Server,
    dialect: Dialect,
    bytes: u64,
    _before: Crowd,
}

impl<'a> Growth<'a> {
    fn begin(server: &'a Server, dialect: Dialect) -> Result<Self> {
        let before = Crowd::enter(&[server.address], BEFORE, dialect, "before")?;
        Ok(Self {
            server,
            dialect,
            bytes: still_bytes(&server.process)?,
            _before: before,
        })
    }

    fn of(
        &mut self,
        shape: Shape,
        group: &'static str,
        row: &mut crate::report::Row,
    ) -> Result<Crowd> {
        let crowd = Crowd::enter(&[self.server.address], shape, self.dialect, group)?;
        let grown = self.grown()?;
        row.push(grown / crowd.len() as f64, &[]);
        Ok(crowd)
    }

    fn grown(&mut self) -> Result<f64> {
        let bytes = still_bytes(&self.server.process)?;
        let grown = bytes.saturating_sub(self.bytes);
        self.bytes = bytes;
        Ok(grown as f64)
    }
}
