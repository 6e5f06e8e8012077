//! One descriptor in the helper's event loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::event::epoll::{self, EventData, EventFlags};

use crate::sandbox::sys;

/// What an event is about; with an id it fits the 64 bits the kernel keeps for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Source {
    Control,
    Job,
    Box,
    Stdout,
    Stderr,
    End,
}

impl Source {
    const BITS: u32 = 3;

    fn encode(self, id: u64) -> EventData {
        EventData::new_u64(id << Self::BITS | self as u64)
    }

    pub fn decode(data: u64) -> (u64, Self) {
        let source = match data & ((1 << Self::BITS) - 1) {
            1 => Self::Job,
            2 => Self::Box,
            3 => Self::Stdout,
            4 => Self::Stderr,
            5 => Self::End,
            _ => Self::Control,
        };
        (data >> Self::BITS, source)
    }
}

#[derive(Debug)]
enum Held {
    Owned(OwnedFd),
    /// The control socket, open for life.
    Fixed(RawFd),
}

/// A descriptor and what is wanted of it. Closing it takes it out of the loop, as it has no copies.
pub struct Watch {
    held: Held,
    data: EventData,
    wanted: EventFlags,
}

impl Watch {
    /// A descriptor that is never closed.
    pub fn new(
        epoll: &OwnedFd,
        fd: BorrowedFd<'static>,
        source: Source,
        wanted: EventFlags,
    ) -> io::Result<Self> {
        let data = source.encode(0);
        epoll::add(epoll, fd, data, wanted)?;
        Ok(Self {
            held: Held::Fixed(fd.as_raw_fd()),
            data,
            wanted,
        })
    }

    /// A descriptor that is closed with this.
    pub fn owning(
        epoll: &OwnedFd,
        fd: OwnedFd,
        id: u64,
        source: Source,
        wanted: EventFlags,
    ) -> io::Result<Self> {
        let data = source.encode(id);
        epoll::add(epoll, &fd, data, wanted)?;
        Ok(Self {
            held: Held::Owned(fd),
            data,
            wanted,
        })
    }

    /// Changes what is wanted.
    pub fn want(&mut self, epoll: &OwnedFd, wanted: EventFlags) {
        if wanted != self.wanted {
            // Can only fail for a descriptor that is not in the loop, and this one is until it is dropped.
            let _ = epoll::modify(epoll, self.fd(), self.data, wanted);
            self.wanted = wanted;
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.held {
            Held::Owned(fd) => fd.as_fd(),
            Held::Fixed(fd) => sys::descriptor(*fd),
        }
    }
}
