//! Every capacity of the data path. Those marked *default* can be set when the maps are created.

/// Service IPs and instance IPs that a node can know at a time (*default*). A slot is one of
/// them; slot 0 is never used.
pub const SERVICES: u32 = 65_536;

/// Instances that a node can know at a time (*default*); id 0 is never used.
pub const INSTANCES: u32 = 65_536;

/// Nodes that a node can know at a time (*default*); id 0 is the node itself.
pub const NODES: u32 = 4_096;

/// Local addresses: two for each instance and family (*default*).
pub const ENDPOINTS: u32 = 4_096;

/// Entries of established flows, two for each flow (*default*); about 200 bytes each, allocated
/// when there are that many.
pub const FLOWS: u32 = 262_144;

/// Entries of flows that one side has opened and the other has not confirmed, two for each flow
/// (*default*); the oldest makes room for the newest. Allocated at once.
pub const OPENING: u32 = 65_536;

/// Datagrams whose fragments are followed at a time; the oldest makes room for the newest.
pub const FRAGMENTS: u32 = 4_096;

/// Published ports of a node.
pub const PUBLISHED: u32 = 4_096;

/// Instances whose misses are limited at a time.
pub const MISS_BUDGETS: u32 = 4_096;

/// Packets that one instance may have parked at once, before the rate counts.
pub const MISS_BURST: u64 = 256;

/// Packets a second that one instance may have parked.
pub const MISSES_PER_SECOND: u64 = 64;

/// Instance ids in one chunk of a lookup table.
pub const CHUNK_IDS: u32 = 32;

/// Chunks of all lookup tables together (*default*), 128 bytes each. One a table is enough for 32
/// places; affinity takes 8 to 32.
pub const CHUNKS: u32 = 131_072;

/// Places in one lookup table. Weights repeat an id, so this is more than the instances.
pub const TABLE_SLOTS: u32 = 1_021;

/// Bytes of the ring buffer `events`: a power of two, and a multiple of the page size.
pub const EVENTS_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes of the ring buffer `observations`.
pub const OBSERVATIONS_BYTES: u32 = 1024 * 1024;

/// Bytes of a service's full name, `app.appns.service.servicens`, 4 × 30 and three dots, rounded
/// up; a shorter one is followed by zeros.
pub const NAME_BYTES: usize = 128;

/// Largest packet, with its Ethernet header, that is parked on a table miss. The first packet of
/// a connection is small; a datagram fills the underlay's MTU at most, jumbo frames included.
pub const PARKED_PACKET_BYTES: u32 = 9_216;

/// Most packets parked are small: they take a record of this many bytes in the ring buffer.
pub const PARKED_SMALL_BYTES: u32 = 256;

/// Bytes that the tunnel adds in front of an IP packet over an IPv4 underlay: IPv4 20 + UDP 8.
pub const TUNNEL_OVERHEAD_V4: u32 = 28;

/// How many places of the lookup table are tried when the chosen instance cannot take the flow.
pub const PLACEMENT_TRIES: u32 = 4;

/// IPv6 extension headers that are looked through; a packet with more is dropped. RFC 8200
/// recommends at most one of each kind, of which four may stand before a transport header.
pub const EXTENSION_HEADERS: u32 = 4;

/// TCP options that are looked through for the largest segment size; every stack sends it first.
pub const TCP_OPTIONS: u32 = 8;

/// Ports tried for a flow that leaves the overlay.
pub const MASQUERADE_TRIES: u32 = 8;

/// Bytes of a refused packet that an ICMP error quotes: its headers, as far as those are of the
/// usual length.
pub const QUOTED_BYTES: usize = 80;

/// Sockets that may be joined at a time (*default*), two for each connection.
pub const SOCKETS: u32 = 65_536;
