//! What can be chosen about the decisions.

use std::time::Duration;

/// As long as most requests take, and much longer than it takes until everybody has heard that an
/// instance drains. Elsewhere it is what one is told to configure: services of Kubernetes stop
/// pods at once unless a pre-stop hook waits, usually 5 to 15 s, within the 30 s that a pod has;
/// Nomad's `shutdown_delay` is 0 s, and advised to be a few seconds. Load balancers of clouds wait
/// for minutes, which is for those who know that their flows are long: each stop, and the room on
/// the worker, would wait as well.
pub const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// Everything that can be chosen about the decisions.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_name: String,
    pub cluster_location: String,
    /// A worker not heard for this long is lost, and its instances are placed again.
    pub worker_silence: Duration,
    /// A command is repeated after this time without a report.
    pub resend_after: Duration,
    /// An instance without a place looks for one this often.
    pub place_again_after: Duration,
    /// Wait before an instance that ended is started again; doubles each time…
    pub restart_after: Duration,
    /// …up to this.
    pub restart_after_max: Duration,
    /// An instance that ran for this long starts again at [`Self::restart_after`].
    pub stable_after: Duration,
    /// An instance that its worker does not list for this long is gone.
    pub unlisted_after: Duration,
    /// How long a worker waits for an answer of the root before it is told that there is none.
    pub query_patience: Duration,
    /// How long the root's "unknown" is believed.
    pub unknown_for: Duration,
    /// How long an instance that is to be stopped runs on without new flows, so that those that
    /// it has can end. Zero: not at all.
    pub drain_grace: Duration,
    /// How often it is considered what workers are to be told of what instances use.
    pub load_every: Duration,
    /// How often the root is told of the cluster's room…
    pub resources_every: Duration,
    /// …and of what instances use and print.
    pub usage_every: Duration,
}

impl Settings {
    pub fn new(cluster_name: &str) -> Self {
        Self {
            cluster_name: cluster_name.to_owned(),
            cluster_location: String::new(),
            worker_silence: Duration::from_secs(5),
            resend_after: Duration::from_secs(3),
            place_again_after: Duration::from_secs(2),
            restart_after: Duration::from_secs(1),
            restart_after_max: Duration::from_secs(60),
            stable_after: Duration::from_secs(60),
            unlisted_after: Duration::from_secs(15),
            query_patience: Duration::from_secs(3),
            unknown_for: Duration::from_secs(2),
            drain_grace: DRAIN_GRACE,
            load_every: Duration::from_secs(2),
            resources_every: Duration::from_secs(2),
            usage_every: Duration::from_secs(4),
        }
    }
}
