//! One client: its socket, what is half received, and how many deliveries it has counted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Result, bail};

use crate::frame;
use crate::yjs::Typist;

/// Socket.IO's heartbeat is a message of its own.
const SOCKET_IO_PING: &[u8] = b"2";
const SOCKET_IO_PONG: &[u8] = b"3";

#[derive(Debug)]
pub struct Member {
    stream: TcpStream,
    partial: Vec<u8>,
    pub received: u64,
    /// What it has typed so far.
    pub typist: Typist,
}

impl Member {
    pub fn new(stream: TcpStream, typist: Typist) -> Self {
        Self {
            stream,
            partial: Vec::new(),
            received: 0,
            typist,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        // A few hundred bytes always fit, unless the server has stopped reading.
        if self.stream.write(bytes)? < bytes.len() {
            bail!("the server does not read");
        }
        Ok(())
    }

    pub fn read<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        match self.stream.read(buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            got => Ok(&buffer[..got]),
        }
    }

    /// Hands every whole message to `each`, which says whether it knows it; answers pings, keeps what is not whole.
    ///
    /// # Errors
    /// The server closes, or answers with an `error`.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8]) -> bool) -> Result<()> {
        if self.partial.is_empty() {
            let used = self.frames(bytes, &mut each)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.partial);
        held.extend_from_slice(bytes);
        let used = self.frames(&held, &mut each)?;
        held.drain(..used);
        if !held.is_empty() {
            self.partial = held;
        }
        Ok(())
    }

    fn frames(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8]) -> bool) -> Result<usize> {
        let mut used = 0;
        while let Some(found) = frame::first(&bytes[used..])? {
            let payload = &bytes[used + found.start..used + found.end];
            used += found.end;
            match found.opcode {
                frame::TEXT if payload == SOCKET_IO_PING => {
                    let mut pong = Vec::new();
                    frame::push_client(frame::TEXT, SOCKET_IO_PONG, &mut pong);
                    self.send(&pong)?;
                }
                frame::TEXT | frame::BINARY => {
                    let known = each(payload);
                    if !known
                        && found.opcode == frame::TEXT
                        && contains(payload, b"\"type\":\"error\"")
                    {
                        bail!("the server answered {}", String::from_utf8_lossy(payload));
                    }
                }
                frame::PING => {
                    let mut pong = Vec::new();
                    frame::push_client(frame::PONG, payload, &mut pong);
                    self.send(&pong)?;
                }
                frame::CLOSE => {
                    let code = payload
                        .first_chunk()
                        .map_or(0, |two| u16::from_be_bytes(*two));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                    bail!("the server closed: {code} {reason}");
                }
                _ => {}
            }
        }
        Ok(used)
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}
