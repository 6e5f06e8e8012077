//! Notices connections that are dead and silent, and replaces them.
//!
//! fred's own detection (`unresponsive`) counts from the last write, so that a connection written to often enough is never
//! found dead; and a subscriber writes nothing at all. TCP takes a quarter of an hour.

use std::time::Duration;

use fred::prelude::*;
use fred::types::config::Options;
use tokio::task::JoinSet;

/// How often each connection is asked whether it lives.
const BEAT: Duration = Duration::from_secs(1);
/// A ping unanswered for so long was missed.
const PING_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Pings missed in a row until a connection counts as dead. A Redis that is only slow answers one of them.
const MISSES: u32 = 2;

/// Watches clients until it is dropped.
#[derive(Debug, Default)]
pub struct Watchdog {
    watches: JoinSet<()>,
}

impl Watchdog {
    pub fn watch(&mut self, client: Client) {
        self.watches.spawn(async move {
            let mut missed = 0;
            loop {
                tokio::time::sleep(BEAT).await;
                // While fred reconnects by itself there is nothing to find out.
                if !client.is_connected() || !is_silent(&client).await {
                    missed = 0;
                    continue;
                }
                missed += 1;
                if missed >= MISSES && client.is_connected() {
                    tracing::warn!(client = client.id(), "a Redis connection is silent, reconnecting");
                    if let Err(error) = client.force_reconnection().await {
                        tracing::warn!(client = client.id(), %error, "could not reconnect to Redis");
                    }
                    missed = 0;
                }
            }
        });
    }
}

/// Does one of the client's connections (in a cluster it has one to each node) leave a ping unanswered?
async fn is_silent(client: &Client) -> bool {
    let nodes = if client.is_clustered() {
        client.active_connections().into_iter().map(Some).collect()
    } else {
        vec![None]
    };
    let pings = nodes.into_iter().map(|cluster_node| {
        let options = Options {
            timeout: Some(PING_TIMEOUT),
            cluster_node,
            fail_fast: true,
            ..Options::default()
        };
        async move { client.with_options(&options).ping::<()>(None).await }
    });
    let pongs = futures::future::join_all(pings).await;
    pongs
        .iter()
        .any(|pong| matches!(pong, Err(error) if *error.kind() == ErrorKind::Timeout))
}
