//! The ports that the node's own sockets are given by the kernel.

use std::{fs, io};

use crate::core::port_range::PortRange;

const LOCAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// What the kernel chooses from when a program names no port, and what it leaves out of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPorts {
    pub local: PortRange,
    pub reserved: Vec<PortRange>,
}

/// Of the namespace of this thread.
///
/// # Errors
/// The kernel does not tell.
pub fn read() -> io::Result<OwnPorts> {
    parse(&fs::read_to_string(LOCAL)?, &fs::read_to_string(RESERVED)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{LOCAL}: no range")))
}

/// `32768\t60999` and `8080,61000-65535`.
fn parse(local: &str, reserved: &str) -> Option<OwnPorts> {
    let (first, last) = local.trim().split_once(char::is_whitespace)?;
    let local = PortRange::new(first.parse().ok()?, last.trim().parse().ok()?).ok()?;
    let part = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        PortRange::new(first.parse().ok()?, last.parse().ok()?).ok()
    };
    let reserved = reserved.trim().split(',').filter(|text| !text.is_empty());
    Some(OwnPorts { local, reserved: reserved.map(part).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read() {
        let ports = parse("32768\t60999\n", "8080,61000-65535\n").unwrap();
        assert_eq!(ports.local, PortRange::new(32_768, 60_999).unwrap());
        assert_eq!(ports.reserved.len(), 2);
        assert_eq!(parse("1024 65535\n", "\n").unwrap().reserved, []);
        assert_eq!(parse("x", ""), None);
        read().unwrap();
    }
}
