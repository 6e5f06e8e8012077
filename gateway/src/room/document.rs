//! The room's document on this pod: the edge between its encoded bytes and those who read and write it. No `Doc` is kept
//! here; whatever walks through many bytes runs on blocking threads, so many at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atelier_shared::costly::{Costly, Unfinished};
use atelier_shared::domain::document::{self, Document, Malformed, Merge, NESTING_MAX, Snapshot};
use atelier_shared::domain::ids::{ConnectionId, Seq};
use atelier_shared::domain::room::Activity;
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{OnceCell, Semaphore, oneshot};
use tokio::time::Instant;

use super::actor::{Actor, Command, Done};
use super::json::outgoing::{self, ErrorFrame};
use super::registry::Handle;

/// Work on so many bytes is done where it comes up: a thread's turn costs more.
const LITTLE: usize = 4 * 1024;
/// Documents worked on at once, in the whole process.
const AT_ONCE: usize = 4;
/// Updates from outside that are checked at once, and as many again that nobody waits for any more: apart from all other work,
/// which one of them must not hold up.
static CHECKS: Costly = Costly::new(4, 8, CHECK_PATIENCE);
/// An update that can't be checked within this (its author made it so) is refused.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);
/// A document of a live room is read anew from the archive, where it is kept compacted, when it has so many bytes and has
/// doubled since the last time.
const RENEWED_FROM: usize = 1 << 20;
/// Nor is it read anew more often than this, whatever asks for it.
const RENEWED_EVERY: Duration = Duration::from_secs(30);
/// A document that is quiet becomes one piece: a small one at the next beat, a large one after so many.
const SMALL: usize = 256 << 10;
const QUIET_BEATS: u32 = 30;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Runs `work`, which walks through about so many bytes. `None`: it panicked, or the process is stopping.
pub async fn walk<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= LITTLE {
        return Some(work());
    }
    let turn = TURNS.acquire().await.ok()?;
    let work = move || {
        // Held until the thread is done, also where nobody waits for it any more.
        let _turn = turn;
        work()
    };
    tokio::task::spawn_blocking(work).await.ok()
}

/// Why an update does not go into the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    Malformed(Malformed),
    /// Too many are being checked: at another time.
    Busy,
}

impl From<Malformed> for NotTaken {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl NotTaken {
    /// What its sender is told.
    pub fn error(&self) -> ErrorFrame {
        match self {
            Self::Malformed(malformed) => {
                ErrorFrame::new("invalid", format!("data: {malformed}")).field("data")
            }
            Self::Busy => {
                let text = "too many edits are being checked; send it again";
                ErrorFrame::new("overloaded", text).retry_in_ms(1_000)
            }
        }
    }
}

/// As [`walk`], for what somebody from outside makes as costly as they can.
async fn check_patiently<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Malformed> + Send + 'static,
) -> Result<T, NotTaken> {
    if bytes <= LITTLE {
        return Ok(work()?);
    }
    match CHECKS.run(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(Unfinished::Busy) => Err(NotTaken::Busy),
        Err(Unfinished::TooCostly) => Err(Malformed::TOO_COSTLY.into()),
    }
}

/// The document at one seq, put together once for however many ask.
#[derive(Debug)]
pub struct DocumentSnapshot {
    pub seq: Seq,
    pub snapshot: Snapshot,
    merge: Option<Merge>,
    state: OnceCell<Bytes>,
    /// What its merge gave, if it lost nothing.
    merged: OnceCell<Bytes>,
    sync: OnceCell<Bytes>,
    /// All of it as a step 2 of the binary dialects.
    pub in_yjs: OnceCell<Bytes>,
    pub in_hocuspocus: OnceCell<Bytes>,
}

