//! Merging and cutting encoded updates, without a `Doc`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::{EMPTY_UPDATE, Held, Malformed, Outline, PIECES_PER_MERGE};

/// An older piece is merged with younger ones if it is at most so many times as large as they are together.
const GROWTH: usize = 4;

/// Pieces that are to become one. Cheap to make; running it belongs on a blocking thread.
#[derive(Debug, Clone)]
pub struct Merge(Vec<Bytes>);

impl Merge {
    pub(super) fn all(pieces: &[Bytes]) -> Self {
        Self(pieces.to_vec())
    }

    /// The latest pieces, and as many before them as are not much larger than all behind them: what is large is merged
    /// seldom, so that the cost of an update grows with the logarithm of the document only.
    pub(super) fn latest(pieces: &[Bytes]) -> Self {
        let mut from = pieces.len().saturating_sub(PIECES_PER_MERGE - 1);
        let mut bytes: usize = pieces[from..].iter().map(Bytes::len).sum();
        while from > 0 && pieces[from - 1].len() <= bytes * GROWTH {
            from -= 1;
            bytes += pieces[from].len();
        }
        Self(pieces[from..].to_vec())
    }

    pub fn pieces(&self) -> &[Bytes] {
        &self.0
    }

    /// All of the pieces in one.
    ///
    /// # Errors
    /// They can't be merged without losing something; the pieces are to be kept as they are.
    pub fn run(&self) -> Result<Bytes, Malformed> {
        let mut held = Held::default();
        for piece in &self.0 {
            held.add(&Outline::read(piece)?);
        }
        // The first is mostly by far the largest: the others come together first, so that it is walked through once.
        let (first, rest) = match self.0.as_slice() {
            [] => return Ok(Bytes::from_static(&EMPTY_UPDATE)),
            [one] => return Ok(one.clone()),
            [first, rest @ ..] => (first, rest),
        };
        let mut level = rest.to_vec();
        while level.len() > 1 {
            level = level
                .chunks(PIECES_PER_MERGE)
                .map(merge)
                .collect::<Result<_, _>>()?;
        }
        level.insert(0, first.clone());
        let merged = merge(&level)?;
        let outline = Outline::read(&merged)?;
        let kept = outline.structs.contains_all(&held.structs)
            && outline.deleted.contains_all(&held.deleted);
        if kept {
            Ok(merged)
        } else {
            Err(Malformed::new("merging lost something"))
        }
    }

    /// As [`Self::run`]; where that fails, without the pieces that are to blame.
    pub(super) fn run_leniently(&self) -> Bytes {
        if let Ok(merged) = self.run() {
            return merged;
        }
        let mut merged = Bytes::from_static(&EMPTY_UPDATE);
        for piece in &self.0 {
            let next = merge(&[merged.clone(), piece.clone()]);
            merged = next.unwrap_or(merged);
        }
        merged
    }
}

fn merge(updates: &[Bytes]) -> Result<Bytes, Malformed> {
    guarded(|| yrs::merge_updates_v1(updates)).map(Bytes::from)
}

/// Of an update what goes beyond a state vector; all its deletions.
pub(super) fn diff(update: &[u8], state_vector: &[u8]) -> Result<Vec<u8>, Malformed> {
    guarded(|| yrs::diff_updates_v1(update, state_vector))
}

fn guarded<E>(work: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Vec<u8>, Malformed> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(update)) => Ok(update),
        Ok(Err(_)) | Err(_) => Err(Malformed::new("it can't be merged")),
    }
}
