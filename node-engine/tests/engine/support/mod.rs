//! What the tests are made of.

pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod image;
pub(crate) mod net;
pub(crate) mod program;
pub(crate) mod registry;
pub(crate) mod worker;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Nothing here takes longer, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
///
/// # Panics
/// At the deadline, with what was waited for.
#[track_caller]
pub(crate) fn eventually<T, F: FnMut() -> Option<T>>(
    what: &'static str,
    mut condition: F,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let give_up_at = Instant::now() + DEADLINE;
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(Instant::now() < give_up_at, "{caller}: waited in vain for: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// # Panics
/// When the tests do not run as root.
pub(crate) fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "these tests make containers: run them as root");
}
