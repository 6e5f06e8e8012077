//! Writes to sockets: one frame for many of them, many frames to one.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};

use bytes::{Buf, Bytes};
use rustix::net::{SendFlags, send};
use tokio::net::TcpStream;

/// `IOV_MAX` of Linux.
const SLICES_MAX: usize = 1024;

/// How a write attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Nothing is left.
    All,
    /// The socket would block.
    Blocked,
    /// The socket is broken; its own task will notice.
    Broken,
    /// There was nothing for it.
    Nothing,
}

/// One write to a socket that is likely to take it: the runtime is not asked first whether it would, which costs a look at what
/// it keeps of each socket. Returns the bytes taken; whether it took none because it would block or because it is broken is
/// found out by whoever writes on, in the runtime's way.
pub fn write_at_once(bytes: &[u8], stream: &TcpStream) -> usize {
    send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0)
}

/// Writes frames until none is left or the socket would block; returns the bytes written, too.
pub fn write_from(unsent: &mut VecDeque<Bytes>, stream: &TcpStream) -> (usize, Written) {
    let mut total = 0;
    while let Some(first) = unsent.front() {
        let result = if unsent.len() == 1 {
            stream.try_write(first)
        } else {
            let slices: Vec<IoSlice<'_>> = unsent
                .iter()
                .take(SLICES_MAX)
                .map(|frame| IoSlice::new(frame))
                .collect();
            stream.try_write_vectored(&slices)
        };
        match result {
            Ok(0) => return (total, Written::Broken),
            Ok(written) => {
                total += written;
                advance(unsent, written);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return (total, Written::Blocked),
            Err(_) => return (total, Written::Broken),
        }
    }
    unsent.shrink_to(0);
    (total, Written::All)
}

fn advance(unsent: &mut VecDeque<Bytes>, mut written: usize) {
    while written > 0 {
        let Some(first) = unsent.front_mut() else {
            return;
        };
        if first.len() > written {
            first.advance(written);
            return;
        }
        written -= first.len();
        unsent.pop_front();
    }
}
