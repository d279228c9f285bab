//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Generous, for a machine that is busy with other tests: what comes at all comes at once.
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Waits until there is something.
///
/// # Panics
/// When there is nothing after the deadline.
pub(crate) async fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    eventually_so(what, async || found()).await
}

/// [`eventually`] for what takes a request to find out.
pub(crate) async fn eventually_so<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    let mut polls = tokio::time::interval(POLL);
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < end, "did not happen within {DEADLINE:?}: {what}");
        polls.tick().await;
    }
}
