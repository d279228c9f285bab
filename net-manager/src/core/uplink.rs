//! Which interface is this node's uplink, and which of its addresses are the node's, from what the
//! kernel tells.
//!
//! Pure: the kernel is looked at as a whole, at the start and after each change, and what was chosen
//! before stays for as long as it is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net_common::{
    Addr,
    packet::{TUNNEL_LEN, TUNNEL_LEN_V6},
};

/// Every IPv4 host takes packets of this size (RFC 791); the instances' interfaces have it at
/// least.
const LEAST_MTU: u32 = 576;

/// Bytes that the tunnel adds in front of an IP packet on the way to, or from, this address.
pub fn tunnel_overhead(underlay: &Addr) -> u32 {
    let bytes = if underlay.is_v4() { TUNNEL_LEN } else { TUNNEL_LEN_V6 };
    bytes as u32
}

/// What the operator said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the interface; that of the default route, without.
    pub interface: Option<String>,
    /// The address at which other nodes reach this one.
    pub address: Option<IpAddr>,
    /// For published ports and what leaves the overlay.
    pub address_v6: Option<Ipv6Addr>,
}

/// An interface that can be the uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    /// Of a virtual interface, its kind as the kernel names it.
    pub kind: Option<String>,
}

/// What the kernel tells. Addresses are those by which hosts elsewhere can answer, by interface
/// index and in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub interfaces: Vec<Interface>,
    pub v4: Vec<(u32, Ipv4Addr)>,
    pub v6: Vec<(u32, Ipv6Addr)>,
    /// Interfaces of the default routes, the preferred one first.
    pub default_routes: Vec<u32>,
}

/// What this node is on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub interface: Interface,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// One of the two: where other nodes reach this one.
    pub address: IpAddr,
}

/// Why nothing can be the uplink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUplink {
    #[error("there is no default route: name the interface towards the other nodes with --uplink")]
    NoRoute,
    #[error("there is no interface {ifname}")]
    NoInterface { ifname: String },
    #[error("the uplink {ifname} has no address: give it one, or set --node-address")]
    NoAddress { ifname: String },
    #[error("the uplink {ifname} has an MTU of {mtu} bytes, too small for a tunnel")]
    SmallMtu { ifname: String, mtu: u32 },
}

impl Uplink {
    /// MTU of the instances' interfaces.
    pub fn instance_mtu(&self) -> u32 {
        self.interface.mtu - tunnel_overhead(&self.address.into())
    }
}

/// Chooses. Of several default routes, that of the lowest metric whose interface can be the uplink.
///
/// # Errors
/// No interface can be it.
pub fn choose(wanted: &Wanted, before: Option<&Uplink>, seen: &Seen) -> Result<Uplink, NoUplink> {
    let interface = |index: &u32| seen.interfaces.iter().find(|i| i.index == *index);
    let candidates: Vec<&Interface> = match &wanted.interface {
        Some(ifname) => vec![
            seen.interfaces
                .iter()
                .find(|interface| interface.name == *ifname)
                .ok_or_else(|| NoUplink::NoInterface { ifname: ifname.clone() })?,
        ],
        None => seen.default_routes.iter().filter_map(interface).collect(),
    };
    let mut refusal = None;
    for candidate in candidates {
        match with_addresses(wanted, before, seen, candidate) {
            Ok(uplink) => return Ok(uplink),
            Err(why) => refusal = refusal.or(Some(why)),
        }
    }
    Err(refusal.unwrap_or(NoUplink::NoRoute))
}

fn with_addresses(
    wanted: &Wanted,
    before: Option<&Uplink>,
    seen: &Seen,
    interface: &Interface,
) -> Result<Uplink, NoUplink> {
    let before = before.filter(|before| before.interface.index == interface.index);
    let mut v4 = still(before.and_then(|before| before.v4), &seen.v4, interface.index);
    let mut v6 = still(before.and_then(|before| before.v6), &seen.v6, interface.index);
    // While an interface has none at all, the node has those that it had.
    if let Some(before) = before
        && (v4, v6) == (None, None)
    {
        (v4, v6) = (before.v4, before.v6);
    }
    v6 = wanted.address_v6.or(v6);
    match wanted.address {
        Some(IpAddr::V4(address)) => v4 = Some(address),
        Some(IpAddr::V6(address)) => v6 = Some(address),
        None => {}
    }
    let own = v4.map(IpAddr::from).or(v6.map(IpAddr::from));
    let ifname = || interface.name.clone();
    let address = wanted.address.or(own).ok_or_else(|| NoUplink::NoAddress { ifname: ifname() })?;
    if interface.mtu < LEAST_MTU + tunnel_overhead(&address.into()) {
        return Err(NoUplink::SmallMtu { ifname: ifname(), mtu: interface.mtu });
    }
    Ok(Uplink { interface: interface.clone(), v4, v6, address })
}

