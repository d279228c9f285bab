//! Topic names. One function a topic; `nodes/+/…` for subscriptions is `topic::…("+")`.

/// up, periodic: [`crate::node::Node`] with the dynamic fields filled.
pub fn information(worker: &str) -> String {
    format!("nodes/{worker}/information")
}
/// up, on every change: [`super::InstanceReport`].
pub fn job(worker: &str) -> String {
    format!("nodes/{worker}/job")
}
/// up, periodic: [`super::InstanceResources`].
pub fn jobs_resources(worker: &str) -> String {
    format!("nodes/{worker}/jobs/resources")
}
/// down: [`super::DeployCommand`].
pub fn control_deploy(worker: &str) -> String {
    format!("nodes/{worker}/control/deploy")
}
/// down: [`super::DeleteCommand`].
pub fn control_delete(worker: &str) -> String {
    format!("nodes/{worker}/control/delete")
}
/// down: [`super::ControlError`].
pub fn control_error(worker: &str) -> String {
    format!("nodes/{worker}/control/error")
}
/// up: [`super::SubnetRequest`].
pub fn subnet(worker: &str) -> String {
    format!("nodes/{worker}/net/subnet")
}
/// down: [`super::SubnetGrant`].
pub fn subnetwork_result(worker: &str) -> String {
    format!("nodes/{worker}/net/subnetwork/result")
}
/// up: [`super::TableQuery`].
pub fn tablequery_request(worker: &str) -> String {
    format!("nodes/{worker}/net/tablequery/request")
}
/// down: [`super::TableAnswer`].
pub fn tablequery_result(worker: &str) -> String {
    format!("nodes/{worker}/net/tablequery/result")
}
/// up: [`super::NetDeployed`].
pub fn service_deployed(worker: &str) -> String {
    format!("nodes/{worker}/net/service/deployed")
}
/// up: [`super::NetDeployed`].
pub fn service_undeployed(worker: &str) -> String {
    format!("nodes/{worker}/net/service/undeployed")
}
/// up: [`super::AddressChanged`].
pub fn address_changed(worker: &str) -> String {
    format!("nodes/{worker}/net/service/address-changed")
}
/// up: [`super::InterestRemove`].
pub fn interest_remove(worker: &str) -> String {
    format!("nodes/{worker}/net/interest/remove")
}
/// down, ours: [`super::Peers`], the whole list, sent after [`super::SubnetRequest`] and
/// whenever it changes.
pub fn peers(worker: &str) -> String {
    format!("nodes/{worker}/net/peers")
}
/// up, ours: [`super::PeersRequest`].
pub fn peers_request(worker: &str) -> String {
    format!("nodes/{worker}/net/peers/request")
}
/// down, ours: [`crate::load::Loads`], what instances of the services in which the worker
/// holds an interest use now. Only changes, so a value holds until the next.
pub fn load(worker: &str) -> String {
    format!("nodes/{worker}/net/load")
}
/// down, to every worker that holds an interest: [`super::UpdatesAvailable`].
pub fn updates_available(job_name: &str) -> String {
    format!("jobs/{job_name}/updates_available")
}
