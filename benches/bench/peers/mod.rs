//! Stock servers from npm, started on loopback: what people would run instead.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::load::Dialect;
use crate::process::{self, Process};
use crate::server::{Server, free_address};

/// Where `scripts/setup bench` puts them.
const MODULES: &str = ".local/bench-node/node_modules";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// `bin/server.cjs` of y-websocket 2, as it is.
    YWebsocket,
    Hocuspocus,
    SocketIo,
}

impl Peer {
    pub const ALL: [Self; 3] = [Self::YWebsocket, Self::Hocuspocus, Self::SocketIo];

    /// Can it be started here? If not, that is said.
    pub fn is_installed(self) -> bool {
        installed(match self {
            Self::YWebsocket => "y-websocket",
            Self::Hocuspocus => "@hocuspocus/server",
            Self::SocketIo => "socket.io",
        })
    }

    pub fn dialect(self) -> Dialect {
        match self {
            Self::YWebsocket => Dialect::Yjs,
            Self::Hocuspocus => Dialect::Hocuspocus,
            Self::SocketIo => Dialect::SocketIo,
        }
    }

    /// Can several of it serve one room?
    pub fn scales(self) -> bool {
        self != Self::YWebsocket
    }

    pub fn name(self, redis: Option<&str>) -> String {
        match (self, redis) {
            (Self::YWebsocket, _) => "y-websocket 2".into(),
            (Self::Hocuspocus, None) => "Hocuspocus".into(),
            (Self::Hocuspocus, Some(_)) => "Hocuspocus, Redis extension".into(),
            (Self::SocketIo, None) => "Socket.IO".into(),
            (Self::SocketIo, Some(_)) => "Socket.IO, Redis adapter".into(),
        }
    }

    /// One server, on `core` (or any), over Redis where it can be and a URL is given.
    pub fn start(self, redis: Option<&str>, core: Option<usize>) -> Result<Server> {
        let address = free_address()?;
        let modules = modules();
        let ours = |script: &str| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("benches/bench/peers")
                .join(script)
        };
        let mut command = Command::new("node");
        match self {
            Self::YWebsocket => {
                command.arg(modules.join("y-websocket/bin/server.cjs"));
                command.env("HOST", address.ip().to_string());
                command.env("PORT", address.port().to_string());
            }
            Self::Hocuspocus | Self::SocketIo => {
                let script = if self == Self::Hocuspocus {
                    "hocuspocus.mjs"
                } else {
                    "socket-io.mjs"
                };
                command.arg(ours(script)).arg(&modules);
                command.arg(address.port().to_string()).args(redis);
            }
        }
        let mut command = process::on_core(core, &command)?;
        let name = self.name(redis);
        let mut process = Process::start(&name, command.stdout(Stdio::piped()))?;
        process.first_line()?;
        Server::of(process, address)
    }
}

pub fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(MODULES)
}

/// Is the npm package there? If not, it is said that its rows are missing.
pub fn installed(package: &str) -> bool {
    let is_there = modules().join(package).exists();
    if !is_there {
        crate::say(&format!(
            "{package} is left out: it is not installed (scripts/setup bench)"
        ));
    }
    is_there
}
