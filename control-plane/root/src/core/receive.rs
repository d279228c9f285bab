//! A cluster's messages, each to what handles it.

use xylem_types::session::FromCluster;

use super::{moment::Moment, state::State};

impl State {
    /// A message of a session. One of a session that another has replaced changes nothing.
    pub(crate) fn receive(&mut self, session: u64, message: FromCluster, now: Moment) {
        let live = self.live.iter().find(|(_, live)| live.session == session);
        let Some(cluster_id) = live.map(|(id, _)| id.clone()) else { return };
        match message {
            // The session has begun with one.
            FromCluster::Hello { .. } => {}
            FromCluster::Snapshot { instances, workers, interests } => {
                self.snapshot(&cluster_id, instances, workers, interests, now);
            }
            FromCluster::Instance(observed) => self.report(&cluster_id, *observed, now),
            FromCluster::Resources(resources) => self.resources(&cluster_id, resources, now),
            FromCluster::Workers { workers } => self.cluster_workers(&cluster_id, workers),
            FromCluster::Subnet { worker_id } => self.subnet(&cluster_id, worker_id),
            FromCluster::SubnetRelease { worker_id } => self.ipam.release_subnet(&worker_id),
            FromCluster::TableQuery { request_id, query } => {
                self.table_query(&cluster_id, request_id, query);
            }
            FromCluster::InterestRemove { job_name } => {
                self.remove_interest(&cluster_id, job_name);
            }
        }
    }
}
