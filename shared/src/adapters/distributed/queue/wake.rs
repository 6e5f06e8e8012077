//! Wake-ups between processes: one watch per queue, moved by what is published on the queue's channel.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::adapters::distributed::listener::{Heard, Listener};
use crate::adapters::distributed::redis::Redis;
use crate::ports::{QueueWaker, Result};

/// Watches by channel. There are as many as queues: a handful.
type Watches = Arc<Mutex<HashMap<String, watch::Sender<u64>>>>;

#[derive(Debug)]
pub(super) struct Wakers {
    watches: Watches,
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
        })
    }

    /// Subscribed when it returns: what is published from now on moves the watch.
    pub async fn watch(&self, channel: String) -> Result<QueueWaker> {
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
}

fn bump(watch: &watch::Sender<u64>) {
    watch.send_modify(|version| *version = version.wrapping_add(1));
}
