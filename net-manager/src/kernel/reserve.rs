//! Keeps a port of the node from its own processes while it is published.
//!
//! The programs take what is sent to a published port before any socket of the node sees it, so a
//! process that listened there would be cut off without a word. A socket that is bound and does
//! nothing else makes such a process fail with "address already in use", and shows beforehand
//! that there is none.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
    },
};
use xylem_types::port::{NodePort, Protocol};

/// A port of the node that no process gets at these addresses while this is held.
#[derive(Debug)]
pub struct Reservation(Vec<(IpAddr, OwnedFd)>);

/// Takes a port of these addresses in the namespace of this thread.
///
/// # Errors
/// `AddrInUse` if a process of the node has it; whatever else the kernel refuses for.
pub fn reserve(addresses: &[IpAddr], port: NodePort) -> io::Result<Reservation> {
    let mut reservation = Reservation(Vec::new());
    reservation.extend(addresses, port)?;
    Ok(reservation)
}

impl Reservation {
    /// Takes the port of further addresses, as far as it is to be had there.
    ///
    /// # Errors
    /// As for [`reserve`], of the first address at which it is not.
    pub fn extend(&mut self, addresses: &[IpAddr], port: NodePort) -> io::Result<()> {
        let mut failure = None;
        for address in addresses {
            match one(SocketAddr::new(*address, port.port), port) {
                Ok(socket) => self.0.push((*address, socket)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Gives the port up at all addresses but these.
    pub fn release_but(&mut self, addresses: &[IpAddr]) {
        self.0.retain(|(address, _)| addresses.contains(address));
    }
}

fn one(address: SocketAddr, port: NodePort) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match port.protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // Connections of the node that have just ended on this port are nobody's; listeners are, and
    // with UDP every socket would be shared.
    let is_tcp = port.protocol == Protocol::Tcp;
    if is_tcp {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    if is_tcp {
        // Who comes later may bind, but not listen.
        setsockopt(&fd, sockopt::ReuseAddr, &false)?;
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

    use super::*;

    fn port(port: u16, protocol: Protocol) -> NodePort {
        NodePort { port, protocol }
    }

    #[test]
    fn a_port_has_one_owner() {
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let number = listener.local_addr().unwrap().port();
            let refused = reserve(&[address], port(number, Protocol::Tcp)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
            drop(listener);
            let reserved = reserve(&[address], port(number, Protocol::Tcp)).unwrap();
            TcpListener::bind((address, number)).unwrap_err();
            drop(reserved);
            TcpListener::bind((address, number)).unwrap();

            let socket = UdpSocket::bind((address, 0)).unwrap();
            let number = socket.local_addr().unwrap().port();
            reserve(&[address], port(number, Protocol::Udp)).unwrap_err();
            drop(socket);
            let _reserved = reserve(&[address], port(number, Protocol::Udp)).unwrap();
            UdpSocket::bind((address, number)).unwrap_err();
        }
    }
}
