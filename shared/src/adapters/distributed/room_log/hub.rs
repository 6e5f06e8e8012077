//! One connection follows all rooms of this process: rooms -> subscribers, and what happens when it breaks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::interfaces::{EventInterface, PubsubInterface};
use fred::prelude::*;
use fred::types::{ClusterStateChange, Message};
use futures::stream::{self, SelectAll, StreamExt};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::task::AbortOnDropHandle;

use super::super::keys::{self, RoomKeys};
use super::super::redis::{Redis, port_error};
use super::super::watchdog::Watchdog;
use super::{failed, wire};
use crate::adapters::fanout::{Fanout, Place};
use crate::domain::ids::RoomId;
use crate::ports::{Delivery, Result, Subscription};

/// Rooms resubscribed at a time after a reconnect.
const RESUBSCRIBE_WIDTH: usize = 64;
/// Pause before rooms that could not be resubscribed are tried again.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(100);

/// Follows rooms; dropping it ends all its subscriptions.
pub struct Hub {
    shared: Arc<Shared>,
    _watchdog: Watchdog,
    _follower: AbortOnDropHandle<()>,
}

/// The connection life in which Redis confirmed a room's subscription. Whoever subscribes or unsubscribes holds it, so
/// that the room's commands reach Redis in the order in which they were decided, and many ask for one but once.
type Gate = Arc<tokio::sync::Mutex<Option<u64>>>;

struct Shared {
    client: Client,
    namespace: String,
    fanout: Fanout,
    gates: Mutex<HashMap<RoomId, Gate>>,
    /// Counts the connection's lives; raised by a reconnect before anything arrives over the new one.
    generation: AtomicU64,
    runtime: Handle,
}

/// Unsubscribes when dropped.
struct Guard {
    shared: Arc<Shared>,
    place: Place,
}

impl Hub {
    pub async fn open(redis: &Redis) -> Result<Self> {
        let client = redis.subscriber_client().await?;
        let signs = Signs {
            messages: client.message_rx(),
            reconnects: client.reconnect_rx(),
            // Ours as well as the pool's: who only listens hears nothing of a slot that moved to another node.
            changes: stream::select_all(
                redis
                    .pool
                    .clients()
                    .iter()
                    .chain([&client])
                    .map(|client| BroadcastStream::new(client.cluster_change_rx())),
            ),
        };
        let shared = Arc::new(Shared {
            client,
            namespace: redis.namespace.clone(),
            fanout: Fanout::default(),
            gates: Mutex::default(),
            generation: AtomicU64::new(0),
            runtime: Handle::current(),
        });
        let mut watchdog = Watchdog::default();
        watchdog.watch(shared.client.clone());
        let follower = tokio::spawn(follow(shared.clone(), signs));
        Ok(Self {
            shared,
            _watchdog: watchdog,
            _follower: AbortOnDropHandle::new(follower),
        })
    }

    pub async fn ping(&self) -> Result<()> {
        self.shared
            .client
            .ping::<()>(None)
            .await
            .map_err(|e| port_error("ping Redis subscriber", e))
    }

