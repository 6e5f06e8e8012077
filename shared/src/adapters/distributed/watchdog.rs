//! Notices connections that are dead and silent, or whose server is a replica now, and replaces them.
//!
//! fred's own detection (`unresponsive`) counts from the last write, so that a connection written to often enough is never
//! found dead; and a subscriber writes nothing at all. TCP takes a quarter of an hour. And a server that another took over from may
//! keep its connections, and refuses every write on them for ever: whoever asks for its address anew is led to the other.

use std::time::Duration;

use fred::prelude::*;
use fred::types::config::{Options, Server};
use tokio::task::JoinSet;

use super::redis::{is_replica, role};

/// How often each connection is asked whether it lives.
const BEAT: Duration = Duration::from_secs(1);
/// A question unanswered for so long was missed.
const PING_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Questions missed in a row until a connection counts as dead. A Redis that is only slow answers one of them.
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
                if !client.is_connected() {
                    missed = 0;
                    continue;
                }
                let why = match look_at(&client).await {
                    Seen::Well => {
                        missed = 0;
                        continue;
                    }
                    Seen::Silent => {
                        missed += 1;
                        if missed < MISSES {
                            continue;
                        }
                        "a Redis connection is silent, reconnecting"
                    }
                    Seen::Demoted => "Redis is a replica here and takes no writes, reconnecting",
                };
                missed = 0;
                if client.is_connected() {
                    tracing::warn!(client = client.id(), "{why}");
                    if let Err(error) = client.force_reconnection().await {
                        tracing::warn!(client = client.id(), %error, "could not reconnect to Redis");
                    }
                }
            }
        });
    }
}

/// What a look at a client's connections came to.
enum Seen {
    Well,
    Silent,
    Demoted,
}

/// A client's connections: in a cluster it has one to each node.
pub fn nodes(client: &Client) -> Vec<Option<Server>> {
    if client.is_clustered() {
        client.active_connections().into_iter().map(Some).collect()
    } else {
        vec![None]
    }
}

/// Options under which one node is asked, and is not waited for.
pub fn ask_of(cluster_node: Option<Server>) -> Options {
    Options {
        timeout: Some(PING_TIMEOUT),
        cluster_node,
        fail_fast: true,
        ..Options::default()
    }
}

async fn look_at(client: &Client) -> Seen {
    let looks = nodes(client).into_iter().map(|node| async move {
        let asked = client.with_options(&ask_of(node));
        match role(&asked).await {
            Ok(role) if is_replica(&role) => Seen::Demoted,
            Err(error) if *error.kind() == ErrorKind::Timeout => Seen::Silent,
            // One that does not tell answers all the same.
            _ => Seen::Well,
        }
    });
    let mut seen = Seen::Well;
    for look in futures::future::join_all(looks).await {
        match look {
            Seen::Well => {}
            Seen::Silent => return look,
            Seen::Demoted => seen = look,
        }
    }
    seen
}