impl DocumentSnapshot {
    fn new(document: &Document, seq: Seq) -> Arc<Self> {
        Arc::new(Self {
            seq,
            snapshot: document.snapshot(),
            merge: document.merge_all(),
            state: OnceCell::new(),
            merged: OnceCell::new(),
            sync: OnceCell::new(),
            in_yjs: OnceCell::new(),
            in_hocuspocus: OnceCell::new(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.snapshot.is_empty()
    }

    /// All of it as one update.
    pub async fn state(&self) -> Bytes {
        let state = self.state.get_or_init(|| async {
            if let Some(merge) = self.merge.clone() {
                let run = walk(self.snapshot.bytes(), move || merge.run());
                if let Some(Ok(merged)) = run.await {
                    let _ = self.merged.set(merged.clone());
                    return merged;
                }
            }
            let snapshot = self.snapshot.clone();
            let state = walk(self.snapshot.bytes(), move || snapshot.state()).await;
            state.unwrap_or_else(|| Bytes::from_static(&document::EMPTY_UPDATE))
        });
        state.await.clone()
    }

    /// What somebody with this v1 state vector does not have, with all deletions.
    ///
    /// # Errors
    /// The state vector can't be read.
    pub async fn diff(&self, state_vector: Bytes) -> Result<Bytes, Malformed> {
        document::read_state_vector(&state_vector)?;
        let state = self.state().await;
        let whole = state.clone();
        let diff = move || {
            let mut one = Document::default();
            one.fold(&state);
            one.snapshot().diff(&state_vector)
        };
        walk(whole.len(), diff).await.unwrap_or(Ok(whole))
    }

    /// The `sync` frame.
    pub async fn sync_frame(&self) -> Bytes {
        let frame = self.sync.get_or_init(|| async {
            let state = self.state().await;
            let whole = state.clone();
            let frame = walk(whole.len(), move || outgoing::sync(&state)).await;
            frame.unwrap_or_else(|| outgoing::sync(&whole))
        });
        frame.await.clone()
    }
}

/// The room's task has ended; opening the room again starts another.
#[derive(Debug)]
pub struct RoomEnded;

impl Handle {
    /// The document as it is now; `None`: this room does not allow documents.
    pub async fn document(&self) -> Result<Option<Arc<DocumentSnapshot>>, RoomEnded> {
        self.ask_document(None).await
    }

    /// The same, with all that this connection has sent before it asks.
    pub async fn document_with_edits_of(
        &self,
        asker: ConnectionId,
    ) -> Result<Option<Arc<DocumentSnapshot>>, RoomEnded> {
        self.ask_document(Some(asker)).await
    }

    async fn ask_document(
        &self,
        asker: Option<ConnectionId>,
    ) -> Result<Option<Arc<DocumentSnapshot>>, RoomEnded> {
        let (reply, answer) = oneshot::channel();
        let asked = self.mailbox.send(Command::Document { asker, reply }).await;
        asked.map_err(|_| RoomEnded)?;
        answer.await.map_err(|_| RoomEnded)
    }

    /// May this, from outside, go into the document? By itself ([`document::check`]); and if it brings types, so deep do they
    /// lie with those that are there. That is counted only where the room knows of so many that it could be too deep: once
    /// for some hundred types, by the sender's own task.
    pub async fn check(&self, update: &Bytes) -> Result<Result<(), NotTaken>, RoomEnded> {
        let (bytes, held) = (update.len(), update.clone());
        let checked = check_patiently(bytes, move || document::check(&held)).await;
        let types = match checked {
            Ok(outline) => outline.types,
            Err(not_taken) => return Ok(Err(not_taken)),
        };
        let known = self.shared.document_levels.load(Ordering::Relaxed);
        if types == 0 || known + types <= NESTING_MAX {
            return Ok(Ok(()));
        }
        let Some(document) = self.document().await? else {
            return Ok(Ok(()));
        };
        let (snapshot, update) = (document.snapshot.clone(), update.clone());
        let (then, bytes) = (snapshot.levels(), snapshot.bytes() + update.len());
        let counted = check_patiently(bytes, move || snapshot.levels_with(&update)).await;
        if let Ok(levels) = counted {
            let counted = Command::Counted { then, levels };
            let told = self.mailbox.send(counted).await;
            told.map_err(|_| RoomEnded)?;
        }
        Ok(counted.map(drop))
    }
}

/// What the room's task remembers of its document beside the document itself.
#[derive(Debug, Default)]
pub struct DocumentCare {
    /// As it is now, if somebody asked since it changed.
    snapshot: Option<Arc<DocumentSnapshot>>,
    merging: bool,
    /// Merging these pieces failed: not again before the room is loaded anew.
    given_up: bool,
    /// Beats since something came.
    quiet: u32,
    renewing: bool,
    renewed_at: Option<Instant>,
    /// Bytes after it was last read anew.
    renewed_bytes: usize,
}

/// Somebody who asked for the document when some of what they had sent was not logged yet.
pub struct DocumentAsker {
    connection: ConnectionId,
    reply: oneshot::Sender<Option<Arc<DocumentSnapshot>>>,
    /// The batch that may hold the last of it.
    batch: u64,
}

impl Actor {
    pub fn asked_for_document(
        &mut self,
        asker: Option<ConnectionId>,
        reply: oneshot::Sender<Option<Arc<DocumentSnapshot>>>,
    ) {
        if let Some(connection) = asker {
            let batch = self.batches;
            self.document_askers.push(DocumentAsker {
                connection,
                reply,
                batch,
            });
            self.answer_for_documents();
        } else {
            let _ = reply.send(self.document_now());
        }
    }

    /// Answers those whose own edits are in, or were given back.
    pub fn answer_for_documents(&mut self) {
        if self.document_askers.is_empty() {
            return;
        }
        for mut asker in std::mem::take(&mut self.document_askers) {
            let id = asker.connection;
            let local = self.locals.get(&id);
            let held = local.is_some_and(|local| local.busy || !local.held.is_empty());
            let waits = held || self.pending.has_of(id);
            if waits {
                asker.batch = self.batches + 1;
            }
            let is_away = self.appending && self.batches <= asker.batch;
            // What came ahead of its predecessors is folded in when they are there.
            if waits || is_away || !self.ahead.is_empty() {
                self.document_askers.push(asker);
            } else {
                let _ = asker.reply.send(self.document_now());
            }
        }
    }

    /// The document as it is; made once for all who ask before the next update. `None`: not allowed here.
    pub fn document_now(&mut self) -> Option<Arc<DocumentSnapshot>> {
        if !self.room.allows(Activity::Document) {
            return None;
        }
        let (document, seq) = (&self.state.document, self.applied);
        let snapshot = self
            .document
            .snapshot
            .get_or_insert_with(|| DocumentSnapshot::new(document, seq));
        Some(snapshot.clone())
    }

    /// What a newcomer is told of the document, if there is one.
    pub fn document_for_newcomer(&mut self) -> Option<Arc<DocumentSnapshot>> {
        self.document_now().filter(|document| !document.is_empty())
    }

    /// An update was folded in.
    pub fn document_changed(&mut self) {
        self.absorb_snapshot();
        self.document.snapshot = None;
        self.document.quiet = 0;
        if let Some(merge) = self.state.document.merge_due() {
            self.start_merge(merge);
        }
        self.tell_document_size();
    }

    /// The room was loaded, for the first time or anew.
    pub fn document_loaded(&mut self) {
        self.document = DocumentCare {
            merging: self.document.merging,
            renewing: self.document.renewing,
            renewed_at: self.document.renewed_at,
            renewed_bytes: self.state.document.bytes(),
            ..DocumentCare::default()
        };
        if let Some(merge) = self.state.document.merge_all() {
            self.start_merge(merge);
        }
        self.tell_document_size();
    }

    /// On every beat: what is quiet becomes one piece, what grew is read anew.
    pub fn look_after_document(&mut self) {
        self.absorb_snapshot();
        let bytes = self.state.document.bytes();
        let beats = if bytes <= SMALL { 1 } else { QUIET_BEATS };
        self.document.quiet = self.document.quiet.saturating_add(1);
        if self.document.quiet > beats
            && let Some(merge) = self.state.document.merge_all()
        {
            self.start_merge(merge);
        }
        if self.document.quiet > QUIET_BEATS {
            // Whoever comes next has it put together again; until then it takes no memory twice.
            self.document.snapshot = None;
        }
        if bytes >= RENEWED_FROM && bytes / 2 >= self.document.renewed_bytes {
            self.renew_document();
        }
        self.tell_document_size();
    }

    /// Keeps what was merged for a reader.
    fn absorb_snapshot(&mut self) {
        let Some(snapshot) = &self.document.snapshot else {
            return;
        };
        if let (Some(merge), Some(merged)) = (&snapshot.merge, snapshot.merged.get()) {
            self.state.document.absorb(merge, merged.clone());
        }
    }

    fn start_merge(&mut self, merge: Merge) {
        if self.document.merging || self.document.given_up {
            return;
        }
        self.document.merging = true;
        let work = async move {
            let bytes = merge.pieces().iter().map(Bytes::len).sum();
            let run = merge.clone();
            let merged = walk(bytes, move || run.run()).await;
            Done::Merged { merge, merged }
        };
        self.work.push(work.boxed());
    }

    pub fn merged(&mut self, merge: &Merge, merged: Option<Result<Bytes, Malformed>>) {
        self.document.merging = false;
        match merged {
            Some(Ok(merged)) => {
                self.state.document.absorb(merge, merged);
                self.tell_document_size();
            }
            Some(Err(error)) => {
                self.document.given_up = true;
                tracing::error!(room = %self.room.id, %error, pieces = merge.pieces().len(), "a document can't be merged; its pieces are kept");
            }
            None => {}
        }
    }

    /// Reads the document as the archive keeps it, compacted, with what came since.
    pub fn renew_document(&mut self) {
        let lately = self
            .document
            .renewed_at
            .is_some_and(|at| at.elapsed() < RENEWED_EVERY);
        if self.document.renewing || lately {
            return;
        }
        self.document.renewing = true;
        self.document.renewed_at = Some(Instant::now());
        self.document.renewed_bytes = self.state.document.bytes();
        let (rooms, room, head) = (self.rooms.clone(), self.room.id.clone(), self.head);
        let read = async move {
            let b = &rooms.backends;
            let loaded = atelier_shared::recovery::load(&*b.log, &*b.archive, &room, &head).await;
            Done::DocumentRead(loaded.map(|(state, _)| state.document))
        };
        self.work.push(read.boxed());
    }

    pub fn document_read(&mut self, read: atelier_shared::ports::Result<Document>) {
        self.document.renewing = false;
        let ours = &self.state.document;
        match read {
            // Of an older moment, or not smaller: the one here serves.
            Ok(read) if read.bytes() >= ours.bytes() || !read.held().covers_all(&ours.held()) => {}
            Ok(read) => {
                self.state.document = read;
                self.document_loaded();
            }
            Err(error) => {
                tracing::debug!(room = %self.room.id, %error, "the document will be read anew later");
            }
        }
    }

    /// Somebody counted how deep it nests, when it knew of `then` levels.
    pub fn document_counted(&mut self, then: usize, levels: usize) {
        self.state.document.counted(then, levels);
        self.tell_document_size();
    }

    fn tell_document_size(&self) {
        let (document, shared) = (&self.state.document, &self.shared);
        let (bytes, levels) = (document.bytes(), document.levels());
        shared.document_bytes.store(bytes, Ordering::Relaxed);
        shared.document_levels.store(levels, Ordering::Relaxed);
    }
}
