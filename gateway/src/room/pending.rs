//! Records that wait for the log, bounded in number and bytes; and what is left of a document's updates right before they
//! are appended: only what the document does not hold yet.

use std::collections::VecDeque;
use std::sync::Arc;

use atelier_shared::domain::document::{Held, UPDATE_MAX_BYTES};
use atelier_shared::domain::entry::{Body, Record};
use atelier_shared::domain::ids::{ConnectionId, Epoch, Seq};
use atelier_shared::ports::Appended;
use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::document::walk;
use super::json::outgoing::ErrorFrame;

/// Records that wait for the log, in one room of one pod; beyond it, or beyond as many bytes, senders hear `overloaded`.
const PENDING_MAX: usize = 10_000;
const PENDING_MAX_BYTES: usize = 64 << 20;
/// Refused messages that wait until it is known whether they were stored before; beyond it their senders hear `overloaded`.
const REFUSED_MAX: usize = 64;
/// Records of one append.
const BATCH_MAX: usize = 256;
/// Places that are kept for what comes next.
const KEPT_PLACES: usize = 16;
/// Bytes of one append, about; the log takes twice as many. One record may be larger.
const BATCH_MAX_BYTES: usize = 8 << 20;
/// What a record may take that nobody measured: its content's limit, escaped.
const PLAIN_BYTES: usize = 32 << 10;
/// JSON of one person under an emoji.
const REACTOR_BYTES: usize = 192;
/// JSON of one number of a drawing.
const NUMBER_BYTES: usize = 20;

/// A record on its way into the log.
#[derive(Debug)]
pub struct Pending {
    pub record: Record,
    pub since: Instant,
    pub fate: Fate,
    /// It can't be taken. It waits for its turn all the same: an earlier copy of it may be under way, or be stored, and then
    /// that is what its sender is told.
    pub refusal: Option<Box<ErrorFrame>>,
    /// Lasts until it is logged, where the sender traces it.
    pub span: tracing::Span,
    /// Where it speaks about another message, or is refused: the epoch in which that was found, at the place that the record
    /// names.
    judged_in: Option<Epoch>,
    /// The update as it was sent, while the record holds only what is new of it.
    sent: Option<Bytes>,
    bytes: usize,
}

/// What is to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Append,
    /// The document holds all of it.
    Known,
    /// The document has no room for it.
    Full,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    New(Seq),
    /// It was stored before.
    Known(Seq),
    /// It changes nothing: all of it is in.
    Held,
    Full,
    /// It was refused, and not stored before.
    Nowhere,
    /// A later copy of it was refused, here or on another pod.
    Barred,
}

impl From<Appended> for Place {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::New(seq) => Self::New(seq),
            Appended::Duplicate(seq) => Self::Known(seq),
            Appended::Barred => Self::Barred,
        }
    }
}

impl Pending {
    pub fn new(record: Record, now: Instant) -> Self {
        Self {
            bytes: bytes_of(&record.body),
            record,
            since: now,
            fate: Fate::Append,
            refusal: None,
            span: tracing::Span::none(),
            judged_in: None,
            sent: None,
        }
    }

    pub fn judged_in(self, epoch: Epoch) -> Self {
        let body = &self.record.body;
        let speaks = body.target().is_some() || body.reply_to().is_some();
        let judged_in = speaks.then_some(epoch);
        Self { judged_in, ..self }
    }

    /// As it was judged in this epoch.
    pub fn refused(self, error: ErrorFrame, epoch: Epoch) -> Self {
        Self {
            refusal: Some(Box::new(error)),
            judged_in: Some(epoch),
            ..self
        }
    }

    /// Is it not to be stored?
    pub fn is_refused(&self) -> bool {
        self.refusal.is_some() || self.fate == Fate::Full
    }

    /// Does what was found out about it hold in this epoch?
    pub fn is_judged_for(&self, epoch: Epoch) -> bool {
        self.judged_in.is_none_or(|judged_in| judged_in == epoch)
    }

    pub fn traced(self, span: tracing::Span) -> Self {
        Self { span, ..self }
    }

    fn update(&self) -> Option<&Bytes> {
        match &self.record.body {
            Body::DocumentUpdate { data } => Some(data),
            _ => None,
        }
    }

    /// The update, if it is to be stored.
    fn news(&self) -> Option<&Bytes> {
        self.update().filter(|_| self.refusal.is_none())
    }

    fn cut(&mut self, news: Bytes) {
        if let Body::DocumentUpdate { data } = &mut self.record.body {
            self.sent = Some(std::mem::replace(data, news));
        }
    }

