//! The WebSocket addresses of PROTOCOL.md, and what a client brings along when it comes in.

use std::net::SocketAddr;

use anyhow::bail;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async};

use super::client::Client;
use super::rest::Person;

pub type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// The JSON addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// `/api/v1/rooms/{room}/ws`
    Rooms,
    /// `/api/ws/{room}`
    Plain,
    /// `/ws/{room}`
    Named,
    /// `/ws/session/{room}`
    Session,
    /// `/yjs/{room}`, which speaks y-websocket's dialect.
    Yjs,
}

pub const ADDRESSES: [Address; 4] = [
    Address::Rooms,
    Address::Plain,
    Address::Named,
    Address::Session,
];

impl Address {
    pub fn path(self, room: &str) -> String {
        match self {
            Self::Rooms => format!("/api/v1/rooms/{room}/ws"),
            Self::Plain => format!("/api/ws/{room}"),
            Self::Named => format!("/ws/{room}"),
            Self::Session => format!("/ws/session/{room}"),
            Self::Yjs => format!("/yjs/{room}"),
        }
    }
}

/// The answer before the upgrade of one who did not get in.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

/// Where to come in and as whom; the same door leads in again after a loss.
#[derive(Debug, Clone)]
pub struct Door {
    server: SocketAddr,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
    receive_buffer: Option<u32>,
}

impl Door {
    pub fn new(server: SocketAddr, address: Address, room: &str) -> Self {
        Self {
            server,
            path: address.path(room),
            query: Vec::new(),
            headers: Vec::new(),
            receive_buffer: None,
        }
    }

    /// The same door of another gateway.
    pub fn at(mut self, server: SocketAddr) -> Self {
        self.server = server;
        self
    }

    /// A parameter of the URL; an earlier value is replaced.
    pub fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.query.retain(|(known, _)| known != name);
        self.query.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_string()));
        self
    }

    pub fn client_id(self, id: &str) -> Self {
        self.query("client_id", id)
    }

    pub fn person(self, person: &Person) -> Self {
        self.header("authorization", format!("Bearer {}", person.token))
    }

    /// A kernel that takes little on the client's behalf: a reader that stops is felt by the server soon.
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Does it come back from a place in the log?
    pub fn resumes(&self) -> bool {
        self.query.iter().any(|(name, _)| name == "seq")
    }

    pub fn resumed_from(&self) -> u64 {
        let seq = self.query.iter().find(|(name, _)| name == "seq");
        seq.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// The bare socket, for who speaks something else than JSON behind this door.
    pub async fn socket(&self) -> anyhow::Result<Socket> {
        match self.open().await? {
            Ok(socket) => Ok(socket),
            Err(refused) => bail!("{} refused with {refused:?}", self.path),
        }
    }

    pub async fn open(&self) -> anyhow::Result<Result<Socket, Refused>> {
        let mut url = reqwest::Url::parse(&format!("ws://{}{}", self.server, self.path))?;
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        let mut request = url.as_str().into_client_request()?;
        for (name, value) in &self.headers {
            request
                .headers_mut()
                .insert(*name, HeaderValue::from_str(value)?);
        }
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(self.server).await?;
        stream.set_nodelay(true)?;
        match client_async(request, MaybeTlsStream::Plain(stream)).await {
            Ok((socket, _)) => Ok(Ok(socket)),
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Ok(Err(Refused {
                    status: response.status().as_u16(),
                    headers: response.headers().clone(),
                    body: serde_json::from_slice(body).unwrap_or(Value::Null),
                }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Comes in, and waits for `connected`.
    pub async fn enter(&self) -> anyhow::Result<Client> {
        match self.open().await? {
            Ok(socket) => Client::start(socket, self.clone()).await,
            Err(refused) => bail!(
                "{} refused with {}: {}",
                self.path,
                refused.status,
                refused.body
            ),
        }
    }

    /// Expects to be refused before the upgrade, with this status and problem.
    pub async fn refused(&self, status: u16, kind: &str) -> anyhow::Result<Refused> {
        self.refused_one_of(&[(status, kind)]).await
    }

    pub async fn refused_one_of(&self, wanted: &[(u16, &str)]) -> anyhow::Result<Refused> {
        let refused = match self.open().await? {
            Ok(_) => bail!("{} let in who should be refused: {wanted:?}", self.path),
            Err(refused) => refused,
        };
        let is = refused.body["type"].as_str().unwrap_or_default();
        let is = (refused.status, is.rsplit('/').next().unwrap_or_default());
        let content_type = refused.headers.get("content-type");
        let problem = content_type.is_some_and(|value| value == "application/problem+json");
        if !wanted.contains(&is) || !problem {
            bail!("{} should refuse {wanted:?}: {refused:?}", self.path);
        }
        Ok(refused)
    }
}
