//! The loopback interface of an instance. The rest of its network is the net manager's.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Brings `lo` up in the network namespace of `pid`. The process has one thread, and is back in
/// its own namespace afterwards.
pub(super) fn loopback_up(pid: i32) -> io::Result<()> {
    let own = File::open("/proc/self/ns/net")?;
    let other = File::open(format!("/proc/{pid}/ns/net"))?;
    setns(&other, CloneFlags::CLONE_NEWNET)?;
    let result = set_up();
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET)?;
    result
}

fn set_up() -> io::Result<()> {
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    request.ifr_name[0] = b'l'.cast_signed() as libc::c_char;
    request.ifr_name[1] = b'o'.cast_signed() as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is a socket, and the kernel reads one `ifreq` that lives through the
    // call.
    let set =
        unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
