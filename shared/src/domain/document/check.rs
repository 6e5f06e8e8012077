//! Outside bytes before anything else touches them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use yrs::updates::decoder::Decode;
use yrs::{Doc, Transact, Update};

use super::{Malformed, Outline, UPDATE_MAX_BYTES};

/// Is this a v1 update that every reader can take? Its outline is read first (nothing in it may claim more than there is,
/// or nest without end), then yrs decodes it and applies it to a `Doc` that is thrown away.
///
/// Takes microseconds for what one key stroke makes, seconds for megabytes of a rich text: those belong on a blocking
/// thread. Never panics and never allocates by what the bytes merely claim.
///
/// # Errors
/// What is wrong, in words for the person who sent it.
pub fn check(update: &[u8]) -> Result<Outline, Malformed> {
    if update.len() > UPDATE_MAX_BYTES {
        return Err(Malformed::new("it is too large for one update"));
    }
    let outline = Outline::read_shallow(update)?;
    // The Doc does not outlive a panic: nobody sees what state it was left in.
    let applied = catch_unwind(AssertUnwindSafe(|| apply(update)));
    match applied {
        Ok(Ok(())) => Ok(outline),
        Ok(Err(())) | Err(_) => Err(Malformed::new("its structs contradict one another")),
    }
}

fn apply(update: &[u8]) -> Result<(), ()> {
    let decoded = Update::decode_v1(update).map_err(drop)?;
    let doc = Doc::new();
    doc.transact_mut().apply_update(decoded).map_err(drop)
}
