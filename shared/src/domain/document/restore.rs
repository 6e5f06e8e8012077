//! Bringing a document back to an earlier state by going on from where it is.

use bytes::Bytes;
use yrs::undo::{Options as UndoOptions, UndoManager};
use yrs::updates::decoder::Decode;
use yrs::{Doc, Options, ReadTxn, Transact, Update};

use super::{Document, Malformed, nesting};

/// The transaction that brings what came since.
const SINCE: &str = "since";

/// The update that makes `now` look as `then` did, which it came from: what was inserted since is deleted and what was
/// deleted since is inserted again, as an editor's undo does. (The old state itself would do nothing: it is in the new one
/// already.) `None`: it looks so already. Takes ten times the documents' bytes while it runs: for a blocking thread.
///
/// # Errors
/// A state could not be applied.
pub fn restore(now: &Document, then: &Document) -> Result<Option<Bytes>, Malformed> {
    if now.held().covers_all(&then.held()) && then.held().covers_all(&now.held()) {
        return Ok(None);
    }
    let states = (now.snapshot().state(), then.snapshot().state());
    // Each update was looked at when it came; a `Doc` of all of them must not end the process by its depth either.
    let levels = nesting::levels([&states.0])?.max(nesting::levels([&states.1])?);
    match nesting::recursing(levels, || undo(&states.0, &states.1)) {
        Some(update) => Ok(now.news(&update.into())),
        None => Err(Malformed::new("it could not be applied")),
    }
}

fn undo(now: &[u8], then: &[u8]) -> Option<Vec<u8>> {
    let doc = Doc::with_options(Options {
        // What was deleted since must still be there to be inserted again.
        skip_gc: true,
        ..Options::default()
    });
    doc.transact_mut()
        .apply_update(Update::decode_v1(then).ok()?)
        .ok()?;
    let mut history = UndoManager::<()>::with_options(UndoOptions {
        capture_timeout_millis: 0,
        ..UndoOptions::default()
    });
    for root in roots(now)? {
        // Whichever type it has: the undo looks at what is in it.
        let root = doc.get_or_insert_text(root.as_str());
        history.expand_scope(&doc, &root);
    }
    history.include_origin(SINCE);
    let mut since = doc.transact_mut_with(SINCE);
    since.apply_update(Update::decode_v1(now).ok()?).ok()?;
    drop(since);
    let present = doc.transact().state_vector();
    while history.can_undo() {
        history.undo_blocking();
    }
    let update = doc.transact().encode_state_as_update_v1(&present);
    Some(update)
}

fn roots(state: &[u8]) -> Option<Vec<String>> {
    let doc = Doc::new();
    doc.transact_mut()
        .apply_update(Update::decode_v1(state).ok()?)
        .ok()?;
    let read = doc.transact();
    let roots = read.root_refs().map(|(name, _)| name.to_owned());
    let roots = roots.collect();
    Some(roots)
}
