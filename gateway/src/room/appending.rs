//! One append: what of a batch is to be stored, what was stored before, and what is refused for good.

use atelier_shared::Backends;
use atelier_shared::domain::entry::{Record, RefKey};
use atelier_shared::domain::ids::{ConnectionId, RoomId, Seq};
use atelier_shared::ports::{Append, Bar, LogHead, Refusal};
use atelier_shared::recovery;
use chrono::Utc;

use super::pending::{Fate, Pending, Place};

/// Appends a batch; refs that the log may have forgotten are looked up in the archive first. Where each of it is, and whether
/// the room had nothing waiting for the archive before.
pub async fn append(
    b: &Backends,
    room: &RoomId,
    head: &LogHead,
    seen: Seq,
    batch: &[Pending],
) -> Result<(Vec<Place>, bool), Refusal> {
    let now_ms = Utc::now().timestamp_millis();
    let firsts: Vec<Option<usize>> = (0..batch.len()).map(|at| first_copy(batch, at)).collect();
    let mut places: Vec<Option<Place>> = batch
        .iter()
        .map(|p| match p.fate {
            _ if p.refusal.is_some() => Some(Place::Nowhere),
            Fate::Append => None,
            Fate::Known => Some(Place::Held),
            Fate::Full => Some(Place::Full),
        })
        .collect();
    let ask_archive = recovery::refs_need_archive(head, now_ms);
    // What changes nothing, or is refused, does not come by the log, which else knows a ref: it is asked.
    let asked = |at: usize| {
        let is_asked = ask_archive || places[at].is_some();
        is_asked && firsts[at].is_none()
    };
    let (asked, refs): (Vec<usize>, Vec<RefKey>) = (0..batch.len())
        .filter(|at| asked(*at))
        .filter_map(|at| Some((at, batch[at].record.ref_key()?)))
        .unzip();
    if !refs.is_empty() {
        let found = recovery::known_refs(&*b.log, &*b.archive, room, head, &refs, now_ms).await?;
        for (at, seq) in asked.into_iter().zip(found) {
            places[at] = seq.map(Place::Known).or(places[at]);
        }
    }
    bar_refused(b, (room, head, seen, now_ms), batch, &firsts, &mut places).await?;
    let records: Vec<Record> = batch
        .iter()
        .zip(&places)
        .filter(|(_, place)| place.is_none())
        .map(|(p, _)| p.record.clone())
        .collect();
    let (new, newly_dirty) = if records.is_empty() {
        (Vec::new(), false)
    } else {
        b.log
            .append(Append {
                room,
                epoch: head.epoch,
                seen,
                role_version: head.role_version,
                now_ms,
                records: &records,
            })
            .await?
    };
    let mut new = new.into_iter();
    let mut places: Vec<Place> = places
        .into_iter()
        .filter_map(|place| place.or_else(|| new.next().map(Place::from)))
        .collect();
    for (at, first) in firsts.into_iter().enumerate() {
        if let Some(Place::New(seq) | Place::Known(seq)) = first.and_then(|first| places.get(first))
        {
            places[at] = Place::Known(*seq);
        }
    }
    Ok((places, newly_dirty))
}

/// What is refused is not stored later either: a copy of it may be on its way through a pod that stands still. The log says in
/// the same step whether one was stored, and that it is still the log that this room knows.
async fn bar_refused(
    b: &Backends,
    (room, head, seen, now_ms): (&RoomId, &LogHead, Seq, i64),
    batch: &[Pending],
    firsts: &[Option<usize>],
    places: &mut [Option<Place>],
) -> Result<(), Refusal> {
    let is_refused = |at: usize| {
        let nowhere = matches!(places[at], Some(Place::Nowhere | Place::Full));
        nowhere && firsts[at].is_none()
    };
    let (refused, refs): (Vec<usize>, Vec<(RefKey, ConnectionId)>) = (0..batch.len())
        .filter(|at| is_refused(*at))
        .filter_map(|at| {
            let record = &batch[at].record;
            Some((at, (record.ref_key()?, record.author.connection?)))
        })
        .unzip();
    if refs.is_empty() {
        return Ok(());
    }
    let bar = Bar {
        room,
        epoch: head.epoch,
        seen,
        now_ms,
        refs: &refs,
    };
    for (at, seq) in refused.into_iter().zip(b.log.bar(bar).await?) {
        places[at] = seq.map(Place::Known).or(places[at]);
    }
    Ok(())
}

/// Of what is refused: was the same sent before within the batch, and may that be stored? Then its place is that of the first.
fn first_copy(batch: &[Pending], at: usize) -> Option<usize> {
    if !batch[at].is_refused() {
        return None;
    }
    let key = batch[at].record.ref_key()?;
    let is_first = |p: &Pending| {
        p.fate == Fate::Append && p.refusal.is_none() && p.record.ref_key().as_ref() == Some(&key)
    };
    batch[..at].iter().position(is_first)
}
