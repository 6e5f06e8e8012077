//! What everything is measured against: a relay that does nothing but its system calls. One thread, one epoll; each text
//! frame goes to all others of its room (the request's path).

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frame;

const READ_BYTES: usize = 64 * 1024;
const EVENTS_AT_ONCE: usize = 1024;
const REQUEST_MAX: usize = 8 * 1024;
/// What a member that does not read may have waiting before it is dropped.
const WAITING_MAX: usize = 64 << 20;

/// How a frame reaches the members of its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Writes {
    /// One write for each delivery.
    Each,
    /// All that one turn of the loop brought for a room, in one write for each member.
    Joined,
}

struct Member {
    stream: TcpStream,
    /// `None` until the handshake is done.
    room: Option<usize>,
    /// The start of a request or frame that is not whole yet.
    partial: Vec<u8>,
    /// What the socket would not take.
    waiting: Vec<u8>,
}

struct Relay {
    writes: Writes,
    epoll: OwnedFd,
    listener: TcpListener,
    members: Vec<Option<Member>>,
    free: Vec<usize>,
    names: HashMap<Vec<u8>, usize>,
    rooms: Vec<Vec<usize>>,
    /// Frames of this turn, by room: who sent it, and its place in `bytes`.
    turn: Vec<Turn>,
}

#[derive(Default)]
struct Turn {
    bytes: Vec<u8>,
    frames: Vec<(usize, usize)>,
}

const LISTENER: u64 = u64::MAX;

/// Listens on a free port of the loopback, says which on standard output, and serves for ever.
pub fn run(writes: Writes) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    let mut relay = Relay {
        writes,
        epoll,
        listener,
        members: Vec::new(),
        free: Vec::new(),
        names: HashMap::new(),
        rooms: Vec::new(),
        turn: Vec::new(),
    };
    let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let (flags, data) = (event.flags, event.data);
            if data.u64() == LISTENER {
                relay.accept()?;
                continue;
            }
            let id = data.u64() as usize;
            let alive = (!flags.contains(EventFlags::OUT) || relay.flush(id).is_ok())
                && (!flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
                    || relay.read(id, &mut buffer).is_ok());
            if !alive {
                relay.forget(id);
            }
        }
        relay.end_turn();
    }
}

