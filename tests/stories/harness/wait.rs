//! Waiting for a condition, never for a time: whoever waits says for what, and gives up at a deadline.

use std::time::Duration;

use tokio::time::Instant;

/// Long enough for a busy two-core machine and a debug build; a story that is well never waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// What happens because of an event and not because a timer looked (the quickest that could help out takes longer) happens
/// within this, on a very busy machine too.
pub const SOON: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` sees something. What it saw last stands in the error.
pub async fn until<T, E: std::fmt::Display>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            Err(seen) => anyhow::bail!("waited {patience:?} for {what}; last: {seen}"),
        }
    }
}
