//! WebSocket frames (RFC 6455): bytes in, whole messages out; payloads in, ready server frames out.
//!
//! Headers are parsed and written by tungstenite; here is what a library's connection type would hide: a reader that
//! keeps no buffer while nothing is half-received, and frames that are built once for many sockets.

use std::io::Cursor;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Longest frame header a client can send: 2 bytes, 8 of length, 4 of mask.
const HEADER_MAX: usize = 14;
/// Longest payload of a control frame (RFC 6455, 5.5).
const CONTROL_MAX: u64 = 125;

/// A message larger than this waits in memory with so many others at most, in the whole process.
const LARGE: usize = 1 << 20;
const LARGE_AT_ONCE: usize = 32;

/// Of a message that is too long, so much is read past at most where its sender is not sent away for it.
const SKIPPED_MAX: u64 = 64 << 20;
/// What is kept of its start: its dialect names there what it is about.
const HEAD_KEPT: usize = 512;

static LARGE_TURNS: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);

/// A whole message from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    /// The peer closes; its code, if it gave one.
    Close(Option<u16>),
    /// A binary message over the limit, of which only the start was kept ([`Reader::skipping`]).
    TooLong(Bytes),
}

/// The peer broke the protocol; the close code says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("text is not UTF-8")]
    Utf8,
    #[error("message is larger than the limit")]
    TooLarge,
    #[error("too many large messages are under way; come back")]
    Busy,
}

impl Violation {
    pub fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Utf8 => 1007,
            Self::TooLarge => 4413,
            Self::Busy => 1013,
        }
    }
}

/// Assembles messages from bytes as they come. Empty (and without heap memory) between messages.
#[derive(Debug, Default)]
pub struct Reader {
    /// The start of a frame that is not whole yet.
    partial: BytesMut,
    /// The fragments so far of a message that is not whole yet.
    fragments: Option<Box<(Data, BytesMut)>>,
    /// Held while a large message is on its way.
    turn: Option<SemaphorePermit<'static>>,
    /// Binary messages over the limit are read past.
    skips: bool,
    /// One of them is.
    skipping: Option<Box<Skipping>>,
}

/// A message that is read past.
#[derive(Debug)]
struct Skipping {
    head: BytesMut,
    /// Of its present frame, which may be its last.
    left: u64,
    mask: [u8; 4],
    at: usize,
    is_final: bool,
    total: u64,
}

impl Skipping {
    /// Another frame of it begins.
    fn frame(&mut self, header: &FrameHeader, length: u64) -> Result<(), Violation> {
        self.total = self.total.saturating_add(length);
        if self.total > SKIPPED_MAX {
            return Err(Violation::TooLarge);
        }
        (self.left, self.at) = (length, 0);
        (self.mask, self.is_final) = (header.mask.unwrap_or_default(), header.is_final);
        Ok(())
    }

    /// Takes what there is of the present frame; returns how many bytes.
    fn take(&mut self, input: &[u8]) -> usize {
        let taken = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
        let kept = taken.min(HEAD_KEPT.saturating_sub(self.head.len()));
        for (at, byte) in (self.at..).zip(&input[..kept]) {
            self.head.put_u8(byte ^ self.mask[at % 4]);
        }
        self.at += taken;
        self.left -= taken as u64;
        taken
    }
}

impl Reader {
    /// A reader for peers that come back from every close and send the same again: a binary message over the limit is read
    /// past, within reason, and told as [`Message::TooLong`].
    pub fn skipping() -> Self {
        Self {
            skips: true,
            ..Self::default()
        }
    }

