//! The body of an upload as it comes in: counted against its limit, given to the form's parser piece by piece, and read on
//! when it is refused.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

/// What may be read ahead of what was made of it: a field's headers that never end must not fill the memory.
const AHEAD_MAX: u64 = 256 * 1024;

/// A body that is read piece by piece, counted, and read on when it is refused.
pub struct Tap {
    body: Mutex<BodyDataStream>,
    limit: u64,
    read: AtomicU64,
    used: AtomicU64,
    over: AtomicBool,
}

impl Tap {
    pub fn new(body: BodyDataStream, limit: u64) -> Self {
        Self {
            body: Mutex::new(body),
            limit,
            read: AtomicU64::new(0),
            used: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// So much of it has arrived where it belongs.
    pub fn used(&self, bytes: usize) {
        self.used.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn stream(self: &Arc<Self>) -> TapStream {
        TapStream {
            tap: self.clone(),
            gave: false,
        }
    }

    /// Reads and forgets what is left, at most `limit` bytes of it.
    pub async fn read_on(&self, limit: u64) {
        let mut left = limit;
        loop {
            let next =
                std::future::poll_fn(|context| self.body.lock().poll_next_unpin(context)).await;
            match next {
                Some(Ok(bytes)) if bytes.len() as u64 <= left => left -= bytes.len() as u64,
                _ => return,
            }
        }
    }
}

/// What the form's parser reads. It takes all that is ready before it looks at any of it, so it is given one piece at
/// a time.
pub struct TapStream {
    tap: Arc<Tap>,
    gave: bool,
}

impl Stream for TapStream {
    type Item = Result<Bytes, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.gave) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let tap = self.tap.clone();
        let next = tap.body.lock().poll_next_unpin(context);
        match next {
            Poll::Ready(Some(Ok(bytes))) => {
                let size = bytes.len() as u64;
                let read = tap.read.fetch_add(size, Ordering::Relaxed) + size;
                if read > tap.limit {
                    tap.over.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err("too large".to_owned())));
                }
                if read - tap.used.load(Ordering::Relaxed) > AHEAD_MAX {
                    return Poll::Ready(Some(Err("its headers do not end".to_owned())));
                }
                self.gave = true;
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.to_string()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
