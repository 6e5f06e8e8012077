//! Many people join one room with a large document at once: CPU time of the server for each of them, beside a program that
//! only sends the same bytes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::Settings;
use crate::frame::Skim;
use crate::load::{Dialect, shake_hands};
use crate::peers::Peer;
use crate::process::{OnLoadCore, SERVER_CORE};
use crate::report::{Row, Section};
use crate::server::{self, Server};
use crate::yjs::Typist;

/// Text of the document, bytes, in pieces of [`PIECE`] typed in turns by two people.
const STATE: u64 = 4 << 20;
const PIECE: usize = 256;
const PIECES_AT_ONCE: usize = 1_000;
const MANY: usize = 1_000;
/// Stock servers put the document together anew for each joiner: fewer of them tell what one costs.
const FEW: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);
const MEMORY_EVERY: Duration = Duration::from_millis(20);
const REPETITIONS_MOST: usize = 2;
const GROUP: &str = "storm";

pub fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let peers: Vec<Peer> = Peer::ALL
        .into_iter()
        .filter(|peer| *peer != Peer::SocketIo && peer.is_installed())
        .collect();
    let mut names = vec![
        format!("bare epoll, the same bytes, {MANY} joiners"),
        format!("atelier, /yjs, {MANY} joiners"),
        format!("atelier, /yjs, {FEW} joiners"),
        format!("atelier, /yjs, {MANY} joiners, just started"),
    ];
    names.extend(
        peers
            .iter()
            .map(|peer| format!("{}, {FEW} joiners", peer.name(None))),
    );
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let title = format!("join storm: a document of {} MiB", STATE >> 20);
    let mut section = Section::new(title, "CPU us/joiner", &names);
    for _ in 0..settings.repetitions.min(REPETITIONS_MOST) {
        let atelier = server::embedded()?;
        let _core = OnLoadCore::enter()?;
        let author = Author::write(&atelier, Dialect::Yjs)?;
        let bare = server::bare_state(author.whole)?;
        storm(&bare, Dialect::Yjs, MANY, &mut section.rows[0])?;
        storm(&atelier, Dialect::Yjs, MANY, &mut section.rows[1])?;
        storm(&atelier, Dialect::Yjs, FEW, &mut section.rows[2])?;
        drop((author, bare));
        let atelier = atelier.restart_embedded()?;
        storm(&atelier, Dialect::Yjs, MANY, &mut section.rows[3])?;
        drop(atelier);
        for (peer, row) in peers.iter().zip(&mut section.rows[4..]) {
            let server = peer.start(None, Some(SERVER_CORE))?;
            let _author = Author::write(&server, peer.dialect())?;
            storm(&server, peer.dialect(), FEW, row)?;
        }
    }
    Ok(vec![section])
}

/// Who wrote the document, and stays.
struct Author {
    /// The frame in which somebody new gets all of it, bytes.
    whole: u64,
    _stream: TcpStream,
}

impl Author {
    fn write(server: &Server, dialect: Dialect) -> Result<Self> {
        let (mut stream, early) = shake_hands(server.address, &dialect.path(GROUP, 0, 0))?;
        stream.set_nonblocking(false)?;
        let mut reading = stream.try_clone()?;
        let (tell, told) = mpsc::channel();
        // Read all along: a server may send back what it is sent, and wait with the rest until that is taken.
        std::thread::spawn(move || {
            let (mut skim, mut buffer) = (Skim::default(), vec![0; 256 * 1024]);
            let mut note = |length| {
                let _ = tell.send(length);
            };
            skim.feed(&early, &mut note);
            while let Ok(got @ 1..) = reading.read(&mut buffer) {
                skim.feed(&buffer[..got], &mut note);
            }
        });
        let mut out = Vec::new();
        dialect.push_opening(GROUP, 0, 0, &mut out);
        stream.write_all(&out)?;
        let mut typist = Typist::new(&[2_000_000_000, 3_000_000_000]);
        let text = "y".repeat(PIECE);
        let pieces = usize::try_from(STATE)? / PIECE;
        for first in (0..pieces).step_by(PIECES_AT_ONCE) {
            let many = PIECES_AT_ONCE.min(pieces - first);
            let update = typist.write(std::iter::repeat_n(text.as_str(), many));
            out.clear();
            dialect.push_update(GROUP, 0, &update, &mut out);
            stream.write_all(&out)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            out.clear();
            dialect.push_opening(GROUP, 0, 0, &mut out);
            stream.write_all(&out)?;
            while let Ok(length) = told.recv_timeout(Duration::from_secs(1)) {
                if length >= STATE {
                    return Ok(Self {
                        whole: length,
                        _stream: stream,
                    });
                }
            }
        }
        bail!("the document was not there within {PATIENCE:?}")
    }
}

struct Joiner {
    stream: TcpStream,
    skim: Skim,
    is_in: bool,
}

/// Everybody connects, asks for the document, and is there when it is.
fn storm(server: &Server, dialect: Dialect, joiners: usize, row: &mut Row) -> Result<()> {
    let process = &server.process;
    let memory_before = process.anonymous_bytes()?;
    let cpu_before = process.cpu_time()?;
    let began = Instant::now();
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut all = Vec::with_capacity(joiners);
    for index in 0..joiners {
        let (stream, early) = shake_hands(server.address, &dialect.path(GROUP, 0, index + 1))?;
        epoll::add(
            &epoll,
            &stream,
            EventData::new_u64(index as u64),
            EventFlags::IN,
        )?;
        let mut skim = Skim::default();
        skim.feed(&early, |_| ());
        all.push(Joiner {
            stream,
            skim,
            is_in: false,
        });
    }
    let mut opening = Vec::new();
    dialect.push_opening(GROUP, 0, 0, &mut opening);
    for joiner in &mut all {
        joiner.stream.write_all(&opening)?;
    }
    let (mut left, mut peak, mut looked_at) = (joiners, memory_before, Instant::now());
    let (mut events, mut buffer) = (Vec::with_capacity(1024), vec![0; 256 * 1024]);
    let patience = rustix::event::Timespec::try_from(MEMORY_EVERY).context("a wait")?;
    while left > 0 {
        ensure!(
            began.elapsed() < PATIENCE,
            "{left} of {joiners} joiners still wait for the document"
        );
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let data = event.data;
            let joiner = &mut all[data.u64() as usize];
            left -= usize::from(joiner.read(&mut buffer)?);
        }
        if looked_at.elapsed() > MEMORY_EVERY {
            peak = peak.max(process.anonymous_bytes()?);
            looked_at = Instant::now();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu_us = process.cpu_time()?.since_ns(&cpu_before) as f64 / 1_000.0;
    let megabytes = peak.saturating_sub(memory_before) as f64 / 1e6;
    row.push(
        cpu_us / joiners as f64,
        &[
            ("s until all are in", seconds),
            ("MB more at most", megabytes),
        ],
    );
    Ok(())
}

impl Joiner {
    /// True: it has the document now, and had not before.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let got = match self.stream.read(buffer) {
            Ok(0) => bail!("the server closed on a joiner"),
            Ok(got) => got,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let was_in = self.is_in;
        let is_in = &mut self.is_in;
        self.skim
            .feed(&buffer[..got], |length| *is_in |= length >= STATE);
        Ok(self.is_in && !was_in)
    }
}
