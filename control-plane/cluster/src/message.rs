//! MQTT topics and payloads, turned into typed messages of one worker and back.

use std::sync::LazyLock;

use serde::{Serialize, de::DeserializeOwned};
use xylem_types::{
    load::Loads,
    mqtt::{
        AddressChanged, ControlError, DeleteCommand, DeployCommand, InstanceReport,
        InstanceResources, InterestRemove, NetDeployed, Peers, PeersRequest, SubnetGrant,
        SubnetRequest, TableAnswer, TableQuery, UpdateKind, UpdatesAvailable, topic,
    },
    node::Node,
};

/// What a worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    Information(Box<Node>),
    Job(InstanceReport),
    Resources(InstanceResources),
    Subnet(SubnetRequest),
    Query(TableQuery),
    Deployed(NetDeployed),
    Undeployed(NetDeployed),
    AddressChanged(AddressChanged),
    InterestRemove(InterestRemove),
    PeersRequest(PeersRequest),
}

/// What the cluster says to its workers.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    To {
        worker: String,
        body: ToWorker,
    },
    /// To every worker that subscribed to the service: ask again.
    Updates {
        job_name: String,
        change: UpdateKind,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    Deploy(Box<DeployCommand>),
    Delete(DeleteCommand),
    Error(ControlError),
    Subnet(SubnetGrant),
    Answer(TableAnswer),
    Peers(Peers),
    Load(Loads),
}

/// Why a message is not obeyed.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("topic {0:?} is none that workers use")]
    Topic(String),
    #[error("payload on {topic} is not what belongs there")]
    Payload { topic: String, source: serde_json::Error },
}

#[derive(Clone, Copy)]
enum Kind {
    Information,
    Job,
    Resources,
    Subnet,
    Query,
    Deployed,
    Undeployed,
    AddressChanged,
    InterestRemove,
    PeersRequest,
}

/// A topic as a function of the worker's id.
type TopicOf = fn(&str) -> String;

/// Each topic that workers publish on.
const UP: [(TopicOf, Kind); 10] = [
    (topic::information, Kind::Information),
    (topic::job, Kind::Job),
    (topic::jobs_resources, Kind::Resources),
    (topic::subnet, Kind::Subnet),
    (topic::tablequery_request, Kind::Query),
    (topic::service_deployed, Kind::Deployed),
    (topic::service_undeployed, Kind::Undeployed),
    (topic::address_changed, Kind::AddressChanged),
    (topic::interest_remove, Kind::InterestRemove),
    (topic::peers_request, Kind::PeersRequest),
];

/// What follows the worker's id in each of those topics.
static SUFFIXES: LazyLock<Vec<(String, Kind)>> = LazyLock::new(|| {
    UP.into_iter().map(|(topic, kind)| (topic("").replacen("nodes/", "", 1), kind)).collect()
});

/// The filters that together cover everything workers publish.
pub fn subscriptions() -> impl Iterator<Item = String> {
    UP.into_iter().map(|(topic, _)| topic("+"))
}

/// The worker that speaks, and what it says.
///
/// # Errors
/// When the topic or the payload is not one of ours; both come from outside.
pub fn parse(topic: &str, payload: &[u8]) -> Result<(String, FromWorker), ParseError> {
    let unknown = || ParseError::Topic(topic.to_owned());
    let rest = topic.strip_prefix("nodes/").ok_or_else(unknown)?;
    let (worker, suffix) = rest.split_at(rest.find('/').ok_or_else(unknown)?);
    let kind = SUFFIXES.iter().find(|(s, _)| s == suffix).ok_or_else(unknown)?.1;
    fn read<T: DeserializeOwned>(topic: &str, payload: &[u8]) -> Result<T, ParseError> {
        serde_json::from_slice(payload)
            .map_err(|source| ParseError::Payload { topic: topic.to_owned(), source })
    }
    let message = match kind {
        Kind::Information => FromWorker::Information(Box::new(read(topic, payload)?)),
        Kind::Job => FromWorker::Job(read(topic, payload)?),
        Kind::Resources => FromWorker::Resources(read(topic, payload)?),
        Kind::Subnet => FromWorker::Subnet(read(topic, payload)?),
        Kind::Query => FromWorker::Query(read(topic, payload)?),
        Kind::Deployed => FromWorker::Deployed(read(topic, payload)?),
        Kind::Undeployed => FromWorker::Undeployed(read(topic, payload)?),
        Kind::AddressChanged => FromWorker::AddressChanged(read(topic, payload)?),
        Kind::InterestRemove => FromWorker::InterestRemove(read(topic, payload)?),
        Kind::PeersRequest => FromWorker::PeersRequest(read(topic, payload)?),
    };
    Ok((worker.to_owned(), message))
}

impl Message {
    pub fn topic(&self) -> String {
        match self {
            Self::Updates { job_name, .. } => topic::updates_available(job_name),
            Self::To { worker, body } => match body {
                ToWorker::Deploy(_) => topic::control_deploy(worker),
                ToWorker::Delete(_) => topic::control_delete(worker),
                ToWorker::Error(_) => topic::control_error(worker),
                ToWorker::Subnet(_) => topic::subnetwork_result(worker),
                ToWorker::Answer(_) => topic::tablequery_result(worker),
                ToWorker::Peers(_) => topic::peers(worker),
                ToWorker::Load(_) => topic::load(worker),
            },
        }
    }

    pub fn payload(&self) -> Vec<u8> {
        fn json(value: &impl Serialize) -> Vec<u8> {
            serde_json::to_vec(value).expect("no map with keys that are not text in these types")
        }
        match self {
            Self::Updates { change, .. } => json(&UpdatesAvailable { r#type: *change }),
            Self::To { body, .. } => match body {
                ToWorker::Deploy(command) => json(command),
                ToWorker::Delete(command) => json(command),
                ToWorker::Error(error) => json(error),
                ToWorker::Subnet(grant) => json(grant),
                ToWorker::Answer(answer) => json(answer),
                ToWorker::Peers(peers) => json(peers),
                ToWorker::Load(loads) => json(loads),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_of_a_worker_names_the_worker_and_its_message() {
        let (worker, message) =
            parse(&topic::interest_remove("w-1"), br#"{"appname":"a.b.c.d"}"#).unwrap();
        assert_eq!(worker, "w-1");
        assert_eq!(
            message,
            FromWorker::InterestRemove(InterestRemove { appname: "a.b.c.d".into() })
        );
        let (_, message) = parse(&topic::jobs_resources("w"), br#"{"services":[]}"#).unwrap();
        assert_eq!(message, FromWorker::Resources(InstanceResources::default()));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_does_not_panic() {
        for topic in ["", "nodes", "nodes/", "nodes/w", "nodes/w/", "nodes/w/net", "jobs/x/job"] {
            assert!(matches!(parse(topic, b"{}"), Err(ParseError::Topic(_))), "{topic}");
        }
        assert!(matches!(parse("nodes/w/job", b"{"), Err(ParseError::Payload { .. })));
        assert!(matches!(parse("nodes/w/job", &[0xff]), Err(ParseError::Payload { .. })));
    }
}
