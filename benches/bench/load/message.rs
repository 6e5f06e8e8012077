//! What is sent, and the mark in it by which a delivery is recognised whatever a server wraps around it.

use crate::frame;

/// The size of a message as a client sends it, bytes.
const SENT_BYTES: usize = 100;
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
    pub fn push_frame(self, mark: &Mark, out: &mut Vec<u8>) {
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
        };
        let padding = size.saturating_sub(head.len() + mark.len() + tail.len());
        let text = format!("{head}{mark}{:x<padding$}{tail}", "");
        frame::push_client(frame::TEXT, text.as_bytes(), out);
    }
}

impl Mark {
    pub fn find(payload: &[u8]) -> Option<Self> {
        let start = payload.iter().position(|byte| *byte == SIGN)? + 1;
        let length = payload[start..].iter().position(|byte| *byte == SIGN)?;
        let mut numbers = payload[start..start + length]
            .split(|byte| *byte == b'.')
            .map(number);
        Some(Self {
            run: u32::try_from(numbers.next()??).ok()?,
            sender: usize::try_from(numbers.next()??).ok()?,
            number: numbers.next()??,
            sent_ns: numbers.next()??,
        })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