    /// Takes what was read and appends the messages that are whole to `messages`. `max` bounds a message in bytes.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        max: usize,
        messages: &mut Vec<Message>,
    ) -> Result<(), Violation> {
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(input);
            let mut held = std::mem::take(&mut self.partial);
            let used = self.take_frames(&held, max, messages)?;
            if used < held.len() {
                bytes::Buf::advance(&mut held, used);
                self.partial = held;
            }
            return Ok(());
        }
        let used = self.take_frames(input, max, messages)?;
        input = &input[used..];
        if !input.is_empty() {
            self.partial = BytesMut::from(input);
        }
        Ok(())
    }

    /// A message of so many bytes begins, or has grown to as many.
    fn admit(&mut self, length: usize) -> Result<(), Violation> {
        if length > LARGE && self.turn.is_none() {
            let turn = LARGE_TURNS.try_acquire();
            self.turn = Some(turn.map_err(|_| Violation::Busy)?);
        }
        Ok(())
    }

    /// Takes all whole frames from the front of `input`; returns how many bytes they were.
    fn take_frames(
        &mut self,
        input: &[u8],
        max: usize,
        messages: &mut Vec<Message>,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        loop {
            if let Some(skipping) = &mut self.skipping {
                used += skipping.take(&input[used..]);
                if skipping.left > 0 {
                    return Ok(used);
                }
                if skipping.is_final {
                    let head = std::mem::take(&mut skipping.head);
                    messages.push(Message::TooLong(head.freeze()));
                    self.skipping = None;
                }
            }
            let rest = &input[used..];
            let mut cursor = Cursor::new(rest);
            let parsed = FrameHeader::parse(&mut cursor)
                .map_err(|_| Violation::Protocol("bad frame header"))?;
            let Some((header, length)) = parsed else {
                debug_assert!(rest.len() < HEADER_MAX);
                return Ok(used);
            };
            check(&header, length)?;
            let start = usize::try_from(cursor.position()).map_err(|_| Violation::TooLarge)?;
            if let OpCode::Data(kind) = header.opcode
                && self.begins_to_skip(kind, &header, length, max)?
            {
                used += start;
                continue;
            }
            let length = usize::try_from(length).map_err(|_| Violation::TooLarge)?;
            self.admit(length)?;
            if rest.len() - start < length {
                return Ok(used);
            }
            let mut payload = BytesMut::from(&rest[start..start + length]);
            if let Some(mask) = header.mask {
                unmask(&mut payload, mask);
            }
            used += start + length;
            if let Some(message) = self.take_frame(&header, payload, max)? {
                messages.push(message);
            }
            if self.fragments.is_none() {
                self.turn = None;
            }
        }
    }

    /// Is this frame of a message that is over the limit, or gets there by it? Then it is read past, or a violation.
    fn begins_to_skip(
        &mut self,
        kind: Data,
        header: &FrameHeader,
        length: u64,
        max: usize,
    ) -> Result<bool, Violation> {
        if let Some(skipping) = &mut self.skipping {
            if kind != Data::Continue {
                return Err(Violation::Protocol("new message inside a fragmented one"));
            }
            skipping.frame(header, length)?;
            return Ok(true);
        }
        let before = match kind {
            Data::Continue => self.fragments.as_ref().map_or(0, |message| message.1.len()),
            _ => 0,
        };
        if length.saturating_add(before as u64) <= max as u64 {
            return Ok(false);
        }
        let is_binary = match (kind, &self.fragments) {
            (Data::Continue, Some(message)) => message.0 == Data::Binary,
            (kind, None) => kind == Data::Binary,
            (_, Some(_)) => false,
        };
        if !(self.skips && is_binary) {
            return Err(Violation::TooLarge);
        }
        self.turn = None;
        let mut head = self
            .fragments
            .take()
            .map_or_else(BytesMut::new, |message| message.1);
        head.truncate(HEAD_KEPT);
        let mut skipping = Skipping {
            // The rest of what was collected is let go of.
            head: BytesMut::from(&head[..]),
            left: 0,
            mask: [0; 4],
            at: 0,
            is_final: false,
            total: before as u64,
        };
        skipping.frame(header, length)?;
        self.skipping = Some(Box::new(skipping));
        Ok(true)
    }

    fn take_frame(
        &mut self,
        header: &FrameHeader,
        payload: BytesMut,
        max: usize,
    ) -> Result<Option<Message>, Violation> {
        let kind = match header.opcode {
            OpCode::Control(Control::Ping) => return Ok(Some(Message::Ping(payload.freeze()))),
            OpCode::Control(Control::Pong) => return Ok(Some(Message::Pong(payload.freeze()))),
            OpCode::Control(Control::Close) => return close(&payload).map(Some),
            OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
                return Err(Violation::Protocol("reserved opcode"));
            }
            OpCode::Data(kind) => kind,
        };
        match (kind, self.fragments.take()) {
            (Data::Continue, None) => Err(Violation::Protocol("continuation of nothing")),
            (Data::Continue, Some(mut message)) => {
                if message.1.len() + payload.len() > max {
                    return Err(Violation::TooLarge);
                }
                message.1.extend_from_slice(&payload);
                self.admit(message.1.len())?;
                if !header.is_final {
                    self.fragments = Some(message);
                    return Ok(None);
                }
                whole(message.0, message.1).map(Some)
            }
            (_, Some(_)) => Err(Violation::Protocol("new message inside a fragmented one")),
            (kind, None) if header.is_final => whole(kind, payload).map(Some),
            (kind, None) => {
                self.fragments = Some(Box::new((kind, payload)));
                Ok(None)
            }
        }
    }
}

