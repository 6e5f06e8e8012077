//! How a crowd comes in: handshakes one after the other, then everybody says its name.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::member::Member;
use super::{Crowd, Dialect, EVENTS_AT_ONCE, READ_BYTES, Shape};
use crate::yjs::Typist;

const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Any 16 bytes in base64.
const KEY: &str = "YmVuY2gtb2YtYXRlbGllcg==";
/// Ids of those who type begin here, so that they are as long as Yjs's own.
const FIRST_TYPIST: u32 = 1_000_000_000;
/// Clients that say their name before everybody reads what that caused.
const JOINS_AT_ONCE: usize = 20;

impl Crowd {
    /// Comes in as clients of this dialect do, into rooms of this name: connected, introduced, and nothing left to read.
    pub fn enter(
        servers: &[SocketAddr],
        shape: Shape,
        dialect: Dialect,
        group: &'static str,
    ) -> Result<Self> {
        let path = |room, place| dialect.path(group, room, place);
        let mut crowd = Self::connect(servers, shape, path)?;
        (crowd.dialect, crowd.group) = (dialect, group);
        crowd.join()?;
        Ok(crowd)
    }

    /// Opens `shape` on `servers`; the people of a room take turns at them. `path` makes the request's path of room and
    /// member.
    pub fn connect(
        servers: &[SocketAddr],
        shape: Shape,
        path: impl Fn(usize, usize) -> String,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut members = Vec::with_capacity(shape.rooms * shape.people);
        for room in 0..shape.rooms {
            for place in 0..shape.people {
                let server = servers[place % servers.len()];
                let (stream, early) = shake_hands(server, &path(room, place))
                    .with_context(|| format!("client {place} of room {room}"))?;
                let index = members.len();
                epoll::add(
                    &epoll,
                    &stream,
                    EventData::new_u64(index as u64),
                    EventFlags::IN,
                )?;
                let typist = Typist::new(&[FIRST_TYPIST + u32::try_from(index)?]);
                let mut member = Member::new(stream, typist);
                member.take(&early, |_| false)?;
                members.push(member);
            }
        }
        Ok(Self {
            shape,
            servers: servers.len(),
            dialect: Dialect::Json,
            group: "",
            epoll,
            members,
            buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(EVENTS_AT_ONCE),
            began: Instant::now(),
            run: 0,
            scratch: Vec::new(),
            heard: 0,
            delivery_bytes: 0,
            sleepless: false,
        })
    }

    /// Everybody says what people of their dialect say first, and becomes present.
    pub fn join(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            let room = index / self.shape.people;
            self.scratch.clear();
            self.dialect
                .push_opening(self.group, room, index, &mut self.scratch);
            self.members[index].send(&self.scratch)?;
            if index % JOINS_AT_ONCE == 0 {
                self.read_what_waits(Duration::ZERO)?;
            }
        }
        self.settle()
    }

    /// Shows that everybody is there, and reads what waits: before a run, as others had theirs meanwhile.
    pub fn wake(&mut self) -> Result<()> {
        for (index, member) in self.members.iter_mut().enumerate() {
            let room = index / self.shape.people;
            self.scratch.clear();
            self.dialect
                .push_sign_of_life(self.group, room, &mut self.scratch);
            if !self.scratch.is_empty() {
                member.send(&self.scratch)?;
            }
        }
        self.settle()
    }
}

/// The open socket, and what the server sent behind its answer.
pub fn shake_hands(server: SocketAddr, path: &str) -> Result<(TcpStream, Vec<u8>)> {
    let accept = derive_accept_key(KEY.as_bytes());
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_PATIENCE))?;
    // Closed with a reset: thousands of ports would otherwise wait a minute each for nothing.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        answer.extend_from_slice(&buffer[..got]);
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(&accept) {
        bail!(
            "refused: {}",
            String::from_utf8_lossy(&answer).replace("\r\n", " | ")
        );
    }
    stream.set_read_timeout(None)?;
    stream.set_nonblocking(true)?;
    Ok((stream, answer.split_off(end)))
}
