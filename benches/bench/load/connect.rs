//! How a crowd comes in: handshakes one after the other, then everybody says its name.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::member::Member;
use super::{Crowd, EVENTS_AT_ONCE, READ_BYTES, Shape};
use crate::frame;

const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Any 16 bytes in base64.
const KEY: &str = "YmVuY2gtb2YtYXRlbGllcg==";
/// Clients that say their name before everybody reads what that caused.
const JOINS_AT_ONCE: usize = 20;

impl Crowd {
    /// Opens `shape` on `servers`; the people of a room take turns at them. `path` makes the request's path of room and
    /// member.
    pub fn connect(
        servers: &[SocketAddr],
        shape: Shape,
        path: impl Fn(usize, usize) -> String,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let accept = derive_accept_key(KEY.as_bytes());
        let mut members = Vec::with_capacity(shape.rooms * shape.people);
        for room in 0..shape.rooms {
            for place in 0..shape.people {
                let server = servers[place % servers.len()];
                let (stream, early) = shake_hands(server, &path(room, place), &accept)
                    .with_context(|| format!("client {place} of room {room}"))?;
                let data = EventData::new_u64(members.len() as u64);
                epoll::add(&epoll, &stream, data, EventFlags::IN)?;
                let mut member = Member::new(stream);
                member.take(&early, |_| false)?;
                members.push(member);
            }
        }
        Ok(Self {
            shape,
            servers: servers.len(),
            epoll,
            members,
            buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(EVENTS_AT_ONCE),
            began: Instant::now(),
            run: 0,
            scratch: Vec::new(),
            delivery_bytes: 0,
            sleepless: false,
        })
    }

    /// Everybody tells its name and becomes present, as people do.
    pub fn join(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            let join = format!(r##"{{"type":"join","name":"Person {index}","color":"#3B82F6"}}"##);
            self.scratch.clear();
            frame::push_client(frame::TEXT, join.as_bytes(), &mut self.scratch);
            self.members[index].send(&self.scratch)?;
            if index % JOINS_AT_ONCE == 0 {
                self.read_what_waits(Duration::ZERO)?;
            }
        }
        self.settle()
    }
}

/// The open socket, and what the server sent behind its answer.
fn shake_hands(server: SocketAddr, path: &str, accept: &str) -> Result<(TcpStream, Vec<u8>)> {
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
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(accept) {
        bail!(
            "refused: {}",
            String::from_utf8_lossy(&answer).replace("\r\n", " | ")
        );
    }
    stream.set_read_timeout(None)?;
    stream.set_nonblocking(true)?;
    Ok((stream, answer.split_off(end)))
}
