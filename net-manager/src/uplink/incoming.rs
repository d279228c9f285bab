//! What the cluster says, read once at the edge.

use net_maps::{BadName, Name};
use xylem_types::{
    load::Loads,
    mqtt::{Peers, SubnetGrant, TableAnswer, UpdatesAvailable, topic},
};

/// A message of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Grant(SubnetGrant),
    Answer(TableAnswer),
    Peers(Peers),
    Load(Loads),
    /// The service has changed.
    Updated(Name),
}

/// Why a message is ignored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("nobody asked for this topic")]
    Topic,
    #[error("the payload is not what the topic carries")]
    Payload(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] BadName),
}

/// Reads a message for the worker `id`.
///
/// # Errors
/// It is not one of those that the cluster sends.
pub(super) fn read(id: &str, from: &str, payload: &[u8]) -> Result<Message, Unreadable> {
    if from == topic::tablequery_result(id) {
        Ok(Message::Answer(serde_json::from_slice(payload)?))
    } else if from == topic::subnetwork_result(id) {
        Ok(Message::Grant(serde_json::from_slice(payload)?))
    } else if from == topic::peers(id) {
        Ok(Message::Peers(serde_json::from_slice(payload)?))
    } else if from == topic::load(id) {
        Ok(Message::Load(serde_json::from_slice(payload)?))
    } else if let Some(name) = updated(from) {
        // Either kind of change has the same answer: ask again.
        let _: UpdatesAvailable = serde_json::from_slice(payload)?;
        Ok(Message::Updated(Name::try_from(name)?))
    } else {
        Err(Unreadable::Topic)
    }
}

/// The service whose update this topic carries.
fn updated(from: &str) -> Option<&str> {
    const NOBODY: &str = "*";
    let pattern = topic::updates_available(NOBODY);
    let (before, after) = pattern.split_once(NOBODY)?;
    from.strip_prefix(before)?.strip_suffix(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_say_what_a_payload_is() {
        let grant = read("w", "nodes/w/net/subnetwork/result", br#"{"address":"10.18.0.0"}"#);
        assert!(matches!(grant, Ok(Message::Grant(_))), "{grant:?}");
        let update = read("w", "jobs/a.b.c.d/updates_available", br#"{"type":"DEPLOYMENT"}"#);
        assert_eq!(update.unwrap(), Message::Updated(Name::try_from("a.b.c.d").unwrap()));
        let peers = read("w", "nodes/w/net/peers", br#"{"peers":[]}"#);
        assert_eq!(peers.unwrap(), Message::Peers(Peers::default()));
        let load = read("w", "nodes/w/net/load", br#"{"services":[]}"#);
        assert_eq!(load.unwrap(), Message::Load(Loads::default()));
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let other = read("w", "nodes/x/net/peers", br#"{"peers":[]}"#);
        assert!(matches!(other, Err(Unreadable::Topic)), "{other:?}");
        let nonsense = read("w", "nodes/w/net/peers", b"\xff");
        assert!(matches!(nonsense, Err(Unreadable::Payload(_))), "{nonsense:?}");
        let nobody = read("w", "jobs//updates_available", br#"{"type":"DEPLOYMENT"}"#);
        assert!(matches!(nobody, Err(Unreadable::Name(_))), "{nobody:?}");
    }
}
