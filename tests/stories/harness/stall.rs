//! A TCP proxy that stops a chosen call on its way: what comes after it on that connection waits until it is let go.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where the call is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The store never hears of it.
    TheCall,
    /// The store carries it out, and its caller never hears of that.
    TheAnswer,
}

#[derive(Debug, Clone)]
struct Trap {
    call: Arc<[u8]>,
    at: At,
}

/// Ends with its owner.
#[derive(Debug)]
pub struct Stall {
    trap: watch::Sender<Option<Trap>>,
    caught: watch::Sender<u32>,
    task: tokio::task::JoinHandle<()>,
}

impl Stall {
    /// Before the server of this URL, which is changed to lead here. Passes everything until it is armed.
    pub async fn into_url(url: &mut Url, default_port: u16) -> anyhow::Result<Self> {
        let host = url.host_str().context("the URL names no host")?;
        let target = format!("{host}:{}", url.port().unwrap_or(default_port));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let SocketAddr::V4(own) = listener.local_addr()? else {
            anyhow::bail!("not an IPv4 address");
        };
        let changed =
            url.set_host(Some("127.0.0.1")).is_ok() && url.set_port(Some(own.port())).is_ok();
        anyhow::ensure!(changed, "{url} can't be led elsewhere");
        let (trap, armed) = watch::channel(None);
        let caught = watch::Sender::new(0);
        let catches = caught.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(
                    client,
                    target.clone(),
                    armed.clone(),
                    catches.clone(),
                ));
            }
        });
        Ok(Self { trap, caught, task })
    }

    /// From now on the next call that holds these bytes is stopped, and every other one that does.
    pub fn arm(&self, call: &[u8], at: At) {
        self.caught.send_replace(0);
        self.trap.send_replace(Some(Trap {
            call: call.into(),
            at,
        }));
    }

    /// What waits goes on, and nothing is stopped any more.
    pub fn disarm(&self) {
        self.trap.send_replace(None);
    }

    /// Waits until a call was stopped.
    pub async fn caught(&self, patience: std::time::Duration) -> anyhow::Result<()> {
        let mut caught = self.caught.subscribe();
        tokio::time::timeout(patience, caught.wait_for(|count| *count > 0))
            .await
            .context("the call never came")??;
        Ok(())
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    client: TcpStream,
    target: String,
    trap: watch::Receiver<Option<Trap>>,
    caught: watch::Sender<u32>,
) {
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    // Set once a call whose answer is to be kept back went through.
    let answers_wait = watch::Sender::new(false);
    let back = answers(
        server_in,
        client_out,
        trap.clone(),
        answers_wait.subscribe(),
    );
    let there = calls(client_in, server_out, trap, caught, answers_wait);
    tokio::join!(there, back);
}

async fn calls(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut trap: watch::Receiver<Option<Trap>>,
    caught: watch::Sender<u32>,
    answers_wait: watch::Sender<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    // The end of what came before: a call may come in two pieces.
    let mut before: Vec<u8> = Vec::new();
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let armed = trap.borrow().clone();
        if let Some(armed) = armed {
            before.extend_from_slice(&buffer[..n]);
            if before
                .windows(armed.call.len())
                .any(|bytes| *bytes == *armed.call)
            {
                before.clear();
                if armed.at == At::TheAnswer {
                    answers_wait.send_replace(true);
                }
                caught.send_modify(|count| *count += 1);
                if armed.at == At::TheCall && trap.wait_for(Option::is_none).await.is_err() {
                    return;
                }
            }
            let keep = before.len().min(armed.call.len().saturating_sub(1));
            before.drain(..before.len() - keep);
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut trap: watch::Receiver<Option<Trap>>,
    wait: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if *wait.borrow() && trap.wait_for(Option::is_none).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
