//! Which driver an interface has (`ETHTOOL_GDRVINFO`).

use std::{ffi::CStr, os::fd::AsRawFd};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

const GET_DRIVER_INFO: u32 = 3;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    _others: [u8; 160],
}

mod ioctl {
    use nix::libc;

    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);
}

/// # Errors
/// There is no such interface, or its driver does not say.
pub(crate) fn name(ifname: &str) -> nix::Result<String> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut driver_info =
        DriverInfo { command: GET_DRIVER_INFO, driver: [0; 32], _others: [0; 160] };
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(ifname.bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut driver_info).cast() },
    };
    // SAFETY: the request names an interface and points to a `struct ethtool_drvinfo`, which the
    // command in it says it is; both live until the call returns.
    unsafe { ioctl::ethtool(socket.as_raw_fd(), &mut request) }?;
    let driver = CStr::from_bytes_until_nul(&driver_info.driver).unwrap_or_default();
    Ok(driver.to_string_lossy().into_owned())
}
