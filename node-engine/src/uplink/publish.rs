//! Says what there is to say, as far as there is a connection.

use std::time::{Duration, Instant};

use rumqttc::QoS;
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};
use xylem_types::mqtt::{InstanceResources, InstanceUsage, topic};

use super::{
    Outgoing,
    board::Board,
    dial::{Connection, Session},
};

/// What the queue of the connection did not take is offered again.
const RETRY: Duration = Duration::from_millis(100);

/// The publishing task.
#[derive(Debug)]
pub struct Publisher {
    outgoing: mpsc::Receiver<Outgoing>,
    connection: watch::Receiver<Connection>,
    board: Board,
    /// As published last, for [`Outgoing::LastUsage`].
    resources: InstanceResources,
    /// The connection that the board is told on.
    count: u64,
}

impl Publisher {
    pub fn new(
        outgoing: mpsc::Receiver<Outgoing>,
        connection: watch::Receiver<Connection>,
    ) -> Self {
        let (board, resources) = (Board::default(), InstanceResources::default());
        Self { outgoing, connection, board, resources, count: 0 }
    }

    /// Until everybody who could say something is gone.
    pub async fn run(mut self) {
        let mut retry = interval(RETRY);
        loop {
            tokio::select! {
                next = self.outgoing.recv() => match next {
                    None => return,
                    Some(outgoing) => self.take(outgoing),
                },
                changed = self.connection.changed() => if changed.is_err() { return },
                _ = retry.tick(), if !self.board.is_told() => {}
            }
            self.flush();
        }
    }

    fn take(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::State(id, report) => self.board.state(id, report),
            Outgoing::Gone(id, report) => self.board.gone(id, report),
            Outgoing::Information(node) => self.say(topic::information, &node),
            Outgoing::Resources(resources) => {
                self.say(topic::jobs_resources, &resources);
                self.resources = resources;
            }
            Outgoing::LastUsage(usage) => {
                let last = with_last(self.resources.clone(), usage);
                self.say(topic::jobs_resources, &last);
            }
        }
    }

    fn flush(&mut self) {
        let Some((session, count)) = self.session() else { return };
        let now = Instant::now();
        if self.count != count {
            self.count = count;
            self.board.connected(now);
        }
        let topic = topic::job(&session.worker_id);
        self.board.flush(now, |report| publish(&session, topic.clone(), report));
    }

    /// Now or never.
    fn say<T: Serialize>(&self, topic: fn(&str) -> String, payload: &T) {
        if let Some((session, _)) = self.session() {
            publish(&session, topic(&session.worker_id), payload);
        }
    }

    fn session(&self) -> Option<(Session, u64)> {
        let connection = self.connection.borrow();
        let session = connection.session.clone().filter(|_| connection.connected)?;
        Some((session, connection.count))
    }
}

/// The usage of all with that of the one which ended, whose numbers of before are kept.
fn with_last(mut all: InstanceResources, last: InstanceUsage) -> InstanceResources {
    let same = |usage: &&mut InstanceUsage| {
        usage.job_name == last.job_name && usage.instance == last.instance
    };
    match all.services.iter_mut().find(same) {
        Some(known) => known.logs = last.logs,
        None => all.services.push(last),
    }
    all
}

/// Whether the connection's queue took it.
fn publish<T: Serialize>(session: &Session, topic: String, payload: &T) -> bool {
    let payload = serde_json::to_vec(payload).expect("payloads have string keys only");
    session.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok()
}
