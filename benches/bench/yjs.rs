//! The little of Yjs that a benchmark writes (update format v1, lib0): people who type into one text.

/// The text everybody types into.
const TEXT: &str = "bench";
/// Content of a string, in the first byte of an item.
const STRING: u8 = 4;
/// The item says what stands to its left.
const HAS_LEFT: u8 = 0x80;

/// One or several clients of one document that type in turns, each behind what was typed last.
#[derive(Debug)]
pub struct Typist {
    clients: Vec<Client>,
    turn: usize,
    /// The last character, by client and clock.
    last: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Client {
    id: u64,
    clock: u64,
}

impl Typist {
    /// Client ids as Yjs makes them have 32 bits.
    pub fn new(ids: &[u32]) -> Self {
        let client = |id: &u32| Client {
            id: (*id).into(),
            clock: 0,
        };
        Self {
            clients: ids.iter().map(client).collect(),
            turn: 0,
            last: None,
        }
    }

    /// The update that adds these pieces of ASCII, one item each.
    pub fn write<'a>(&mut self, pieces: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
        let clocks: Vec<u64> = self.clients.iter().map(|client| client.clock).collect();
        let mut items = vec![(0, Vec::new()); self.clients.len()];
        for piece in pieces {
            let (count, out) = &mut items[self.turn];
            *count += 1;
            self.write_item(piece, out);
        }
        let written: Vec<_> = self
            .clients
            .iter()
            .zip(clocks)
            .zip(&items)
            .filter(|(_, (count, _))| *count > 0)
            .collect();
        let mut update = Vec::new();
        put_uint(&mut update, written.len() as u64);
        for ((client, clock), (count, items)) in written {
            put_uint(&mut update, *count);
            put_uint(&mut update, client.id);
            put_uint(&mut update, clock);
            update.extend_from_slice(items);
        }
        // Nothing is deleted.
        update.push(0);
        update
    }

    fn write_item(&mut self, piece: &str, out: &mut Vec<u8>) {
        match self.last {
            Some((client, clock)) => {
                out.push(STRING | HAS_LEFT);
                put_uint(out, client);
                put_uint(out, clock);
            }
            None => {
                // The parent: a type of the document, by name.
                out.extend_from_slice(&[STRING, 1]);
                put_bytes(out, TEXT.as_bytes());
            }
        }
        put_bytes(out, piece.as_bytes());
        let client = &mut self.clients[self.turn];
        client.clock += piece.len() as u64;
        self.last = Some((client.id, client.clock - 1));
        self.turn = (self.turn + 1) % self.clients.len();
    }
}

/// y-websocket: "send me everything".
pub const STEP_1: [u8; 4] = [0, 0, 1, 0];

/// y-websocket: awareness of nobody.
pub const NO_AWARENESS: [u8; 3] = [1, 1, 0];

/// y-websocket: an update.
pub fn update_message(update: &[u8]) -> Vec<u8> {
    let mut message = vec![0, 2];
    put_bytes(&mut message, update);
    message
}

/// Hocuspocus: a message of y-websocket's, of a document.
pub fn of_document(name: &str, message: &[u8]) -> Vec<u8> {
    let mut enveloped = Vec::new();
    put_bytes(&mut enveloped, name.as_bytes());
    enveloped.extend_from_slice(message);
    enveloped
}

/// Hocuspocus: the token, and there is none.
pub const NO_TOKEN: [u8; 3] = [2, 0, 0];

fn put_uint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