impl Relay {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let id = self.free.pop().unwrap_or_else(|| {
                self.members.push(None);
                self.members.len() - 1
            });
            epoll::add(
                &self.epoll,
                &stream,
                EventData::new_u64(id as u64),
                EventFlags::IN,
            )?;
            self.members[id] = Some(Member {
                stream,
                room: None,
                partial: Vec::new(),
                waiting: Vec::new(),
            });
        }
    }

    fn forget(&mut self, id: usize) {
        if let Some(member) = self.members[id].take() {
            if let Some(room) = member.room {
                self.rooms[room].retain(|other| *other != id);
            }
            self.free.push(id);
        }
    }

    /// Reads once and relays what is whole. An error ends the connection.
    fn read(&mut self, id: usize, buffer: &mut [u8]) -> io::Result<()> {
        let Some(member) = &mut self.members[id] else {
            return Ok(());
        };
        let got = match member.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        let Some(room) = member.room else {
            member.partial.extend_from_slice(&buffer[..got]);
            return self.shake_hands(id);
        };
        if member.partial.is_empty() {
            let used = self.relay(id, room, &mut buffer[..got])?;
            if let Some(member) = &mut self.members[id] {
                member.partial.extend_from_slice(&buffer[used..got]);
            }
            return Ok(());
        }
        let mut held = std::mem::take(&mut member.partial);
        held.extend_from_slice(&buffer[..got]);
        let used = self.relay(id, room, &mut held)?;
        held.drain(..used);
        if let Some(member) = &mut self.members[id]
            && !held.is_empty()
        {
            member.partial = held;
        }
        Ok(())
    }

    fn shake_hands(&mut self, id: usize) -> io::Result<()> {
        let Some(member) = &mut self.members[id] else {
            return Ok(());
        };
        let Some((path, answer)) = upgrade(&member.partial)? else {
            return Ok(());
        };
        let rooms = &mut self.rooms;
        let turn = &mut self.turn;
        let room = *self.names.entry(path).or_insert_with(|| {
            rooms.push(Vec::new());
            turn.push(Turn::default());
            rooms.len() - 1
        });
        rooms[room].push(id);
        member.room = Some(room);
        member.partial = Vec::new();
        member.stream.write_all(answer.as_bytes())
    }

    /// Takes all whole frames; returns how many bytes they were.
    fn relay(&mut self, id: usize, room: usize, bytes: &mut [u8]) -> io::Result<usize> {
        let mut used = 0;
        while let Some(found) = frame::first(&bytes[used..])? {
            let payload = &mut bytes[used + found.start..used + found.end];
            used += found.end;
            if let Some(mask) = found.mask {
                frame::unmask(payload, mask);
            }
            match found.opcode {
                frame::TEXT => {
                    let turn = &mut self.turn[room];
                    frame::push_server(frame::TEXT, payload, &mut turn.bytes);
                    turn.frames.push((id, turn.bytes.len()));
                    if self.writes == Writes::Each {
                        self.deliver(room);
                    }
                }
                frame::CLOSE => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
        Ok(used)
    }

    fn end_turn(&mut self) {
        for room in 0..self.turn.len() {
            if !self.turn[room].frames.is_empty() {
                self.deliver(room);
            }
        }
    }

    /// Writes what this turn brought to every member of the room, to each without its own.
    fn deliver(&mut self, room: usize) {
        let turn = std::mem::take(&mut self.turn[room]);
        let mut dropped = Vec::new();
        let mut theirs = Vec::new();
        for id in self.rooms[room].clone() {
            let Some(member) = &mut self.members[id] else {
                continue;
            };
            let delivered = if turn.frames.iter().any(|(origin, _)| *origin == id) {
                theirs.clear();
                let mut start = 0;
                for (origin, end) in &turn.frames {
                    if *origin != id {
                        theirs.extend_from_slice(&turn.bytes[start..*end]);
                    }
                    start = *end;
                }
                member.write(&theirs)
            } else {
                member.write(&turn.bytes)
            };
            match delivered {
                Ok(true) => {}
                Ok(false) => self.watch(id, EventFlags::IN | EventFlags::OUT),
                Err(_) => dropped.push(id),
            }
        }
        for id in dropped {
            self.forget(id);
        }
        self.turn[room] = Turn {
            bytes: cleared(turn.bytes),
            frames: cleared(turn.frames),
        };
    }

    fn flush(&mut self, id: usize) -> io::Result<()> {
        let Some(member) = &mut self.members[id] else {
            return Ok(());
        };
        if member.write(&[])? {
            self.watch(id, EventFlags::IN);
        }
        Ok(())
    }

    fn watch(&self, id: usize, flags: EventFlags) {
        if let Some(member) = &self.members[id] {
            // It fails only for a socket that is not watched, and then its reads are ended as well.
            let _ = epoll::modify(
                &self.epoll,
                &member.stream,
                EventData::new_u64(id as u64),
                flags,
            );
        }
    }
}

impl Member {
    /// False: not everything was taken.
    fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if !self.waiting.is_empty() {
            if self.waiting.len() > WAITING_MAX {
                return Err(ErrorKind::TimedOut.into());
            }
            self.waiting.extend_from_slice(bytes);
            let written = taken(self.stream.write(&self.waiting))?;
            self.waiting.drain(..written);
            return Ok(self.waiting.is_empty());
        }
        if bytes.is_empty() {
            return Ok(true);
        }
        let written = taken(self.stream.write(bytes))?;
        self.waiting.extend_from_slice(&bytes[written..]);
        Ok(self.waiting.is_empty())
    }
}

/// The path of a whole request and what it is answered; `None`: there is more to come.
pub fn upgrade(request: &[u8]) -> io::Result<Option<(Vec<u8>, String)>> {
    if !request.ends_with(b"\r\n\r\n") {
        return if request.len() > REQUEST_MAX {
            Err(ErrorKind::InvalidData.into())
        } else {
            Ok(None)
        };
    }
    let text = std::str::from_utf8(request).map_err(io::Error::other)?;
    let path = text.split(' ').nth(1).unwrap_or("/");
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .ok_or(ErrorKind::InvalidData)?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    Ok(Some((path.as_bytes().to_vec(), answer)))
}

fn taken(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

fn cleared<T>(mut list: Vec<T>) -> Vec<T> {
    list.clear();
    list
}
