//! The fan-out: everything new goes to every socket in one write each.

use std::time::Duration;

use atelier_shared::domain::ids::{ConnectionId, Seq};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::actor::Actor;
use super::connection::{Tick, Written};
use super::ring::{Audience, Feed, Frame};

/// While a room is hot, what arrives within at most so long leaves together.
const HOT_WINDOW_MAX: Duration = Duration::from_millis(2);
/// A fan-out as short as this (a small room) is never delayed: joining would save nothing, and the timer counts in
/// milliseconds.
const ALWAYS_AT_ONCE: Duration = Duration::from_micros(150);
/// Sockets written before other tasks of this thread get a turn.
const SOCKETS_AT_ONCE: usize = 512;

impl Actor {
    /// Is there anything that sockets must be told and were not yet?
    pub fn has_news(&self) -> bool {
        let feed = self.shared.feed.read();
        feed.ring.end() != self.told.0 || feed.latest.urgent() > self.told.1
    }

    pub fn push(&mut self, frame: Frame) {
        self.shared.feed.write().ring.push(frame);
    }

    /// A frame for everybody here but `origin`, not in the log.
    pub fn tell_others(&mut self, bytes: Bytes, origin: Option<ConnectionId>) {
        self.push(Frame::to_others(bytes, origin));
    }

    pub async fn fan_out(&mut self) {
        let started = Instant::now();
        let tick = {
            let feed = self.shared.feed.read();
            tick(&feed, self.told)
        };
        self.told = (tick.to, tick.latest_to);
        let mut deliveries = 0;
        for sockets in self.sockets.chunks(SOCKETS_AT_ONCE) {
            {
                let feed = self.shared.feed.read();
                for socket in sockets {
                    if socket.deliver(&feed, &tick) == Written::All {
                        deliveries += 1;
                    }
                }
            }
            if self.sockets.len() > SOCKETS_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
        self.rooms
            .metrics
            .deliveries
            .inc_by(deliveries * tick.frames);
        if tick.frames > 1 {
            self.rooms.metrics.deliveries_coalesced.inc_by(deliveries);
        }
        let now = Instant::now();
        // A room spends at most half of its time writing: what comes meanwhile is joined. The first message after a pause
        // leaves at once, and so does everything in a small room.
        let cost = now - started;
        let pause = if cost < ALWAYS_AT_ONCE {
            Duration::ZERO
        } else {
            cost.min(HOT_WINDOW_MAX)
        };
        self.next_fan_out = now + pause;
    }
}

/// Computes once what all who are in step get: the frames since `told`, joined.
fn tick(feed: &Feed, told: (u64, u64)) -> Tick {
    let mut tick = Tick {
        from: told.0,
        to: feed.ring.end(),
        latest_from: told.1,
        latest_to: feed.latest.version(),
        last_seq: Seq(0),
        joined: Bytes::new(),
        origins: Vec::new(),
        frames: 0,
    };
    let mut parts: Vec<&Bytes> = Vec::new();
    // A tick larger than the ring is nobody's in one piece; all go by their own cursor.
    let Some(frames) = feed.ring.from(tick.from) else {
        return tick;
    };
    let mut same_for_all = true;
    for frame in frames {
        tick.last_seq = frame.seq.unwrap_or(tick.last_seq);
        tick.origins.extend(frame.origin);
        match &frame.audience {
            Audience::All => parts.push(&frame.bytes),
            Audience::Origin => {}
            Audience::People(_) => same_for_all = false,
        }
    }
    for latest in feed.latest.since(tick.latest_from) {
        tick.origins.extend(latest.origin);
        parts.push(&latest.bytes);
    }
    tick.frames = parts.len() as u64;
    if same_for_all {
        tick.joined = join(&parts);
    }
    tick
}

fn join(parts: &[&Bytes]) -> Bytes {
    match parts {
        [] => Bytes::new(),
        [one] => (*one).clone(),
        many => {
            let mut joined = BytesMut::with_capacity(many.iter().map(|part| part.len()).sum());
            for part in many {
                joined.extend_from_slice(part);
            }
            joined.freeze()
        }
    }
}
