//! Many frames in one write.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use super::connection::Written;

/// `IOV_MAX` of Linux.
const SLICES_MAX: usize = 1024;

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
