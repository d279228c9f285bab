//! Why a packet was dropped. Index of the per-CPU map `drops`.
//!
//! A new reason goes at the end: the numbers are in pinned maps.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Number of the last reason plus one: entries of the map `drops`.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The reason as tables and metric labels name it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means and what to do, for people.
            #[cfg(feature = "user")]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The packet ends before its headers do.
    Truncated = 0, "truncated";
    /// The IP header contradicts itself or the packet (version, header length, total length).
    BadHeader = 1, "bad-header";
    /// The source is not the address of the instance that sent it.
    SpoofedSource = 2, "spoofed-source";
    /// A fragment of a tunnel packet: tunnel packets are never cut, so the sender's path must be mended.
    TunnelFragment = 3, "tunnel-fragment";
    /// Neither TCP, UDP nor ICMP nor ICMPv6.
    UnsupportedProtocol = 4, "unsupported-protocol";
    /// ICMP that is neither echo nor an error that is forwarded, or an answer that nobody asked for.
    UnsupportedIcmp = 5, "unsupported-icmp";
    /// Neither IPv4 nor IPv6: the overlay carries nothing else.
    UnsupportedFamily = 6, "unsupported-family";
    /// The destination is neither a service IP nor an instance IP, and this node lets nothing else out.
    OutsideOverlay = 7, "outside-overlay";
    /// Nobody knows the destination: it was asked for, and the answer was no or did not come.
    Unresolved = 8, "unresolved";
    /// The event ring was full, so the packet could not be parked: too many misses at once.
    ParkingFull = 9, "parking-full";
    /// Larger than any packet that is parked on a miss.
    ParkingTooLarge = 10, "parking-too-large";
    /// The service has no instance now.
    NoInstance = 11, "no-instance";
    /// Every instance tried already answers the same ports of this client under another service IP.
    PortConflict = 12, "port-conflict";
    /// The node of the instance is not known, or is down and the flow would be new.
    NodeDown = 13, "node-down";
    /// The flow table refused the entry.
    FlowTableFull = 14, "flow-table-full";
    /// The kernel refused to rewrite or grow the packet.
    RewriteFailed = 15, "rewrite-failed";
    /// A tunnel packet of a sender that the cluster did not announce.
    UnknownPeer = 16, "unknown-peer";
    /// A tunnel packet whose content is no IP packet.
    TunnelMalformed = 17, "tunnel-malformed";
    /// A tunnel packet for an address that is not on this node.
    NoEndpoint = 18, "no-endpoint";
    /// A tunnel packet whose inner source cannot be on that peer.
    ForeignSource = 19, "foreign-source";
    /// An instance whose own instance IP is not known yet cannot answer through the tunnel.
    EndpointUnnamed = 20, "endpoint-unnamed";
    /// The node's configuration or uplink is not set up yet.
    NotConfigured = 21, "not-configured";
    /// More IPv6 extension headers than are looked through, or one cut short.
    ExtensionHeaders = 22, "extension-headers";
    /// A later fragment of a datagram whose first fragment did not come by before.
    FragmentWithoutFirst = 23, "fragment-without-first";
    /// An ICMP error that quotes something that is no packet of TCP, UDP or echo.
    BadQuote = 24, "bad-quote";
    /// An ICMP error about a packet of no flow of its receiver.
    UnrelatedError = 25, "unrelated-error";
    /// Larger than the path to the other node carries; its sender was told how large it may be.
    TooBig = 26, "too-big";
    /// The instance dials more unknown addresses than it may have looked up.
    MissLimited = 27, "miss-limited";
    /// The flow's instance is gone; its client was told.
    InstanceGone = 28, "instance-gone";
    /// No port is left for another flow to this host outside of the overlay.
    NoPortLeft = 29, "no-port-left";
    /// Its time to live ended here, on the way out of the overlay; its sender was told.
    TtlExceeded = 30, "ttl-exceeded";
}

impl DropReason {
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.get(raw as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_and_names_are_distinct() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DropReason::from_raw(index as u32), Some(*reason));
        }
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert_eq!(DropReason::from_raw(DropReason::COUNT), None);
    }
}
