//! Moving the tails of a whole group of rooms: read together, written together, confirmed together, so that stores which
//! commit in groups do it once.

use std::time::{Duration, Instant};

use atelier_shared::domain::ids::RoomId;
use atelier_shared::ports::{PortError, Result};
use atelier_shared::recovery::{self, ARCHIVE_DELAY};
use futures::future::join_all;

use super::Archiver;
use super::tail::{Moved, Read, Tail};

/// Rooms of one pass; the rest come with the next.
const ROOMS_PER_PASS: usize = 4_096;
/// Rooms whose tails are in memory at a time.
const ROOMS_AT_ONCE: usize = 32;
/// Rooms that are written to all the while are moved again after this many times as long as it took, at most so late: where
/// there is much to do the archive lags by seconds, and takes a fifth of the time and not all of it.
const PAUSE: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A room whose tail can't be moved is left to its own job for so long.
const SET_ASIDE: Duration = Duration::from_secs(30);

impl Archiver {
    /// Moves what waits in the group's rooms, and queues itself again if something is left.
    pub(super) async fn archive_group(&self, group: u16) -> Result<()> {
        let began = Instant::now();
        let until = began + self.policy.slice;
        let mut rooms = self.log.dirty_rooms(Some(group), ROOMS_PER_PASS).await?;
        let mut left = rooms.len() >= ROOMS_PER_PASS;
        rooms.retain(|room| !self.known.is_set_aside(room, SET_ASIDE));
        let mut failure = None;
        for rooms in rooms.chunks(ROOMS_AT_ONCE) {
            if Instant::now() >= until {
                left = true;
                break;
            }
            for (room, tail) in rooms.iter().zip(self.move_tails(rooms, until).await) {
                match self.see_to(room, tail).await {
                    Ok(clean) => left |= !clean,
                    Err(error) if error.is_retryable() => failure = Some(error),
                    Err(error) => self.leave_to_itself(room, &error).await?,
                }
            }
        }
        // The job that failed comes again by itself.
        match failure {
            Some(error) => Err(error),
            None if left => {
                let delay = (began.elapsed() * PAUSE).clamp(ARCHIVE_DELAY, PAUSE_MAX);
                let woken = recovery::wake_archive_group(&*self.queue, group, delay).await;
                woken.map(drop)
            }
            None => Ok(()),
        }
    }

    /// Each room's tail, up to where it was when it was read; those with more than a batch until the time is over.
    async fn move_tails(&self, rooms: &[RoomId], until: Instant) -> Vec<Result<Tail>> {
        let reads = join_all(rooms.iter().map(|room| self.read_tail(room))).await;
        let writes = rooms.iter().zip(reads).map(|(room, read)| async move {
            match read? {
                Read::NotOurs => Ok(None),
                Read::Tail(tail) => self.write_tail(room, tail).await,
            }
        });
        let moved: Vec<Result<Option<Moved>>> = join_all(writes).await;
        let confirms = rooms.iter().zip(moved).map(|(room, moved)| async move {
            let Some(moved) = moved? else {
                return Ok(Tail::NotOurs);
            };
            match (self.confirm(room, moved).await?, moved.full) {
                (Tail::More(_), true) => self.move_tail(room, until).await,
                (tail, _) => Ok(tail),
            }
        });
        join_all(confirms).await
    }

    /// What follows a move. False: something is left in the room.
    async fn see_to(&self, room: &RoomId, tail: Result<Tail>) -> Result<bool> {
        let (head, clean) = match tail? {
            Tail::NotOurs => return Ok(true),
            Tail::Clean(head) => (head, true),
            Tail::More(head) => (head, false),
        };
        if self.is_checkpoint_due(room, head, clean) {
            // A large document takes a while: the others' tails don't wait for it.
            recovery::archive_room(&*self.queue, room).await?;
        }
        if clean {
            self.watch_idle(room).await?;
        }
        Ok(clean)
    }

    /// Its own job fails in the same way, and is a dead letter that says so.
    async fn leave_to_itself(&self, room: &RoomId, error: &PortError) -> Result<()> {
        tracing::warn!(%room, %error, "a room can't be archived with the others");
        self.known.set_aside(room);
        recovery::archive_room(&*self.queue, room).await.map(drop)
    }
}
