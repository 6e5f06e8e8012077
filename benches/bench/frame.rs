//! The few parts of RFC 6455 that a benchmark needs: whole frames in both directions, and where a frame ends.

use std::io;

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Any mask but zero, so that the server has its work to do.
const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x88];

/// A frame at the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    /// Where the payload begins.
    pub start: usize,
    /// Where the payload, and the frame, ends.
    pub end: usize,
}

/// The whole frame that `bytes` begin with; `None` if more must be read. Fragments are nobody's here, and refused.
pub fn first(bytes: &[u8]) -> io::Result<Option<Frame>> {
    let [head, size, rest @ ..] = bytes else {
        return Ok(None);
    };
    if head & FINAL == 0 {
        return Err(io::Error::other("a fragmented message"));
    }
    let (length, mut start) = match size & !MASKED {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (usize::from(u16::from_be_bytes(*length)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (
                usize::try_from(u64::from_be_bytes(*length)).map_err(io::Error::other)?,
                10,
            ),
            None => return Ok(None),
        },
        length => (usize::from(length), 2),
    };
    let mut mask = None;
    if size & MASKED != 0 {
        let Some(key) = bytes.get(start..).and_then(<[u8]>::first_chunk::<4>) else {
            return Ok(None);
        };
        mask = Some(*key);
        start += 4;
    }
    let end = start.saturating_add(length);
    Ok((bytes.len() >= end).then_some(Frame {
        opcode: head & 0x0f,
        mask,
        start,
        end,
    }))
}

/// Appends a client's frame: masked.
pub fn push_client(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    push_head(opcode, payload.len(), MASKED, out);
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
}

/// Appends a server's frame.
pub fn push_server(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    push_head(opcode, payload.len(), 0, out);
    out.extend_from_slice(payload);
}

fn push_head(opcode: u8, length: usize, masked: u8, out: &mut Vec<u8>) {
    out.push(FINAL | opcode);
    if let Ok(short @ 0..126) = u8::try_from(length) {
        out.push(masked | short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(masked | 126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(masked | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Counts the payloads of frames from a server as they go by, without keeping any of them.
#[derive(Debug, Default)]
pub struct Skim {
    head: Vec<u8>,
    /// The frame under way: its payload's length, and what is still to come of it.
    under_way: Option<(u64, u64)>,
}

impl Skim {
    /// Tells `each` the payload's length of every frame that these bytes complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(u64)) {
        while !bytes.is_empty() {
            if self.under_way.is_none() {
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                self.under_way = server_length(&self.head).map(|length| (length, length));
            }
            if let Some((length, left)) = &mut self.under_way {
                let skipped = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                bytes = &bytes[skipped..];
                *left -= skipped as u64;
                if *left == 0 {
                    each(*length);
                    self.under_way = None;
                    self.head.clear();
                }
            }
        }
    }
}

/// The payload's length, once the whole head of an unmasked frame is there.
fn server_length(head: &[u8]) -> Option<u64> {
    let [_, size, rest @ ..] = head else {
        return None;
    };
    match size {
        126 => Some(u16::from_be_bytes(*rest.first_chunk()?).into()),
        127 => Some(u64::from_be_bytes(*rest.first_chunk()?)),
        size => Some((*size).into()),
    }
}
