//! Watches the uplink's IPv4 address, under which other nodes know this one.

use std::net::Ipv4Addr;

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, packet_core::NetlinkPayload};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::netlink::{Netlink, NetlinkError};

/// Tells the address whenever it has changed, until nobody listens any more.
///
/// # Errors
/// There is no netlink socket to be had, or the kernel refuses.
pub async fn run(uplink: u32, told: watch::Sender<Ipv4Addr>) -> Result<(), NetlinkError> {
    let groups = [MulticastGroup::Ipv4Ifaddr];
    let (connection, _handle, mut changes) =
        rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let netlink = Netlink::open()?;
    loop {
        // Looked at first: it may have changed before this began to listen.
        let addresses = netlink.addresses_v4(uplink).await?;
        let now = now(*told.borrow(), &addresses);
        told.send_if_modified(|told| std::mem::replace(told, now) != now);
        tokio::select! {
            () = concerned(&mut changes, uplink) => {}
            () = told.closed() => return Ok(()),
        }
    }
}

/// Waits for a change of the uplink's addresses; for ever, should the kernel tell none any more.
async fn concerned<C, A>(changes: &mut C, uplink: u32)
where
    C: StreamExt<Item = (rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>, A)> + Unpin,
{
    while let Some((change, _)) = changes.next().await {
        if let NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
        ) = change.payload
            && address.header.index == uplink
        {
            return;
        }
    }
    std::future::pending().await
}

/// The node's address: the one that it had for as long as that is there, and while none is.
fn now(before: Ipv4Addr, addresses: &[Ipv4Addr]) -> Ipv4Addr {
    if addresses.contains(&before) { before } else { addresses.first().copied().unwrap_or(before) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_for_as_long_as_it_is_there() {
        let [a, b] = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last));
        assert_eq!(now(a, &[b, a]), a);
        assert_eq!(now(a, &[]), a);
        assert_eq!(now(a, &[b]), b);
    }
}
