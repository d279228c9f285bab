//! The relay's interface in the router, and the rules that lead packets to it.
//!
//! Everything but the rules goes with the interface, and that goes with the descriptor, also when
//! the process is killed; rules alone lead nowhere, and packets take the direct way again.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use anyhow::{Context, Result};
use netlink_packet_route::{
    AddressFamily,
    route::RouteHeader,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use nix::libc;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::{link, netns::netlink_here};

/// Packets that the kernel keeps for the relay while it is busy: a whole window of the fastest
/// sender.
const KERNEL_QUEUE: u32 = 4096;

/// No packet of the underlay is longer.
const PACKET_MAX: usize = 65_536;

/// Rules of a lower number come first; before the main table, which is 32766.
const PRIORITY_PASSED: u32 = 100;
const PRIORITY_DIVERTED: u32 = 101;

mod request {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
}

/// An interface that gets what two hosts send each other.
#[derive(Debug)]
pub(super) struct Tun {
    file: File,
    rules: Vec<RuleMessage>,
}

impl Tun {
    /// Leads the packets between two addresses into a new interface, in the network namespace of
    /// the calling thread.
    pub(super) fn divert(ends: [Ipv4Addr; 2]) -> Result<Self> {
        let (file, ifname) = open().context("cannot make a TUN interface; as root?")?;
        // What it passes on has sources that the router knows elsewhere, and must not be refused.
        for interface in ["all", &ifname] {
            let setting = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
            fs::write(&setting, "0").with_context(|| format!("cannot set {setting}"))?;
        }
        let rules = netlink_here(async |netlink| lead(&netlink, &ifname, ends).await)?;
        Ok(Self { file, rules })
    }

    /// Ends the diversion, in the network namespace where it began.
    pub(super) fn end(self) -> Result<()> {
        // Without the interface packets go the direct way; not one is dropped in between.
        drop(self.file);
        netlink_here(async |netlink| {
            for rule in self.rules {
                netlink.rule().del(rule).execute().await.context("cannot remove a rule")?;
            }
            Ok(())
        })
    }

    /// A packet, if one is there.
    pub(super) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; PACKET_MAX];
        match (&self.file).read(&mut buffer) {
            Ok(len) => Ok(Some(buffer[..len].to_vec())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a packet to the router, which sends it where it is addressed to.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write_all(packet)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The kernel finishes checksums and cuts large packets before it hands them over: the interface
/// offers none of that.
fn open() -> io::Result<(File, String)> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: a plain structure of integers, for which zero is a value.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    // The kernel replaces `%d` with the first number that is free.
    for (to, from) in interface.ifr_name.iter_mut().zip(b"relay%d") {
        *to = *from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    interface.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the structure is what the request takes, and outlives the call, which writes the
    // name into it.
    unsafe { request::set_interface(file.as_raw_fd(), &raw const interface) }?;
    let name = interface.ifr_name.iter().take_while(|&&byte| byte != 0);
    let name = name.map(|&byte| char::from(byte as u8)).collect();
    Ok((file, name))
}

/// Sets the interface up and makes rules and route to it; returns the rules.
async fn lead(netlink: &Handle, ifname: &str, ends: [Ipv4Addr; 2]) -> Result<Vec<RuleMessage>> {
    let index = link::index(netlink, ifname).await?;
    let up = LinkUnspec::new_with_index(index).txqueuelen(KERNEL_QUEUE).up().build();
    netlink.link().change(up).execute().await.with_context(|| format!("cannot set {ifname} up"))?;
    // A table that nobody else has.
    let table = 1000 + index;
    let route =
        RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).table_id(table).build();
    netlink
        .route()
        .add(route)
        .execute()
        .await
        .with_context(|| format!("cannot add a route to {ifname}"))?;

    // What comes out of the interface must not be led into it again.
    let passed = rule(
        u32::from(RouteHeader::RT_TABLE_MAIN),
        PRIORITY_PASSED,
        [RuleAttribute::Iifname(ifname.to_owned())],
    );
    let diverted = |from: Ipv4Addr, to: Ipv4Addr| {
        let ends = [RuleAttribute::Source(from.into()), RuleAttribute::Destination(to.into())];
        let mut rule = rule(table, PRIORITY_DIVERTED, ends);
        (rule.header.src_len, rule.header.dst_len) = (32, 32);
        rule
    };
    let [one, other] = ends;
    let rules = vec![passed, diverted(one, other), diverted(other, one)];
    for rule in &rules {
        let mut request = netlink.rule().add();
        *request.message_mut() = rule.clone();
        request.execute().await.with_context(|| format!("cannot add a rule for {ifname}"))?;
    }
    Ok(rules)
}

fn rule<const N: usize>(table: u32, priority: u32, matches: [RuleAttribute; N]) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![RuleAttribute::Table(table), RuleAttribute::Priority(priority)];
    rule.attributes.extend(matches);
    rule
}
