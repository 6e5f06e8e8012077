//! Keeping a document that is being loaded in few pieces.

use crate::domain::document::Document;

/// Merges what came since the last merge, where it is much, off the async threads. Called after each page of entries.
pub async fn merge_if_due(document: &mut Document) {
    while let Some(merge) = document.merge_due() {
        let run = merge.clone();
        let merged = tokio::task::spawn_blocking(move || run.run()).await;
        match merged {
            Ok(Ok(merged)) => document.absorb(&merge, merged),
            Ok(Err(error)) => {
                tracing::error!(%error, pieces = merge.pieces().len(), "a document can't be merged; its pieces are kept");
                return;
            }
            Err(_) => return,
        }
    }
}
