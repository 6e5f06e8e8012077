//! Wake-ups between processes: one subscriber connection, one watch per queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::SubscriberClient;
use fred::prelude::*;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::adapters::distributed::redis::{Redis, port_error};
use crate::ports::{QueueWaker, Result};

/// A connection that died without a word is found by subscribing again so often (which Redis takes as nothing new).
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Watches by channel. There are as many as queues: a handful.
type Watches = Arc<Mutex<HashMap<String, watch::Sender<u64>>>>;

#[derive(Debug)]
pub(super) struct Wakers {
    client: SubscriberClient,
    watches: Watches,
    _listener: AbortOnDropHandle<()>,
}

impl Wakers {
    pub async fn start(redis: &Redis) -> Result<Self> {
        let client = redis.subscriber().await?;
        let watches = Watches::default();
        let listener = tokio::spawn(listen(client.clone(), watches.clone()));
        Ok(Self {
            client,
            watches,
            _listener: AbortOnDropHandle::new(listener),
        })
    }

    /// Subscribed when it returns: what is published from now on moves the watch.
    pub async fn watch(&self, channel: String) -> Result<QueueWaker> {
        self.client
            .subscribe(channel.clone())
            .await
            .map_err(|e| port_error("subscribe to wake-ups", e))?;
        let mut watches = self.watches.lock();
        let sender = watches
            .entry(channel)
            .or_insert_with(|| watch::Sender::new(0));
        Ok(sender.subscribe())
    }
}

async fn listen(client: SubscriberClient, watches: Watches) {
    let mut messages = client.message_rx();
    let mut reconnects = client.reconnect_rx();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Has the subscription been broken since everybody last looked?
    let mut missed = false;
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Ok(message) => {
                    if let Some(watch) = watches.lock().get(&*message.channel) {
                        bump(watch);
                    }
                    continue;
                }
                Err(RecvError::Lagged(_)) => missed = true,
                Err(RecvError::Closed) => return,
            },
            reconnect = reconnects.recv() => {
                if matches!(reconnect, Err(RecvError::Closed)) {
                    return;
                }
                missed = true;
            }
            _ = heartbeat.tick() => {}
        }
        let channels: Vec<String> = watches.lock().keys().cloned().collect();
        if channels.is_empty() {
            continue;
        }
        match client.subscribe(channels).await {
            Ok(()) if missed => {
                watches.lock().values().for_each(bump);
                missed = false;
            }
            Ok(()) => {}
            Err(error) => {
                missed = true;
                tracing::warn!(%error, "queue wake-ups are not subscribed; trying again in {HEARTBEAT:?}");
            }
        }
    }
}

fn bump(watch: &watch::Sender<u64>) {
    watch.send_modify(|version| *version = version.wrapping_add(1));
}
