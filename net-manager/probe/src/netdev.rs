//! What an interface's driver does with XDP, as the driver itself says: the generic netlink family
//! `netdev` (kernel 6.3, commit d3d854fd6a1d; `Documentation/netlink/specs/netdev.yaml`).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// `GENL_ID_CTRL`, the family that knows the numbers of the others.
const CONTROL: u16 = 16;
/// `CTRL_CMD_GETFAMILY` and its attributes.
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_CMD_DEV_GET` and its attributes.
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;

/// Lengths of `struct nlmsghdr`, `struct genlmsghdr` and `struct nlattr`.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

/// Attributes are typed by the lower bits; the upper two say how they are nested.
const TYPE: u16 = 0x3fff;

/// The bits of `enum netdev_xdp_act`, with what they are called there.
const NAMES: [(u64, &str); 7] = [
    (1, "basic"),
    (1 << 1, "redirect"),
    (1 << 2, "ndo-xmit"),
    (1 << 3, "xsk-zerocopy"),
    (1 << 4, "hw-offload"),
    (1 << 5, "rx-sg"),
    (1 << 6, "ndo-xmit-sg"),
];

/// What a driver does with XDP programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// Whether a program runs in the driver, and may pass, drop, and send back.
    pub fn is_native(self) -> bool {
        self.0 & 1 != 0
    }

    /// As the kernel calls them, the lowest bit first.
    pub fn names(self) -> Vec<&'static str> {
        NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| *name).collect()
    }

    /// From the bits of `enum netdev_xdp_act`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// # Errors
/// The kernel does not know the question (before 6.3), or there is no such interface.
pub(crate) fn xdp_features(ifindex: u32) -> nix::Result<XdpFeatures> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkGeneric;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    // The kernel answers before it returns from the question.
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(1))?;
    let answer = ask(&socket, CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let family = attribute(&answer, FAMILY_ID).and_then(|id| id.try_into().ok());
    let family = u16::from_ne_bytes(family.ok_or(Errno::EPROTO)?);
    let answer = ask(&socket, family, GET_DEVICE, DEVICE_INDEX, &ifindex.to_ne_bytes())?;
    let bits = attribute(&answer, DEVICE_XDP_FEATURES).and_then(|bits| bits.try_into().ok());
    Ok(XdpFeatures(u64::from_ne_bytes(bits.ok_or(Errno::EPROTO)?)))
}

/// Asks with one attribute; the attributes of the answer.
fn ask(
    socket: &OwnedFd,
    family: u16,
    command: u8,
    kind: u16,
    value: &[u8],
) -> nix::Result<Vec<u8>> {
    let message = question(family, command, kind, value);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    let mut answer = vec![0; 16_384];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    let of_kind =
        u16::from_ne_bytes(*answer.get(4..).and_then(<[u8]>::first_chunk).ok_or(Errno::EPROTO)?);
    if of_kind == NLMSG_ERROR {
        let code = answer.get(HEADER..).and_then(<[u8]>::first_chunk).ok_or(Errno::EPROTO)?;
        return Err(Errno::from_raw(i32::from_ne_bytes(*code).saturating_neg()));
    }
    if answer.len() < HEADER + GENERIC_HEADER {
        return Err(Errno::EPROTO);
    }
    Ok(answer.split_off(HEADER + GENERIC_HEADER))
}

fn question(family: u16, command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let attribute = ATTRIBUTE_HEADER + value.len();
    let length = HEADER + GENERIC_HEADER + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: one question at a time, and the kernel fills in the port.
    message.extend([0; 8]);
    // Command, version 1, reserved.
    message.extend([command, 1, 0, 0]);
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(length, 0);
    message
}

/// The value of the first attribute of a type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, rest) = attributes.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = attributes.get(ATTRIBUTE_HEADER..length)?;
        if u16::from_ne_bytes(*kind) & TYPE == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others_and_nonsense_is_not_followed() {
        let mut attributes = Vec::new();
        for (kind, value) in [(7_u16, &b"abc"[..]), (3 | 0x4000, &[1, 0, 0, 0, 0, 0, 0, 0])] {
            attributes.extend((ATTRIBUTE_HEADER as u16 + value.len() as u16).to_ne_bytes());
            attributes.extend(kind.to_ne_bytes());
            attributes.extend(value);
            attributes.resize(attributes.len().next_multiple_of(4), 0);
        }
        assert_eq!(attribute(&attributes, 7), Some(&b"abc"[..]));
        assert_eq!(attribute(&attributes, 3), Some(&[1, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(attribute(&attributes, 4), None);
        // Lengths that lead nowhere: shorter than its own header, and beyond the end.
        for length in [0_u16, 3, 400] {
            let [a, b] = length.to_ne_bytes();
            assert_eq!(attribute(&[a, b, 9, 0, 1, 2, 3, 4], 3), None);
        }
    }

    #[test]
    fn features_have_the_kernels_names() {
        let features = XdpFeatures::from_bits(0b10_0011);
        assert_eq!(features.names(), ["basic", "redirect", "rx-sg"]);
        assert!(features.is_native() && !XdpFeatures::from_bits(0b10).is_native());
    }

    /// The loopback interface has no driver that runs programs.
    #[test]
    fn the_kernel_answers_of_an_interface_and_refuses_one_that_is_not_there() {
        assert_eq!(xdp_features(1), Ok(XdpFeatures::default()));
        assert_eq!(xdp_features(999_999), Err(Errno::ENODEV));
    }
}
