//! The fan-out: everything new goes to every socket in one write each.

use std::time::Duration;

use atelier_shared::domain::ids::{ConnectionId, Seq};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::actor::Actor;
use super::connection::Tick;
use super::dialect::{ALL, Binary, DIALECTS, Dialect, Spoken};
use super::ring::{Audience, Feed, Frame};
use super::writing::Written;

/// While a room is hot, what arrives within at most so long leaves together.
const HOT_WINDOW_MAX: Duration = Duration::from_millis(2);
/// A fan-out as short as this (a small room) is never delayed: joining would save nothing, and the timer counts in
/// milliseconds.
const ALWAYS_AT_ONCE: Duration = Duration::from_micros(150);
/// Of who comes and goes a room tells the first at once; those behind it wait for so many times as long as telling took, and
/// leave together. A crowd that comes in costs each of its members a few writes then, and not one for each of the others.
const PEOPLE_WAIT: u32 = 20;
const PEOPLE_WAIT_MAX: Duration = Duration::from_millis(100);
/// Sockets written before other tasks of this thread get a turn.
const SOCKETS_AT_ONCE: usize = 512;

impl Actor {
    /// Is there anything that sockets must be told and were not yet?
    pub fn has_news(&self) -> bool {
        let (end, urgent) = {
            let feed = self.shared.feed.read();
            (feed.ring.end(), feed.latest.urgent())
        };
        urgent > self.told.1
            || self.urgent_end > self.told.0
            || (end != self.told.0 && Instant::now() >= self.people_due)
    }

    /// When sockets are to be told what they were not yet; `None`: they know all.
    pub fn news_due(&self) -> Option<Instant> {
        if self.has_news() {
            return Some(self.next_fan_out);
        }
        let waits = self.shared.feed.read().ring.end() != self.told.0;
        waits.then(|| self.people_due.max(self.next_fan_out))
    }

    pub fn push(&mut self, frame: Frame) {
        let mut feed = self.shared.feed.write();
        feed.ring.push(frame);
        self.urgent_end = feed.ring.end();
    }

    /// Tells of somebody's coming, changing or going. It leaves with whatever comes next, in its place before it.
    pub fn tell_of_people(&mut self, bytes: Bytes, origin: Option<ConnectionId>) {
        let frame = Frame::to_others(bytes, origin);
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
            tick(&feed, self.told, self.spoken)
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
        self.people_due = now + (cost * PEOPLE_WAIT).min(PEOPLE_WAIT_MAX);
    }
}

/// Computes once what all who are in step get: the frames since `told`, joined, for each dialect that is spoken.
fn tick(feed: &Feed, told: (u64, u64), spoken: Spoken) -> Tick {
    let mut tick = Tick {
        from: told.0,
        to: feed.ring.end(),
        latest_from: told.1,
        latest_to: feed.latest.version(),
        last_seq: Seq(0),
        joined: [const { None }; DIALECTS],
        origins: Vec::new(),
        frames: 0,
    };
    let mut parts: [Vec<&Bytes>; DIALECTS] = Default::default();
    // A tick larger than the ring is nobody's in one piece; all go by their own cursor.
    let Some(frames) = feed.ring.from(tick.from) else {
        return tick;
    };
    let mut same_for_all = true;
    for frame in frames {
        tick.last_seq = frame.seq.unwrap_or(tick.last_seq);
        tick.origins.extend(frame.origin);
        match &frame.audience {
            Audience::All => {
                add(&mut parts, &frame.bytes, frame.binary.as_deref());
                tick.frames += 1;
            }
            Audience::Origin => {}
            Audience::People(_) => same_for_all = false,
        }
    }
    for latest in feed.latest.since(tick.latest_from) {
        tick.origins.extend(latest.origin);
        add(&mut parts, &latest.bytes, latest.binary.as_deref());
        tick.frames += 1;
    }
    if same_for_all {
        for dialect in ALL.into_iter().filter(|dialect| spoken.is(*dialect)) {
            tick.joined[dialect as usize] = Some(join(&parts[dialect as usize]));
        }
    }
    tick
}

fn add<'a>(parts: &mut [Vec<&'a Bytes>; DIALECTS], json: &'a Bytes, binary: Option<&'a Binary>) {
    let forms = [
        (Dialect::Json, Some(json)),
        (Dialect::Yjs, binary.map(|b| &b.yjs)),
        (Dialect::Hocuspocus, binary.map(|b| &b.hocuspocus)),
    ];
    for (dialect, bytes) in forms {
        parts[dialect as usize].extend(bytes.filter(|bytes| !bytes.is_empty()));
    }
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
