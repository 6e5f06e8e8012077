//! The connections of a gateway: `MAX_CONNECTIONS` in all, and of these a few that no WebSocket takes, so that a gateway that
//! is full of people still answers probes and requests.

use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of all connections one in so many is left to requests, at most [`REQUESTS_MOST`].
const REQUESTS_SHARE: usize = 8;
const REQUESTS_MOST: usize = 256;

/// All seats of one gateway.
#[derive(Debug)]
pub struct Seats {
    all: Arc<Semaphore>,
    sockets: Arc<Semaphore>,
    taken: Gauge,
}

/// A connection's seat, which a WebSocket keeps after HTTP is done with it; free when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Seat(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    taken: Gauge,
    _one: Option<OwnedSemaphorePermit>,
    /// The connection is a WebSocket.
    socket: OnceLock<OwnedSemaphorePermit>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.taken.dec();
    }
}

impl Seats {
    /// `taken` shows how many are.
    pub fn new(most: usize, taken: Gauge) -> Self {
        let requests = (most / REQUESTS_SHARE).min(REQUESTS_MOST);
        Self {
            all: Arc::new(Semaphore::new(most)),
            sockets: Arc::new(Semaphore::new(most - requests)),
            taken,
        }
    }

    /// Waits for a seat.
    pub async fn take(&self) -> Seat {
        // The semaphore is never closed.
        let one = self.all.clone().acquire_owned().await.ok();
        self.taken.inc();
        Seat(Arc::new(Taken {
            taken: self.taken.clone(),
            _one: one,
            socket: OnceLock::new(),
        }))
    }

    /// The connection becomes a WebSocket. False: there are as many as may be.
    pub fn becomes_socket(&self, seat: &Seat) -> bool {
        match self.sockets.clone().try_acquire_owned() {
            Ok(permit) => {
                // One that already is one keeps what it has.
                let _ = seat.0.socket.set(permit);
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn sockets_keep_their_seats_and_leave_some_to_requests() {
        let taken = Gauge::default();
        let seats = Seats::new(8, taken.clone());
        let mut sockets = Vec::new();
        for _ in 0..7 {
            let seat = seats.take().await;
            assert!(seats.becomes_socket(&seat));
            sockets.push(seat);
        }
        let last = seats.take().await;
        assert!(!seats.becomes_socket(&last), "the last is for requests");
        assert_eq!(taken.get(), 8);
        assert!(seats.take().now_or_never().is_none(), "all are taken");
        drop(last);
        let last = seats.take().await;
        sockets.pop();
        assert!(seats.becomes_socket(&last), "one of the others went");
    }

    #[tokio::test]
    async fn a_seat_is_free_when_nobody_sits_on_it() {
        let taken = Gauge::default();
        let seats = Seats::new(1, taken.clone());
        let http = seats.take().await;
        let socket = http.clone();
        assert!(seats.becomes_socket(&socket), "of one alone none is kept");
        drop(http);
        assert!(seats.take().now_or_never().is_none());
        drop(socket);
        assert_eq!(taken.get(), 0);
        assert!(seats.take().now_or_never().is_some());
    }
}
