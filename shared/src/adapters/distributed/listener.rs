//! One connection that listens to ordinary channels: watched, and subscribed anew after a break.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::{EventInterface, PubsubInterface};
use fred::prelude::*;
use fred::types::Message;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::task::AbortOnDropHandle;

use super::redis::{Redis, port_error};
use super::watchdog::Watchdog;
use crate::ports::Result;

/// Pause before a subscription that failed is tried again.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(100);

/// What a listener is told.
#[derive(Debug)]
pub enum Heard<'a> {
    Message {
        channel: &'a str,
        value: &'a Value,
    },
    /// Subscribed again after a break, or slower than what came: something may have been missed.
    Missed,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    /// One for each queue and each watched program, one for revocations.
    channels: Channels,
    runtime: Handle,
    _watchdog: Watchdog,
    _follower: AbortOnDropHandle<()>,
}

type Channels = Arc<Mutex<BTreeSet<String>>>;

impl Listener {
    /// `hear` must not block.
    pub async fn start(
        redis: &Redis,
        hear: impl Fn(Heard<'_>) + Send + Sync + 'static,
    ) -> Result<Self> {
        let client = redis.subscriber_client().await?;
        let (messages, reconnects) = (client.message_rx(), client.reconnect_rx());
        let channels = Channels::default();
        let mut watchdog = Watchdog::default();
        watchdog.watch(client.clone());
        let follower = follow(client.clone(), channels.clone(), messages, reconnects, hear);
        Ok(Self {
            client,
            channels,
            runtime: Handle::current(),
            _watchdog: watchdog,
            _follower: AbortOnDropHandle::new(tokio::spawn(follower)),
        })
    }

    /// Subscribed when it returns: what is published from now on is heard, or `Missed`.
    pub async fn listen(&self, channel: &str) -> Result<()> {
        // Before the command, so that a break right behind it is repaired.
        self.channels.lock().insert(channel.to_owned());
        let subscribed = self.client.subscribe(channel).await;
        subscribed.map_err(|e| port_error("subscribe to a Redis channel", e))
    }

    /// No longer subscribed; what still comes of it is heard all the same.
    pub async fn leave(&self, channel: &str) {
        self.channels.lock().remove(channel);
        if let Err(error) = self.client.unsubscribe(channel).await {
            tracing::debug!(channel, %error, "not unsubscribed");
        }
    }

    pub async fn ping(&self) -> Result<()> {
        self.client
            .ping::<()>(None)
            .await
            .map_err(|e| port_error("ping Redis subscriber", e))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let client = self.client.clone();
        self.runtime.spawn(async move {
            // Nobody is left to hear whether it went well.
            let _closed = client.quit().await;
        });
    }
}

/// Hands on what arrives. A reconnect is looked at only when all messages before it are handed on.
async fn follow(
    client: Client,
    channels: Channels,
    mut messages: Receiver<Message>,
    mut reconnects: Receiver<Server>,
    hear: impl Fn(Heard<'_>),
) {
    loop {
        tokio::select! {
            biased;
            message = messages.recv() => {
                match message {
                    Ok(message) => hear(Heard::Message { channel: &message.channel, value: &message.value }),
                    Err(RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "Redis messages arrived faster than they were handed on");
                        hear(Heard::Missed);
                    }
                    Err(RecvError::Closed) => return,
                }
                continue;
            }
            reconnect = reconnects.recv() => if matches!(reconnect, Err(RecvError::Closed)) {
                return;
            },
        }
        let lost: Vec<String> = channels.lock().iter().cloned().collect();
        for channel in lost {
            // One channel to a command: Redis answers each channel by itself, and fred takes one answer to a command.
            while let Err(error) = client.subscribe(channel.as_str()).await {
                tracing::debug!(channel, %error, "not subscribed again yet");
                tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
            }
        }
        hear(Heard::Missed);
    }
}
