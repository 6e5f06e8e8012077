//! What is begun is carried through, though its caller hangs up or is out of time.

use tracing::Instrument;

use super::problem::Problem;
use super::trace;

/// On a task of its own: a handler that is given up must not leave something changed and nobody told.
pub async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let work = tokio::spawn(trace::carried(work).in_current_span());
    work.await.map_err(|_| Problem::internal())?
}
