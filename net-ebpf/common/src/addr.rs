//! A 16-byte address in network byte order; IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Four words of four bytes each, in memory exactly the 16 bytes of the address. Words and not
/// bytes, because a BPF program copies and compares them one instruction a word.
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct Addr([u32; 4]);

impl Addr {
    /// `::`, used where no address is known.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    const V4_PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

    /// An IPv4 address from its four bytes as they stand in a packet, read as one word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, Self::V4_PREFIX, word])
    }

    /// The four bytes of an IPv4 address as one word as it stands in a packet; meaningless for
    /// IPv6.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::V4_PREFIX
    }

    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// An IPv6 address from its 16 bytes as they stand in a packet, read as four words.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The address's words in network byte order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    pub fn to_ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.octets());
        if self.is_v4() {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(v6)
        }
    }

    pub fn octets(self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self(zerocopy::transmute!(ip.octets()))
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

crate::map_type!(Addr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_is_mapped_and_comes_back() {
        let ip = Ipv4Addr::new(10, 30, 1, 2);
        let addr = Addr::from(ip);
        assert_eq!(addr.octets(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 30, 1, 2]);
        assert!(addr.is_v4());
        assert_eq!(addr.to_ip(), IpAddr::V4(ip));
        assert_eq!(Addr::from_v4_word(addr.v4_word()), addr);
    }

    #[test]
    fn v6_comes_back() {
        let ip: Ipv6Addr = "fdff:2000::7".parse().unwrap();
        assert!(!Addr::from(ip).is_v4());
        assert_eq!(Addr::from(ip).to_ip(), IpAddr::V6(ip));
        assert!(Addr::UNSPECIFIED.is_unspecified());
    }
}
