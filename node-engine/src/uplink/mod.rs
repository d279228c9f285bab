//! The worker's side towards its cluster: registration over HTTP, then commands and reports over
//! MQTT. Each part resumes by itself, whatever goes away and in whatever order it returns.
//!
//! Two tasks: [`dial`] registers, holds the connection and takes commands in; [`publish`] owns
//! what is to be said. Saying never waits for the network: while there is no connection, periodic
//! reports are dropped, and states are kept on a `board` to be told when there is one.

mod board;
pub mod cluster;
pub mod dial;
pub mod publish;

use rumqttc::{AsyncClient, Publish};
use xylem_types::{
    mqtt::{DeleteCommand, DeployCommand, InstanceReport, InstanceResources, InstanceUsage},
    node::Node,
};

use crate::core::id::InstanceId;

/// What the worker has to say.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// The state of an instance; only the newest counts.
    State(InstanceId, InstanceReport),
    /// The last word on an instance.
    Gone(InstanceId, InstanceReport),
    /// What an instance used and printed last, before its end is reported.
    LastUsage(InstanceUsage),
    Resources(InstanceResources),
    Information(Box<Node>),
}

/// A command of the cluster.
#[derive(Debug)]
pub struct Incoming {
    pub command: Command,
    pub receipt: Receipt,
}

#[derive(Clone, Debug)]
pub enum Command {
    Deploy(Box<DeployCommand>),
    Delete(DeleteCommand),
}

/// Confirms a command once it was written down. Until then, the broker delivers it again after a
/// lost connection, and to a restarted engine.
#[derive(Debug)]
pub struct Receipt {
    client: AsyncClient,
    publish: Publish,
}

impl Receipt {
    pub fn confirm(self) {
        if let Err(error) = self.client.try_ack(&self.publish) {
            tracing::warn!(%error, "command not confirmed, it will come again");
        }
    }
}
