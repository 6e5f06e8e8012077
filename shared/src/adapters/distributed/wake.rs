//! Wake-ups between processes: one watch per queue, and per program whose output is watched, moved by what is published on
//! its channel.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::adapters::distributed::listener::{Heard, Listener};
use crate::adapters::distributed::redis::Redis;
use crate::ports::Result;

/// Watches by channel: a handful of queues, and the programs that somebody watches.
type Watches = Arc<Mutex<HashMap<String, watch::Sender<u64>>>>;

#[derive(Debug)]
pub struct Wakers {
    watches: Watches,
    /// Watching and leaving are two steps each, in Redis and here: one at a time.
    gate: tokio::sync::Mutex<()>,
    listener: Listener,
}

impl Wakers {
    pub async fn start(redis: &Redis) -> Result<Self> {
        let watches = Watches::default();
        let heard = watches.clone();
        let listener = Listener::start(redis, move |what| match what {
            Heard::Message { channel, .. } => {
                if let Some(watch) = heard.lock().get(channel) {
                    bump(watch);
                }
            }
            Heard::Missed => heard.lock().values().for_each(bump),
        });
        Ok(Self {
            listener: listener.await?,
            watches,
            gate: tokio::sync::Mutex::default(),
        })
    }

    /// Subscribed when it returns: what is published from now on moves the watch.
    pub async fn watch(&self, channel: String) -> Result<watch::Receiver<u64>> {
        let _turn = self.gate.lock().await;
        self.leave_unwatched().await;
        // A watch first and subscribed later: what arrives in between moves it already.
        let waker = self
            .watches
            .lock()
            .entry(channel.clone())
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe();
        self.listener.listen(&channel).await?;
        Ok(waker)
    }

    async fn leave_unwatched(&self) {
        let unwatched: Vec<String> = self
            .watches
            .lock()
            .extract_if(|_, watch| watch.receiver_count() == 0)
            .map(|(channel, _)| channel)
            .collect();
        for channel in unwatched {
            self.listener.leave(&channel).await;
        }
    }
}

fn bump(watch: &watch::Sender<u64>) {
    watch.send_modify(|version| *version = version.wrapping_add(1));
}
