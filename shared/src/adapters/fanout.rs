//! Hands what happens in a room to the subscribers of this process, in order, never waiting for the slowest.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::domain::ids::RoomId;
use crate::ports::{Delivery, SUBSCRIPTION_CAPACITY};

/// Which subscriber of which room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub room: RoomId,
    id: u64,
}

/// Rooms and their subscribers. A std-like mutex, not an async one: nothing under it waits.
#[derive(Debug, Default)]
pub struct Fanout {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    rooms: HashMap<RoomId, Feed>,
    last_id: u64,
    closed: bool,
}

#[derive(Debug)]
struct Feed {
    outlets: Vec<Outlet>,
    /// Which life of the connection this feed's deliveries come from (see [`Fanout::deliver`]).
    generation: u64,
}

#[derive(Debug)]
struct Outlet {
    id: u64,
    /// One place larger than [`SUBSCRIPTION_CAPACITY`]: the last is kept for the gap.
    sender: mpsc::Sender<Delivery>,
    /// The last thing in the queue is a gap and what came since was dropped: one gap stands for all of it.
    gapped: bool,
}

impl Fanout {
    /// A new subscriber of `room`. Everything delivered from now on reaches it.
    pub fn add(&self, room: &RoomId, generation: u64) -> (Place, mpsc::Receiver<Delivery>) {
        let (sender, receiver) = mpsc::channel(SUBSCRIPTION_CAPACITY + 1);
        let mut table = self.table.lock();
        table.last_id += 1;
        let id = table.last_id;
        if !table.closed {
            let feed = table.rooms.entry(room.clone()).or_insert_with(|| Feed {
                outlets: Vec::with_capacity(1),
                generation,
            });
            feed.outlets.push(Outlet {
                id,
                sender,
                gapped: false,
            });
        }
        let room = room.clone();
        (Place { room, id }, receiver)
    }

    /// True: it was the room's last subscriber.
    pub fn remove(&self, place: &Place) -> bool {
        let mut table = self.table.lock();
        let Some(feed) = table.rooms.get_mut(&place.room) else {
            return false;
        };
        feed.outlets.retain(|outlet| outlet.id != place.id);
        let last = feed.outlets.is_empty();
        if last {
            table.rooms.remove(&place.room);
        }
        last
    }

    pub fn has(&self, room: &RoomId) -> bool {
        self.table.lock().rooms.contains_key(room)
    }

    pub fn rooms(&self) -> Vec<RoomId> {
        self.table.lock().rooms.keys().cloned().collect()
    }

    /// Delivers to all subscribers of `room`. If the feed's last delivery came over an earlier connection
    /// (`generation`), what was published in between may be missing, and a gap goes first.
    pub fn deliver(&self, room: &RoomId, generation: u64, delivery: Delivery) {
        let mut table = self.table.lock();
        let Some(feed) = table.rooms.get_mut(room) else {
            return;
        };
        feed.reach(generation);
        let Some((last, others)) = feed.outlets.split_last_mut() else {
            return;
        };
        for outlet in others {
            outlet.push(delivery.clone());
        }
        last.push(delivery);
    }

    /// The room's subscription stands on connection `generation` now: a gap, unless one was delivered already.
    pub fn resumed(&self, room: &RoomId, generation: u64) {
        if let Some(feed) = self.table.lock().rooms.get_mut(room) {
            feed.reach(generation);
        }
    }

    /// Something was lost, nobody knows of which room.
    pub fn gap_everywhere(&self) {
        for feed in self.table.lock().rooms.values_mut() {
            feed.gap();
        }
    }

    /// Ends every subscription, and those still to come: their receivers end after what is queued.
    pub fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        table.rooms.clear();
    }
}

impl Feed {
    fn reach(&mut self, generation: u64) {
        if self.generation < generation {
            self.generation = generation;
            self.gap();
        }
    }

    fn gap(&mut self) {
        for outlet in &mut self.outlets {
            outlet.push(Delivery::Gap);
        }
    }
}

impl Outlet {
    /// Queues the delivery, or a gap in its place. While gapped, all that arrives is dropped until half of the queue
    /// is free: everything dropped lies behind the gap in time and is repaired by the same comparison with the log.
    fn push(&mut self, delivery: Delivery) {
        // Only this task fills the queue, so its free places can only grow under our feet. A send fails only when the
        // receiver is gone, and then its guard is about to remove this outlet.
        let free = self.sender.capacity();
        if self.gapped {
            if free <= SUBSCRIPTION_CAPACITY / 2 {
                return;
            }
            self.gapped = false;
        }
        if free >= 2 {
            let _receiver_gone = self.sender.try_send(delivery);
        } else {
            self.gapped = true;
            let _receiver_gone = self.sender.try_send(Delivery::Gap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::Epoch;
    use crate::domain::signal::Signal;

    fn numbered(n: u64) -> Delivery {
        Signal::EpochRaised { epoch: Epoch(n) }.into()
    }

    fn drain(receiver: &mut mpsc::Receiver<Delivery>) -> Vec<Option<u64>> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .map(|delivery| match delivery {
                Delivery::Signal(signal) => match *signal {
                    Signal::EpochRaised { epoch } => Some(epoch.0),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_slow_subscriber_finds_one_gap_in_the_place_of_what_was_dropped() {
        let (fanout, room) = (Fanout::default(), RoomId::generate());
        let (_, mut slow) = fanout.add(&room, 0);
        let capacity = SUBSCRIPTION_CAPACITY as u64;
        for n in 1..=3 * capacity {
            fanout.deliver(&room, 0, numbered(n));
        }
        let mut expected: Vec<_> = (1..=capacity).map(Some).collect();
        expected.push(None);
        assert_eq!(drain(&mut slow), expected);
        fanout.deliver(&room, 0, numbered(7));
        assert_eq!(drain(&mut slow), [Some(7)]);
    }

    #[test]
    fn another_subscriber_of_the_room_misses_nothing_meanwhile() {
        let (fanout, room) = (Fanout::default(), RoomId::generate());
        let (_slow, mut quick) = (fanout.add(&room, 0), fanout.add(&room, 0).1);
        for n in 1..=2 * SUBSCRIPTION_CAPACITY as u64 {
            fanout.deliver(&room, 0, numbered(n));
            assert_eq!(drain(&mut quick), [Some(n)]);
        }
    }

    #[test]
    fn a_new_connection_is_one_gap_before_what_it_brings() {
        let (fanout, room) = (Fanout::default(), RoomId::generate());
        let (_, mut receiver) = fanout.add(&room, 0);
        fanout.deliver(&room, 0, numbered(1));
        fanout.deliver(&room, 1, numbered(2));
        fanout.resumed(&room, 1);
        assert_eq!(drain(&mut receiver), [Some(1), None, Some(2)]);
        fanout.resumed(&room, 2);
        assert_eq!(drain(&mut receiver), [None]);
    }

    #[test]
    fn the_last_to_leave_is_told_so() {
        let (fanout, room) = (Fanout::default(), RoomId::generate());
        let (first, _a) = fanout.add(&room, 0);
        let (second, _b) = fanout.add(&room, 0);
        assert!(!fanout.remove(&first));
        assert!(fanout.remove(&second));
        assert!(!fanout.has(&room));
    }
}
