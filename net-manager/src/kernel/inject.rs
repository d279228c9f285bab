//! Sends parked packets on: writes them into one end of a veth pair, at whose other end the
//! program `from_parked` takes them.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use nix::sys::socket::{MsgFlags, SockFlag, UnixAddr, sendmsg};

use super::netlink::{Link, Mac};
use crate::core::checksum::{self, Malformed, Transport};

const TCP: u8 = 6;

/// `struct virtio_net_hdr`, in front of every packet: how the kernel shall finish it.
const VNET_HEADER_LEN: usize = 10;
const VNET_NEEDS_CHECKSUM: u8 = 1;
const VNET_GSO_TCPV4: u8 = 1;
const VNET_GSO_TCPV6: u8 = 4;

/// A packet that cannot be sent on.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    #[error("the packet is malformed")]
    Malformed(#[from] Malformed),
    #[error("cannot send a parked packet on")]
    Send(#[source] io::Error),
}

/// The writing end.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
    src: Mac,
    dst: Mac,
    /// Largest IP packet that an instance can send in one piece.
    mtu: usize,
}

impl Injector {
    /// Opens the end `written` of the pair, whose other end is `taken`.
    ///
    /// # Errors
    /// The kernel refuses a packet socket.
    pub fn open(written: &Link, taken: &Link, mtu: u32) -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked. Protocol 0: the socket receives nothing.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | SockFlag::SOCK_CLOEXEC.bits(), 0)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, which nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        bind(&socket, written.index)?;
        let on: libc::c_int = 1;
        // SAFETY: the pointer is to a live integer of the length given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        let mtu = usize::try_from(mtu).unwrap_or(usize::MAX);
        Ok(Self { socket, src: written.mac, dst: taken.mac, mtu })
    }

    /// Instances send other sizes now.
    pub fn set_mtu(&mut self, mtu: u32) {
        self.mtu = usize::try_from(mtu).unwrap_or(usize::MAX);
    }

    /// Sends one packet, given with its Ethernet header, whose checksum may be unfinished.
    ///
    /// # Errors
    /// It makes no sense, or the kernel has no room for it now.
    pub fn send(&self, frame: &[u8]) -> Result<(), InjectError> {
        let mut frame = frame.to_vec();
        let transport = checksum::transport(&frame)?;
        frame[..6].copy_from_slice(&self.dst);
        frame[6..12].copy_from_slice(&self.src);
        let mut header = [0; VNET_HEADER_LEN];
        match transport {
            // Several segments in one packet, as TCP hands them to a network card: the kernel
            // cuts them apart again where it must, and finishes the checksum of each.
            Some(tcp) if tcp.protocol == TCP && tcp.ip_len > self.mtu => {
                checksum::leave_unfinished(&mut frame, &tcp);
                header = large_tcp(&frame, &tcp, self.mtu);
            }
            _ => checksum::finish(&mut frame)?,
        }
        let parts = [IoSlice::new(&header), IoSlice::new(&frame)];
        let flags = MsgFlags::MSG_DONTWAIT;
        sendmsg::<UnixAddr>(self.socket.as_fd().as_raw_fd(), &parts, &[], flags, None)
            .map_err(|error| InjectError::Send(error.into()))?;
        Ok(())
    }
}

/// How to finish a TCP packet that is larger than the MTU.
fn large_tcp(frame: &[u8], tcp: &Transport, mtu: usize) -> [u8; VNET_HEADER_LEN] {
    let data_offset = frame.get(tcp.offset + 12).map_or(20, |byte| usize::from(byte >> 4) * 4);
    let headers = tcp.offset + data_offset;
    let ip_and_tcp = headers - 14;
    let segment = mtu.saturating_sub(ip_and_tcp).max(1);
    // Native byte order; none of these exceeds an IP packet's 16 bits.
    let [h0, h1] = (headers as u16).to_ne_bytes();
    let [s0, s1] = (segment as u16).to_ne_bytes();
    let [o0, o1] = (tcp.offset as u16).to_ne_bytes();
    let [c0, c1] = (tcp.checksum_offset as u16).to_ne_bytes();
    let gso = if tcp.v6 { VNET_GSO_TCPV6 } else { VNET_GSO_TCPV4 };
    [VNET_NEEDS_CHECKSUM, gso, h0, h1, s0, s1, o0, o1, c0, c1]
}

fn bind(socket: &OwnedFd, ifindex: u32) -> io::Result<()> {
    // SAFETY: plain integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a live address of the length given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