    /// Returns when Redis has confirmed: everything published afterwards arrives, or a gap.
    pub async fn subscribe(&self, room: &RoomId) -> Result<Subscription> {
        let shared = &self.shared;
        // A subscriber first and confirmed later: what arrives in between reaches it already.
        let (place, receiver) = shared.fanout.add(room, shared.generation());
        let guard = Guard {
            shared: shared.clone(),
            place,
        };
        shared
            .confirm(room)
            .await
            .map_err(failed("subscribe to a room", room))?;
        Ok(Subscription {
            receiver,
            guard: Some(Box::new(guard)),
        })
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.fanout.close();
        let client = self.shared.client.clone();
        self.shared.runtime.spawn(async move {
            // Nobody is left to hear whether it went well.
            let _closed = client.quit().await;
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.shared.fanout.remove(&self.place) {
            let (shared, room) = (self.shared.clone(), self.place.room.clone());
            self.shared
                .runtime
                .spawn(async move { shared.release(&room).await });
        }
    }
}

impl Shared {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn gate(&self, room: &RoomId) -> Gate {
        self.gates.lock().entry(room.clone()).or_default().clone()
    }

    fn channel(&self, room: &RoomId) -> String {
        RoomKeys::new(&self.namespace, room).channel()
    }

    /// Has Redis confirm the room's subscription on the present connection, unless it has.
    async fn confirm(&self, room: &RoomId) -> Result<(), Error> {
        let gate = self.gate(room);
        let mut confirmed = gate.lock().await;
        // Read before the command: if the connection breaks meanwhile, this counts for the old one and is repeated.
        let generation = self.generation();
        if *confirmed != Some(generation) {
            // One channel to a command: Redis answers each channel by itself, and fred takes one answer to a command.
            // (fred's own resubscribe_all asks for several, and shifts all later answers by that.)
            self.client.ssubscribe(self.channel(room)).await?;
            *confirmed = Some(generation);
        }
        Ok(())
    }

    /// Unsubscribes a room that nobody follows any more.
    async fn release(&self, room: &RoomId) {
        let Some(gate) = self.gates.lock().get(room).cloned() else {
            return;
        };
        let mut confirmed = gate.lock().await;
        if self.fanout.has(room) {
            return;
        }
        // Also where nothing was confirmed: the wait for it may have been given up. A failure leaves a subscription
        // that nobody hears, until the connection ends.
        *confirmed = None;
        if let Err(error) = self.client.sunsubscribe(self.channel(room)).await {
            tracing::debug!(%room, %error, "could not unsubscribe");
        }
        let mut gates = self.gates.lock();
        // Ours and the table's: somebody else's would go on with a gate that others can't find.
        if Arc::strong_count(&gate) == 2 {
            gates.remove(room);
        }
    }

    fn deliver(&self, message: &Message) {
        let Some(room) = keys::room_of_channel(&self.namespace, &message.channel) else {
            return;
        };
        let text = message.value.as_bytes().unwrap_or_default();
        let delivery = wire::delivery(&room, text).unwrap_or_else(|error| {
            tracing::error!(%room, error, "a message of the room can't be read");
            Delivery::Gap
        });
        self.fanout.deliver(&room, self.generation(), delivery);
    }

    /// Subscribes every followed room on connection `generation`; each gets a gap where it has missed something.
    async fn resubscribe(&self, generation: u64) {
        let mut rooms = self.fanout.rooms();
        tracing::warn!(
            rooms = rooms.len(),
            "Redis subscriptions were lost, subscribing again"
        );
        while !rooms.is_empty() && self.generation() == generation {
            let tries = stream::iter(rooms).map(|room| async move {
                match self.confirm(&room).await {
                    Ok(()) => {
                        self.fanout.resumed(&room, generation);
                        None
                    }
                    Err(_) => Some(room),
                }
            });
            let failed: Vec<Option<RoomId>> =
                tries.buffer_unordered(RESUBSCRIBE_WIDTH).collect().await;
            rooms = failed
                .into_iter()
                .flatten()
                .filter(|room| self.fanout.has(room))
                .collect();
            if !rooms.is_empty() {
                tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
            }
        }
    }
}

/// What the connection tells of itself.
struct Signs {
    messages: Receiver<Message>,
    reconnects: Receiver<Server>,
    changes: SelectAll<BroadcastStream<Vec<ClusterStateChange>>>,
}

/// Hands on what arrives. A reconnect is looked at only when all messages before it are handed on, so that a gap never
/// overtakes them.
async fn follow(shared: Arc<Shared>, mut signs: Signs) {
    loop {
        tokio::select! {
            biased;
            message = signs.messages.recv() => match message {
                Ok(message) => {
                    shared.deliver(&message);
                    continue;
                }
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "room messages arrived faster than they were handed on");
                    shared.fanout.gap_everywhere();
                    continue;
                }
                Err(RecvError::Closed) => return,
            },
            reconnect = signs.reconnects.recv() => if matches!(reconnect, Err(RecvError::Closed)) {
                return;
            },
            Some(_) = signs.changes.next() => {}
        }
        // A new life: what was subscribed is not any more, or may lie on another node.
        let generation = shared.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let shared = shared.clone();
        tokio::spawn(async move { shared.resubscribe(generation).await });
    }
}
