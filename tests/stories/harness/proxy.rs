//! A TCP proxy before a store or a gateway: passes, cuts or swallows.

use std::net::SocketAddr;

use anyhow::Context;
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Pass,
    /// Connections are closed, new ones at once.
    Cut,
    /// Connections stay and nothing comes through: what was sent meanwhile arrives when it passes again.
    Blackhole,
}

/// Ends with its owner.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn before(target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (weather, seen) = watch::channel(Weather::Pass);
        let target = target.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), seen.clone()));
            }
        });
        Ok(Self {
            address,
            weather,
            task,
        })
    }

    /// Before the server of this URL, which is changed to lead here.
    pub async fn into_url(url: &mut Url, default_port: u16) -> anyhow::Result<Self> {
        let host = url.host_str().context("the URL names no host")?;
        let port = url.port().unwrap_or(default_port);
        let proxy = Self::before(&format!("{host}:{port}")).await?;
        let changed = url.set_host(Some("127.0.0.1")).is_ok()
            && url.set_port(Some(proxy.address.port())).is_ok();
        anyhow::ensure!(changed, "{url} can't be led elsewhere");
        Ok(proxy)
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.weather.send_replace(Weather::Cut);
    }
}

async fn carry(client: TcpStream, target: String, mut seen: watch::Receiver<Weather>) {
    if *seen.borrow() == Weather::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let there = pass(client_in, server_out, seen.clone());
    let back = pass(server_in, client_out, seen.clone());
    tokio::select! {
        ((), ()) = async { tokio::join!(there, back) } => {}
        _ = seen.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut seen: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let open = seen.wait_for(|weather| *weather != Weather::Blackhole);
        if open.await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    // One side has ended its half; the other may still be talking.
    let _ = to.shutdown().await;
}

/// A port that was free a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}
