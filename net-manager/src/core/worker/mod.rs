//! What the net manager does about what it is told: the one place where its parts meet.
//!
//! No I/O and no clock. Each method changes the state and leaves [`Effect`]s; the shell brings
//! the maps to [`Worker::translation`]'s desired contents first and then carries the effects out
//! in order, so that a packet sent on, or an announcement, never runs ahead of the maps.

mod local;
mod peers;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use net_common::{Addr, EventKind};
use net_maps::Name;
use tracing::{debug, info, warn};
use xylem_types::mqtt::{
    AddressChanged, InterestRemove, NetDeployed, PeersRequest, SubnetGrant, SubnetRequest,
    TableAnswer, TableQuery, TunnelEndpoint,
};

use super::{
    answer::{self, Answer},
    interests::Interests,
    ipam::{BadGrant, Ipam, Subnet, SubnetFull},
    parking::{Awaited, Limits, Packet, Parked, Parking},
    policy,
    tables::NodeId,
    translation::{LocalInstance, MapFull, Translation},
};
use peers::Strangers;

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    RequestSubnet(SubnetRequest),
    Query(TableQuery),
    /// Listen for changes of this service.
    Follow(Name),
    Unfollow(Name),
    Deployed(NetDeployed),
    Undeployed(NetDeployed),
    RemoveInterest(InterestRemove),
    /// Send a packet that was parked on its way, with or without an answer.
    SendOn(Packet),
    /// Keep the subnet for the next start, which may come while the cluster is away.
    Remember(Subnet),
    /// A map had no room.
    ReportFull(MapFull),
    /// An instance is reached at another underlay address.
    Moved(AddressChanged),
    /// Ask who sends tunnel packets.
    AskPeer(PeersRequest),
    /// The flows that this node opened from this instance IP were not its to open.
    RemoveFlowsFrom {
        node: NodeId,
        src: Addr,
    },
}

/// What decides how the node behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub parking: Limits,
    pub policies: policy::Settings,
    /// How long an unused service is remembered.
    pub interest_idle: Duration,
    /// Whether the cluster is asked where an instance lives that another node sends for.
    pub check_sources: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            parking: Limits::default(),
            policies: policy::Settings::default(),
            interest_idle: Duration::from_secs(10),
            check_sources: true,
        }
    }
}

/// Why an instance gets no addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoLease {
    #[error(
        "the cluster has not given this worker a subnet yet: register the worker (POST /register) \
         and see that its MQTT broker is reachable"
    )]
    NoSubnet,
    #[error(transparent)]
    Refused(BadGrant),
    #[error(transparent)]
    Full(#[from] SubnetFull),
}

/// The state of a net manager.
#[derive(Debug)]
pub struct Worker {
    me: TunnelEndpoint,
    translation: Translation,
    parking: Parking,
    policies: policy::Settings,
    strangers: Strangers,
    interests: Interests,
    ipam: Option<Ipam>,
    refusal: Option<BadGrant>,
    connected: bool,
    /// Instances that went while the cluster was away.
    farewells: BTreeMap<(Name, u32), NetDeployed>,
    effects: Vec<Effect>,
}

impl Worker {
    /// Continues with `translation` and, if it is known already, the node's subnet.
    pub fn new(
        me: TunnelEndpoint,
        translation: Translation,
        subnet: Option<Subnet>,
        settings: &Settings,
        now: Duration,
    ) -> Self {
        let mut interests = Interests::new(settings.interest_idle);
        for name in translation.names() {
            interests.hold(name, now);
        }
        let mut worker = Self {
            me,
            translation,
            parking: Parking::new(settings.parking),
            policies: settings.policies,
            strangers: Strangers::new(settings.check_sources),
            interests,
            ipam: None,
            refusal: None,
            connected: false,
            farewells: BTreeMap::new(),
            effects: Vec::new(),
        };
        if let Some(subnet) = subnet {
            worker.use_subnet(subnet);
        }
        worker
    }

    pub fn translation(&self) -> &Translation {
        &self.translation
    }

    /// For the shell, which says when the maps are as desired.
    pub fn translation_mut(&mut self) -> &mut Translation {
        &mut self.translation
    }

    /// Computes the lookup tables whose instances changed: before each plan.
    pub fn balance(&mut self, now: Duration) {
        self.translation.balance(&self.policies, now);
    }

