//! What a join storm is measured against: a server that gives everybody who says something one large frame, and does nothing
//! but its system calls for it. One thread, one epoll, one copy of the bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::bare_epoll::upgrade;
use crate::frame;

const EVENTS_AT_ONCE: usize = 1024;
const LISTENER: u64 = u64::MAX;

struct Joiner {
    stream: TcpStream,
    /// The start of a request that is not whole yet.
    request: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ShakingHands,
    Silent,
    /// So much was sent.
    Given(usize),
}

/// Listens on a free port of the loopback, says which on standard output, and serves for ever.
pub fn run(bytes: usize) -> io::Result<()> {
    let mut whole = Vec::new();
    frame::push_server(frame::BINARY, &vec![0x55; bytes], &mut whole);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let data = EventData::new_u64(LISTENER);
    epoll::add(&epoll, &listener, data, EventFlags::IN)?;
    let mut joiners: Vec<Option<Joiner>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let data = event.data;
            if data.u64() == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                // An edge each time the socket takes more.
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                epoll::add(
                    &epoll,
                    &stream,
                    EventData::new_u64(joiners.len() as u64),
                    flags,
                )?;
                joiners.push(Some(Joiner {
                    stream,
                    request: Vec::new(),
                    state: State::ShakingHands,
                }));
                continue;
            }
            let joiner = &mut joiners[data.u64() as usize];
            if joiner
                .as_mut()
                .is_some_and(|joiner| joiner.turn(&whole).is_err())
            {
                *joiner = None;
            }
        }
    }
}

impl Joiner {
    fn turn(&mut self, whole: &[u8]) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let got = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(got) => got,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            if self.state == State::ShakingHands {
                self.request.extend_from_slice(&buffer[..got]);
                if let Some((_, answer)) = upgrade(&self.request)? {
                    self.stream.write_all(answer.as_bytes())?;
                    self.state = State::Silent;
                }
            } else if self.state == State::Silent {
                self.state = State::Given(0);
            }
        }
        while let State::Given(sent) = &mut self.state
            && *sent < whole.len()
        {
            match self.stream.write(&whole[*sent..]) {
                Ok(written) => *sent += written,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
