//! Leaving out what was deleted, by way of a `Doc`.

use bytes::Bytes;
use yrs::updates::decoder::Decode;
use yrs::{Doc, ReadTxn, StateVector, Transact, Update};

use super::{Document, nesting};

/// Puts a smaller encoding in the document's place: merged, with neighbours joined and the content of what was deleted
/// left out. Takes ten times the document's bytes while it runs, and seconds for many megabytes: for the archive's worker,
/// on a blocking thread.
///
/// False: it could not be applied (something would have been lost, or its updates together nest so deep that a `Doc`, which
/// deletes and collects by recursion, would end the process), and stays as it is.
pub fn compact(document: &mut Document) -> bool {
    if document.is_empty() {
        return true;
    }
    let state = document.snapshot().state();
    if document.pieces.len() > 1 {
        // Merged at least, whatever comes of the rest.
        document.replace(state.clone());
    }
    // Each update was looked at when it came; what they add up to may be a little deeper.
    let Ok(levels) = nesting::levels([&state]) else {
        return false;
    };
    match nesting::recursing(levels, || through_doc(&state)) {
        Some(compacted) if compacted.len() <= state.len() => {
            document.replace(Bytes::from(compacted))
        }
        Some(_) => true,
        None => false,
    }
}

fn through_doc(state: &[u8]) -> Option<Vec<u8>> {
    let update = Update::decode_v1(state).ok()?;
    let doc = Doc::new();
    let mut transaction = doc.transact_mut();
    transaction.apply_update(update).ok()?;
    // What was deleted is collected when the transaction ends.
    drop(transaction);
    let compacted = doc
        .transact()
        .encode_state_as_update_v1(&StateVector::default());
    Some(compacted)
}
