//! The room's one document: a Yjs document of which only encoded updates are kept, never a live `Doc` (its heap is ten
//! times its bytes).
//!
//! How it is used, from an update's arrival to a reader's answer:
//!
//! 1. [`check`] takes outside bytes and says what they are, or why they are refused. Costs what a reader pays: large ones
//!    belong on a blocking thread. Nothing unchecked is ever handed to the rest of this module's functions or to the log.
//! 2. [`Document::news`] leaves of an update what the document does not hold yet, deletions included; `None` = nothing.
//!    That, as [`super::entry::Body::DocumentUpdate`], is what is logged.
//! 3. [`Document::fold`] takes logged updates in, in any order, each any number of times. It only keeps the bytes and
//!    notes their ids, so it is cheap enough for a room's task.
//! 4. [`Document::snapshot`] is the document at one moment, cheap to clone and to send elsewhere; [`Snapshot::state`] and
//!    [`Snapshot::diff`] make the update that a reader needs (blocking threads again).
//! 5. When [`Document::merge_due`] hands out a [`Merge`], somebody runs it on a blocking thread and gives the result back
//!    by [`Document::absorb`], so that the pieces stay few. [`compact`] is for the archive's worker: through a `Doc` of its
//!    own it leaves out what was deleted long ago.
//!
//! Whatever yrs does with bytes that people sent runs under `catch_unwind`; it is known to panic on mutated updates.

mod check;
mod compact;
mod id_set;
mod merge;
mod nesting;
#[cfg(test)]
mod nesting_tests;
mod outline;
mod restore;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

pub use check::check;
pub use compact::compact;
pub use id_set::{IdSet, write_var};
pub use merge::Merge;
pub use nesting::NESTING_MAX;
pub use outline::{Outline, read_state_vector};
pub use restore::restore;

/// Bytes of one update at most: as an entry it must fit into one append and one row of the archive.
pub const UPDATE_MAX_BYTES: usize = 8 << 20;

/// The update that brings nothing.
pub const EMPTY_UPDATE: [u8; 2] = [0, 0];

/// Pieces that are merged at a time; beyond, merging costs more than it saves.
const PIECES_PER_MERGE: usize = 100;

/// Why bytes are no update.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("is not a Yjs update (v1): {0}")]
pub struct Malformed(Cow<'static, str>);

impl Malformed {
    const CUT: Self = Self(Cow::Borrowed("it is cut off"));
    /// It takes too long to find out.
    pub const TOO_COSTLY: Self = Self(Cow::Borrowed("it takes too long to apply"));

    const TOO_DEEP: Self = Self(Cow::Borrowed("it nests too deeply"));
    /// Alone it does not.
    const MAKES_TOO_DEEP: Self = Self(Cow::Borrowed("the document would nest too deeply"));

    /// The bytes are sound; only its types lie too deep in one another, or it is too much work.
    pub fn is_sound(&self) -> bool {
        [Self::TOO_DEEP, Self::MAKES_TOO_DEEP, Self::TOO_COSTLY].contains(self)
    }

    const fn new(reason: &'static str) -> Self {
        Self(Cow::Borrowed(reason))
    }
}

/// The ids of what a document holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub structs: IdSet,
    pub deleted: IdSet,
}

impl Held {
    fn add(&mut self, outline: &Outline) {
        self.structs.extend(&outline.structs);
        self.deleted.extend(&outline.deleted);
    }

    /// Notes what a checked update brings.
    pub fn note(&mut self, update: &[u8]) {
        if let Ok(outline) = Outline::read(update) {
            self.add(&outline);
        }
    }

    pub fn covers_all(&self, other: &Self) -> bool {
        self.structs.contains_all(&other.structs) && self.deleted.contains_all(&other.deleted)
    }

    /// Does an update of this outline bring nothing?
    pub fn covers(&self, outline: &Outline) -> bool {
        self.structs.contains_all(&outline.structs) && self.deleted.contains_all(&outline.deleted)
    }

    /// What of a checked update is not held: `None` = nothing. Never less than that; where it can't be cut out, more.
    /// Costs what reading the update costs.
    pub fn news(&self, update: &Bytes) -> Option<Bytes> {
        let Ok(outline) = Outline::read(update) else {
            // Not checked. Whoever folds it will leave it out.
            return None;
        };
        let structs = outline.structs.minus(&self.structs);
        let deleted = outline.deleted.minus(&self.deleted);
        if structs.is_empty() && deleted.is_empty() {
            return None;
        }
        if structs == outline.structs && deleted == outline.deleted {
            return Some(update.clone());
        }
        let mut news = if structs.is_empty() {
            // No structs of no client.
            vec![0]
        } else {
            let diff = merge::diff(update, &self.structs.encode_state_vector()).ok();
            let diff = diff.and_then(|diff| {
                let outline = Outline::read(&diff).ok()?;
                let whole = outline.structs.contains_all(&structs);
                whole.then(|| diff[..outline.deletions_at].to_vec())
            });
            diff.unwrap_or_else(|| update[..outline.deletions_at].to_vec())
        };
        deleted.encode_deletions(&mut news);
        Some(news.into())
    }
}

/// A document as the updates it is made of: older ones merged, the latest as they came.
#[derive(Debug, Clone, Default)]
pub struct Document {
    pieces: Vec<Bytes>,
    bytes: usize,
    held: Arc<Held>,
    /// At most so many types lie in one another: what was counted last, and all that came since.
    levels: usize,
}

/// The same pieces; how they came to be is not asked.
impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.pieces == other.pieces
    }
}

