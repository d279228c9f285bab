//! Room in front of the packets of instances for the tunnel's headers.
//!
//! What an instance sends has 16 to 32 bytes in front of its IP header, and the tunnel's headers
//! need 28 (over IPv6, 48) more than the Ethernet header: for every datagram the kernel would copy
//! the packet to a larger buffer. How much room a socket leaves is told by the interface it sends through
//! (`needed_headroom`), which a veth takes over from whatever its other end is a port of
//! (`ndo_set_rx_headroom`, kernel commits 871b642adebe and 163e529200af), and a bridge asks of its
//! ports what the neediest of them needs. So the host ends become ports of a bridge that has a
//! VXLAN port, which needs 50 bytes: a socket then leaves 80 in front of the IP header
//! (`LL_RESERVED_SPACE`: 14 and 50, and up to the next multiple of 16), and the Ethernet header and
//! either tunnel's headers leave 18 or more of them free.
//!
//! Bridge and VXLAN interface stay down for ever: nothing is forwarded, no socket is opened. What a
//! program does not take is dropped there.

use nix::errno::Errno;
use tracing::warn;

use super::{
    netlink::{Netlink, NetlinkError},
    netns,
};
use crate::{chain::Chain, core::ifname::DataPathId};

/// Interface index of the bridge that gives the room, made if it is not there; `None` where the
/// kernel cannot make it: then packets are copied, and nothing else is different.
pub async fn prepare(netlink: &Netlink, data_path: DataPathId) -> Option<u32> {
    match make(netlink, data_path).await {
        Ok(bridge) => Some(bridge),
        Err(error) => {
            warn!(
                error = %Chain(&error),
                "no headroom for tunnelled packets: load the kernel modules bridge and vxlan"
            );
            None
        }
    }
}

async fn make(netlink: &Netlink, data_path: DataPathId) -> Result<u32, NetlinkError> {
    let (bridge, port) = data_path.headroom_pair();
    let group = data_path.group();
    if netlink.find(&bridge).await?.is_none() {
        netlink.add_bridge(&bridge, group).await?;
        netns::disable_ipv6(&bridge);
    }
    let bridge = netlink.get(&bridge).await?.index;
    if netlink.find(&port).await?.is_none() {
        netlink.add_vxlan(&port, data_path.vni(), group).await?;
        netns::disable_ipv6(&port);
    }
    netlink.enslave(netlink.get(&port).await?.index, bridge).await?;
    Ok(bridge)
}

/// Gives an instance's veth pair the room, if there is one more port on the bridge (the kernel
/// allows 1,023).
///
/// # Errors
/// The interface is gone, or the kernel refuses for another reason.
pub async fn give(netlink: &Netlink, index: u32, bridge: Option<u32>) -> Result<(), NetlinkError> {
    let Some(bridge) = bridge else { return Ok(()) };
    match netlink.enslave(index, bridge).await {
        Err(error) if error.errno() == Some(Errno::EXFULL) => {
            warn!(net.ifindex = index, "no headroom for the packets of this instance: too many");
            Ok(())
        }
        other => other,
    }
}

/// Removes what [`prepare`] made; done if it is gone.
///
/// # Errors
/// The kernel refuses.
pub async fn remove(netlink: &Netlink, data_path: DataPathId) -> Result<(), NetlinkError> {
    let (bridge, port) = data_path.headroom_pair();
    for name in [port, bridge] {
        if let Some(link) = netlink.find(&name).await? {
            netlink.remove(link.index).await?;
        }
    }
    Ok(())
}