/// The address that was chosen before, if the interface still has it, else its first.
fn still<A: Copy + PartialEq>(before: Option<A>, seen: &[(u32, A)], index: u32) -> Option<A> {
    let mut own = seen.iter().filter(|(of, _)| *of == index).map(|(_, address)| *address);
    let first = own.clone().next();
    before.filter(|before| own.any(|address| address == *before)).or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const C: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    fn interface(index: u32, name: &str) -> Interface {
        Interface { index, name: name.into(), mtu: 1500, kind: None }
    }

    /// A machine with two interfaces; the default route leaves by the first.
    fn seen() -> Seen {
        Seen {
            interfaces: vec![interface(2, "eth0"), interface(3, "wlan0")],
            v4: vec![(2, A), (3, C)],
            v6: vec![(2, A6)],
            default_routes: vec![2, 3],
        }
    }

    fn named(ifname: &str) -> Wanted {
        Wanted { interface: Some(ifname.into()), ..Wanted::default() }
    }

    #[test]
    fn the_default_route_leads_to_the_uplink_unless_it_is_named() {
        let chosen = choose(&Wanted::default(), None, &seen()).unwrap();
        assert_eq!((chosen.interface.index, chosen.address), (2, A.into()));
        assert_eq!((chosen.v4, chosen.v6, chosen.instance_mtu()), (Some(A), Some(A6), 1472));
        let moved = Seen { default_routes: vec![3, 2], ..seen() };
        let now = choose(&Wanted::default(), Some(&chosen), &moved).unwrap();
        assert_eq!((now.interface.index, now.v4, now.v6), (3, Some(C), None));
        let stays = choose(&named("eth0"), Some(&chosen), &moved).unwrap();
        assert_eq!(stays, chosen, "what was configured stays");
    }

    #[test]
    fn an_interface_that_cannot_be_it_is_passed_over_and_named_if_no_other_can() {
        let mut seen = Seen { v4: vec![(3, C)], v6: vec![], ..seen() };
        assert_eq!(choose(&Wanted::default(), None, &seen).unwrap().interface.index, 3);
        seen.interfaces[1].mtu = 600;
        let refused = choose(&Wanted::default(), None, &seen).unwrap_err();
        assert_eq!(refused, NoUplink::NoAddress { ifname: "eth0".into() });
        let refused = choose(&named("wlan0"), None, &seen).unwrap_err();
        assert_eq!(refused, NoUplink::SmallMtu { ifname: "wlan0".into(), mtu: 600 });
        seen.default_routes.clear();
        assert_eq!(choose(&Wanted::default(), None, &seen).unwrap_err(), NoUplink::NoRoute);
        let refused = choose(&named("eth9"), None, &seen).unwrap_err();
        assert_eq!(refused, NoUplink::NoInterface { ifname: "eth9".into() });
    }

    #[test]
    fn an_address_stays_for_as_long_as_it_is_there() {
        let wanted = Wanted::default();
        let before = choose(&wanted, None, &seen()).unwrap();
        let at = |v4: &[Ipv4Addr], v6: &[Ipv6Addr]| {
            let of = |v4: &[Ipv4Addr]| v4.iter().map(|v4| (2, *v4)).collect();
            let v6 = v6.iter().map(|v6| (2, *v6)).collect();
            choose(&wanted, Some(&before), &Seen { v4: of(v4), v6, ..seen() }).unwrap()
        };
        assert_eq!(at(&[B, A], &[B6, A6]), before);
        assert_eq!((at(&[B], &[A6]).v4, at(&[B], &[A6]).address), (Some(B), B.into()));
        assert_eq!(at(&[A], &[B6]).v6, Some(B6));
        assert_eq!(at(&[], &[]), before, "while there is none at all");
        let v6_only = at(&[], &[A6]);
        assert_eq!((v6_only.v4, v6_only.address), (None, A6.into()), "the way that is left");
        assert_eq!(v6_only.instance_mtu(), 1452);
        assert_eq!(choose(&wanted, Some(&v6_only), &seen()).unwrap(), before, "IPv4 is back");
    }

    #[test]
    fn a_configured_address_is_of_either_family() {
        let wanted = Wanted { address: Some(B6.into()), ..Wanted::default() };
        let chosen = choose(&wanted, None, &seen()).unwrap();
        assert_eq!((chosen.address, chosen.v4, chosen.v6), (B6.into(), Some(A), Some(B6)));
        assert_eq!(chosen.instance_mtu(), 1452);
        let wanted = Wanted { address: Some(B.into()), address_v6: Some(B6), ..Wanted::default() };
        let chosen = choose(&wanted, None, &Seen { v4: vec![], ..seen() }).unwrap();
        assert_eq!((chosen.address, chosen.v4, chosen.v6), (B.into(), Some(B), Some(B6)));
        let wanted = Wanted { address: Some(B6.into()), ..named("wlan0") };
        let chosen = choose(&wanted, None, &seen()).unwrap();
        assert_eq!((chosen.v4, chosen.v6), (Some(C), Some(B6)));
    }
}