    /// As it was sent. What was left of it counted on others that may not be stored now.
    fn restore(&mut self) {
        self.fate = Fate::Append;
        if let (Body::DocumentUpdate { data }, Some(sent)) =
            (&mut self.record.body, self.sent.take())
        {
            *data = sent;
        }
    }
}

/// About how much JSON it makes.
fn bytes_of(body: &Body) -> usize {
    match body {
        Body::DocumentUpdate { data } => data.len() / 3 * 4 + 1_024,
        Body::Draw(batch) => {
            let numbers: usize = batch.paths.iter().map(|path| path.points.len() + 32).sum();
            (numbers + batch.erase.len() * 8 + 32) * NUMBER_BYTES
        }
        Body::Reaction { base, .. } => base.len() * REACTOR_BYTES + 1_024,
        _ => PLAIN_BYTES,
    }
}

/// What waits, in order.
#[derive(Debug, Default)]
pub struct Queue {
    records: VecDeque<Pending>,
    bytes: usize,
    refused: usize,
    /// Refused ones of the batch that is under way.
    refused_away: usize,
}

impl Queue {
    /// Does something that this connection sent wait?
    pub fn has_of(&self, connection: ConnectionId) -> bool {
        let mut records = self.records.iter();
        records.any(|pending| pending.record.author.connection == Some(connection))
    }

    /// No more refused ones may wait.
    pub fn has_many_refused(&self) -> bool {
        self.refused + self.refused_away >= REFUSED_MAX
    }

    /// No batch is under way any more.
    pub fn settle(&mut self) {
        self.refused_away = 0;
    }

    fn count_in(&mut self, pending: &Pending) {
        self.bytes += pending.bytes;
        self.refused += usize::from(pending.refusal.is_some());
    }

    fn count_out(&mut self, pending: &Pending) {
        self.bytes -= pending.bytes;
        self.refused -= usize::from(pending.refusal.is_some());
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.records.len() >= PENDING_MAX || self.bytes >= PENDING_MAX_BYTES
    }

    pub fn push(&mut self, pending: Pending) {
        self.count_in(&pending);
        self.records.push_back(pending);
    }

    /// Puts back what was taken, as it was.
    pub fn put_back(&mut self, batch: Vec<Pending>) {
        for mut pending in batch.into_iter().rev() {
            pending.restore();
            self.count_in(&pending);
            self.records.push_front(pending);
        }
    }

    /// Takes the first if it has waited for so long.
    pub fn pop_waiting(&mut self, now: Instant, patience: Duration) -> Option<Pending> {
        let pending = self.records.pop_front_if(|p| now >= p.since + patience)?;
        self.count_out(&pending);
        Some(pending)
    }

    /// Takes what one append carries.
    pub fn take_batch(&mut self) -> Vec<Pending> {
        let mut bytes = 0;
        let fits = |pending: &&Pending| {
            let first = bytes == 0;
            bytes += pending.bytes;
            first || bytes <= BATCH_MAX_BYTES
        };
        let count = self.records.iter().take(BATCH_MAX).take_while(fits).count();
        let batch: Vec<Pending> = self.records.drain(..count).collect();
        batch.iter().for_each(|pending| self.count_out(pending));
        let refused = batch.iter().filter(|pending| pending.refusal.is_some());
        self.refused_away = refused.count();
        if self.records.is_empty() {
            // What a burst took is given back.
            self.records.shrink_to(KEPT_PLACES);
        }
        batch
    }
}

/// Leaves of each update in the batch what neither the document nor an earlier one of the batch holds; `room` is how
/// many bytes the document may still take.
pub async fn cut_to_news(batch: Vec<Pending>, held: Arc<Held>, room: usize) -> Vec<Pending> {
    let bytes: usize = batch.iter().filter_map(|p| p.news().map(Bytes::len)).sum();
    if bytes == 0 {
        return batch;
    }
    let mut batch = batch;
    // Taken along and brought back: should the thread not come to it, all is appended as it was sent.
    let updates: Vec<(usize, Bytes, bool)> = batch
        .iter()
        .enumerate()
        .filter_map(|(at, p)| Some((at, p.news()?.clone(), p.record.reference.is_none())))
        .collect();
    let news = walk(bytes, move || news_of(&updates, held, room)).await;
    for (at, news) in news.into_iter().flatten() {
        match news {
            News::Whole => {}
            News::Part(news) => batch[at].cut(news),
            News::Nothing => batch[at].fate = Fate::Known,
            News::Full => batch[at].fate = Fate::Full,
        }
    }
    batch
}

