//! What is sent, and the mark in it by which a delivery is recognised whatever a server wraps around it.

use super::dialect::Dialect;
use crate::frame;
use crate::yjs::Typist;

/// The size of a message as a client sends it, bytes.
const SENT_BYTES: usize = 100;
/// What an update and its message add to the letters typed, bytes, about.
const UPDATE_BYTES: usize = 25;
/// Begins and ends a mark; stands nowhere else in what any of the servers sends.
const SIGN: u8 = b'~';

/// What the clients of a run send.
#[derive(Debug, Clone, Copy)]
pub enum Message {
    /// A `chat_message`: logged, numbered, delivered to everybody.
    Chat,
    /// A `cursor`: the latest of each client wins.
    Cursor,
    /// A text of so many bytes, for the relay that passes on what it gets.
    Raw(usize),
    /// What a few letters typed into the room's document are, or another server's plain message of that size.
    Typed,
}

/// Whose message it is, and where it goes.
#[derive(Debug)]
pub struct From<'a> {
    pub dialect: Dialect,
    pub group: &'a str,
    pub room: usize,
    pub typist: &'a mut Typist,
}

/// Which message a delivery is of.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub run: u32,
    /// The sender, by its place in the crowd.
    pub sender: usize,
    pub number: u64,
    /// Since the crowd came together.
    pub sent_ns: u64,
}

impl Message {
    /// May a later one overwrite it before it is delivered?
    pub fn is_ephemeral(self) -> bool {
        matches!(self, Self::Cursor)
    }

    /// Appends the client's frame.
    pub fn push_frame(self, mark: &Mark, from: From<'_>, out: &mut Vec<u8>) {
        let Mark {
            run,
            sender,
            number,
            sent_ns,
        } = mark;
        let mark = format!("~{run}.{sender}.{number}.{sent_ns}~");
        let (head, tail, size) = match self {
            Self::Chat => (r#"{"type":"chat_message","content":""#, r#""}"#, SENT_BYTES),
            Self::Cursor => (
                r#"{"type":"cursor","position":{"m":""#,
                r#""}}"#,
                SENT_BYTES,
            ),
            Self::Raw(bytes) => ("", "", bytes),
            Self::Typed if from.dialect == Dialect::SocketIo => {
                (r#"42["message",""#, r#""]"#, SENT_BYTES)
            }
            Self::Typed => ("", "", SENT_BYTES - UPDATE_BYTES),
        };
        let padding = size.saturating_sub(head.len() + mark.len() + tail.len());
        let text = format!("{head}{mark}{:x<padding$}{tail}", "");
        match (self, from.dialect) {
            (Self::Typed, Dialect::Yjs | Dialect::Hocuspocus) => {
                let update = from.typist.write([text.as_str()]);
                from.dialect
                    .push_update(from.group, from.room, &update, out);
            }
            _ => frame::push_client(frame::TEXT, text.as_bytes(), out),
        }
    }
}

impl Mark {
    /// All marks of a message: a server may make one of several, and in binary ones the sign may stand by chance.
    pub fn all(payload: &[u8]) -> impl Iterator<Item = Self> {
        let mut rest = payload;
        std::iter::from_fn(move || {
            loop {
                let start = rest.iter().position(|byte| *byte == SIGN)? + 1;
                rest = &rest[start..];
                let length = rest.iter().position(|byte| *byte == SIGN)?;
                if let Some(mark) = Self::parse(&rest[..length]) {
                    rest = &rest[length + 1..];
                    return Some(mark);
                }
            }
        })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut numbers = text.split(|byte| *byte == b'.').map(number);
        Some(Self {
            run: u32::try_from(numbers.next()??).ok()?,
            sender: usize::try_from(numbers.next()??).ok()?,
            number: numbers.next()??,
            sent_ns: numbers.next()??,
        })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