    /// What is to be done, in order, once the maps are as desired.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A program handed over a packet that it could not place.
    pub fn on_miss(&mut self, kind: EventKind, dst: Addr, packet: Packet, now: Duration) {
        let awaited = match kind {
            EventKind::Miss => Awaited::Destination(dst),
            EventKind::UnnamedSender => Awaited::Sender(packet.src),
            // No other event carries a packet.
            _ => return,
        };
        // Answered since the packet was handed over, or with another address of the service.
        let known = match awaited {
            Awaited::Destination(dst) => self.dial(dst),
            Awaited::Sender(src) => self
                .translation
                .local_by_namespace_ip(src)
                .is_none_or(|local| !local.instance.instance_ip_v4.is_unspecified()),
        };
        if known {
            self.effects.push(Effect::SendOn(packet));
            return;
        }
        match self.parking.park(awaited, packet, now) {
            Parked::Ask => self.ask(awaited),
            Parked::Waits => {}
            Parked::Returned(packet) => self.effects.push(Effect::SendOn(packet)),
        }
    }

    /// When [`Worker::on_time`] next has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.parking.next_deadline()
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Duration) {
        let late = self.parking.expire(now);
        if !late.is_empty() {
            debug!(packets = late.len(), "no answer came for parked packets");
        }
        self.effects.extend(late.into_iter().map(Effect::SendOn));
        for awaited in self.parking.ask_again(now) {
            self.ask(awaited);
        }
    }

    /// The session with the cluster is there, for the first time or again: whatever either side
    /// missed meanwhile is said and asked anew.
    pub fn on_connected(&mut self) {
        self.connected = true;
        self.request_subnet();
        let local: Vec<LocalInstance> = self.translation.local().collect();
        for name in self.interests.iter() {
            self.effects.push(Effect::Follow(name));
        }
        let farewells = std::mem::take(&mut self.farewells);
        self.effects.extend(farewells.into_values().map(Effect::Undeployed));
        for local in local {
            self.effects.push(Effect::Deployed(self.announcement(&local, "DEPLOYED")));
        }
        for name in self.interests.iter() {
            self.effects.push(Effect::Query(by_name(name)));
        }
        let open: Vec<Awaited> = self.parking.awaited().collect();
        for awaited in open {
            self.ask(awaited);
        }
    }

    /// The session is gone.
    pub fn on_disconnected(&mut self) {
        self.connected = false;
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }

    pub fn subnet(&self) -> Option<Subnet> {
        self.ipam.as_ref().map(Ipam::subnet)
    }

    /// How many questions are open, with packets waiting for the answers.
    pub fn open_questions(&self) -> usize {
        self.parking.awaited().count()
    }

    /// The cluster says which namespace IPs this node has.
    pub fn on_grant(&mut self, grant: &SubnetGrant) {
        match Subnet::try_from(grant) {
            Ok(subnet) => {
                self.refusal = None;
                if self.ipam.as_ref().map(Ipam::subnet) != Some(subnet) {
                    info!(subnet = %subnet.v4(), "the cluster gave this node its subnet");
                    self.use_subnet(subnet);
                    self.effects.push(Effect::Remember(subnet));
                }
            }
            Err(error) => {
                warn!(%error, "no usable subnet");
                self.refusal = Some(error);
            }
        }
    }

    /// A service in which this node holds an interest has changed.
    pub fn on_update(&mut self, name: Name) {
        if self.interests.holds(name) {
            self.effects.push(Effect::Query(by_name(name)));
        } else {
            self.effects.push(Effect::Unfollow(name));
        }
    }

    /// The cluster answered a table query.
    pub fn on_answer(&mut self, answer: &TableAnswer, now: Duration) {
        let asked = answer.query_key.parse::<IpAddr>().ok().map(Addr::from);
        match answer::read(answer) {
            Ok(Answer::Known(view)) => {
                let name = view.name;
                if let Err(full) = self.translation.learn(&view) {
                    self.effects.push(Effect::ReportFull(full));
                }
                self.interest(name, now);
                self.release_answered(name, asked, now);
            }
            Ok(Answer::Unknown) => match asked {
                Some(dst) => {
                    let packets = self.parking.refuse(Awaited::Destination(dst), now);
                    self.effects.extend(packets.into_iter().map(Effect::SendOn));
                }
                None => self.forget_unknown(&answer.query_key),
            },
            Err(error) => warn!(%error, "an answer of the cluster is ignored"),
        }
        if let Some(asked) = asked {
            self.judge_suspect(asked);
        }
    }

    /// This node is another worker now: its subnet is asked for anew.
    pub fn forget_subnet(&mut self) {
        self.ipam = None;
        self.refusal = None;
        self.translation.set_subnet(None);
    }

    /// Services that seem unused. The shell looks at the counters of each and says what it saw
    /// with [`Worker::used`] before it calls [`Worker::drop_idle`].
    pub fn idle(&self, now: Duration) -> Vec<Name> {
        self.interests.idle(now)
    }

    /// A service was used at this time.
    pub fn used(&mut self, name: Name, at: Duration) {
        if self.interests.holds(name) {
            self.interests.hold(name, at);
        }
    }

    /// Ends the interest in services that are not used.
    pub fn drop_idle(&mut self, now: Duration) {
        for name in self.interests.idle(now) {
            if self.translation.runs_here(name) {
                self.interests.hold(name, now);
            } else {
                debug!(service = %name, "interest ends");
                self.translation.forget(name);
                self.drop_interest(name);
            }
        }
    }

    /// Says where this node is reached as well.
    fn request_subnet(&mut self) {
        self.effects.push(Effect::RequestSubnet(SubnetRequest {
            method: "GET".into(),
            endpoint: Some(self.me),
        }));
    }

    fn use_subnet(&mut self, subnet: Subnet) {
        let taken = self.translation.local().filter_map(|local| {
            match local.instance.namespace_ip_v4.to_ip() {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }
        });
        self.ipam = Some(Ipam::new(subnet, taken));
        self.translation.set_subnet(Some(subnet));
    }

    fn interest(&mut self, name: Name, now: Duration) {
        if self.interests.hold(name, now) {
            self.effects.push(Effect::Follow(name));
        }
    }

    fn drop_interest(&mut self, name: Name) {
        if self.interests.release(name) {
            let appname = name.to_string();
            self.effects.push(Effect::RemoveInterest(InterestRemove { appname }));
            self.effects.push(Effect::Unfollow(name));
        }
    }

    fn forget_unknown(&mut self, query_key: &str) {
        let Ok(name) = Name::try_from(query_key) else { return };
        if self.translation.knows(name) && !self.translation.runs_here(name) {
            debug!(service = %name, "the cluster does not know the service any more");
            self.translation.forget(name);
            self.drop_interest(name);
        }
    }

    /// Sends on what waited for this answer. What it did not answer is refused: the asked
    /// address may be of an instance whose network is not attached yet.
    fn release_answered(&mut self, name: Name, asked: Option<Addr>, now: Duration) {
        let mut packets = Vec::new();
        let addresses: Vec<Addr> = self.translation.addresses(name).collect();
        for addr in addresses {
            let waiting = self.parking.release(Awaited::Destination(addr));
            if !waiting.is_empty() {
                self.dial(addr);
                packets.extend(waiting);
            }
        }
        if let Some(asked) = asked
            && !self.dial(asked)
        {
            packets.extend(self.parking.refuse(Awaited::Destination(asked), now));
        }
        for local in self.translation.local().filter(|local| local.name == name) {
            let instance = &local.instance;
            let families = [
                (instance.namespace_ip_v4, instance.instance_ip_v4),
                (instance.namespace_ip_v6, instance.instance_ip_v6),
            ];
            for (namespace_ip, instance_ip) in families {
                if !instance_ip.is_unspecified() {
                    packets.extend(self.parking.release(Awaited::Sender(namespace_ip)));
                }
            }
        }
        self.effects.extend(packets.into_iter().map(Effect::SendOn));
    }

    /// Puts a known address into the maps; whether it is known.
    fn dial(&mut self, addr: Addr) -> bool {
        self.translation.dial(addr).unwrap_or_else(|full| {
            self.effects.push(Effect::ReportFull(full));
            false
        })
    }

    fn ask(&mut self, awaited: Awaited) {
        let query = match awaited {
            Awaited::Destination(addr) => {
                TableQuery { sip: addr.to_string(), ..TableQuery::default() }
            }
            Awaited::Sender(src) => match self.translation.local_by_namespace_ip(src) {
                Some(local) => by_name(local.name),
                None => return,
            },
        };
        self.effects.push(Effect::Query(query));
    }
}

fn by_name(name: Name) -> TableQuery {
    TableQuery { sname: name.to_string(), ..TableQuery::default() }
}
