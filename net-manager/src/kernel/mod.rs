//! Everything privileged: BPF, netlink, namespaces, packet sockets. Decides nothing.

pub mod apply;
pub mod bpf;
pub mod bpffs;
pub mod clock;
pub mod events;
pub mod features;
pub mod foreign;
pub mod headroom;
pub mod inject;
pub mod netlink;
pub mod netns;
pub mod next_hop;
pub mod own_ports;
pub mod prober;
pub mod reserve;
pub mod socket;
pub mod sweep;
pub mod uplink;
pub mod veth;