fn check(header: &FrameHeader, length: u64) -> Result<(), Violation> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(Violation::Protocol("reserved bits are set"));
    }
    if header.mask.is_none() {
        return Err(Violation::Protocol("client frames must be masked"));
    }
    match header.opcode {
        OpCode::Control(_) if length > CONTROL_MAX || !header.is_final => {
            Err(Violation::Protocol("control frame too long or fragmented"))
        }
        OpCode::Control(_) | OpCode::Data(_) => Ok(()),
    }
}

fn whole(kind: Data, payload: BytesMut) -> Result<Message, Violation> {
    match kind {
        Data::Text => String::from_utf8(payload.into())
            .map(Message::Text)
            .map_err(|_| Violation::Utf8),
        _ => Ok(Message::Binary(payload.freeze())),
    }
}

fn close(payload: &[u8]) -> Result<Message, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(Message::Close(None))
        } else {
            Err(Violation::Protocol("close code of one byte"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Err(Violation::Protocol("close code not allowed"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation::Utf8);
    }
    Ok(Message::Close(Some(code)))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// A text frame, header and payload in one piece.
pub fn text(payload: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Text), payload)
}

/// A binary frame, header and payload in one piece.
pub fn binary(payload: &[u8]) -> Bytes {
    frame(OpCode::Data(Data::Binary), payload)
}

/// What a frame of ours carries: it stands behind the header, unmasked.
pub fn payload(frame: &Bytes) -> Bytes {
    let length = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.slice(length.min(frame.len())..)
}

/// A ping with a payload of at most 125 bytes.
pub fn ping(payload: &[u8]) -> Bytes {
    frame(OpCode::Control(Control::Ping), payload)
}

pub fn pong(payload: &[u8]) -> Bytes {
    frame(OpCode::Control(Control::Pong), payload)
}

/// A close frame; the reason is cut to what a control frame holds.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(CONTROL_MAX as usize - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(OpCode::Control(Control::Close), &payload)
}

fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    let header = FrameHeader {
        is_final: true,
        opcode,
        ..FrameHeader::default()
    };
    let length = payload.len() as u64;
    let mut out = BytesMut::with_capacity(header.len(length) + payload.len()).writer();
    // Writing to memory does not fail.
    let _ = header.format(length, &mut out);
    let mut out = out.into_inner();
    out.extend_from_slice(payload);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 1, 9, 3];
        let mut out = vec![opcode | if is_final { 0x80 } else { 0 }];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n @ 126..=65_535 => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k));
        out
    }

    fn feed_in_pieces(bytes: &[u8], piece: usize) -> Result<Vec<Message>, Violation> {
        let mut reader = Reader::default();
        let mut messages = Vec::new();
        for part in bytes.chunks(piece) {
            reader.feed(part, 1 << 20, &mut messages)?;
        }
        assert!(
            reader.partial.is_empty(),
            "nothing may be kept between messages"
        );
        Ok(messages)
    }

    #[test]
    fn messages_survive_any_split_of_the_bytes() {
        let mut bytes = client(1, true, "grüße".as_bytes());
        bytes.extend(client(1, false, b"ab"));
        bytes.extend(client(9, true, b"mid"));
        bytes.extend(client(0, true, b"cd"));
        bytes.extend(client(2, true, &vec![5; 70_000]));
        let expected = vec![
            Message::Text("grüße".into()),
            Message::Ping(Bytes::from_static(b"mid")),
            Message::Text("abcd".into()),
            Message::Binary(vec![5; 70_000].into()),
        ];
        for piece in [1, 2, 3, 7, 1_000, 1 << 20] {
            assert_eq!(
                feed_in_pieces(&bytes, piece).unwrap(),
                expected,
                "piece {piece}"
            );
        }
    }

    #[test]
    fn violations_have_their_close_codes() {
        let code = |bytes: &[u8]| feed_in_pieces(bytes, 1 << 20).unwrap_err().close_code();
        assert_eq!(code(&client(0, true, b"x")), 1002);
        assert_eq!(code(&client(3, true, b"x")), 1002);
        assert_eq!(code(&client(9, false, b"x")), 1002);
        assert_eq!(code(&client(9, true, &[0; 126])), 1002);
        assert_eq!(code(&client(8, true, &[1])), 1002);
        assert_eq!(code(&client(8, true, &999u16.to_be_bytes())), 1002);
        assert_eq!(code(&client(1, true, &[0xff])), 1007);
        assert_eq!(code(&[0x81, 0x01, b'x']), 1002, "unmasked");
        assert_eq!(code(&client(1, true, &vec![b'x'; (1 << 20) + 1])), 4413);
        let mut long = client(1, false, &vec![b'x'; 1 << 20]);
        long.extend(client(0, true, b"y"));
        assert_eq!(code(&long), 4413, "fragments add up");
    }

    #[test]
    fn what_is_too_long_is_read_past_where_that_is_asked_for() {
        let long: Vec<u8> = (0..2_000_u32).map(|n| n as u8).collect();
        let mut bytes = client(2, true, &long);
        bytes.extend(client(2, true, b"after"));
        // In fragments, with a ping between them; the first alone is not too long.
        bytes.extend(client(2, false, &long[..900]));
        bytes.extend(client(9, true, b"mid"));
        bytes.extend(client(0, false, &long[900..1_500]));
        bytes.extend(client(9, true, b"there?"));
        bytes.extend(client(0, true, &long[1_500..]));
        bytes.extend(client(2, true, b"end"));
        let head = || Message::TooLong(Bytes::copy_from_slice(&long[..HEAD_KEPT]));
        let expected = [
            head(),
            Message::Binary(Bytes::from_static(b"after")),
            Message::Ping(Bytes::from_static(b"mid")),
            Message::Ping(Bytes::from_static(b"there?")),
            head(),
            Message::Binary(Bytes::from_static(b"end")),
        ];
        for piece in [1, 2, 3, 7, 1_000, 1 << 20] {
            let mut reader = Reader::skipping();
            let mut messages = Vec::new();
            for part in bytes.chunks(piece) {
                reader.feed(part, 1_000, &mut messages).unwrap();
                assert!(reader.partial.len() < 1_100, "nothing of it is kept");
            }
            assert_eq!(messages, expected, "piece {piece}");
        }
        let refused = |bytes: &[u8]| {
            let mut reader = Reader::skipping();
            reader.feed(bytes, 1_000, &mut Vec::new()).unwrap_err()
        };
        assert_eq!(
            refused(&client(1, true, &long)),
            Violation::TooLarge,
            "text"
        );
        let mut huge = client(2, true, &long);
        huge.splice(
            1..4,
            [0x80 | 127]
                .into_iter()
                .chain((SKIPPED_MAX + 1).to_be_bytes()),
        );
        assert_eq!(refused(&huge), Violation::TooLarge, "beyond reason");
        let mut inside = client(2, false, &long);
        inside.extend(client(2, true, b"x"));
        assert!(matches!(refused(&inside), Violation::Protocol(_)));
    }

    #[test]
    fn so_many_large_messages_are_under_way_at_once() {
        let bytes = client(2, true, &vec![1; 2 << 20]);
        let begin = || {
            let mut reader = Reader::default();
            let begun = reader.feed(&bytes[..100], 4 << 20, &mut Vec::new());
            begun.map(|()| reader)
        };
        let mut readers: Vec<Reader> = (0..LARGE_AT_ONCE).map(|_| begin().unwrap()).collect();
        assert_eq!(begin().unwrap_err(), Violation::Busy);
        let mut messages = Vec::new();
        readers[0]
            .feed(&bytes[100..], 4 << 20, &mut messages)
            .unwrap();
        assert_eq!(messages.len(), 1);
        assert!(begin().is_ok(), "its turn is over");
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_header_alone() {
        let bytes = client(1, true, &vec![b'x'; 2 << 20]);
        let mut reader = Reader::default();
        let refused = reader.feed(&bytes[..14], 1 << 20, &mut Vec::new());
        assert_eq!(refused, Err(Violation::TooLarge));
    }
}
