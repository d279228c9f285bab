//! The ranges from which addresses are given.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Service IPs and instance IPs.
pub const SERVICE_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 30, 0, 0), 16);
/// Namespace IPs.
pub const NAMESPACE_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 18, 0, 0), 16);
/// Prefix length of the part of [`NAMESPACE_RANGE`] that a worker gets.
pub const WORKER_SUBNET_PREFIX: u8 = 26;
/// Prefix length of the IPv6 subnet that a worker gets.
pub const WORKER_SUBNET_PREFIX_V6: u8 = 120;
/// IPv6 namespace IPs.
pub const NAMESPACE_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 8);
/// IPv6 instance IPs.
pub const INSTANCE_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, 0), 21);
/// IPv6 service IPs of the policy underutilized.
pub const UNDERUTILIZED_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfdff, 0x3000, 0, 0, 0, 0, 0, 0), 21);
/// IPv6 service IPs of the policy affinity.
pub const AFFINITY_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfdff, 0x4000, 0, 0, 0, 0, 0, 0), 21);
/// IPv6 service IPs of the policy closest.
pub const CLOSEST_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfdff, 0x1000, 0, 0, 0, 0, 0, 0), 21);
/// IPv6 service IPs of the policy round robin.
pub const ROUND_ROBIN_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, 0), 21);

/// Whether a service or an instance may have the address: in [`SERVICE_RANGE`], and neither the
/// first of it nor the last.
///
/// # Errors
/// What is wrong with it.
pub fn check_service_ip(ip: Ipv4Addr) -> Result<(), String> {
    if !SERVICE_RANGE.contains(&ip) {
        Err(format!("{ip} is not in {SERVICE_RANGE}"))
    } else if ip == SERVICE_RANGE.network() || ip == SERVICE_RANGE.broadcast() {
        Err(format!("{ip} is the network or broadcast address of {SERVICE_RANGE}"))
    } else {
        Ok(())
    }
}

/// The same for an IPv6 address and the range of its policy.
///
/// # Errors
/// What is wrong with it.
pub fn check_service_ip_v6(ip: Ipv6Addr, range: Ipv6Net) -> Result<(), String> {
    if !range.contains(&ip) {
        Err(format!("{ip} is not in {range}"))
    } else if ip == range.network() {
        Err(format!("{ip} is the network address of {range}"))
    } else {
        Ok(())
    }
}
