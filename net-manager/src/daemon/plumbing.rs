//! What connects this node's instances with its uplink. Requests for instances work on it, and so
//! does the daemon's task when the uplink changes.

use std::sync::{Mutex, PoisonError};

use tracing::info;

use super::ports::Ports;
use crate::{
    chain::Chain,
    core::{
        ifname::DataPathId,
        uplink::Uplink,
        xdp::{self, Choice, UplinkXdp},
    },
    kernel::{
        bpf::{BpfError, DataPath, Program},
        netlink::Netlink,
        veth::{self, VethError, Wiring},
    },
};

/// An interface's name may contain dots, which the BPF file system refuses; its index does not.
const UPLINK_LINK: &str = "uplink_";
const XDP_LINK: &str = "xdp_";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Plumbing {
    pub(super) netlink: Netlink,
    pub(super) id: DataPathId,
    pub(super) ports: Ports,
    data_path: Mutex<DataPath>,
    wiring: Mutex<Wiring>,
}

impl Plumbing {
    pub(super) fn new(
        netlink: Netlink,
        id: DataPathId,
        ports: Ports,
        data_path: DataPath,
        wiring: Wiring,
    ) -> Self {
        let (data_path, wiring) = (Mutex::new(data_path), Mutex::new(wiring));
        Self { netlink, id, ports, data_path, wiring }
    }

    pub(super) fn with_data_path<T>(&self, work: impl FnOnce(&mut DataPath) -> T) -> T {
        work(&mut self.data_path.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How instances are connected from now on.
    pub(super) fn wiring(&self) -> Wiring {
        *self.wiring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects instances in another size; those that are connected by [`Self::resize`].
    pub(super) fn set_mtu(&self, mtu: u32) {
        self.wiring.lock().unwrap_or_else(PoisonError::into_inner).mtu = mtu;
    }

    /// Gives the instances that are connected the present size; how many still send larger packets
    /// than that.
    ///
    /// # Errors
    /// The kernel does not tell which there are.
    pub(super) async fn resize(&self) -> Result<usize, VethError> {
        veth::resize(&self.netlink, self.id, self.wiring().mtu).await
    }
}

/// Attaches the programs to an uplink; the names of their links.
///
/// # Errors
/// The kernel refuses.
pub(super) fn attach_uplink(
    data_path: &mut DataPath,
    uplink: &Uplink,
    wanted: UplinkXdp,
) -> Result<Vec<String>, BpfError> {
    let link = format!("{UPLINK_LINK}{}", uplink.interface.index);
    data_path.attach(Program::FromUplink, &uplink.interface.name, &link)?;
    let xdp = attach_xdp(data_path, uplink, wanted)?;
    Ok([link].into_iter().chain(xdp).collect())
}

/// Detaches the programs from whatever was the uplink before.
///
/// # Errors
/// A link cannot be removed.
pub(super) fn detach_other_uplinks(
    data_path: &DataPath,
    attached: &[String],
) -> Result<(), BpfError> {
    let is_of_uplink = |link: &String| link.starts_with(UPLINK_LINK) || link.starts_with(XDP_LINK);
    for link in data_path.links()?.iter().filter(|link| is_of_uplink(link)) {
        if !attached.contains(link) {
            info!(link, "the programs leave an interface that is the uplink no more");
            data_path.detach(link)?;
        }
    }
    Ok(())
}

/// The name of the uplink's XDP link, if it gets one.
fn attach_xdp(
    data_path: &mut DataPath,
    uplink: &Uplink,
    wanted: UplinkXdp,
) -> Result<Option<String>, BpfError> {
    let (ifname, index) = (&uplink.interface.name, uplink.interface.index);
    let (mode, must) = match xdp::choose(wanted, uplink.interface.kind.as_deref()) {
        Choice::Must(mode) => (mode, true),
        Choice::Try(mode) => (mode, false),
        Choice::Not(why) => {
            info!(net.ifname = ifname, %why, "no XDP on the uplink");
            return Ok(None);
        }
    };
    let link = format!("{XDP_LINK}{}_{index}", mode.name());
    // An interface has one mode at a time.
    let of_it = format!("_{index}");
    for other in data_path.links()? {
        if other.starts_with(XDP_LINK) && other.ends_with(&of_it) && other != link {
            data_path.detach(&other)?;
        }
    }
    match data_path.attach_xdp(mode, ifname, &link) {
        Ok(()) => {
            info!(net.ifname = ifname, mode = mode.name(), "XDP on the uplink");
            Ok(Some(link))
        }
        Err(error) if must => Err(error),
        Err(error) => {
            info!(net.ifname = ifname, error = %Chain(&error), "no XDP on the uplink");
            Ok(None)
        }
    }
}