impl Document {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes it takes as it is; merging makes it a little less.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a logged update in. What brings nothing, or is not an update at all, changes nothing.
    pub fn fold(&mut self, update: &Bytes) {
        let Ok(outline) = Outline::read(update) else {
            return;
        };
        if self.held.covers(&outline) {
            return;
        }
        Arc::make_mut(&mut self.held).add(&outline);
        self.levels = self.levels.saturating_add(outline.types);
        self.bytes += update.len();
        self.pieces.push(update.clone());
    }

    /// What it holds, to be asked elsewhere.
    pub fn held(&self) -> Arc<Held> {
        self.held.clone()
    }

    /// See [`Held::news`].
    pub fn news(&self, update: &Bytes) -> Option<Bytes> {
        self.held.news(update)
    }

    /// At most so many types lie in one another here, as far as that is known without counting.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Takes note of what was counted when it knew of `then` levels.
    pub fn counted(&mut self, then: usize, levels: usize) {
        if let Some(since) = self.levels.checked_sub(then) {
            self.levels = self.levels.min(levels.saturating_add(since));
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            pieces: self.pieces.clone(),
            held: self.held.clone(),
            levels: self.levels,
        }
    }

    /// The next merge worth its cost, if there is one: the latest pieces, and older ones where they are not much larger.
    pub fn merge_due(&self) -> Option<Merge> {
        (self.pieces.len() >= PIECES_PER_MERGE).then(|| Merge::latest(&self.pieces))
    }

    /// All of it in one piece; `None`: it is already.
    pub fn merge_all(&self) -> Option<Merge> {
        (self.pieces.len() > 1).then(|| Merge::all(&self.pieces))
    }

    /// Puts what came of a merge in the place of its pieces, if they are still there.
    pub fn absorb(&mut self, merge: &Merge, merged: Bytes) {
        let at = self
            .pieces
            .windows(merge.pieces().len())
            .position(|window| is_same(window, merge.pieces()));
        if let Some(at) = at {
            self.pieces.splice(at..at + merge.pieces().len(), [merged]);
            self.bytes = self.pieces.iter().map(Bytes::len).sum();
        }
    }

    /// Puts `state`, which must hold all that this document does, in its place. False: it does not, nothing changed.
    pub fn replace(&mut self, state: Bytes) -> bool {
        let Ok(outline) = Outline::read(&state) else {
            return false;
        };
        let mut held = Held::default();
        held.add(&outline);
        let whole = held.covers_all(&self.held);
        if whole {
            self.bytes = state.len();
            self.levels = outline.types;
            self.pieces = vec![state];
            self.held = Arc::new(held);
        }
        whole
    }
}

/// The same bytes at the same place, not only equal ones.
fn is_same(some: &[Bytes], others: &[Bytes]) -> bool {
    some.iter()
        .zip(others)
        .all(|(one, other)| one.as_ptr() == other.as_ptr() && one.len() == other.len())
}

/// A document at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pieces: Vec<Bytes>,
    held: Arc<Held>,
    levels: usize,
}

impl Snapshot {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes it takes, about what [`Self::state`] will have.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// See [`Document::levels`].
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// How many types may lie in one another with a checked update in it. Costs what its pieces hold.
    ///
    /// # Errors
    /// More than [`NESTING_MAX`], and more than there are already: those who wrote that may go on.
    pub fn levels_with(&self, update: &Bytes) -> Result<usize, Malformed> {
        let levels = nesting::levels(self.pieces.iter().chain([update]))?;
        if levels > NESTING_MAX && levels > nesting::levels(&self.pieces)? {
            return Err(Malformed::MAKES_TOO_DEEP);
        }
        Ok(levels)
    }

    /// Its v1 state vector.
    pub fn state_vector(&self) -> Vec<u8> {
        self.held.structs.encode_state_vector()
    }

    /// All of it as one update ([`EMPTY_UPDATE`] where it is empty). Costs what its pieces hold.
    pub fn state(&self) -> Bytes {
        match self.pieces.as_slice() {
            [] => Bytes::from_static(&EMPTY_UPDATE),
            [one] => one.clone(),
            many => Merge::all(many).run_leniently(),
        }
    }

    /// What somebody with this state vector does not have, all deletions included: a state vector says nothing of those.
    /// Costs what its pieces hold.
    ///
    /// # Errors
    /// The state vector can't be read.
    pub fn diff(&self, state_vector: &[u8]) -> Result<Bytes, Malformed> {
        let theirs = read_state_vector(state_vector)?;
        let state = self.state();
        if theirs.is_empty() {
            return Ok(state);
        }
        // Whoever can't be told apart gets all of it: merging twice does no harm.
        Ok(merge::diff(&state, state_vector).map_or(state, Bytes::from))
    }
}

/// As an array of base64 texts: the archive keeps states as JSON.
impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.pieces.len()))?;
        for piece in &self.pieces {
            seq.serialize_element(&STANDARD.encode(piece))?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut document = Self::default();
        for piece in Vec::<Cow<'de, str>>::deserialize(deserializer)? {
            let piece = STANDARD
                .decode(piece.as_bytes())
                .map_err(serde::de::Error::custom)?;
            let piece = Bytes::from(piece);
            Outline::read(&piece).map_err(serde::de::Error::custom)?;
            document.fold(&piece);
        }
        Ok(document)
    }
}

/// An update's bytes in JSON, for `#[serde(with)]`.
pub mod base64_text {
    use super::{Bytes, Cow, Deserialize, Deserializer, Engine, STANDARD, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD
            .decode(text.as_bytes())
            .map(Bytes::from)
            .map_err(serde::de::Error::custom)
    }
}
