//! Anonymous memory of the server for each connection, room and byte of a document, on Atelier and on stock servers from npm.

use std::time::Duration;

use anyhow::Result;

use super::idle::{still_bytes, still_for};
use crate::Settings;
use crate::load::{Crowd, Dialect, Shape};
use crate::peers::Peer;
use crate::process::{OnLoadCore, SERVER_CORE};
use crate::report::Section;
use crate::server;

/// Each kind is measured on a server of its own that has some of them already: what a server needs once is not counted, nor
/// is what others left behind reused.
const CONNECTIONS: Kind = Kind {
    before: Shape {
        rooms: 5,
        people: 100,
        senders: 0,
    },
    grown: Shape {
        rooms: 20,
        people: 100,
        senders: 0,
    },
};
const ROOMS: Kind = Kind {
    before: Shape {
        rooms: 250,
        people: 1,
        senders: 0,
    },
    grown: Shape {
        rooms: 1_000,
        people: 1,
        senders: 0,
    },
};
const DOCUMENTS: Kind = Kind {
    before: Shape {
        rooms: 20,
        people: 1,
        senders: 0,
    },
    grown: Shape {
        rooms: 100,
        people: 1,
        senders: 0,
    },
};
/// A document: so many pieces typed in turns by two people, as many bytes each.
const PIECES: usize = 2_000;
const PIECE: &str = "some fifty bytes of text, about what a sentence is. ";
/// Servers put documents in order a while after the last edit.
const STILL: Duration = Duration::from_secs(8);
const STILL_PATIENCE: Duration = Duration::from_secs(60);
const REPETITIONS_MOST: usize = 2;

struct Kind {
    before: Shape,
    grown: Shape,
}

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
                CONNECTIONS.grown.rooms * CONNECTIONS.grown.people
            ),
            "bytes each",
            &names,
        ),
        Section::new(
            format!("memory: rooms of one person, {}", ROOMS.grown.rooms),
            "bytes each",
            &names,
        ),
        Section::new(
            format!(
                "memory: documents of {:.0} KB in {PIECES} edits, {}",
                bytes / 1e3,
                DOCUMENTS.grown.rooms
            ),
            "bytes each",
            &with_documents,
        ),
    ];
    for _ in 0..settings.repetitions.min(REPETITIONS_MOST) {
        sections[2].rows[0].push(bytes, &[]);
        for (index, (_, peer)) in contestants.iter().enumerate() {
            let peer = peer.as_ref();
            sections[0].rows[index].push(grown(peer, &CONNECTIONS, false)?, &[]);
            sections[1].rows[index].push(grown(peer, &ROOMS, false)?, &[]);
            if dialect(peer) != Dialect::SocketIo {
                let each = grown(peer, &DOCUMENTS, true)?;
                sections[2].rows[index + 1].push(each, &[]);
            }
        }
    }
    Ok(sections)
}

fn dialect(peer: Option<&Peer>) -> Dialect {
    peer.map_or(Dialect::Yjs, |peer| peer.dialect())
}

/// What a fresh server grows by for each member of these.
fn grown(peer: Option<&Peer>, kind: &Kind, documents: bool) -> Result<f64> {
    let server = match peer {
        None => server::embedded()?,
        Some(peer) => peer.start(None, Some(SERVER_CORE))?,
    };
    let _core = OnLoadCore::enter()?;
    let enter = |shape: Shape, group: &'static str| -> Result<(Crowd, u64)> {
        let mut crowd = Crowd::enter(&[server.address], shape, dialect(peer), group)?;
        let bytes = if documents {
            crowd.type_in_turns();
            crowd.write_documents(PIECES, PIECE)?;
            still_for(&server.process, STILL, STILL_PATIENCE)?
        } else {
            still_bytes(&server.process)?
        };
        Ok((crowd, bytes))
    };
    let (_there, before) = enter(kind.before, "before")?;
    let (crowd, after) = enter(kind.grown, "grown")?;
    Ok(after.saturating_sub(before) as f64 / crowd.len() as f64)
}