#[derive(Debug)]
enum News {
    Whole,
    Part(Bytes),
    Nothing,
    Full,
}

fn news_of(
    updates: &[(usize, Bytes, bool)],
    mut held: Arc<Held>,
    mut room: usize,
) -> Vec<(usize, News)> {
    let several = updates.len() > 1;
    let look = |(at, update, counts): &(usize, Bytes, bool)| {
        let Some(news) = held.news(update) else {
            return (*at, News::Nothing);
        };
        if news.len() > room {
            return (*at, News::Full);
        }
        room -= news.len();
        // One with a ref may turn out to have been stored before, with other content: nobody counts on it.
        if several && *counts {
            Arc::make_mut(&mut held).note(&news);
        }
        let whole = news.len() == update.len();
        // What is put together again may come out a little longer than it went in.
        let whole = whole || news.len() > UPDATE_MAX_BYTES;
        (*at, if whole { News::Whole } else { News::Part(news) })
    };
    updates.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use atelier_shared::domain::board::DrawBatch;
    use atelier_shared::domain::entry::Author;
    use atelier_shared::domain::ids::UserId;

    use super::*;

    /// Client 1 wrote "a" at 0, "b" at 1, … each in one struct; `upto` of them.
    fn state(upto: u8) -> Bytes {
        let mut update = vec![1, upto, 1, 0];
        for at in 0..upto {
            if at == 0 {
                update.extend([4, 1, 1, b't']);
            } else {
                update.extend([0x84, 1, at - 1]);
            }
            update.extend([1, b'a' + at]);
        }
        update.push(0);
        update.into()
    }

    fn pending(body: Body, reference: Option<&str>) -> Pending {
        let author = Author {
            client_id: "c".parse().unwrap(),
            user_id: UserId::generate(),
            connection: None,
            name: "n".into(),
            color: None,
            avatar_url: None,
        };
        let record = Record {
            ts_ms: 0,
            author,
            reference: reference.map(|r| r.parse().unwrap()),
            audience: None,
            body,
        };
        Pending::new(record, Instant::now())
    }

    fn update(upto: u8, reference: Option<&str>) -> Pending {
        let data = state(upto);
        pending(Body::DocumentUpdate { data }, reference)
    }

    fn held(upto: u8) -> Arc<Held> {
        let mut held = Held::default();
        held.note(&state(upto));
        Arc::new(held)
    }

    #[tokio::test]
    async fn whole_states_sent_at_once_are_cut_to_what_each_adds() {
        let batch = vec![update(3, None), update(2, None), update(4, None)];
        let mut batch = cut_to_news(batch, held(2), 1_000).await;
        let fates: Vec<Fate> = batch.iter().map(|p| p.fate).collect();
        assert_eq!(fates, [Fate::Append, Fate::Known, Fate::Append]);
        for pending in [&batch[0], &batch[2]] {
            assert!(
                pending.update().unwrap().len() < 12,
                "one letter: {pending:?}"
            );
        }
        // Not stored after all: whole again, as what each added counted on the one before.
        let mut queue = Queue::default();
        batch.remove(1);
        queue.put_back(batch);
        let again = queue.take_batch();
        assert_eq!(again[1].update(), Some(&state(4)));
    }

    #[tokio::test]
    async fn nobody_counts_on_an_update_that_may_be_a_resend() {
        let batch = vec![update(3, Some("r")), update(3, None)];
        let batch = cut_to_news(batch, held(2), 1_000).await;
        assert_eq!(batch[1].fate, Fate::Append);
    }

    #[tokio::test]
    async fn a_full_document_takes_no_more_but_knows_what_it_has() {
        let batch = vec![update(9, None), update(2, None)];
        let batch = cut_to_news(batch, held(2), 10).await;
        assert_eq!(batch[0].fate, Fate::Full);
        assert_eq!(batch[1].fate, Fate::Known);
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_and_holds_at_least_one() {
        let large = || {
            let data = vec![0; 5 << 20].into();
            pending(Body::DocumentUpdate { data }, None)
        };
        let mut queue = Queue::default();
        for _ in 0..3 {
            queue.push(large());
        }
        queue.push(pending(Body::Draw(DrawBatch::default()), None));
        assert_eq!(queue.take_batch().len(), 1);
        assert_eq!(queue.take_batch().len(), 1);
        assert_eq!(queue.take_batch().len(), 2);
        assert_eq!(queue.bytes, 0);
        for _ in 0..9 {
            assert!(!queue.is_full());
            queue.push(large());
        }
        queue.push(large());
        assert!(queue.is_full());
    }
}
